"""Random images for benchmarks of training: speed does not depend on them."""

import torch

from trimlab.data.dataset import Dataset

SHAPE = (3, 32, 32)
"""Of CIFAR's images."""


def synthetic(count: int, shape: tuple[int, int, int] = SHAPE) -> Dataset:
    """Return `count` training images of ten classes, and the first of them as test images."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
    labels = torch.arange(count) % 10
    return Dataset(
        name="synthetic",
        train_images=images,
        train_labels=labels,
        test_images=images[:64],
        test_labels=labels[:64],
        holdout=torch.arange(10),
        calibration=torch.arange(10, count),
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.25),
        classes=[str(label) for label in range(10)],
        sha256="0" * 64,
    )
