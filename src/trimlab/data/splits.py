"""Stratified, seeded draws from a training set: nothing is ever chosen on the test set."""

import numpy as np
import torch
from torch import Tensor

from trimlab.config import Data
from trimlab.errors import UserError


def held_out(name: str, count: int, data: Data) -> int:
    """Return how many of `count` training images are held out: at least one, and not all."""
    held = round(data.holdout_fraction * count)
    if count - held < 2:
        raise UserError(
            f"dataset {name}: {count - held} of {count} training images are outside the hold-out: give more images, or "
            "lower data.holdout_fraction"
        )
    if held < 1:
        raise UserError(
            f"data.holdout_fraction {data.holdout_fraction} of the {count} training images of {name} is less than one "
            f"image: set it to at least {1 / count:.1g}"
        )
    return held


def drawn_test(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Draw the test images of a source that has none: about `fraction` of each class, at least one, and not all.

    Args:
        labels: of all images, (N,) int64; no class has exactly one image.
        fraction: in (0, 1).
        seed: decides which images.

    Returns:
        Which images are for the test set, (N,) bool.
    """
    sizes = labels.bincount()
    counts = torch.minimum((fraction * sizes).round().long().clamp(min=1), sizes - 1)
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    classes, test = labels[shuffled], torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(counts.tolist()):
        test[shuffled[classes == label][:count]] = True
    return test


def drawn(labels: Tensor, among: Tensor, shares: Tensor, seed: int) -> Tensor:
    """Shuffle indices so that any first n of them hold the classes in proportion to `shares`, as far as they last.

    The kth image of a class (from 0) is due at (k + 1/2) / share, as in Sainte-Laguë's method for parliaments: no other
    n images are closer to the proportions. Classes with equal shares take turns.

    Args:
        labels: of all images, (N,) int64.
        among: the indices to order, (M,) int64.
        shares: of the classes, (C,), above 0 for those in `among`: their sizes make the order stratified.
        seed: decides the order within each class.
    """
    shuffled = among[torch.randperm(len(among), generator=torch.Generator().manual_seed(seed))]
    chosen = labels[shuffled]
    rank = torch.empty_like(shuffled)
    for label in torch.unique(chosen):
        members = chosen == label
        rank[members] = torch.arange(int(members.sum()))
    due = (2 * rank + 1).double() / shares[chosen]
    return shuffled[torch.from_numpy(np.lexsort((chosen.numpy(), due.numpy())))]
