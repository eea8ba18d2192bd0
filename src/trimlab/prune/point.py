"""Pruning as a point of the params asks: by its ratio, or by the one that meets its target."""

import copy
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trimlab import config
from trimlab.prune import pruner
from trimlab.prune.target import Meter, closest_ratio, meeting_latency, ratio_for, trying
from trimlab.records import TargetLatency


class Done(NamedTuple):
    """What was done to a model."""

    ratio: float
    """The point's, or the one that was found for its target."""
    removed: pruner.Pruned
    layer_ratios: Mapping[str, float]
    """Of each layer, where an allocation chose it layer by layer; else empty."""
    latency: TargetLatency | None = None
    """What was measured for a target."""


def prune_at(
    point: config.PruningPoint,
    model: nn.Module,
    section: config.PruningSettings,
    image_shape: tuple[int, int, int],
    seed: int = 0,
    keys: config.PruningKeys = pruner.PLAIN,
    gradients: Mapping[str, Tensor] | None = None,
    meter: Meter | None = None,
) -> Done:
    """Prune a model in place, and return what was done.

    Arguments and errors are those of `pruner.prune`; besides, a target that no ratio meets is refused, and a latency
    needs what measures it.
    """

    def prune(each: nn.Module, ratio: float) -> pruner.Pruned:
        return pruner.prune(
            each, ratio, section, image_shape, seed, keys, point.keep, steps=point.steps, gradients=gradients
        )

    ratio, target, latency = point.ratio, point.target, None
    if target and meter:
        ratio, latency = _ratio_for_latency(target, model, meter, prune, keys.target)
    elif target:
        ratio = ratio_for(target, model, image_shape, prune, keys.target)
    assert ratio is not None
    return Done(ratio, prune(model, ratio), {}, latency)


def _ratio_for_latency(
    target: config.Target,
    model: nn.Module,
    meter: Meter,
    prune: Callable[[nn.Module, float], object],
    key: str,
) -> tuple[float, TargetLatency]:
    def pruned(ratio: float) -> nn.Module:
        smaller = copy.deepcopy(model)
        prune(smaller, ratio)
        return smaller

    tried = trying(model, prune, meter.predicted)
    return meeting_latency(
        target, model, meter, lambda wanted: closest_ratio(target, wanted, tried, key)[0], pruned, key
    )


def dry_run(
    point: config.PruningPoint,
    model: nn.Module,
    section: config.PruningSettings,
    image_shape: tuple[int, int, int],
    keys: config.PruningKeys = pruner.PLAIN,
) -> None:
    """Refuse what `prune_at` refuses whatever the weights are; the model and the random numbers stay as they are.

    Where the allocation is not uniform, it is the weights that decide which target is met, and for a latency it is the
    machine.
    """
    measured = point.target is not None and point.target.latency_ms is not None
    if point.ratio is not None or measured or section.allocation != "uniform":
        ratio = ANY_RATIO if point.ratio is None else point.ratio
        pruner.dry_run(model, ratio, section, image_shape, keys, point.keep)
        return
    assert point.target
    section = pruner.of_weights_alone(section)
    with torch.random.fork_rng(devices=[]):
        ratio_for(
            point.target,
            model,
            image_shape,
            lambda trial, ratio: pruner.prune(trial, ratio, section, image_shape, keys=keys, keep=point.keep),
            keys.target,
        )


ANY_RATIO = 0.5
"""Stands for the ratio that a target will take."""
