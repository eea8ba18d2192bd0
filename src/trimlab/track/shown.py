"""What a run of MLflow shows of a record: its name, the params and figures by which runs are compared, and tags.

The whole record is the run's `record.json`, and all params that decided it are `params.json`.
"""

import json
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from trimlab import formats, paths
from trimlab.config import Params
from trimlab.records import Epoch, Measurement, Pruning, Record, Training
from trimlab.track.connection import NAME_LENGTH, cut

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric

RECORD_TAG = "trimlab.record"
"""Digest of the record that a run shows; a run without it is unfinished."""

NO_EXPERIMENT = "none"
CURVE = "epoch/"
_KINDS = {"train": "training", "prune": "pruning", "benchmark": "measurement"}
"""What the stages record."""
_SHARED = ("model", "dataset", "split", "seed")
_TRAINED = ("precision", "epochs", "learning_rate", "schedule")
_PARAMS = {
    "training": (*_SHARED, "workload", *_TRAINED, "batch_size", "origin"),
    "pruning": (
        *(*_SHARED, "variant", "ratio", "importance", "scope", "round_to", "steps"),
        *(*_TRAINED, "distillation", "initial"),
    ),
    "measurement": (*_SHARED, "variant", "ratio", "precision", "runtime", "runtime_version", "weight_bits"),
}
"""The fields of a record that are params of its run: those by which runs of one kind are told apart."""
_NAMES = {"scope": "allocation"}
"""Fields that the params call otherwise."""
_MOST_CHANGES = 3

_MIB = 2**20


def parent_name(study: Params, before: Params | None) -> str:
    """Name a parent by what changed since another one: `quick prune.ratio=0.6`."""
    changes = [] if before is None else _changes(study, before)
    more = len(changes) - _MOST_CHANGES
    shown = [*changes[:_MOST_CHANGES], *([f"and {more} more"] if more > 0 else [])]
    return cut(" ".join([study.study, *shown]), NAME_LENGTH)


def _changes(study: Params, before: Params) -> list[str]:
    now, then = (flat(params.model_dump(exclude={"report": {"title", "notes"}})) for params in (study, before))
    keys = [key for key in {**now, **then} if now.get(key) != then.get(key)]
    return [f"{key}={text(now.get(key))}" for key in keys]


def name(study: Params, record: Record) -> str:
    """Name a record's run: `candidate 50 % INT8 · onnxruntime`, with the seed where there are several."""
    if isinstance(record, Measurement):
        label = formats.BY_NAME[record.precision].label
        said = f"{_variant_name(study, record.variant)} {label} · {record.runtime}"
        return _of_seed(study, said, record.seed)
    return training_name(study, stage(record), cell(record), record.seed)


def training_name(study: Params, of_stage: str, of_cell: str, seed: int) -> str:
    """Name the run of a training, or of a pruning with its fine-tuning."""
    shown = _variant_name(study, of_cell) if of_stage == "prune" else of_cell
    return _of_seed(study, f"{shown} · {_KINDS[of_stage]}", seed)


def _variant_name(study: Params, variant: str) -> str:
    """Add the point to the name of the variant that `prune` decides: each experiment may have another one."""
    if variant not in study.variants or study.variants[variant].pruning != "prune":
        return variant
    point = study.point(variant)
    return f"{variant} {round(100 * point.ratio, 2):g} %" if point.ratio is not None else f"{variant} to {point.target}"


def _of_seed(study: Params, said: str, seed: int) -> str:
    return cut(said if len(study.seeds) == 1 else f"{said} · seed {seed}", NAME_LENGTH)


def study_params(study: Params) -> dict[str, str]:
    """Return what a parent shows: the point of the candidate, and what it is compared with."""
    shown = study.model_dump(include={"seeds": True, "data": {"split"}, "prune": True, "report": _ROLES})
    return _texts(flat(shown))


_ROLES = {"baseline", "candidate"}


def params(record: Record) -> dict[str, str]:
    """Return the fields by which runs are told apart."""
    found = {_NAMES.get(key, key): getattr(record, key) for key in _PARAMS[_KINDS[stage(record)]]}
    if isinstance(record, Measurement):
        found |= {"batch_size": record.batch_latency.batch_size, "threads": record.device.threads}
    return _texts({key: value for key, value in found.items() if value is not None})


def deciding_params(study: Params, record: Record) -> dict[str, Any]:
    """Return the sections of the params that decided a record."""
    recipe = study.recipe(record.workload)
    sections: dict[str, Any] = {
        "data": study.data.model_dump(include={"split", "holdout_fraction", "seed"}),
        "workload": study.workloads[record.workload].model_dump(),
        "training": recipe.model_dump(exclude=recipe.unused),
    }
    if isinstance(record, Pruning | Measurement):
        sections["point"] = study.point(record.variant).model_dump()
        sections["pruning"] = study.pruning_of(record.variant).model_dump()
    if isinstance(record, Measurement):
        trained = study.variants[record.variant].is_trained_quantized
        sections["quantization"] = study.quantization.model_dump(exclude=set() if trained else {"qat"})
        sections["benchmark"] = study.benchmark.model_dump()
    return sections


