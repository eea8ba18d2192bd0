"""Datasets: one verified, hashed file each, read as tensors.

The hold-out and the calibration images are drawn here, stratified and seeded, from the training set; nothing is ever
chosen on the test set.
"""

import json
import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from trimlab import paths, progress
from trimlab.errors import UserError, one_line
from trimlab.params import IMAGENET, Data, Workload
from trimlab.params import Dataset as Source
from trimlab.records import sha256_of

if TYPE_CHECKING:
    from PIL.Image import Image

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
        UserError: files are missing or do not fit together, or there are too few images for a hold-out.
    """
    train, test, classes = _READERS[source.source](Path(source.path), data)
    _check(name, train, test, classes)
    everything, sizes = torch.arange(len(train[1])), train[1].bincount()
    holdout = drawn(train[1], everything, sizes, data.seed)[: _held_out(name, len(everything), data)].sort().values
    rest = everything[~torch.isin(everything, holdout)]
    calibration = drawn(train[1], rest, sizes, data.seed + 1)
    scaled = train[0].double() / 255
    tensors = {
        "train_images": train[0].contiguous(),
        "train_labels": train[1],
        "test_images": test[0].contiguous(),
        "test_labels": test[1],
        "holdout": holdout,
        "calibration": calibration,
        "mean": scaled.mean((0, 2, 3)).float(),
        "std": torch.where(_constant(name, train[0]), 1, scaled.std((0, 2, 3))).float(),
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
        UserError: it was not prepared, or the files have changed since.
    """
    path = paths.dataset_file(name)
    told = path.with_suffix(".json")
    try:
        facts = json.loads(told.read_text())
        expected, classes = str(facts["sha256"]), [str(label) for label in facts["classes"]]
        actual = sha256_of(path)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename} does not exist: run `dvc repro prepare@{name}`") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{told} is not what prepare wrote: run `dvc repro -f prepare@{name}`") from None
    if actual != expected:
        raise UserError(f"{path} has sha256 {actual[:12]}, not {expected[:12]}: run `dvc checkout prepare@{name}`")
    try:
        return Dataset(name=name, classes=classes, sha256=actual, **load_file(path))
    except (SafetensorError, TypeError):  # no tensors, or those of another version
        raise UserError(f"{path} is not what prepare writes: run `dvc repro -f prepare@{name}`") from None


def load_for(workload: Workload) -> Dataset:
    """Read a workload's dataset, normalised as the workload says.

    Raises:
        UserError: as in `load`; or the images and the normalisation differ in their number of channels.
    """
    dataset, normalisation = load(workload.dataset), workload.normalisation
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


def _held_out(name: str, count: int, data: Data) -> int:
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


