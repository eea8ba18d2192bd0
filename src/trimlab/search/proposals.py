"""What to try next: a pure function of what was tried.

The largest ratio that keeps the accuracy is found by bisection, because size and time fall as the ratio rises. Then
each other way of pruning or fine-tuning is tried once, one step beyond it, and the largest ratio of each is found, of
those that lose least there first. A way is left where a file that loses too much already costs more than the best one.
At last the best way is combined with the others.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from trimlab.config import PruningPoint

STEP = 0.02
"""Ratios closer than this are not told apart."""
LARGEST = 0.95
"""Ratio that a point may have at most."""

Change = Mapping[str, Any]
"""Values of `prune` other than those in the params."""


@dataclass(frozen=True)
class Try:
    """A point that was tried."""

    ratio: float
    change: Change
    """Besides the ratio."""
    cost: float | None
    """In bytes or milliseconds, of its best file that keeps the accuracy, or else of its best one; None without one."""
    lost: float | None
    """Points of top-1 that its most accurate file surely loses at most; None without files."""
    keeps: bool
    """Whether a file keeps the accuracy."""
    within: bool
    """Whether that file keeps the limits of size and time, too."""


T = TypeVar("T", bound=Try)


def proposed(start: float, changes: Sequence[Change], tried: Sequence[Try]) -> tuple[float, Change] | None:
    """Return the ratio and change to try next; None where nothing improves any more.

    Args:
        start: the ratio to begin with, in (0, LARGEST].
        changes: other ways of pruning and fine-tuning, in the order in which they are tried.
        tried: everything so far.
    """
    if not tried:
        return start, {}
    ratio = _bisected(tried, {})
    if ratio is not None:
        return ratio, {}
    ahead = best(tried)
    first = [one for at, one in enumerate(tried) if all(earlier.change != one.change for earlier in tried[:at])]
    by_loss = [one.change for one in sorted(first, key=lambda one: math.inf if one.lost is None else one.lost)]
    for base in ({}, ahead.change if ahead else {}):
        for other in ({**base, **each} for each in changes):
            if other not in by_loss:
                return min(LARGEST, round(_reached(tried, base) + STEP, 2)), other
        for change in by_loss:
            ratio = _bisected(tried, change, ahead)
            if ratio is not None:
                return ratio, change
    return None


def best(tried: Sequence[T]) -> T | None:
    """Return the try with the best file that keeps the accuracy, if any; one within all limits goes first."""
    return min(
        (one for one in tried if one.keeps), key=lambda one: (not one.within, one.cost, -one.ratio), default=None
    )


def _reached(tried: Sequence[Try], change: Change) -> float:
    """Return the largest ratio at which a change keeps the accuracy; 0 where none does."""
    return max((one.ratio for one in tried if one.change == change and one.keeps), default=0.0)


def _bisected(tried: Sequence[Try], change: Change, ahead: Try | None = None) -> float | None:
    """Return the next ratio of a change's bisection.

    None once it is as fine as `STEP`, or where what lies between cannot cost less than the try that is `ahead`.
    """
    low = _reached(tried, change)
    lost = min((one for one in tried if one.change == change and not one.keeps), key=lambda o: o.ratio, default=None)
    high = lost.ratio if lost else LARGEST + STEP
    if high - low <= STEP + 1e-9:
        return None
    if ahead and ahead.within and lost and (lost.cost or 0) >= (ahead.cost or 0):
        return None
    middle = min(round((low + high) / 2, 2), LARGEST)
    return None if any(one.ratio == middle and one.change == change for one in tried) else middle


def other_ways(point: PruningPoint, allocations: Sequence[str], allocation: str) -> Iterator[Change]:
    """Yield the changes of a point that are worth a try: other allocations, distillation, and more epochs."""
    for name in allocations:
        if name != allocation:
            yield {"allocation": name}
    if point.distillation == 0:
        yield {"distillation": 0.9, "temperature": 2.0}
    if point.epochs:
        yield {"epochs": 2 * point.epochs}
