"""Datasets: one verified, hashed file each, read as tensors.

The hold-out and the calibration images are drawn here, class-balanced and seeded, from the training set; nothing is
ever chosen on the test set.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from trimlab import paths
from trimlab.errors import UserError
from trimlab.params import IMAGENET, Data, Workload
from trimlab.params import Dataset as Source
from trimlab.records import sha256_of

Split = tuple[Tensor, Tensor]
"""Images (N, C, H, W) uint8 and labels (N,) int64."""


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset."""

    name: str
    train_images: Tensor
    """(N, C, H, W) uint8."""
    train_labels: Tensor
    """(N,) int64."""
    test_images: Tensor
    test_labels: Tensor
    holdout: Tensor
    """Indices into the training set, (M,) int64, ascending."""
    calibration: Tensor
    """Indices into the training set, outside the hold-out, (K,) int64, class by class in turn: any first n of them are
    class-balanced."""
    mean: Tensor
    """That images in [0, 1] are normalised by, (C,): of the training images, unless a workload has its own."""
    std: Tensor
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

    def trained_on(self, split: str) -> Split:
        """Return what is trained on: everything, or everything but the hold-out."""
        if split == "test":
            return self.train_images, self.train_labels
        kept = torch.ones(len(self.train_labels), dtype=torch.bool)
        kept[self.holdout] = False
        return self.train_images[kept], self.train_labels[kept]

    def scored(self, split: str) -> Split:
        """Return what is scored on: the test set, or the hold-out."""
        if split == "test":
            return self.test_images, self.test_labels
        return self.train_images[self.holdout], self.train_labels[self.holdout]

    def normalise(self, images: Tensor) -> Tensor:
        """Map uint8 images (N, C, H, W) to float32, normalised."""
        shape = (1, -1, 1, 1)
        mean, std = self.mean.to(images.device).view(shape), self.std.to(images.device).view(shape)
        return (images.float() / 255 - mean) / std


