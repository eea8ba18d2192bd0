"""What meets a target: the ratio at which a pruned model takes so much, and the search for a latency."""

import copy
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from torch import nn

from trimlab import config
from trimlab.errors import UserError
from trimlab.models.facts import count_macs, count_params, size_bytes
from trimlab.records import Latency, TargetLatency

TOLERANCE = 0.02
"""How far from the target, as a share of it, the pruned model may be."""
LATENCY_TOLERANCE = 0.1
"""The same for a latency, which differs from one measurement to the next."""
LATENCY_AIM = 0.03
"""Within this share of a latency, the search ends at once."""
LATENCY_FILES = 6
"""Pruned models whose files are measured for a latency, at most."""
STEPS = 10_000
"""Ratios are tried in steps of one ten-thousandth, so that the one that is found can be written down."""
HIGHEST = 9_500
"""The highest ratio of a pruning point, in these steps."""
MIB = 2**20

Shape = tuple[int, int, int]
"""Of an image: channels, height, width."""
T = TypeVar("T")


class Meter(Protocol):
    """What knows how long a model's file takes on this machine, see `latency.meter`."""

    kept: Path
    """Where its times are kept."""

    def predicted(self, model: nn.Module) -> float:
        """Return the milliseconds of a model's layers together."""

    def measured(self, model: nn.Module) -> Latency:
        """Return the latency of a model's file."""

    def record(self, latency: Latency, predicted_ms: float) -> TargetLatency:
        """Return a measured latency as a record has it."""


def ratio_for(
    target: config.Target,
    model: nn.Module,
    image_shape: Shape,
    prune: Callable[[nn.Module, float], object],
    key: str,
) -> float:
    """Return the ratio, in (0, 0.95), at which the pruned model comes closest to a target, found by bisection.

    Args:
        target: what the pruned model may take; not a latency.
        model: unpruned, on the CPU; it stays as it is.
        image_shape: channels, height, width.
        prune: prunes a model in place by a ratio, or raises UserError.
        key: what the params call the target.

    Raises:
        UserError: the target is not below the unpruned model's value; or no ratio comes within `TOLERANCE` of it.
    """
    check_below(target, taken(model, target, image_shape), key)
    tried = trying(model, prune, lambda pruned: taken(pruned, target, image_shape))
    ratio, reached = closest_ratio(target, target.value, tried, key)
    check_met(target, reached, TOLERANCE, key, f", at ratio {ratio:g}")
    return ratio


class Tried(NamedTuple):
    """What a ratio leaves of a model."""

    amount: float | None
    """What the pruned model takes; None where the ratio was refused."""
    refused: UserError | None
    removed: bool
    """Whether anything was removed."""


def trying(
    model: nn.Module, prune: Callable[[nn.Module, float], object], amount: Callable[[nn.Module], float]
) -> Callable[[int], Tried]:
    """Return what tries a ratio, given in `STEPS`, on a copy of a model, each one once.

    Args:
        model: unpruned, on the CPU; it stays as it is.
        prune: prunes a model in place by a ratio, or raises UserError.
        amount: what a model takes.
    """

    @cache
    def tried(step: int) -> Tried:
        trial = copy.deepcopy(model)
        try:
            prune(trial, step / STEPS)
        except UserError as error:
            return Tried(None, error, count_params(trial) != count_params(model))
        return Tried(amount(trial), None, True)

    return tried


def closest_ratio(target: config.Target, wanted: float, tried: Callable[[int], Tried], key: str) -> tuple[float, float]:
    """Return the ratio, in (0, 0.95), at which the pruned model comes closest to an amount, and what it takes there.

    A ratio that is refused counts as too high, unless nothing was removed. Where channels of several layers are ranked
    together, what stays need not fall with every step of the ratio; then the closest of all that were tried is taken.

    Args:
        target: named where no ratio prunes the model.
        wanted: the amount.
        tried: what `trying` returned.
        key: what the params call the target.

    Raises:
        UserError: no ratio prunes the model.
    """
    low, high = 0, HIGHEST
    reached: dict[int, float] = {}
    refused = None
    while high - low > 1:
        middle = (low + high) // 2
        found = tried(middle)
        if found.amount is None:
            refused = found.refused
        else:
            reached[middle] = found.amount
        too_large = not found.removed if found.amount is None else found.amount > wanted
        low, high = (middle, high) if too_large else (low, middle)
    if not reached:
        name = f"{key}.{target.quantity} {target.written(target.value)}"
        raise UserError(f"{name} is not reached, as no ratio is: {refused}") from refused
    step = min(reached, key=lambda each: abs(reached[each] - wanted))
    return step / STEPS, reached[step]


