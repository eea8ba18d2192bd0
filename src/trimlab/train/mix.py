"""Images mixed with others of their batch, and labels alike: mixup (Zhang et al. 2018), CutMix (Yun et al. 2019)."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from trimlab.config import Recipe


def mix(
    images: Tensor, labels: Tensor, recipe: Recipe, classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix a batch as a recipe says: by mixup or by CutMix, by either with equal odds if it asks for both.

    Args:
        images: (B, C, H, W) uint8.
        labels: (B,) int64.
        recipe: with `mixup` or `cutmix`.
        classes: how many there are.
        generator: on the CPU, so that every device draws the same numbers.

    Returns:
        Images like those given, and the share of each class, (B, classes) float32.
    """
    odds = 0.5 if recipe.mixup and recipe.cutmix else float(recipe.mixup > 0)
    blended = float(torch.rand((), generator=generator)) < odds
    share = _beta(recipe.mixup if blended else recipe.cutmix, generator)
    other = torch.randperm(len(images), generator=generator).to(images.device)
    if blended:
        mixed = (share * images + (1 - share) * images[other]).round().to(torch.uint8)
    else:
        mixed, share = _pasted(images, images[other], share, generator)
    targets = F.one_hot(labels, classes).float()
    return mixed, share * targets + (1 - share) * targets[other]


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