def prepare(name: str, source: Source, data: Data) -> None:
    """Read a dataset, check it, and write its one file and that file's digest.

    Raises:
        UserError: files are missing or do not fit together.
    """
    train, test, classes = _READERS[source.source](Path(source.path), data)
    _check(name, train, test, classes)
    everything = torch.arange(len(train[1]))
    holdout = in_turn(train[1], everything, data.seed)[: round(data.holdout_fraction * len(everything))].sort().values
    rest = everything[~torch.isin(everything, holdout)]
    calibration = in_turn(train[1], rest, data.seed + 1)
    scaled = train[0].double() / 255
    tensors = {
        "train_images": train[0].contiguous(),
        "train_labels": train[1],
        "test_images": test[0].contiguous(),
        "test_labels": test[1],
        "holdout": holdout,
        "calibration": calibration,
        "mean": scaled.mean((0, 2, 3)).float(),
        "std": scaled.std((0, 2, 3)).float(),
    }
    path = paths.dataset_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"classes": json.dumps(classes)})
    facts = {
        "source": source.source,
        "sha256": sha256_of(path),
        "train_images": len(train[1]),
        "test_images": len(test[1]),
        "holdout_images": len(holdout),
        "image_shape": list(train[0].shape[1:]),
        "classes": classes,
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


def calibration(dataset: Dataset, count: int) -> Tensor:
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


def load(name: str) -> Dataset:
    """Read a prepared dataset.

    Raises:
        UserError: it was not prepared, or the file is not the one that was.
    """
    path = paths.dataset_file(name)
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        actual = sha256_of(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run `dvc repro prepare@{name}`") from None
    if actual != facts["sha256"]:
        raise UserError(
            f"{path} has sha256 {actual[:12]}, not {facts['sha256'][:12]}: run `dvc checkout prepare@{name}`"
        )
    return Dataset(name=name, classes=facts["classes"], sha256=actual, **load_file(path))


def load_for(workload: Workload) -> Dataset:
    """Read a workload's dataset, normalised as the workload says.

    Raises:
        UserError: like `load`; or the images have another number of channels than the normalisation.
    """
    dataset, normalisation = load(workload.dataset), workload.normalisation
    if normalisation == "dataset":
        return dataset
    values = IMAGENET if normalisation == "imagenet" else normalisation
    channels = dataset.image_shape[0]
    if len(values.mean) != channels:
        raise UserError(
            f"workloads.*.normalisation has {len(values.mean)} channels, the images of {dataset.name} {channels}: give "
            "one value a channel"
        )
    return replace(dataset, mean=torch.tensor(values.mean), std=torch.tensor(values.std))


def _check(name: str, train: Split, test: Split, classes: list[str]) -> None:
    for part, (images, labels) in (("training", train), ("test", test)):
        if len(images) != len(labels) or not len(labels):
            raise UserError(f"dataset {name}: {len(images)} {part} images, {len(labels)} labels: give as many of both")
        if images.shape[1:] != train[0].shape[1:]:
            raise UserError(
                f"dataset {name}: {part} images are {tuple(images.shape[1:])}, training images "
                f"{tuple(train[0].shape[1:])}: make them one size"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
            raise UserError(
                f"dataset {name}: {part} labels reach from {int(labels.min())} to {int(labels.max())}, there are "
                f"{len(classes)} classes: number them from 0"
            )


def in_turn(labels: Tensor, among: Tensor, seed: int) -> Tensor:
    """Shuffle indices so that classes take turns: any first n hold equally many of each, as far as they last.

    Args:
        labels: of all images, (N,) int64.
        among: the indices to order, (M,) int64.
        seed: decides the order within each class.
    """
    shuffled = among[torch.randperm(len(among), generator=torch.Generator().manual_seed(seed))]
    chosen = labels[shuffled]
    turn = torch.empty_like(shuffled)
    for label in torch.unique(chosen):
        members = chosen == label
        turn[members] = torch.arange(int(members.sum()))
    # Sorted by turn, then by class.
    return shuffled[(turn * (int(labels.max()) + 1) + chosen).argsort()]


def _read_cifar(kind: str) -> Callable[[Path, Data], tuple[Split, Split, list[str]]]:
    def read(_: Path, data: Data) -> tuple[Split, Split, list[str]]:
        from torchvision import datasets

        root = os.environ.get("DATA_ROOT") or data.root
        cifar = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
        train, test = (_open_cifar(cifar, root, part) for part in (True, False))
        return _split(train), _split(test), list(train.classes)

    return read


def _open_cifar(cifar: Any, root: str, train: bool) -> Any:
    try:
        return cifar(root, train=train, download=False)
    except RuntimeError:
        pass  # not found, or damaged
    try:
        return cifar(root, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{Path(root).resolve()} holds no whole {cifar.base_folder}, and it cannot be downloaded ({error}): put "
            f"the official {cifar.base_folder} folder there, or set data.root or DATA_ROOT to where it is"
        ) from None


def _split(cifar: Any) -> Split:
    images = torch.from_numpy(cifar.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.as_tensor(cifar.targets, dtype=torch.int64)


def _read_digits(_: Path, __: Data) -> tuple[Split, Split, list[str]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1) * (255 / 16)
    large = F.interpolate(small, size=(32, 32), mode="bilinear", align_corners=False)
    images = large.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
    labels = torch.from_numpy(digits.target).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    test[in_turn(labels, torch.arange(len(labels)), seed=0)[: len(labels) // 5]] = True
    return (images[~test], labels[~test]), (images[test], labels[test]), [str(digit) for digit in range(10)]


def _read_npz(path: Path, _: Data) -> tuple[Split, Split, list[str]]:
    keys = ("train_images", "train_labels", "test_images", "test_labels")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in keys}
            names = [str(name) for name in file["classes"]] if "classes" in file else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} is no .npz with {', '.join(keys)} ({error}): save it with numpy.savez") from None
    for part in ("train_images", "test_images"):
        if arrays[part].dtype != np.uint8 or arrays[part].ndim != 4 or arrays[part].shape[3] != 3:
            raise UserError(
                f"{path}: {part} is {arrays[part].dtype} {arrays[part].shape}: give uint8 (N, height, width, 3)"
            )
    for part in ("train_labels", "test_labels"):
        if arrays[part].dtype.kind not in "iu" or arrays[part].size != len(arrays[part]) or not arrays[part].size:
            raise UserError(f"{path}: {part} is {arrays[part].dtype} {arrays[part].shape}: give whole numbers (N,)")
    train, test = (
        (
            torch.from_numpy(arrays[f"{part}_images"]).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(arrays[f"{part}_labels"].reshape(-1).astype(np.int64)),
        )
        for part in ("train", "test")
    )
    return train, test, names or [str(label) for label in range(int(train[1].max()) + 1)]


def _read_folder(path: Path, _: Data) -> tuple[Split, Split, list[str]]:
    classes = sorted(entry.name for entry in (path / "train").glob("*") if entry.is_dir())
    if not classes:
        raise UserError(f"{path}/train holds no class folders: lay images out as train/CLASS/*.png, test/CLASS/*.png")
    for part in ("train", "test"):
        found = {entry.name for entry in (path / part).glob("*") if any(entry.glob("*.*"))}
        odd = sorted(found ^ set(classes))
        if odd:
            raise UserError(f"{path}/{part}/{odd[0]}: train and test must hold images of the same classes: mend it")
    return _read_images(path / "train", classes), _read_images(path / "test", classes), classes


def _read_images(folder: Path, classes: list[str]) -> Split:
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((folder / name).glob("*.*"))]
    if not files:
        raise UserError(f"{folder} holds no images: lay them out as {folder}/CLASS/*.png")
    arrays = [_read_image(file) for file, _ in files]
    odd = next((i for i, array in enumerate(arrays) if array.shape != arrays[0].shape), None)
    if odd is not None:
        raise UserError(
            f"{files[odd][0]} is {arrays[odd].shape[:2]} pixels, {files[0][0]} {arrays[0].shape[:2]}: "
            "make them one size"
        )
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([label for _, label in files])


def _read_image(file: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError):
        raise UserError(f"{file} is no readable image: replace or remove it") from None


_READERS: dict[str, Callable[[Path, Data], tuple[Split, Split, list[str]]]] = {
    "cifar10": _read_cifar("cifar10"),
    "cifar100": _read_cifar("cifar100"),
    "digits": _read_digits,
    "folder": _read_folder,
    "npz": _read_npz,
}
