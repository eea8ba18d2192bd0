"""The ratio at which a pruned model takes what a target asks for."""

import copy
from collections.abc import Callable

from torch import nn

from trimlab import config
from trimlab.errors import UserError
from trimlab.models.facts import count_macs, count_params, size_bytes

TOLERANCE = 0.02
"""How far from the target, as a share of it, the pruned model may be."""
STEPS = 10_000
"""Ratios are tried in steps of one ten-thousandth, so that the one that is found can be written down."""
HIGHEST = 9_500
"""The highest ratio of a pruning point, in these steps."""
MIB = 2**20


def ratio_for(
    target: config.Target,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    prune: Callable[[nn.Module, float], object],
    key: str,
) -> float:
    """Return the ratio, in (0, 0.95), at which the pruned model comes closest to a target, found by bisection.

    A ratio that is refused counts as too high, unless nothing was removed. Where channels of several layers are ranked
    together, what stays need not fall with every step of the ratio; then the closest of all that were tried is taken.

    Args:
        target: what the pruned model may take.
        model: unpruned, on the CPU; it stays as it is.
        image_shape: channels, height, width.
        prune: prunes a model in place by a ratio, or raises UserError.
        key: what the params call the target.

    Raises:
        UserError: the target is not below the unpruned model's value; or no ratio comes within `TOLERANCE` of it.
    """
    check_below(target, model, image_shape, key)
    wanted, key = target.value, f"{key}.{target.quantity}"
    low, high = 0, HIGHEST
    reached: dict[int, float] = {}
    refused = None
    while high - low > 1:
        middle, trial = (low + high) // 2, copy.deepcopy(model)
        try:
            prune(trial, middle / STEPS)
        except UserError as error:
            refused = error
            too_large = count_params(trial) == count_params(model)
        else:
            reached[middle] = taken(trial, target, image_shape)
            too_large = reached[middle] > wanted
        low, high = (middle, high) if too_large else (low, middle)
    if not reached:
        raise UserError(f"{key} {target.written(wanted)} is not reached, as no ratio is: {refused}") from refused
    found = min(reached, key=lambda step: abs(reached[step] - wanted))
    if abs(reached[found] - wanted) > TOLERANCE * wanted:
        closest = target.written(reached[found])
        raise UserError(
            f"{key} {target.written(wanted)} is not reached within {TOLERANCE:.0%}: the closest is {closest}, at ratio "
            f"{found / STEPS:g}: set it to {closest}"
        )
    return found / STEPS


def check_below(target: config.Target, model: nn.Module, image_shape: tuple[int, int, int], key: str) -> None:
    """Refuse a target that an unpruned model meets as it is."""
    unpruned = taken(model, target, image_shape)
    if target.value >= unpruned:
        raise UserError(
            f"{key}.{target.quantity} {target.written(target.value)} is not below the unpruned model's "
            f"{target.written(unpruned)}: lower it"
        )


def taken(model: nn.Module, target: config.Target, image_shape: tuple[int, int, int]) -> float:
    """Return what a model takes, in the target's unit."""
    if target.quantity == "macs":
        return count_macs(model, image_shape)
    return count_params(model) if target.quantity == "params" else size_bytes(model) / MIB
