"""The stages `export`, for what the variants of a workload share, and `quantize`, for a variant's own ONNX files."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from trimlab import config, formats, paths, progress
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.quantize import int8, mixed, onnx_files
from trimlab.quantize.calibration import Floats

if TYPE_CHECKING:
    from torch import Tensor

    from trimlab.data.dataset import Dataset

MANIFEST = "manifest.json"
_AT_ONCE = 100
"""Images that are normalised together."""
HELD_OUT = 5000
"""Hold-out images that decide which layers of `int8-mixed` stay in float, at most."""


def export_workload(study: config.Params, workload: str) -> None:
    """Write a workload's baseline file for each seed and its calibration images, if a variant of it is exported."""
    folder = paths.exported(workload)
    folder.mkdir(parents=True, exist_ok=True)
    dataset_sha256 = None  # so that `quantize` runs again where the hold-out changed
    if any(study.variants[key].precisions for key in study.variants_of(workload)):
        from trimlab.data.dataset import calibration_images, dataset_for

        dataset = dataset_for(study.workloads[workload])
        dataset_sha256 = dataset.sha256
        chosen = calibration_images(dataset, study.quantization.calibration_images)
        _write_calibration(dataset, chosen, onnx_files.calibration_file(workload))
        for seed in study.seeds:
            progress.say(f"export {workload}: seed {seed}")
            weights = paths.weights_file(paths.trained(workload), seed)
            _export(weights, study.workloads[workload], dataset, onnx_files.baseline_file(workload, seed))
    # Always there: an empty folder would be no output that DVC can pull.
    files = {file.name: sha256_of(file) for file in sorted(folder.iterdir()) if file.name != MANIFEST}
    manifest = {"workload": workload, "dataset_sha256": dataset_sha256, "files_sha256": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def _write_calibration(dataset: "Dataset", chosen: "Tensor", file: Path) -> None:
    """Write the chosen training images, normalised, as (N, C, H, W) float32. They need not fit into memory."""
    images = np.lib.format.open_memmap(file, "w+", np.float32, (len(chosen), *dataset.image_shape))
    for start in range(0, len(chosen), _AT_ONCE):
        part = chosen[start : start + _AT_ONCE]
        images[start : start + _AT_ONCE] = dataset.normalise(dataset.train_images[part]).numpy()


def quantize_variant(study: config.Params, variant: str) -> None:
    """Write a variant's ONNX files for each seed and precision, and the manifest."""
    manifest: dict[str, Any] = {
        "variant": variant,
        "quantization": study.quantization.model_dump(),
        "calibration_sha256": None,
        "weights_sha256": {},
        "files_sha256": {},
        "mixed": {},
    }
    if study.variants[variant].precisions:
        _write_files(study, variant, manifest)
    onnx_files.write_manifest(variant, manifest)


def _write_files(study: config.Params, variant: str, manifest: dict[str, Any]) -> None:
    from trimlab.data.dataset import calibration_images, dataset_for

    dataset = dataset_for(study.workload_of(variant))
    chosen = calibration_images(dataset, study.quantization.calibration_images)
    images = onnx_files.read_calibration(study.variants[variant].workload)
    paths.quantized(variant).mkdir(parents=True, exist_ok=True)
    for seed in study.seeds:
        progress.say(f"quantize {variant}: seed {seed}")
        chosen_layers = _write_seed(study, variant, seed, dataset, images)
        weights = paths.weights_file(paths.pruned(variant), seed)
        files = sorted(paths.quantized(variant).glob(f"seed{seed}-*.onnx"))
        manifest["weights_sha256"][str(seed)] = sha256_of(weights)
        manifest["files_sha256"].update({file.name: sha256_of(file) for file in files})
        manifest["mixed"].update(chosen_layers)
    if set(formats.QUANTIZED) & set(study.variants[variant].precisions):
        manifest["calibration_sha256"] = hashlib.sha256(chosen.numpy().tobytes()).hexdigest()


def _write_seed(
    study: config.Params, variant: str, seed: int, dataset: "Dataset", images: Floats
) -> dict[str, dict[str, Any]]:
    """Write the files of one seed; return what `_write_mixed` does."""
    precisions = study.variants[variant].precisions
    fp32, fp16 = (paths.onnx_file(variant, seed, precision) for precision in ("fp32", "fp16"))
    _export(paths.weights_file(paths.pruned(variant), seed), study.workload_of(variant), dataset, fp32)
    if "fp16" in precisions:
        from trimlab.quantize import export

        export.to_fp16(fp32, fp16)
    if not {"int8", "int8-mixed"} & set(precisions):
        return {}
    model, calibrated = onnx.load(fp32), int8.calibrate(fp32, images, study.quantization)
    if study.quantization.bias_correction:
        calibrated = int8.with_bias_correction(model, calibrated, images)
    if "int8" in precisions:
        int8.write(model, calibrated, _files(variant, seed, "int8"))
    if "int8-mixed" not in precisions:
        return {}
    ranked = mixed.ranked(model, calibrated, images)
    return _write_mixed(ranked, _files(variant, seed, "int8-mixed"), dataset, study.quantization.max_drop)


def _files(variant: str, seed: int, precision: str) -> int8.Files:
    flavours = ("", onnx_files.SEVEN_BIT, onnx_files.SYMMETRIC)
    return int8.Files(*(paths.onnx_file(variant, seed, precision, flavour) for flavour in flavours))


def _write_mixed(
    ranked: mixed.Ranked, files: int8.Files, dataset: "Dataset", max_drop: float
) -> dict[str, dict[str, Any]]:
    """Write the files in which some layers stay in float; return for each file's name how they were chosen.

    That is what `records.Mixed` holds.
    """
    held = _held_out(dataset)
    fp32 = mixed.score(ranked.model, held)
    sensitivity = [{"layer": layer, "divergence": value} for layer, value in ranked.divergences.items()]
    about = {"max_drop": max_drop, "sensitivity": sensitivity}
    chosen = {}
    for flavour, file in files._asdict().items():
        choice = mixed.choose(ranked, flavour, held, fp32, max_drop)
        onnx_files.save(int8.rounded(ranked.model, ranked.calibrated, flavour, choice.float_layers), file)
        progress.say(_said(file, choice, len(sensitivity), max_drop))
        chosen[file.name] = {"float_layers": choice.float_layers, **choice.loss._asdict(), **about}
    return chosen


def _said(file: Path, choice: mixed.Choice, count: int, max_drop: float) -> str:
    """Say in one line which layers a file leaves in float, and what it loses."""
    kept, loss = choice.float_layers, choice.loss
    if kept and len(kept) == count:
        return (
            f"{file.name}: with any of its {count} layers in INT8 it loses more points than quantization.max_drop "
            f"{max_drop:g}, so all are float: raise max_drop, or take int8-mixed out"
        )
    named = f" ({', '.join(kept[:4])}{f' and {len(kept) - 4} more' if len(kept) > 4 else ''})" if kept else ""
    return (
        f"{file.name}: {len(kept)} of {count} layers stay in float{named}, {loss.drop_points:.2f} points lost on "
        f"{loss.num_images:,} hold-out images"
    )


def _held_out(dataset: "Dataset") -> mixed.HeldOut:
    """Return the hold-out, of many images evenly spaced ones.

    Raises:
        UserError: it has fewer than two images.
    """
    from trimlab.data.dataset import Subset

    whole = dataset.scored("holdout")
    if len(whole) < 2:
        raise UserError(
            f"int8-mixed is decided on hold-out images, and {dataset.name} has {len(whole)}: raise "
            "data.holdout_fraction"
        )
    every = -(-len(whole) // HELD_OUT)
    held = Subset(whole.images, whole.indices[::every], whole.labels[::every])
    return mixed.HeldOut(
        lambda: (dataset.normalise(images).numpy() for images in held.chunks(_AT_ONCE)), held.labels.numpy()
    )


def _export(weights: Path, workload: config.Workload, dataset: "Dataset", path: Path) -> None:
    from trimlab.models import checkpoint
    from trimlab.quantize import export

    export.export(checkpoint.load(weights, workload), dataset.image_shape, path, export.metadata(dataset))
