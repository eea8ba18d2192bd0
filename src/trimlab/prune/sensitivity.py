"""How much each group of coupled layers can lose: pruned alone, at several ratios, and scored.

As in Li et al. 2017 ("Pruning filters for efficient ConvNets"), with BatchNorm's statistics estimated anew before each
scoring: without that, the curves tell how far the statistics are off.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimlab import config, progress
from trimlab.data.dataset import Dataset, Subset
from trimlab.data.splits import drawn
from trimlab.models import registry
from trimlab.models.facts import count_macs, count_params
from trimlab.prune import batchnorm, coupling, pruner
from trimlab.records import GroupCurve, PrunedAlone
from trimlab.train import hardware
from trimlab.train.evaluate import EVALUATION_BATCH
from trimlab.train.precision import computing_in

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Shares of a group's channels that are removed."""


class Group(NamedTuple):
    """Layers that lose channels together."""

    layers: tuple[str, ...]
    """Their names, in the model's order; the first one names the group."""
    width: int
    """Output channels of the first layer."""
    parts: int
    """Equal parts of these channels that are pruned alike, because a grouped convolution asks for it."""


class Measured(NamedTuple):
    """A model's sensitivity."""

    unpruned: PrunedAlone
    """The same for the model itself, at ratio 0."""
    groups: list[GroupCurve]


@dataclass(frozen=True)
class Images:
    """Where a model is scored, and from how many training images BatchNorm has its statistics."""

    dataset: Dataset
    scored: Subset
    """Part of the hold-out."""

    @classmethod
    def of(cls, dataset: Dataset, count: int, seed: int) -> "Images":
        """Draw hold-out images: each class in proportion to its size. All of them where there are fewer.

        They are never of the test set. Whether the model was trained on them is another question: with `data.split`
        `test` the hold-out is part of the training set.
        """
        shares = dataset.train_labels.bincount()
        indices = drawn(dataset.train_labels, dataset.holdout, shares, seed)[:count]
        return cls(dataset, Subset(dataset.train_images, indices, dataset.train_labels[indices]))


def groups(
    model: nn.Module, image_shape: tuple[int, int, int], keep: Sequence[str] = (), keep_key: str = "keep"
) -> list[Group]:
    """Return the groups of layers that can lose channels, in the model's order.

    Args:
        model: on the CPU; stays as it is.
        image_shape: channels, height, width.
        keep: patterns of names of layers that keep all output channels.
        keep_key: what the params call these.

    Raises:
        UserError: a pattern matches no layer.
    """
    trial, widths = copy.deepcopy(model), pruner.widths(model)
    kept = config.matching(keep_key, keep, list(widths))
    names = {module: name for name, module in trial.named_modules() if name in widths}
    fixed = [registry.classifier(trial), *(module for module, name in names.items() if name in kept)]
    found = coupling.coupled(trial, torch.zeros(1, *image_shape), fixed)
    order = {name: place for place, name in enumerate(widths)}
    made = []
    for layers in found.groups:
        members = tuple(sorted((names[layer] for layer in layers), key=order.__getitem__))
        made.append(Group(members, widths[members[0]], found.parts[trial.get_submodule(members[0])]))
    return sorted(made, key=lambda group: order[group.layers[0]])


def measure(
    model: nn.Module,
    section: config.PruningSettings,
    images: Images,
    seed: int,
    keys: config.PruningKeys,
    keep: Sequence[str],
    gradients: Mapping[str, Tensor] | None,
    label: str,
) -> Measured:
    """Prune each group of coupled layers alone on a copy, estimate BatchNorm anew, and score.

    Args:
        model: unpruned, on the CPU; stays as it is.
        section: the criterion; nothing is rounded.
        images: what is scored; BatchNorm has its statistics from as many training images outside the hold-out.
        seed: decides the `random` criterion.
        keys: what the params call kept layers.
        keep: patterns of names of layers that keep all output channels.
        gradients: for a criterion that uses them, a tensor in the shape of each parameter, by name.
        label: of the progress bar.

    Raises:
        UserError: torch-pruning cannot follow the model.
    """
    plain = section.model_copy(update={"round_to": None, "rounding": "down"})
    found = groups(model, images.dataset.image_shape, keep, keys.keep)
    steps = [(group, ratio) for group in found for ratio in _ratios(group)]
    points: dict[Group, list[PrunedAlone]] = {group: [] for group in found}
    for group, ratio in progress.bar(steps, label, total=len(steps)):
        pruned = copy.deepcopy(model)
        own = dict.fromkeys(group.layers, ratio)
        pruner.prune(pruned, 0.0, plain, images.dataset.image_shape, seed, keys, keep, ratios=own, gradients=gradients)
        points[group].append(_scored(pruned, ratio, images))
    curves = [GroupCurve(layers=list(g.layers), width=g.width, parts=g.parts, points=points[g]) for g in found]
    return Measured(_scored(copy.deepcopy(model), 0.0, images), curves)


def _ratios(group: Group) -> list[float]:
    """Return the ratios that leave a channel in each part, and each another number of them."""
    width = group.width // group.parts
    left = {int(width * (1 - ratio)): ratio for ratio in reversed(RATIOS)}
    return sorted(ratio for kept, ratio in left.items() if 0 < kept < width)


def _scored(model: nn.Module, ratio: float, images: Images) -> PrunedAlone:
    counts = count_params(model), count_macs(model, images.dataset.image_shape)
    twin = batchnorm.reestimated(model, images.dataset, len(images.scored))
    loss, top1 = _score(twin or model, images.dataset, images.scored)
    return PrunedAlone(ratio=ratio, loss=loss, top1_accuracy=top1, num_params=counts[0], macs=counts[1])


def _score(model: nn.Module, dataset: Dataset, scored: Subset) -> tuple[float, float]:
    """Return the mean cross-entropy loss, and top-1 in [0, 1], in strict FP32."""
    device, start = hardware.device(), 0
    model.to(device).eval()
    losses: list[Tensor] = []
    hits: list[Tensor] = []
    with torch.no_grad(), computing_in("fp32"):
        for batch in scored.chunks(EVALUATION_BATCH):
            labels = scored.labels[start : start + len(batch)].to(device)
            normalised = dataset.normalise(batch.to(device))
            logits = model(normalised.contiguous(memory_format=torch.channels_last)).float()
            losses.append(functional.cross_entropy(logits, labels, reduction="none").cpu())
            hits.append((logits.argmax(1) == labels).cpu())
            start += len(batch)
    return float(torch.cat(losses).double().mean()), float(torch.cat(hits).double().mean())
