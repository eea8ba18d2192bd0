"""A dataset in memory, and the same one in a file."""

from dataclasses import replace

import torch
from safetensors.torch import save_file

from trimlab.data.dataset import Dataset
from trimlab.data.stored import StoredImages


def tiny():
    """64 images whose class is their brightness."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(64) % 2
    images = (torch.randint(0, 100, (64, 3, 32, 32), generator=generator) + 120 * labels[:, None, None, None]).byte()
    return Dataset(
        name="tiny",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        holdout=torch.arange(8),
        calibration=torch.arange(8, 64),
        mean=torch.full((3,), 0.4),
        std=torch.full((3,), 0.3),
        classes=["dark", "bright"],
        sha256="0" * 64,
    )


def stored(dataset, folder):
    """The dataset with its images in a file, as where they exceed memory."""
    names, file = ("train_images", "test_images"), folder / "dataset.safetensors"
    save_file({name: getattr(dataset, name).clone() for name in names}, file)
    return replace(dataset, **{name: StoredImages.named(file, name) for name in names})
