"""The packed images that a file is scored on, and its labels for them."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

from .accuracy import top5_hits
from .errors import MeasureError, one_line
from .progress import say
from .session import Session

SAY_SECONDS = 10.0
"""Between two lines of how far a scoring is."""


class Predictions(NamedTuple):
    """What a file says of every image of a pack."""

    labels: np.ndarray[Any, Any]
    """(N,) uint16."""
    num_classes: int
    """The file's."""
    top5_hits: int
    """Images whose true label is among the file's first five."""


class Pack(NamedTuple):
    """A scored split."""

    images: np.ndarray[Any, Any]
    """(N, C, H, W) uint8; mapped, so that those of a batch are read when it is scored."""
    labels: np.ndarray[Any, Any]
    """(N,) whole numbers."""
    mean: np.ndarray[Any, Any]
    """(C,) of pixels in [0, 1]."""
    std: np.ndarray[Any, Any]
    """(C,) of pixels in [0, 1]."""

    def batch(self, indices: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return chosen images, normalised: (len(indices), C, H, W) float32."""
        shape = (1, -1, 1, 1)
        scaled = self.images[indices].astype(np.float32) / np.float32(255)
        normalised = (scaled - self.mean.reshape(shape)) / self.std.reshape(shape)
        return np.ascontiguousarray(normalised, dtype=np.float32)

    def tiled(self, size: int) -> np.ndarray[Any, Any]:
        """Return a batch of `size` images, the first ones, repeated where there are fewer."""
        return self.batch(np.arange(size) % len(self.images))


def load(images: str, path: str, image_shape: tuple[int, ...]) -> Pack:
    """Map an `.npy` of images, and read an `.npz` of their labels, mean and std.

    Args:
        images: the file of images.
        path: the file of the rest.
        image_shape: (C, H, W) that the model takes.

    Raises:
        MeasureError: a file is missing, is no such pack, or holds images that the model doesn't take.
    """
    reading = images
    try:
        mapped = np.load(images, mmap_mode="r")
        if not isinstance(mapped, np.ndarray):
            raise ValueError("no array")
        reading = path
        with np.load(path, allow_pickle=False) as file:
            pack = Pack(mapped, file["labels"], file["mean"], file["std"])
    except Exception as error:  # zipfile, zlib and numpy raise whatever the bytes provoke
        raise MeasureError(f"{reading} is not a packed dataset ({one_line(error)}): pack it again") from None
    if problem := _images_problem(mapped, image_shape):
        raise MeasureError(f"{images} holds {problem}")
    if problem := _problem(pack):
        raise MeasureError(f"{path} holds {problem}")
    return pack


def _images_problem(images: np.ndarray[Any, Any], image_shape: tuple[int, ...]) -> str | None:
    if images.dtype != np.uint8 or images.ndim != 4:
        return f"images {images.shape} {images.dtype}, not (N, C, H, W) uint8: pack it again"
    if images.shape[1:] != image_shape:
        return f"images {images.shape[1:]}, the model takes {image_shape}: pack the dataset that it was made for"
    if not len(images):
        return "no images: pack at least one"
    return None


def _problem(pack: Pack) -> str | None:
    images = pack.images
    for name, array, size, kinds in (
        ("labels", pack.labels, len(images), "iu"),
        ("mean", pack.mean, images.shape[1], "f"),
        ("std", pack.std, images.shape[1], "f"),
    ):
        if array.shape != (size,) or array.dtype.kind not in kinds:
            return f"{name} {array.shape} {array.dtype} for images {images.shape}: pack ({size},) of them"
    return None


def predict(session: Session, pack: Pack, batch_size: int) -> Predictions:
    """Score every image of a pack. Where that takes long it says how far it is.

    Raises:
        MeasureError: the pack has other classes than the file.
    """
    count, said, hits, num_classes = len(pack.images), time.monotonic(), 0, 0
    labels = np.zeros(count, np.uint16)
    for start in range(0, count, batch_size):
        chosen = np.arange(start, min(start + batch_size, count))
        logits = session.run(pack.batch(chosen))
        num_classes = logits.shape[1]
        if start == 0:
            _check_classes(pack.labels, num_classes)
        labels[chosen] = np.argmax(logits, axis=1)
        hits += top5_hits(logits, pack.labels[chosen])
        if time.monotonic() - said > SAY_SECONDS:
            say(f"scored {chosen[-1] + 1:,} of {count:,} images")
            said = time.monotonic()
    return Predictions(labels, num_classes, hits)


def _check_classes(labels: np.ndarray[Any, Any], num_classes: int) -> None:
    least, most = labels.min(), labels.max()
    if least < 0 or most >= num_classes:
        raise MeasureError(
            f"the pack has labels from {least} to {most}, the file has {num_classes} classes: "
            "pack the dataset that it was made for"
        )
