"""What `trimlab check` finds out about a study's models: they are built, and tried with images of the right size."""

import json
from collections.abc import Iterator

from trimlab import paths
from trimlab.config import OWN_MODELS, Params, Workload
from trimlab.errors import UserError

_STANDIN_CLASSES = 10
"""For a dataset that is not prepared yet."""


def problems(study: Params) -> Iterator[str]:
    """Yield one line for each workload whose model cannot be built, or does not take its images.

    Nothing is downloaded. The models of this package have nothing to find out.
    """
    for key, workload in study.workloads.items():
        if workload.model in OWN_MODELS and not workload.arguments and not workload.classifier:
            continue
        try:
            _try(workload)
        except UserError as error:
            yield f"workloads.{key}: {error}"


def _try(workload: Workload) -> None:
    from trimlab.models import probe, registry, start  # torch takes seconds
    from trimlab.models.architecture import Architecture

    facts = _prepared(workload.dataset)
    if facts is None:
        registry.build_from(Architecture.of(workload, _STANDIN_CLASSES))
        return
    classes, shape = facts
    if workload.initial == str(paths.PRETRAINED):
        workload = workload.model_copy(update={"initial": str(paths.NO_FILE)})
    model = start.starting_model(workload, Architecture.of(workload, classes), seed=0).model
    probe.probe(model, workload, shape, classes)


def _prepared(dataset: str) -> tuple[int, tuple[int, int, int]] | None:
    """Return the number of classes and the image shape of a prepared dataset, None where it is not prepared."""
    try:
        facts = json.loads(paths.dataset_file(dataset).with_suffix(".json").read_text())
        channels, height, width = (int(size) for size in facts["image_shape"])
        return len(facts["classes"]), (channels, height, width)
    except (OSError, ValueError, LookupError, TypeError):
        return None
