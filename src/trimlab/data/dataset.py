"""A prepared dataset: one verified, hashed file, read as tensors."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from trimlab import paths
from trimlab.config import Normalisation, Workload
from trimlab.data.stored import StoredImages
from trimlab.data.verified import remembered_sha256
from trimlab.errors import UserError

IMAGENET = Normalisation(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
"""What torchvision's and most other pretrained weights were trained with."""

Split = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""

Images = Tensor | StoredImages
"""(N, C, H, W) uint8, read when they are indexed: a mapped tensor, or a file where memory is too small for it."""

MEMORY_SHARE = 0.5
"""Of the available memory, or of a GPU's free memory, that a dataset's images may take."""


@dataclass(frozen=True)
class Subset:
    """Some of a dataset's images, not read yet, and their labels."""

    images: Images
    """The whole training or test set."""
    indices: Tensor
    """Which of `images`, (M,) int64."""
    labels: Tensor
    """(M,) int64."""

    def __len__(self) -> int:
        """Return how many images there are."""
        return len(self.indices)

    def read(self, positions: Tensor) -> Tensor:
        """Return images (K, C, H, W) uint8 by their positions in the subset, (K,) int64."""
        return self.images[self.indices[positions]]

    def chunks(self, size: int) -> Iterator[Tensor]:
        """Yield all images in order, at most `size` of them at a time."""
        for positions in torch.split(torch.arange(len(self)), size):
            yield self.read(positions)


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset."""

    name: str
    train_images: Images
    train_labels: Tensor
    """(N,) int64."""
    test_images: Images
    test_labels: Tensor
    holdout: Tensor
    """Indices into the training set, (M,) int64, ascending."""
    calibration: Tensor
    """Indices into the training set, outside the hold-out, (K,) int64, in an order in which any first n of them hold
    each class in proportion to its size."""
    mean: Tensor
    """Subtracted from images in [0, 1], (C,): the training images' mean, unless the workload has its own."""
    std: Tensor
    """Divided by, (C,): the training images' deviation, 1 for a constant channel, unless the workload has its own."""
    classes: list[str]
    sha256: str
    """Of the prepared file."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width

    def trained_on(self, split: str) -> Subset:
        """Return what is trained on: everything, or everything but the hold-out."""
        if split == "test":
            return _whole(self.train_images, self.train_labels)
        kept = torch.ones(len(self.train_labels), dtype=torch.bool)
        kept[self.holdout] = False
        return Subset(self.train_images, kept.nonzero().flatten(), self.train_labels[kept])

    def scored(self, split: str) -> Subset:
        """Return what is scored on: the test set, or the hold-out."""
        if split == "test":
            return _whole(self.test_images, self.test_labels)
        return Subset(self.train_images, self.holdout, self.train_labels[self.holdout])

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to float32, normalised."""
        shape = (1, -1, 1, 1)
        mean, std = self.mean.to(images.device).view(shape), self.std.to(images.device).view(shape)
        return (images.float() / 255 - mean) / std


def _whole(images: Images, labels: Tensor) -> Subset:
    return Subset(images, torch.arange(len(labels)), labels)


def calibration_images(dataset: Dataset, count: int) -> Tensor:
    """Return the indices of the first `count` calibration images, (count,) int64.

    Raises:
        UserError: the training set has fewer.
    """
    if count > len(dataset.calibration):
        raise UserError(
            f"quantization.calibration_images {count} is more than the {len(dataset.calibration)} training images of "
            f"{dataset.name} outside the hold-out: lower it"
        )
    return dataset.calibration[:count]


def load_dataset(name: str, memory_bytes: float | None = None) -> Dataset:
    """Read a prepared dataset; its images are read when they are used.

    Args:
        name: a key of `datasets`.
        memory_bytes: a larger file's images stay in the file; by default `MEMORY_SHARE` of the available memory.

    Raises:
        UserError: it was not prepared, or the files have changed since.
    """
    path = paths.dataset_file(name)
    told = path.with_suffix(".json")
    try:
        facts = json.loads(told.read_text())
        expected, classes = str(facts["sha256"]), [str(label) for label in facts["classes"]]
        actual = remembered_sha256(path, paths.verification(name))
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} does not exist: run `dvc repro prepare@{name}`") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{told} is not what prepare wrote: run `dvc repro -f prepare@{name}`") from None
    if actual != expected:
        raise UserError(f"{path} has sha256 {actual[:12]}, not {expected[:12]}: run `dvc checkout prepare@{name}`")
    try:
        return Dataset(name=name, classes=classes, sha256=actual, **_tensors(path, memory_bytes))
    except (SafetensorError, TypeError):  # no tensors, or those of another version
        raise UserError(f"{path} is not what prepare writes: run `dvc repro -f prepare@{name}`") from None


def _tensors(path: Path, memory_bytes: float | None) -> dict[str, Any]:
    """Return a prepared file's tensors, mapped; its images stay in the file where they need more memory."""
    if memory_bytes is None:
        memory_bytes = MEMORY_SHARE * psutil.virtual_memory().available
    tensors: dict[str, Any] = load_file(path)
    if path.stat().st_size > memory_bytes:
        tensors |= {name: StoredImages.named(path, name) for name in ("train_images", "test_images")}
    return tensors


def dataset_for(workload: Workload) -> Dataset:
    """Read a workload's dataset, normalised as the workload says.

    Raises:
        UserError: as in `load`; or the images and the normalisation differ in their number of channels.
    """
    dataset, normalisation = load_dataset(workload.dataset), workload.normalisation
    if normalisation == "dataset":
        return dataset
    values = IMAGENET if normalisation == "imagenet" else normalisation
    channels = dataset.image_shape[0]
    if len(values.mean) != channels:
        raise UserError(
            f"a workload's normalisation has {len(values.mean)} channels, the images of {dataset.name} {channels}: "
            "give one value a channel"
        )
    return replace(dataset, mean=torch.tensor(values.mean), std=torch.tensor(values.std))