def _constant(name: str, images: Tensor) -> Tensor:
    """Return which channels have the same value in all images, (C,) bool."""
    constant = images.amin((0, 2, 3)) == images.amax((0, 2, 3))
    if constant.all():
        raise UserError(f"dataset {name}: all training images have the same colour: give other images")
    if constant.any():
        which = ", ".join(str(channel) for channel in constant.nonzero().flatten().tolist())
        progress.say(f"dataset {name}: channel {which} has the same value in all training images and is not scaled")
    return constant


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
            f"{Path(root).resolve()} holds no complete {cifar.base_folder}, and it cannot be downloaded "
            f"({one_line(error)}): put the official {cifar.base_folder} folder there, or set data.root or DATA_ROOT "
            "to where it is"
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
    equally = torch.ones(10, dtype=torch.int64)
    test[drawn(labels, torch.arange(len(labels)), equally, seed=0)[: len(labels) // 5]] = True
    return (images[~test], labels[~test]), (images[test], labels[test]), [str(digit) for digit in range(10)]


def _read_npz(path: Path, _: Data) -> tuple[Split, Split, list[str]]:
    if not path.is_file():
        raise UserError(f"{path} is not a file: name an .npz that numpy.savez wrote")
    try:
        arrays = _load_npz(path)
    except Exception as error:  # zip, zlib and numpy raise whatever the bytes provoke
        raise UserError(
            f"{path} is not an .npz with {', '.join(_NPZ_KEYS)} ({one_line(error)}): save it with numpy.savez"
        ) from None
    train, test = ((_npz_images(path, arrays, part), _npz_labels(path, arrays, part)) for part in ("train", "test"))
    return train, test, _npz_classes(path, arrays, train[1])


_NPZ_KEYS = ("train_images", "train_labels", "test_images", "test_labels")


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not zipfile.is_zipfile(path):
        raise ValueError("it is no zip archive")
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in (*_NPZ_KEYS, "classes") if key in file or key in _NPZ_KEYS}
    foreign = [key for key, array in arrays.items() if not isinstance(array, np.ndarray)]
    if foreign:
        raise ValueError(f"{foreign[0]} is not an array")
    return arrays


def _npz_images(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> Tensor:
    images = arrays[f"{part}_images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise UserError(f"{path}: {part}_images is {images.dtype} {images.shape}: give uint8 (N, height, width, 3)")
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def _npz_labels(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> Tensor:
    """Read labels of any integer type; (N, 1) is read as (N,)."""
    labels = arrays[f"{part}_labels"]
    if labels.dtype.kind not in "iu" or not labels.size or labels.ndim < 1 or labels.size != len(labels):
        raise UserError(f"{path}: {part}_labels is {labels.dtype} {labels.shape}: give whole numbers (N,)")
    # Before the conversion, in which uint64 would wrap. More classes than images is a mistake, and would take forever.
    most = max(len(arrays["train_labels"]), arrays["classes"].size if "classes" in arrays else 0)
    if not 0 <= int(labels.min()) <= int(labels.max()) < most:
        raise UserError(
            f"{path}: {part}_labels reach from {labels.min()} to {labels.max()}: number the classes from 0, "
            f"without gaps (there are {most} training images or classes)"
        )
    return torch.from_numpy(labels.reshape(-1).astype(np.int64))


def _npz_classes(path: Path, arrays: dict[str, NDArray[Any]], labels: Tensor) -> list[str]:
    if "classes" not in arrays:
        return [str(label) for label in range(int(labels.max()) + 1)]
    classes = arrays["classes"]
    if classes.ndim != 1 or classes.dtype.kind not in "Uiu":
        raise UserError(f"{path}: classes is {classes.dtype} {classes.shape}: give one name a class, (C,)")
    return [str(label) for label in classes]


def _read_folder(path: Path, _: Data) -> tuple[Split, Split, list[str]]:
    parts = {part: _class_folders(path / part) for part in ("train", "test")}
    classes = list(parts["train"])
    if not classes:
        raise UserError(f"{path}/train holds no class folders: lay images out as train/CLASS/*.png, test/CLASS/*.png")
    for part, folders in parts.items():
        odd = sorted({name for name, files in folders.items() if files} ^ set(classes))
        if odd:
            raise UserError(
                f"{path / part / odd[0]}: train and test must hold images of the same classes: "
                "add the missing images, or remove the class"
            )
    return _read_images(parts["train"]), _read_images(parts["test"]), classes


_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx"}
"""What desktops leave in folders, besides hidden files."""


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, in order, without hidden and desktop files; nothing if it does not exist."""
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): change its permissions") from None
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _LEFT_BEHIND]


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class in order, by the class's name.

    Raises:
        UserError: something is neither: an image beside the class folders, a folder within one, a pipe.
    """
    classes = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            raise UserError(f"{entry} is not a class folder: lay images out as {folder}/CLASS/*.png, remove all else")
        classes[entry.name] = _entries(entry)
        for file in classes[entry.name]:
            if not file.is_file():
                what = "a folder" if file.is_dir() else "not a regular file"
                raise UserError(f"{file} is {what}: put images directly into {entry}, remove all else")
    return classes


def _read_images(classes: dict[str, list[Path]]) -> Split:
    files = [(file, label) for label, name in enumerate(classes) for file in classes[name]]
    arrays: list[NDArray[np.uint8]] = []
    for file, _ in files:
        arrays.append(_read_image(file))
        height, width = arrays[-1].shape[:2]
        if arrays[-1].shape != arrays[0].shape:
            first = "{}×{}".format(*arrays[0].shape[:2])
            raise UserError(
                f"{file} is {height}×{width} pixels (height × width), {files[0][0]} {first}: make them one size"
            )
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([label for _, label in files])


def _read_image(file: Path) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8.

    Grey is repeated, and transparency dropped, as torchvision's ImageFolder does. 16-bit grey is scaled and
    rounded; of 16-bit colours Pillow gives only the upper 8 bits, at most one level lower.

    Raises:
        UserError: it is damaged, huge, or has values without a known range (32 bits, floating-point).
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                mode, pixels = image.mode, _rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{file} has more than {Image.MAX_IMAGE_PIXELS} pixels: make it smaller") from None
    except Exception:  # Pillow raises whatever the bytes provoke
        raise UserError(f"{file} is not a readable image: replace or remove it") from None
    if pixels is None:
        raise UserError(f"{file} has pixels of mode {mode}, whose range is unknown: convert it to 8-bit RGB or grey")
    return pixels


_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's modes that it converts to RGB without a guess."""


def _rgb(image: "Image") -> NDArray[np.uint8] | None:
    """Return an opened image's pixels, (H, W, 3); None where their range is unknown."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide + 128) // 257).astype(np.uint8)  # 65535 = 257 · 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode not in _EIGHT_BIT:
        return None
    # By way of RGBA, because Pillow warns of palettes with transparency otherwise.
    return np.asarray((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"))


_READERS: dict[str, Callable[[Path, Data], tuple[Split, Split, list[str]]]] = {
    "cifar10": _read_cifar("cifar10"),
    "cifar100": _read_cifar("cifar100"),
    "digits": _read_digits,
    "folder": _read_folder,
    "npz": _read_npz,
}
