"""What trainings cost in multiply-accumulates, as records say it, or as it follows from their curves."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trimlab.records import TRAINING_PASSES, Epoch, Measurement, Pruning, Training
from trimlab.report.model import Value
from trimlab.report.results import Results, mean
from trimlab.report.text import tera

OLDER = "not recorded by the older version that made it"
GIVEN = "the weights were given, and what their training took is not known"
INITIAL = "without what the weights took from which training started"


class Budget(NamedTuple):
    """What a model cost, in multiply-accumulates."""

    training: float | None
    """Of the unpruned model; 0 where a model is trained from scratch, None where it is not known."""
    tuning: float | None
    """Of fine-tuning and of sparse training before it, or of training from scratch; None where it is not known."""

    @property
    def total(self) -> float | None:
        """Both together."""
        return None if self.training is None or self.tuning is None else self.training + self.tuning


def of_training(records: Sequence[Training]) -> Value:
    """Write what trainings took, in 10^12 multiply-accumulates."""
    macs = _trained(records)
    if macs is None:
        return Value("—", note=GIVEN if records and records[0].origin == "file" else OLDER)
    return Value(tera(macs), macs / 1e12, INITIAL if records[0].initial else "")


def of_pruned(results: Results, records: Sequence[Pruning]) -> Value:
    """Write what pruned models took: all of it (training + what pruning adds), or the training from scratch alone."""
    budget, first = spent(results, records), records[0]
    if budget.tuning is None:
        return Value("—", note=OLDER)
    if first.initial == "scratch":
        return Value(tera(budget.tuning), budget.total and budget.total / 1e12)
    if budget.training is None:
        tuned = f" + {tera(budget.tuning)}" if budget.tuning else ""
        return Value(f"—{tuned}", note=_unknown(results, first.workload))
    total = budget.training + budget.tuning
    parts = f" ({tera(budget.training)} + {tera(budget.tuning)})" if budget.tuning else ""
    return Value(f"{tera(total)}{parts}", total / 1e12)


def spent(results: Results, records: Sequence[Pruning]) -> Budget:
    """Return what pruned models took, the mean over seeds."""
    tuning = [_tuned(results, record) for record in records]
    known = [macs for macs in tuning if macs is not None]
    training = 0.0 if records[0].initial == "scratch" else _trained(_trainings(results, records[0].workload))
    return Budget(training, mean(known) if len(known) == len(tuning) else None)


def of_quantized(measured: Iterable[Measurement]) -> str:
    """Write what quantization-aware training took of each variant, the mean over seeds; empty where there was none."""
    taken: dict[str, dict[int, float]] = {}
    for record in measured:
        if record.qat:
            taken.setdefault(record.variant, {})[record.seed] = record.qat.training_macs
    return ", ".join(f"{variant} {tera(mean(list(macs.values())))}" for variant, macs in taken.items())


def same(a: float | None, b: float | None) -> bool:
    """Say whether two budgets are equal but for whole epochs: they differ by at most a fiftieth."""
    return a is not None and b is not None and math.isclose(a, b, rel_tol=0.02)


def _trainings(results: Results, workload: str) -> list[Training]:
    """Return a workload's trainings, on whatever device."""
    return (results.whole or results).trained(workload)


def _unknown(results: Results, workload: str) -> str:
    records = _trainings(results, workload)
    return GIVEN if records and records[0].origin == "file" else "the records hold no training of this workload"


def _trained(records: Sequence[Training]) -> float | None:
    found = [
        record.training_macs if record.training_macs is not None else _from_curve(record.curve, record.macs)
        for record in records
        if record.curve
    ]
    return mean(found) if found else None


def _tuned(results: Results, record: Pruning) -> float | None:
    if record.training_macs is not None or not record.epochs:
        return record.training_macs or 0.0
    unpruned = results.unpruned_macs(record.workload) if record.distillation else 0.0
    if unpruned is None or not record.curve:
        return None
    # A teacher's forward pass besides the model's own three.
    return _from_curve(record.curve, record.macs + unpruned / TRAINING_PASSES)


def _from_curve(curve: Sequence[Epoch], macs: float) -> float:
    """Return what a curve's epochs took; a convolution's MACs go with the area of its images."""
    full = max(epoch.image_size for epoch in curve)
    images = sum(round(epoch.seconds * epoch.images_per_second) * (epoch.image_size / full) ** 2 for epoch in curve)
    return TRAINING_PASSES * images * macs
