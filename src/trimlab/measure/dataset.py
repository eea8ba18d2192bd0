"""The packed images that a file is scored on, and its labels for them."""

from __future__ import annotations

import zipfile
from typing import Any, NamedTuple

import numpy as np

from .errors import MeasureError
from .runtimes import Session


class Pack(NamedTuple):
    """A scored split."""

    images: np.ndarray[Any, Any]
    """(N, C, H, W) uint8."""
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


def load(path: str) -> Pack:
    """Read an `.npz` of images, labels, mean and std.

    Raises:
        MeasureError: the file is missing or is no such pack.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return Pack(*(file[name] for name in Pack._fields))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise MeasureError(f"{path} is no packed dataset ({' '.join(str(error).split())}): pack it again") from None


def predict(session: Session, pack: Pack, batch_size: int) -> np.ndarray[Any, Any]:
    """Return the label that a file gives to every image: (N,) uint16."""
    indices = np.arange(len(pack.images))
    batches = [indices[start : start + batch_size] for start in range(0, len(indices), batch_size)]
    labels = [np.argmax(session.run(pack.batch(batch)), axis=1) for batch in batches]
    return np.concatenate(labels).astype(np.uint16)