def measured(record: Record) -> dict[str, float]:
    """Return the figures by which runs are compared, under the names and in the units of `dvc metrics`."""
    assert isinstance(record, Training | Pruning | Measurement)
    found = {
        "top1_percent": _percent(record.top1_accuracy),
        "top5_percent": _percent(record.top5_accuracy),
        "macro_f1_percent": _percent(record.macro_f1),
        "params_millions": record.num_params / 1e6,
        "peak_memory_mib": record.peak_memory_bytes / _MIB,
    }
    if isinstance(record, Measurement):
        found |= {
            "agreement_percent": _percent(record.torch_agreement),
            "size_mib": record.deployed_bytes / _MIB,
            "latency_ms": record.latency.p50_ms,
            "images_per_second": record.batch_latency.images_per_second,
            "speedup": record.speedup,
            "batch_speedup": record.batch_speedup,
        }
    else:
        found |= {"size_mib": record.size_bytes / _MIB, "macs_millions": record.macs / 1e6}
    if isinstance(record, Pruning):
        found |= {"top1_before_percent": _percent(record.top1_before)}
    return {key: value for key, value in found.items() if value is not None}


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Spell nested keys with dots; what is None is left out."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[prefix + key] = value
    return found


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {key: text(value) for key, value in values.items()}


def text(value: Any) -> str:
    """Write a param's value."""
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def curve(epochs: Sequence[Epoch]) -> dict[tuple[str, int], float]:
    """Return the points of a training's curves, by name and epoch; what was not evaluated has none."""
    return {
        (CURVE + key, epoch.epoch): value
        for epoch in epochs
        for key, value in _of_epoch(epoch).items()
        if value is not None
    }


def _of_epoch(epoch: Epoch) -> dict[str, float | None]:
    return {
        "train_loss": epoch.train_loss,
        "train_accuracy_percent": _percent(epoch.train_accuracy),
        "top1_percent": _percent(epoch.top1_accuracy),
        "learning_rate": epoch.learning_rate,
        "images_per_second": epoch.images_per_second,
    }


def at_step_0(values: dict[str, float]) -> dict[tuple[str, int], float]:
    """Return figures that are no curve, as points."""
    return {(key, 0): value for key, value in values.items()}


def points(values: dict[tuple[str, int], float], timestamp: int) -> "list[Metric]":
    """Return points as MLflow's metrics."""
    from mlflow.entities import Metric

    return [Metric(key, value, timestamp, step) for (key, step), value in values.items()]


def study_tags(study: Params) -> dict[str, str]:
    """Return the tags of a parent, which its children share."""
    tags = {
        "trimlab.study": study.study,
        "trimlab.params": study.digest(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME") or NO_EXPERIMENT,
    }
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    return {**tags, "dvc.baseline": baseline} if baseline else tags


def stage_tags(of_stage: str, of_cell: str) -> dict[str, str]:
    """Return the tags that say which cell wrote a run."""
    # Not the environment's DVC_STAGE: it is `report` where a cached cell is caught up on.
    return {
        "trimlab.kind": _KINDS[of_stage],
        "dvc.stage": f"{of_stage}@{of_cell}",
        "mlflow.source.name": f"stages/{of_stage}.py",
    }


def tags(record: Record) -> dict[str, str]:
    """Return a record's own tags."""
    return {**commit_tags(record), "device": " · ".join(record.device.identity[1:])}


def commit_tags(record: Record) -> dict[str, str]:
    """Return the tags that say which code made a record."""
    return {"git.commit": record.commit, "mlflow.source.git.commit": record.commit.removesuffix("-dirty")}


def stage(record: Record) -> str:
    """Return the stage that wrote a record."""
    if isinstance(record, Training):
        return "train"
    return "prune" if isinstance(record, Pruning) else "benchmark"


def cell(record: Record) -> str:
    """Return the key of the record's cell in its stage."""
    return record.variant if isinstance(record, Pruning | Measurement) else record.workload


def dataset(record: Record) -> "DatasetInput":
    """Return the dataset that a record is of."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {"path": str(paths.dataset_file(record.dataset)), "sha256": record.dataset_sha256}
    # A digest has 36 characters at most; the whole one stands in the source.
    found = Dataset(record.dataset, record.dataset_sha256[:32], "local", json.dumps(source))
    context = "testing" if isinstance(record, Measurement) else "training"
    return DatasetInput(found, [InputTag("mlflow.data.context", context)])


def ended(record: Record) -> int:
    """Return when a record was made, in milliseconds."""
    return milliseconds(record.moment)


def started(record: Record) -> int:
    """Return when what a record is of began, in milliseconds; of a measurement, the timed calls alone."""
    seconds = record.train_seconds if isinstance(record, Training | Pruning) else 0.0
    if isinstance(record, Measurement):
        series = record.latency, record.batch_latency, record.baseline_latency, record.baseline_batch_latency
        seconds = sum(each.n * each.p50_ms for each in series) / 1000
    return ended(record) - round(1000 * seconds)


def milliseconds(time: datetime) -> int:
    """Return a time as MLflow writes it."""
    return round(1000 * time.timestamp())


def newest(records: Iterable[Record]) -> Record:
    """Return the record that was made last."""
    return max(records, key=lambda record: (record.moment, record.digest))
