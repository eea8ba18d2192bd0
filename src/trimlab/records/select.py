"""Which of many records a study's report speaks of."""

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from trimlab import formats
from trimlab.config import Params
from trimlab.errors import UserError
from trimlab.records.types import Measurement, Pruning, Record, Sensitivity, Training

R = TypeVar("R", Training, Sensitivity, Pruning, Measurement)


def select(study: Params, found: Iterable[Record]) -> list[Record]:
    """Return the records that a study's report speaks of, in the order of its params.

    A record must fit the params that decide it and one of the seeds; a pruned model and a sensitivity must come from
    a chosen training, a measured file from a chosen pruned model. Of several for one cell, seed, device and runtime
    the newest is taken.

    Raises:
        UserError: nothing fits.
    """
    fitting = [record for record in found if record.seed in study.seeds and fits(study, record)]
    trainings = _newest([record for record in fitting if isinstance(record, Training)])
    baselines = {(record.workload, record.seed, record.weights_sha256) for record in trainings}
    sensitivities = _newest(
        [r for r in fitting if isinstance(r, Sensitivity) and (r.workload, r.seed, r.weights_sha256) in baselines]
    )
    prunings = _newest(
        [r for r in fitting if isinstance(r, Pruning) and (r.workload, r.seed, r.baseline_sha256) in baselines]
    )
    weights = {(record.variant, record.seed, record.weights_sha256) for record in prunings}
    measurements = _newest(
        [r for r in fitting if isinstance(r, Measurement) and (r.variant, r.seed, r.weights_sha256) in weights]
    )
    chosen: list[Record] = [*trainings, *sensitivities, *prunings, *measurements]
    if not chosen:
        raise UserError(f"no record fits the params of study {study.study!r}: run `dvc repro`, then `trimlab import`")
    return sorted(chosen, key=_order(study))


def fits(study: Params, record: Record) -> bool:
    """Say whether a record is of this study: its cell is there, and the params that decided it are the same."""
    workload = study.workloads.get(record.workload)
    if workload is None or (record.model, record.dataset) != (workload.model, workload.dataset):
        return False
    if isinstance(record, Training):
        return record.params_digest == study.training_digest(record.workload)
    if isinstance(record, Sensitivity):
        asking = filter(study.measures_sensitivity, study.variants_of(record.workload))
        return record.params_digest in map(study.sensitivity_digest, asking)
    assert isinstance(record, Pruning | Measurement)
    variant = study.variants.get(record.variant)
    if variant is None or variant.workload != record.workload:
        return False
    if study.point(record.variant).ratio not in (None, record.ratio):  # with a target, the record says what it took
        return False
    if isinstance(record, Pruning):
        return record.params_digest == study.pruning_digest(record.variant)
    wanted = study.measurement_digest(record.variant, record.runtime, record.precision)
    asked = formats.BY_NAME[record.precision].asked_as
    return asked in variant.precisions and record.params_digest == wanted


def cell_of(record: Record) -> tuple[str, ...]:
    """Return what names a record within its kind.

    Workload, variant, workload and criterion, or variant, precision and runtime.
    """
    if isinstance(record, Measurement):
        return (record.variant, record.precision, record.runtime)
    if isinstance(record, Sensitivity):
        return (record.workload, record.importance)
    return (record.variant,) if isinstance(record, Pruning) else (record.workload,)


def _newest(found: list[R]) -> list[R]:
    newest: dict[Hashable, R] = {}
    for record in sorted(found, key=lambda record: (record.moment, record.digest)):
        newest[cell_of(record), record.seed, record.device.identity] = record
    return list(newest.values())


def _order(study: Params) -> Callable[[Record], tuple[object, ...]]:
    kinds = (Training, Sensitivity, Pruning, Measurement)
    workloads, variants = ({key: at for at, key in enumerate(keys)} for keys in (study.workloads, study.variants))

    def place(record: Record) -> tuple[object, ...]:
        variant = variants[record.variant] if isinstance(record, Pruning | Measurement) else -1
        cell = cell_of(record)[1:]
        kind = next(index for index, kind in enumerate(kinds) if isinstance(record, kind))
        return (kind, workloads[record.workload], variant, cell, record.device.identity, record.seed)

    return place
