"""A dataset in an `.npz` of the user's."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimlab.config import Data, DatasetSource
from trimlab.data.parts import Part, part_of_array
from trimlab.errors import UserError, one_line


def read_npz(source: DatasetSource, _: Data) -> tuple[Part, Part, list[str]]:
    """Read `train_images`, `train_labels`, `test_images`, `test_labels`, and `classes` if there.

    Raises:
        UserError: it is no such file, or an array has the wrong type, shape or values.
    """
    path = Path(source.path)
    if not path.is_file():
        raise UserError(f"{path} is not a file: name an .npz that numpy.savez wrote")
    try:
        arrays = _load_npz(path)
    except Exception as error:  # zip, zlib and numpy raise whatever the bytes provoke
        raise UserError(
            f"{path} is not an .npz with {', '.join(_NPZ_KEYS)} ({one_line(error)}): save it with numpy.savez"
        ) from None
    train, test = (
        part_of_array(_npz_images(path, arrays, part), _npz_labels(path, arrays, part), source)
        for part in ("train", "test")
    )
    return train, test, _npz_classes(path, arrays, train.labels)


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


def _npz_images(path: Path, arrays: dict[str, NDArray[Any]], part: str) -> NDArray[np.uint8]:
    images = arrays[f"{part}_images"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise UserError(f"{path}: {part}_images is {images.dtype} {images.shape}: give uint8 (N, height, width, 3)")
    return images


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
