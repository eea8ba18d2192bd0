"""Rare classes: weights in the loss, or an order in which all classes are equally frequent."""

import torch
from torch import Tensor
from torch.nn import functional as F

from trimlab.train.batches import seed_of


def class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return the weight of each class: inverse to its size, with a mean of 1 over the images.

    Args:
        labels: (N,) int64, of what is trained on.
        num_classes: how many classes there are.

    Returns:
        (num_classes,) float32; 0 for a class without images.
    """
    sizes = torch.bincount(labels, minlength=num_classes)
    share = len(labels) / torch.count_nonzero(sizes)
    return torch.where(sizes > 0, share / sizes.clamp(min=1), 0.0)


def balanced_order(labels: Tensor, seed: int, epoch: int) -> Tensor:
    """Draw as many images as there are: each time a class, and then one of its images, all with equal chance.

    Args:
        labels: (N,) int64 on the CPU.
        seed: of the training.
        epoch: from 0.

    Returns:
        (N,) int64: positions in the labels, with repetition.
    """
    generator = torch.Generator().manual_seed(seed_of(seed, epoch, 0))
    classes, sizes = torch.unique(labels, return_counts=True)
    first = sizes.cumsum(0) - sizes
    drawn = torch.randint(len(classes), labels.shape, generator=generator)
    within = torch.randint(2**62, labels.shape, generator=generator) % sizes[drawn]
    return labels.argsort(stable=True)[first[drawn] + within]


def cross_entropy(logits: Tensor, targets: Tensor, label_smoothing: float, weights: Tensor | None) -> Tensor:
    """Return the mean loss of a batch's images, each multiplied by the weight of its class.

    The mean is over images. torch's own weighting divides by the weights of the batch instead, so a rare class would
    count for little: most batches hold none of its images.

    Args:
        logits: (N, C) float32.
        targets: labels (N,) int64, or probabilities (N, C) float32, whose weight is the mean of their classes'.
        label_smoothing: share of the target that is spread over all classes.
        weights: (C,) of the classes, from `class_weights`; None weights all alike.
    """
    if weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    return (losses * (weights[targets] if targets.ndim == 1 else targets @ weights)).mean()