def meeting_latency(
    target: config.Target,
    model: nn.Module,
    meter: Meter,
    find: Callable[[float], T],
    pruned: Callable[[T], nn.Module],
    key: str,
) -> tuple[T, TargetLatency]:
    """Return what makes a pruned model's file take as long as a target says, and how long it took.

    The sum of a model's layers is not the time of its file: calls, sums and pools come on top. So files are measured,
    and the prediction is corrected by the line through the two that are nearest to the target.

    Args:
        target: a latency.
        model: unpruned, on the CPU.
        meter: predicts and measures.
        find: returns what comes closest to a predicted time in milliseconds, such as a ratio.
        pruned: returns a copy of the model that is pruned so.
        key: what the params call the target.

    Raises:
        UserError: the target is not below the unpruned model's latency; or what was found is not within
            `LATENCY_TOLERANCE` of it.
    """
    known = [_File(meter.predicted(model), meter.measured(model).p50_ms)]
    check_below(target, known[0].measured, key)
    tries: list[tuple[T, TargetLatency]] = []
    for _ in range(LATENCY_FILES):
        line = _line(known, target.value)
        found = find((target.value - line.offset) / line.slope)
        smaller = pruned(found)
        predicted = meter.predicted(smaller)
        if any(file.predicted == predicted for file in known):
            break  # no other model comes closer
        latency = meter.measured(smaller)
        known.append(_File(predicted, latency.p50_ms))
        tries.append((found, meter.record(latency, max(1e-6, line.offset + line.slope * predicted))))
        if abs(latency.p50_ms - target.value) <= LATENCY_AIM * target.value:
            break
    if not tries:
        raise UserError(
            f"{key}.latency_ms {target.written(target.value)} is not reached: nothing that pruning removes makes the "
            f"model faster than its {target.written(known[0].measured)} ms: choose another model"
        )
    best = min(tries, key=lambda each: abs(each[1].latency.p50_ms - target.value))
    check_met(target, best[1].latency.p50_ms, LATENCY_TOLERANCE, key)
    return best


class _File(NamedTuple):
    """Milliseconds of a model's layers together, and of its file."""

    predicted: float
    measured: float


class _Line(NamedTuple):
    """From predicted to measured milliseconds."""

    slope: float
    offset: float


def _line(known: Sequence[_File], wanted: float) -> _Line:
    """Return the line through the two files that are nearest to a latency, or through the nearest one and 0.

    The latter where there is one file alone, or where noise makes the line fall or leaves nothing for the layers.
    """
    nearest, *others = sorted(known, key=lambda file: abs(file.measured - wanted))
    if others and others[0].predicted != nearest.predicted:
        slope = (others[0].measured - nearest.measured) / (others[0].predicted - nearest.predicted)
        offset = nearest.measured - slope * nearest.predicted
        if slope > 0 and wanted > offset:
            return _Line(slope, offset)
    return _Line(nearest.measured / nearest.predicted, 0.0)


def check_below(target: config.Target, unpruned: float, key: str) -> None:
    """Refuse a target that an unpruned model meets as it is."""
    if target.value >= unpruned:
        raise UserError(
            f"{key}.{target.quantity} {target.written(target.value)} is not below the unpruned model's "
            f"{target.written(unpruned)}: lower it"
        )


def check_met(target: config.Target, reached: float, tolerance: float, key: str, where: str = "") -> None:
    """Refuse what is farther from a target than a share of it, and name what can be asked for."""
    if abs(reached - target.value) > tolerance * target.value:
        closest = target.written(reached)
        raise UserError(
            f"{key}.{target.quantity} {target.written(target.value)} is not reached within {tolerance:.0%}: the "
            f"closest is {closest}{where}: set it to {closest}"
        )


def taken(model: nn.Module, target: config.Target, image_shape: Shape) -> float:
    """Return what a model takes, in the target's unit, if that is no latency."""
    if target.quantity == "macs":
        return count_macs(model, image_shape)
    return count_params(model) if target.quantity == "params" else size_bytes(model) / MIB
