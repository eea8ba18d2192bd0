"""From sensitivity curves and a budget to a ratio for each group of coupled layers.

What a group saves is taken for what it saves alone. That is exact for channels. Of parameters and multiply-accumulates
the groups together save less than the sum, because a layer's depend on its inputs and its outputs: `within` asks for
more of that sum until the model that is really pruned meets the budget.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimlab.records import GroupCurve, PrunedAlone

MOST_OPTIONS = 96
"""Widths among which a group's is chosen."""
BINS = 4000
"""In how many equal steps `search` counts what is saved, and `within` asks for it."""
_LEAST_SLOPE = 1e-6
"""Of the loss over the share of removed channels: it ranks widths that lose nothing."""

Integers = NDArray[np.int64]
Choice = list[int]
"""The option of each curve."""


class Curve(NamedTuple):
    """What a group of coupled layers loses and saves when it is pruned alone; each tuple has an entry an option."""

    ratios: tuple[float, ...]
    """Share of its channels that is removed, rising from 0."""
    losses: tuple[float, ...]
    """Increase of the loss, never falling, from 0."""
    saved: tuple[float, ...]
    """Channels, parameters or multiply-accumulates, never falling, from 0."""


def curves(
    groups: Sequence[GroupCurve],
    unpruned: PrunedAlone,
    step: int,
    saved: Callable[[GroupCurve, PrunedAlone], float],
) -> list[Curve]:
    """Return the options of each group that can lose channels, by its measured points.

    Args:
        groups: each with a point at least.
        unpruned: what a group's losses are compared with.
        step: kept widths are multiples of this.
        saved: maps a group and one of its points to what is saved there.
    """
    return [
        curve(
            group.width // group.parts,
            step,
            [point.ratio for point in group.points],
            [point.loss - unpruned.loss for point in group.points],
            [saved(group, point) for point in group.points],
        )
        for group in groups
    ]


def layer_ratios(groups: Sequence[GroupCurve], found: Sequence[Curve], choice: Choice) -> dict[str, float]:
    """Return the ratio of each layer of the groups, by its name."""
    return {
        layer: each.ratios[option]
        for group, each, option in zip(groups, found, choice, strict=True)
        for layer in group.layers
    }


def curve(width: int, step: int, ratios: Sequence[float], losses: Sequence[float], saved: Sequence[float]) -> Curve:
    """Return a group's options: widths between the measured ones, with losses and savings by linear interpolation.

    A loss that falls as more is removed is noise, and counts as none. Of widths with equal losses the wider is better.

    Args:
        width: channels of each of the group's equal parts, before pruning.
        step: kept widths are multiples of this; all channels can stay as well.
        ratios: the measured ones, rising, without 0.
        losses: increases of the loss over the unpruned model at these ratios; of any sign.
        saved: at these ratios.
    """
    at = [0.0, *(1 - kept(width, ratio) / width for ratio in ratios)]
    widths = _widths(width, step, kept(width, ratios[-1]))
    removed = 1 - widths / width
    increase = np.interp(removed, at, np.maximum.accumulate([0.0, *losses])) + _LEAST_SLOPE * removed
    saving = np.interp(removed, at, np.maximum.accumulate([0.0, *saved]))
    asked = (_ratio(int(left), width) for left in widths)
    return Curve(tuple(asked), tuple(increase.tolist()), tuple(saving.tolist()))


def kept(width: int, ratio: float) -> int:
    """Return how many channels a ratio leaves, as torch-pruning counts."""
    return int(width * (1 - ratio))


def _ratio(left: int, width: int) -> float:
    """Return a ratio of four digits that leaves so many channels."""
    ratio = math.floor(1e4 * (1 - left / width)) / 1e4
    return ratio if kept(width, ratio) == left else ratio - 1e-4


