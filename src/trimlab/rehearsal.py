"""What is refused before any training: each model is built, tried, pruned and exported once, with its first weights.

It refuses and changes no result, so the fingerprints of stages leave it out.
"""

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trimlab import config, formats, paths
from trimlab.config import OWN_MODELS, Params, checks, matching
from trimlab.errors import UserError

if TYPE_CHECKING:
    from torch import nn

_STANDIN_CLASSES = 10
"""For a dataset that is not prepared yet."""

Shape = tuple[int, int, int]
"""Of an image: channels, height, width."""


class Checked(NamedTuple):
    """What is to say of a params file before anything runs."""

    study: str | None = None
    """Its name; None where values are invalid."""
    workloads: Sequence[str] = ()
    variants: Sequence[str] = ()
    problems: Sequence[str] = ()
    """What stops `dvc repro`: a line each, with the file, the value, its bound and the fix."""
    warnings: Sequence[str] = ()
    """What is allowed but is probably a mistake."""
    downloads: Sequence[str] = ()
    """What `dvc repro` will fetch."""


def check(file: Path) -> Checked:
    """Check a params file and the files that it names, and try the models."""
    try:
        study = config.load(file)
    except UserError as error:
        return Checked(problems=str(error).splitlines())
    found = checks.missing_files(study) or list(problems(study))
    lines = [f"{file}: {line}" for line in found]
    names = list(study.workloads), list(study.variants)
    return Checked(study.study, *names, lines, checks.warnings(study), checks.notes(study))


def problems(study: Params) -> Iterator[str]:
    """Yield one line for each workload that `rehearse` refuses.

    The models of this package are left to the stage `train`: importing torch would take longer than all other checks.
    """
    for key, workload in study.workloads.items():
        if workload.model in OWN_MODELS and not workload.arguments and not workload.classifier:
            continue
        try:
            rehearse(study, key)
        except UserError as error:
            yield f"workloads.{key}: {error}"


def rehearse(study: Params, workload: str) -> None:
    """Try what later stages do with a workload's model. Where its dataset is not prepared, the model is only built.

    Nothing is downloaded.

    Raises:
        UserError: the model cannot be built, does not take the dataset's images, cannot be pruned as one of the
            workload's variants asks, or cannot be exported.
    """
    from trimlab.models import probe, registry, start  # torch takes seconds
    from trimlab.models.architecture import Architecture

    spec = study.workloads[workload]
    facts = _prepared(spec.dataset)
    if facts is None:
        registry.build_from(Architecture.of(spec, _STANDIN_CLASSES))
        return
    classes, shape = facts
    if spec.initial == str(paths.PRETRAINED):
        spec = spec.model_copy(update={"initial": str(paths.NO_FILE)})
    model = start.starting_model(spec, Architecture.of(spec, classes), study.seeds[0]).model
    probe.probe(model, spec, shape, classes)
    _try_pruning(model, study, workload, shape)
    _try_exporting(model, study, workload, shape)


def _prepared(dataset: str) -> tuple[int, Shape] | None:
    """Return the number of classes and the image shape of a prepared dataset, None where it is not prepared."""
    try:
        facts = json.loads(paths.dataset_file(dataset).with_suffix(".json").read_text())
        channels, height, width = (int(size) for size in facts["image_shape"])
        return len(facts["classes"]), (channels, height, width)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _try_pruning(model: "nn.Module", study: Params, workload: str, shape: Shape) -> None:
    from trimlab.prune.point import dry_run

    for variant in {study.variants[key].pruning: key for key in study.variants_of(workload)}.values():
        dry_run(study.point(variant), model, study.pruning_of(variant), shape, study.pruning_keys(variant))


def _try_exporting(model: "nn.Module", study: Params, workload: str, shape: Shape) -> None:
    from trimlab.prune import pruner
    from trimlab.quantize import onnx_torch
    from trimlab.quantize.onnx_graph import graph_of

    precisions = {name for key in study.variants_of(workload) for name in study.variants[key].precisions}
    if precisions & set(formats.QUANTIZED):
        matching("quantization.keep", study.quantization.keep, list(pruner.widths(model)))
    if precisions and study.workloads[workload].model not in OWN_MODELS:  # tests export those
        graph = graph_of(copy.deepcopy(model).eval(), shape)
        if any(study.variants[key].is_trained_quantized for key in study.variants_of(workload)):
            onnx_torch.check(graph)
