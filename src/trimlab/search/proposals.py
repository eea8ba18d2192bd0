"""What to try next: a pure function of what was tried.

The largest ratio within the limits is found by bisection, because size and time fall as the ratio rises. Then each
other way of pruning or fine-tuning is tried one step beyond that ratio. If it is within the limits there, the search
goes on with it; if none is, nothing improves, and the search ends.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from trimlab.config import PruningPoint

STEP = 0.02
"""Ratios closer than this are not told apart."""
LARGEST = 0.95
"""Ratio that a point may have at most."""

Change = Mapping[str, Any]
"""Values of `prune` other than those in the params."""


class Try(NamedTuple):
    """A point that was tried."""

    ratio: float
    change: Change
    """Besides the ratio."""
    cost: float | None
    """Of its best file within the limits, in bytes or milliseconds; None where no file is."""


def proposed(start: float, changes: Sequence[Change], tried: Sequence[Try]) -> tuple[float, Change] | None:
    """Return the ratio and change to try next; None where nothing improves any more.

    Args:
        start: the ratio to begin with, in (0, LARGEST].
        changes: other ways of pruning and fine-tuning, in the order in which they are tried.
        tried: everything so far.
    """
    best = _best(tried)
    change = best.change if best else {}
    ratio = _bisected(start, [one for one in tried if one.change == change])
    if ratio is not None:
        return ratio, change
    if best is None or (beyond := round(best.ratio + STEP, 2)) > LARGEST:
        return None
    others = [{**change, **other} for other in changes]
    untried = [other for other in others if not any(one.change == other for one in tried)]
    return (beyond, untried[0]) if untried else None


def _best(tried: Sequence[Try]) -> Try | None:
    within = [(one.cost, -one.ratio, index) for index, one in enumerate(tried) if one.cost is not None]
    return tried[min(within)[2]] if within else None


def _bisected(start: float, tried: Sequence[Try]) -> float | None:
    """Return the next ratio of a bisection; None once it is as fine as `STEP`."""
    if not tried:
        return start
    within = [one.ratio for one in tried if one.cost is not None]
    beyond = [one.ratio for one in tried if one.cost is None]
    low, high = max(within, default=0.0), min(beyond, default=LARGEST + STEP)
    if high - low <= STEP + 1e-9:
        return None
    middle = round((low + high) / 2, 2)
    return None if any(one.ratio == middle for one in tried) else min(middle, LARGEST)


def other_ways(point: PruningPoint, allocations: Sequence[str], allocation: str) -> Iterator[Change]:
    """Yield the changes of a point that are worth a try: other allocations, distillation, and more epochs."""
    for name in allocations:
        if name != allocation:
            yield {"allocation": name}
    if point.distillation == 0:
        yield {"distillation": 0.9, "temperature": 2.0}
    if point.epochs:
        yield {"epochs": 2 * point.epochs}
