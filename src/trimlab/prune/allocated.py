"""Pruning by ratios that are chosen layer by layer from a model's sensitivity."""

import copy
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from trimlab import config
from trimlab.errors import UserError
from trimlab.prune import allocation, pruner
from trimlab.prune.sensitivity import Measured
from trimlab.prune.target import TOLERANCE, check_below, taken
from trimlab.records import GroupCurve, PrunedAlone

Saved = Callable[[GroupCurve, PrunedAlone], float]


def prune_as_measured(
    point: config.PruningPoint,
    model: nn.Module,
    section: config.PruningSettings,
    image_shape: tuple[int, int, int],
    seed: int,
    keys: config.PruningKeys,
    gradients: Mapping[str, Tensor] | None,
    measured: Measured,
) -> tuple[float, pruner.Pruned, dict[str, float]]:
    """Prune a model in place by its sensitivity, to the point's ratio or target.

    Args:
        point: its ratio is the share of the channels of all layers together.
        model: unpruned, on the CPU.
        section: criterion, rounding and which of the two allocations.
        image_shape: channels, height, width.
        seed: decides the `random` criterion.
        keys: what the params call the values.
        gradients: for a criterion that uses them.
        measured: the model's sensitivity by the same criterion.

    Returns:
        The ratio, or for a target the share of the channels that was removed; what pruning did; each layer's ratio.

    Raises:
        UserError: as `pruner.prune`; ratio or target cannot be met with the ratios that were measured.
    """
    groups = [group for group in measured.groups if group.points]
    saved = _saved(point.target, measured.unpruned, pruner.widths(model))
    curves = allocation.curves(groups, measured.unpruned, section.round_to or 1, saved)
    choose = allocation.search if section.allocation == "search" else allocation.tolerated

    def prune(each: nn.Module, choice: allocation.Choice) -> pruner.Pruned:
        ratios = allocation.layer_ratios(groups, curves, choice)
        return pruner.prune(
            each,
            0.0,
            section,
            image_shape,
            seed,
            keys,
            point.keep,
            ratios=ratios,
            steps=point.steps,
            gradients=gradients,
        )

    if point.target:
        check_below(point.target, model, image_shape, keys.target)
        choice = _for_target(point.target, curves, choose, prune, model, image_shape, keys)
    else:
        channels = _channels(measured.groups, pruner.widths(model))
        choice = choose(curves, _saving(point, section, sum(channels), allocation.most(curves), keys))
    removed = prune(model, choice)
    ratio = removed.ratio if point.ratio is None else point.ratio
    return ratio, removed, allocation.layer_ratios(groups, curves, choice)


def _channels(groups: Sequence[GroupCurve], widths: Mapping[str, int]) -> list[int]:
    """Return the output channels of each group's layers together."""
    return [sum(widths[layer] for layer in group.layers) for group in groups]


def _saved(target: config.Target | None, unpruned: PrunedAlone, widths: Mapping[str, int]) -> Saved:
    """Return what says how much a group saves at a point: of channels, parameters or multiply-accumulates."""

    def channels(group: GroupCurve, pruned: PrunedAlone) -> float:
        width = group.width // group.parts
        return _channels([group], widths)[0] * (1 - allocation.kept(width, pruned.ratio) / width)

    def params(group: GroupCurve, pruned: PrunedAlone) -> float:
        return float(unpruned.num_params - pruned.num_params)

    def macs(group: GroupCurve, pruned: PrunedAlone) -> float:
        return float(unpruned.macs - pruned.macs)

    if target is None:
        return channels
    return macs if target.quantity == "macs" else params


def _saving(
    point: config.PruningPoint, section: config.PruningSettings, channels: int, most: float, keys: config.PruningKeys
) -> float:
    """Return how many channels a ratio removes, or refuse one beyond what was measured."""
    assert point.ratio is not None
    if point.ratio * channels > most:
        raise UserError(
            f"{keys.ratio} {point.ratio:g} is more than allocation {section.allocation} can remove, "
            f"{most / channels:.4f} of the channels: lower it"
        )
    return point.ratio * channels


def _for_target(
    target: config.Target,
    curves: Sequence[allocation.Curve],
    choose: Callable[[Sequence[allocation.Curve], float], allocation.Choice],
    prune: Callable[[nn.Module, allocation.Choice], object],
    model: nn.Module,
    image_shape: tuple[int, int, int],
    keys: config.PruningKeys,
) -> allocation.Choice:
    """Return the choice with which the pruned model meets a target."""

    def left(choice: allocation.Choice) -> float:
        trial = copy.deepcopy(model)
        prune(trial, choice)
        return taken(trial, target, image_shape)

    found = allocation.within(curves, choose, left, target.value, TOLERANCE)
    if abs(found.amount - target.value) > TOLERANCE * target.value:
        closest = target.written(found.amount)
        raise UserError(
            f"{keys.target}.{target.quantity} {target.written(target.value)} is not reached within {TOLERANCE:.0%}: "
            f"the closest is {closest}: set it to {closest}"
        )
    return found.choice
