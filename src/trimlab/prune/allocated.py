"""Pruning by ratios that are chosen layer by layer from a model's sensitivity."""

import copy
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from trimlab import config
from trimlab.errors import UserError
from trimlab.prune import allocation, pruner
from trimlab.prune.point import Done
from trimlab.prune.sensitivity import Measured
from trimlab.prune.target import TOLERANCE, Meter, check_below, check_met, meeting_latency, taken
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
    meter: Meter | None = None,
) -> Done:
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
        meter: where the target is a latency.

    Returns:
        What was done; for a target, the ratio is the share of the channels that was removed.

    Raises:
        UserError: as `pruner.prune`; ratio or target cannot be met with the ratios that were measured.
    """
    groups = [group for group in measured.groups if group.points]
    target, latency, unrounded = point.target, None, section.model_copy(update={"round_to": None, "rounding": "down"})

    def by_layer(each: nn.Module, ratios: Mapping[str, float], section: config.PruningSettings) -> pruner.Pruned:
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

    def saved_ms(group: GroupCurve, alone: PrunedAlone) -> float:
        assert meter
        smaller = copy.deepcopy(model)
        by_layer(smaller, dict.fromkeys(group.layers, alone.ratio), unrounded)
        return meter.predicted(model) - meter.predicted(smaller)

    saved = saved_ms if meter else _saved(target, measured.unpruned, pruner.widths(model))
    curves = allocation.curves(groups, measured.unpruned, section.round_to or 1, saved)
    choose = allocation.search if section.allocation == "search" else allocation.tolerated

    def prune(each: nn.Module, choice: allocation.Choice) -> pruner.Pruned:
        return by_layer(each, allocation.layer_ratios(groups, curves, choice), section)

    def pruned(choice: allocation.Choice) -> nn.Module:
        smaller = copy.deepcopy(model)
        prune(smaller, choice)
        return smaller

    def closest(wanted: float, amount: Callable[[nn.Module], float]) -> allocation.Left:
        return allocation.within(curves, choose, lambda choice: amount(pruned(choice)), wanted, TOLERANCE)

    if target and meter:
        choice, latency = meeting_latency(
            target, model, meter, lambda wanted: closest(wanted, meter.predicted).choice, pruned, keys.target
        )
    elif target:
        check_below(target, taken(model, target, image_shape), keys.target)
        found = closest(target.value, lambda smaller: taken(smaller, target, image_shape))
        check_met(target, found.amount, TOLERANCE, keys.target)
        choice = found.choice
    else:
        channels = _channels(measured.groups, pruner.widths(model))
        choice = choose(curves, _saving(point, section, sum(channels), allocation.most(curves), keys))
    removed = prune(model, choice)
    ratio = removed.ratio if point.ratio is None else point.ratio
    return Done(ratio, removed, allocation.layer_ratios(groups, curves, choice), latency)


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