def _widths(width: int, step: int, least: int) -> Integers:
    """Return the widths that may stay, falling from all channels to the least."""
    lowest = -(-max(1, least) // step) * step
    multiples = np.arange((width - 1) // step * step, lowest - 1, -step)
    if len(multiples) > MOST_OPTIONS:
        multiples = multiples[np.linspace(0, len(multiples) - 1, MOST_OPTIONS).round().astype(int)]
    return np.array([width, *multiples])


def most(curves: Sequence[Curve]) -> float:
    """Return what is saved where every group is pruned as much as was measured."""
    return sum(each.saved[-1] for each in curves)


def tolerated(curves: Sequence[Curve], saving: float) -> Choice:
    """Return the options of which each costs at most the same increase of the loss, the smallest that saves enough.

    Args:
        curves: one a group.
        saving: what they save together, in [0, `most(curves)`].
    """
    levels = sorted({loss for each in curves for loss in each.losses})
    low, high = 0, len(levels) - 1
    while low < high:
        middle = (low + high) // 2
        if _saved(curves, _within(curves, levels[middle])) >= saving:
            high = middle
        else:
            low = middle + 1
    return _within(curves, levels[low])


def _within(curves: Sequence[Curve], loss: float) -> Choice:
    return [max(option for option, cost in enumerate(each.losses) if cost <= loss) for each in curves]


def _saved(curves: Sequence[Curve], choice: Choice) -> float:
    return sum(each.saved[option] for each, option in zip(curves, choice, strict=True))


def search(curves: Sequence[Curve], saving: float) -> Choice:
    """Return the options whose increases of the loss have the smallest sum among those that save enough.

    Savings are counted in `BINS` steps, rounded down, so that enough is really saved.

    Args:
        curves: one a group.
        saving: what they save together, in [0, `most(curves)`].
    """
    unit = most(curves) / BINS or 1.0
    counted = [[int(saved / unit) for saved in each.saved] for each in curves]
    reachable = sum(steps[-1] for steps in counted)
    return knapsack([each.losses for each in curves], counted, min(int(np.ceil(saving / unit)), reachable))


def knapsack(costs: Sequence[Sequence[float]], gains: Sequence[Sequence[int]], least: int) -> Choice:
    """Return one option a group, so that the gains reach a sum and the costs have the smallest one: exactly.

    Dynamic programming over the gain so far. Of equal costs, the option that comes first is taken.

    Args:
        costs: of each group's options, at least 0.
        gains: of each group's options, whole numbers of at least 0.
        least: sum of the gains that is asked for.

    Raises:
        ValueError: no choice gains so much.
    """
    if sum(max(options) for options in gains) < least:
        raise ValueError(f"no choice gains {least}")
    cheapest = np.full(least + 1, np.inf)  # by gain so far; the last place holds all that is beyond
    cheapest[0] = 0.0
    trail = []
    for options, gained in zip(costs, gains, strict=True):
        cheapest, taken, origin = _with_group(cheapest, options, gained)
        trail.append((taken, origin))
    chosen, place = [], least
    for taken, origin in reversed(trail):
        chosen.append(int(taken[place]))
        place = int(origin[place])
    return chosen[::-1]


def _with_group(
    before: NDArray[np.float64], costs: Sequence[float], gains: Sequence[int]
) -> tuple[NDArray[np.float64], Integers, Integers]:
    """Return the smallest cost of each gain with one more group, its option there, and the gain without it."""
    last = len(before) - 1
    cheapest, places = np.full(last + 1, np.inf), np.arange(last + 1)
    taken, origin = np.zeros(last + 1, int), np.zeros(last + 1, int)
    for option, (cost, gain) in enumerate(zip(costs, gains, strict=True)):
        step = min(gain, last)
        beyond = last - step + int(np.argmin(before[last - step :]))  # of all that pass the last place, the cheapest
        for came, went in ((places[: last - step], places[step:last]), (places[[beyond]], places[[last]])):
            better = before[came] + cost < cheapest[went]
            cheapest[went[better]] = before[came[better]] + cost
            taken[went[better]], origin[went[better]] = option, came[better]
    return cheapest, taken, origin


class Left(NamedTuple):
    """A choice, and what the model that is really pruned so has left."""

    choice: Choice
    amount: float


def within(
    found: Sequence[Curve],
    choose: Callable[[Sequence[Curve], float], Choice],
    measured: Callable[[Choice], float],
    target: float,
    tolerance: float,
) -> Left:
    """Return the choice with which the model that is really pruned is nearest to a target.

    The saving that is asked for is found by bisection. Where neither side of the target is within the tolerance, single
    groups get channels back, as long as the target allows. What is returned may still be farther off.

    Args:
        found: one curve a group.
        choose: `search` or `tolerated`.
        measured: maps options to what is left of the model; a wider one has more.
        target: what shall be left.
        tolerance: share of the target.
    """
    low, high = 0.0, most(found)
    step, largest = high / BINS, choose(found, high)
    below = Left(largest, measured(largest))
    if below.amount > target:
        return below
    nearest = below
    while high - low > step:
        middle = (low + high) / 2
        choice = choose(found, middle)
        tried = below if choice == below.choice else Left(choice, measured(choice))
        if tried.amount > target:
            low = middle
        else:
            high, below = middle, max(below, tried, key=lambda each: each.amount)
        nearest = min(nearest, tried, key=lambda each: abs(each.amount - target))
    return nearest if abs(nearest.amount - target) <= tolerance * target else _widened(found, below, measured, target)


def _widened(found: Sequence[Curve], below: Left, measured: Callable[[Choice], float], target: float) -> Left:
    """Give groups channels back, first where that lowers the loss most for what it takes, up to the target."""

    def worth(group: int) -> float:
        option, each = below.choice[group], found[group]
        taken = each.saved[option] - each.saved[option - 1]
        return (each.losses[option] - each.losses[option - 1]) / max(taken, 1e-9)

    open_groups = {group for group, option in enumerate(below.choice) if option}
    while open_groups:
        group = max(sorted(open_groups), key=worth)
        choice = [option - (place == group) for place, option in enumerate(below.choice)]
        if (amount := measured(choice)) <= target:
            below = Left(choice, amount)
        if amount > target or not choice[group]:
            open_groups.remove(group)  # others only grow, so it will not fit later
    return below
