"""Images mixed with others of their batch, and labels alike: mixup (Zhang et al. 2018), CutMix (Yun et al. 2019)."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trimlab.config import Recipe


class Mixed(NamedTuple):
    """A batch whose images are mixed in pairs."""

    images: Tensor
    """(B, C, H, W) uint8."""
    other: Tensor
    """The second image of each pair, (B,) int64 into the batch."""
    share: float
    """Of the first image, in [0, 1]."""

    def labels(self, labels: Tensor) -> Tensor:
        """Mix the labels of the batch's images alike, (B, classes) float32: shares or probabilities of each class."""
        return self.share * labels + (1 - self.share) * labels[self.other]


def mix(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Mixed:
    """Mix a batch as a recipe says: by mixup or by CutMix, by either with equal odds if it asks for both.

    Args:
        images: (B, C, H, W) uint8.
        recipe: with `mixup` or `cutmix`.
        generator: on the CPU, so that every device draws the same numbers.
    """
    odds = 0.5 if recipe.mixup and recipe.cutmix else float(recipe.mixup > 0)
    blended = float(torch.rand((), generator=generator)) < odds
    share = _beta(recipe.mixup if blended else recipe.cutmix, generator)
    other = torch.randperm(len(images), generator=generator).to(images.device)
    if blended:
        mixed = (share * images + (1 - share) * images[other]).round().to(torch.uint8)
    else:
        mixed, share = _pasted(images, images[other], share, generator)
    return Mixed(mixed, other, share)


def _beta(alpha: float, generator: torch.Generator) -> float:
    # torch draws from Beta with its global generator alone.
    seed = int(torch.randint(2**62, (), generator=generator))
    return float(np.random.default_rng(seed).beta(alpha, alpha))


def _pasted(images: Tensor, others: Tensor, share: float, generator: torch.Generator) -> tuple[Tensor, float]:
    """Paste a rectangle of other images, and return the share of the area that is left as it was.

    The rectangle has the images' form; its centre is in the image, so parts of it may be outside.
    """
    bounds, length = [], math.sqrt(1 - share)
    for size in images.shape[2:]:
        centre, half = int(torch.randint(size, (), generator=generator)), round(length * size / 2)
        bounds.append((max(centre - half, 0), min(centre + half, size)))
    (top, bottom), (left, right) = bounds
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / images[0, 0].numel()
