"""Augmentation of training images, a whole batch at a time; every image has its own random draws.

torchvision's transforms draw once for a whole batch, or take one image at a time, and they draw from the global
generator: that is not for a thread that works ahead.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.nn import functional as F

from trimlab.config import ColorJitter, RandomResizedCrop, Recipe

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue (ITU-R BT.601)."""


def augment(images: Tensor, recipe: Recipe, scale: Fraction, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Change a batch at random, as a recipe says.

    Args:
        images: (N, C, H, W) uint8.
        recipe: what is changed.
        scale: the images' size as a share of the dataset's; lengths in pixels shrink with it.
        mirrored: which images are mirrored, (N,) bool.
        generator: on the CPU, so that every device draws the same numbers.
    """
    if recipe.random_resized_crop:
        images = resized_crop(images, recipe.random_resized_crop, mirrored, generator)
    else:
        images = shift(images, math.ceil(recipe.crop_padding * scale), mirrored, generator)
    if recipe.color_jitter:
        images = jitter(images, recipe.color_jitter, generator)
    return cut_out(images, math.ceil(recipe.cutout * scale), generator) if recipe.cutout else images


def shift(images: Tensor, padding: int, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Translate a batch, and mirror some of it.

    Args:
        images: (N, C, H, W) of any type.
        padding: largest translation in pixels; the border is filled with zeros.
        mirrored: which images are mirrored, (N,) bool.
        generator: on the CPU, so that every device draws the same numbers.
    """
    count, _, height, width = images.shape
    device = images.device
    shifts = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator).to(device)
    rows = shifts[0] + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    columns = torch.where(mirrored.to(device)[:, None], width - 1 - columns, columns) + shifts[1]
    # Rows of channels: one gather moves whole pixels, and the result is channels_last already.
    padded = F.pad(images, (padding,) * 4).permute(0, 2, 3, 1)
    index = torch.arange(count, device=device)[:, None, None]
    return padded[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def resized_crop(images: Tensor, section: RandomResizedCrop, mirrored: Tensor, generator: torch.Generator) -> Tensor:
    """Scale a random part of every image to the whole, bilinear, and mirror some of them.

    A part that would be wider or higher than its image is as wide or high as that.

    Args:
        images: (N, C, H, W) uint8.
        section: the part's size and form.
        mirrored: which images are mirrored, (N,) bool.
        generator: on the CPU, so that every device draws the same numbers.
    """
    count, _, height, width = images.shape
    area, form, top, left = torch.rand(4, count, dtype=torch.float64, generator=generator)
    area = section.scale[0] + area * (section.scale[1] - section.scale[0])
    low, high = (math.log(ratio * height / width) for ratio in section.ratio)
    ratio = torch.exp(low + form * (high - low))  # of the part's share of the width to that of the height
    across, down = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    # An affine map of coordinates in [-1, 1], in which the part's centre moves by what the part leaves over.
    boxes = torch.zeros(count, 2, 3, dtype=torch.float64)
    boxes[:, 0, 0] = torch.where(mirrored.cpu(), -across, across)
    boxes[:, 1, 1] = down
    boxes[:, 0, 2], boxes[:, 1, 2] = (2 * left - 1) * (1 - across), (2 * top - 1) * (1 - down)
    grid = F.affine_grid(boxes.float().to(images.device), list(images.shape), align_corners=False)
    parts = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return _to_bytes(parts)


def jitter(images: Tensor, section: ColorJitter, generator: torch.Generator) -> Tensor:
    """Change contrast, brightness and saturation of every image (N, 3, H, W) uint8, in this order."""
    draws = torch.rand(3, len(images), 1, 1, 1, generator=generator).to(images.device)
    strengths = (section.contrast, section.brightness, section.saturation)
    contrast, brightness, saturation = (1 + s * (2 * draw - 1) for s, draw in zip(strengths, draws, strict=True))
    shares = torch.tensor(GREY, device=images.device).view(3, 1, 1)
    # Sums of whole numbers: their order, which depends on the number of threads, does not matter.
    sums = images.sum((2, 3), keepdim=True, dtype=torch.int64)
    mean = (sums / images[0, 0].numel() * shares).sum(1, keepdim=True)
    values = ((images - mean) * contrast + mean).clamp_(0, 255).mul_(brightness).clamp_(0, 255)
    grey = (values * shares).sum(1, keepdim=True)
    return _to_bytes((values - grey).mul_(saturation).add_(grey))


def cut_out(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Black out a square of every image (N, C, H, W); its centre is in the image, so parts of it may be outside."""
    count, _, height, width = images.shape
    top, left = (
        (torch.randint(0, size, (count, 1), generator=generator) - side // 2).to(images.device)
        for size in (height, width)
    )
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    in_rows, in_columns = (rows >= top) & (rows < top + side), (columns >= left) & (columns < left + side)
    return images.masked_fill((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0)


def resize(images: Tensor, size: int) -> Tensor:
    """Scale images (N, C, H, W) uint8 to size × size, bilinear with antialiasing."""
    small = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return _to_bytes(small)


def _to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)
