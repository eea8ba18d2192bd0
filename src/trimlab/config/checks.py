"""What `trimlab check` reports about a study whose values are valid: missing files, values that look odd."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from trimlab import paths
from trimlab.config.sections import QuantizationAwareTraining
from trimlab.config.study import Params
from trimlab.errors import short

CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
"""The folders' names in torchvision, without importing it."""


INDEX_FILES = ("index.csv", "index.parquet")
"""One of them lies in the folder of a dataset with an index."""


def missing_files(study: Params) -> list[str]:
    """Return one line, with the remedy, for each file or folder of the study that does not exist."""
    data = [
        (f"datasets.{key}.path", dataset.path, "folder" if dataset.source in ("folder", "index") else "file")
        for key, dataset in study.datasets.items()
    ]
    files = [*_model_files(study), *data]
    lines = [
        f"{key} {short(name)} {_complaint(Path(name), kind)}"
        for key, name, kind in files
        if Path(name) not in _PLACEHOLDERS and not _is_there(Path(name), kind)
    ]
    used = {paths.NO_FILE, *(Path(name) for _, name, _ in files)}
    lines += [
        f"{name} does not exist: run in the project's root, or `git checkout {name}`"
        for name in _PLACEHOLDERS
        if name in used and not name.is_file()
    ]
    return [*lines, *_missing_indexes(study)]


_PLACEHOLDERS = (paths.NO_FILE, paths.PRETRAINED)
_CODE = "file or package folder"


def _model_files(study: Params) -> Iterator[tuple[str, str, str]]:
    """Yield key, path and kind of the files that workloads name."""
    for key, workload in study.workloads.items():
        yield f"workloads.{key}.code", workload.code, _CODE
        for name, given in (("initial", workload.initial), ("weights", workload.weights)):
            for file in dict.fromkeys(paths.given_weights(Path(given), seed) for seed in study.seeds):
                yield f"workloads.{key}.{name}", str(file), "file"


def _is_there(path: Path, kind: str) -> bool:
    if kind == _CODE:
        return path.is_file() if path.suffix == ".py" else path.is_dir()
    return path.is_dir() if kind == "folder" else path.is_file()


def _missing_indexes(study: Params) -> Iterator[str]:
    """Yield a line for each folder that should hold one index."""
    for key, dataset in study.datasets.items():
        if dataset.source == "index" and Path(dataset.path).is_dir():
            found = sum((Path(dataset.path) / name).is_file() for name in INDEX_FILES)
            what = f"holds {found or 'none'} of {' and '.join(INDEX_FILES)}: put one of them there"
            if found != 1:
                yield f"datasets.{key}.path {short(dataset.path)} {what}"


def _complaint(path: Path, kind: str) -> str:
    if path.exists():
        return f"is not a {kind}: name a {kind}"
    tracked = next((f"{each}.dvc" for each in (path, *path.parents) if Path(f"{each}.dvc").is_file()), None)
    if tracked:
        return f"does not exist, though DVC tracks it: run `dvc pull {tracked}`"
    if kind == _CODE:
        return f"does not exist: put the {kind} there"
    if path.is_relative_to(paths.RELEASED):
        return f"does not exist: run `git checkout {path}`, or write it with `trimlab release`"
    return f"does not exist: put the {kind} there and run `dvc add {path}`"


def notes(study: Params) -> list[str]:
    """Return one line for each download that `dvc repro` will start."""
    root = Path(os.environ.get("DATA_ROOT") or study.data.root)
    sources = {data.source for key, data in study.datasets.items() if not paths.dataset_file(key).is_file()}
    missing = [
        f"{root} holds no {folder}: `dvc repro` downloads it there (170 MB)"
        for source, folder in CIFAR_FOLDERS.items()
        if source in sources and not (root / folder).is_dir()
    ]
    return missing + [
        f"workloads.{key}: `dvc repro` downloads the published weights of {workload.model}, unless it has them"
        for key, workload in study.workloads.items()
        if workload.initial == str(paths.PRETRAINED)
    ]


def warnings(study: Params) -> list[str]:
    """Return one line for each value that is allowed but is probably a mistake."""
    return [*_unused(study), *_odd(study)]


def _unused(study: Params) -> Iterator[str]:
    """Yield a line for each key that nothing uses. A workload without variants is still trained and reported."""
    used = {workload.training for workload in study.workloads.values()}
    used |= {f"datasets.{workload.dataset}" for workload in study.workloads.values()}
    used |= {variant.pruning for variant in study.variants.values()}
    sections: dict[str, Collection[str]] = {
        "datasets": study.datasets,
        "training": study.training,
        "sweep": study.sweep,
    }
    keys = [f"{section}.{name}" for section, names in sections.items() for name in names]
    for key in [*keys, "prune"] if study.prune else keys:
        if key not in used:
            yield f"{key} is not used: remove it, or refer to it where you meant to"
    learns = any(variant.is_trained_quantized for variant in study.variants.values())
    if study.quantization.qat != QuantizationAwareTraining() and not learns:
        yield "quantization.qat is not used: remove it, or add int8-qat to a variant's precisions"


def _odd(study: Params) -> Iterator[str]:
    prunes = any(study.point(variant).prunes for variant in study.variants)
    if study.report.candidate == study.report.baseline and prunes:
        yield f"report.candidate {study.report.candidate!r} is the baseline: it is compared with its own FP32 file"
    for key, workload in study.workloads.items():
        if Path(workload.initial) not in _PLACEHOLDERS and workload.normalisation == "dataset":
            yield (
                f"workloads.{key}.normalisation is `dataset`: if the weights in {short(workload.initial)} were trained "
                "with other values, set those"
            )
    yield from sorted(set(_cached_labels_of_crops(study)))
    mixed = any("int8-mixed" in variant.precisions for variant in study.variants.values())
    if "max_drop" in study.quantization.model_fields_set and not mixed:
        yield "quantization.max_drop is not used: remove it, or add int8-mixed to the precisions of a variant"
    for key, recipe in study.training.items():
        if recipe.evaluate_every > recipe.epochs:
            yield (
                f"training.{key}.evaluate_every {recipe.evaluate_every} is above its {recipe.epochs} epochs: "
                "the curve has the last epoch only"
            )
    yield from _odd_controls(study)


def _odd_controls(study: Params) -> Iterator[str]:
    """Yield a line for each control that has nothing to be compared with."""
    for key, variant in study.variants.items():
        point = study.point(key)
        if point.initial == "scratch" and not point.prunes:
            yield (
                f"{variant.pruning}.initial 'scratch' at ratio 0 trains the unpruned model of {variant.workload} once "
                "more: raise ratio, unless you want a second baseline"
            )
        elif point.initial == "scratch" and not any(
            study.point(other).initial == "pruned" and study.same_shape(key, other) for other in study.variants
        ):
            yield (
                f"variants.{key} is trained from scratch beside no pruned variant: add one of {variant.workload} with "
                "the same ratio or target, allocation, round_to, rounding and keep"
            )


def _cached_labels_of_crops(study: Params) -> Iterator[str]:
    for key, variant in study.variants.items():
        point, training = study.point(key), study.workloads[variant.workload].training
        if point.distillation and point.soft_labels == "cached" and study.recipe(variant.workload).random_resized_crop:
            yield (
                f"{variant.pruning}.soft_labels is `cached`, of whole images, but {training}.random_resized_crop shows "
                "parts of them: `fresh` labels are of the same part"
            )
