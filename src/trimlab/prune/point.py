"""Pruning as a point of the params asks: by its ratio, or by the one that meets its target."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trimlab import config
from trimlab.prune import pruner
from trimlab.prune.target import ratio_for


def prune_at(
    point: config.PruningPoint,
    model: nn.Module,
    section: config.PruningSettings,
    image_shape: tuple[int, int, int],
    seed: int = 0,
    keys: config.PruningKeys = pruner.PLAIN,
    gradients: Mapping[str, Tensor] | None = None,
) -> tuple[float, pruner.Pruned]:
    """Prune a model in place, and return the ratio and what it did.

    Arguments and errors are those of `pruner.prune`; besides, a target that no ratio meets is refused.
    """

    def prune(each: nn.Module, ratio: float) -> pruner.Pruned:
        return pruner.prune(
            each, ratio, section, image_shape, seed, keys, point.keep, steps=point.steps, gradients=gradients
        )

    ratio = point.ratio
    if ratio is None:
        assert point.target
        ratio = ratio_for(point.target, model, image_shape, prune, keys.target)
    return ratio, prune(model, ratio)


def dry_run(
    point: config.PruningPoint,
    model: nn.Module,
    section: config.PruningSettings,
    image_shape: tuple[int, int, int],
    keys: config.PruningKeys = pruner.PLAIN,
) -> None:
    """Refuse what `prune_at` refuses whatever the weights are; the model and the random numbers stay as they are.

    Where the allocation is not uniform, it is the weights that decide which target is met.
    """
    if point.ratio is not None or section.allocation != "uniform":
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
