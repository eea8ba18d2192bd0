"""The training or test images of a source, before they are packed: read in batches, so that they never fill memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trimlab.config import DatasetSource
from trimlab.data.decode import framed


class Batch(NamedTuple):
    """Some images, and what was noticed while they were read."""

    images: NDArray[np.uint8]
    """(N, C, H, W); zeros for a damaged file."""
    damaged: Sequence[str] = ()
    """One line for each file that cannot be read: its name, the reason, the remedy."""
    animated: Sequence[Path] = ()
    """Files of several frames or pages, of which the first was read."""


@dataclass(frozen=True)
class Part:
    """The training or the test images of a source."""

    count: int
    """Number of images."""
    image_shape: tuple[int, int, int]
    """Channels, height, width."""
    labels: Tensor
    """(N,) int64."""
    read: Callable[[int, int], Batch]
    """Returns the images from one index up to another, without that. Several threads call it at once."""


def part_of_array(images: NDArray[Any], labels: Tensor, source: DatasetSource) -> Part:
    """Return a part of images in memory, resized where the source says so.

    Args:
        images: (N, H, W, 3) uint8.
        labels: (N,) int64.
        source: its `image_size` and `resize`.
    """
    height, width = (source.image_size,) * 2 if source.image_size else images.shape[1:3]

    def read(start: int, stop: int) -> Batch:
        chosen = images[start:stop]
        if source.image_size:
            chosen = np.stack([np.asarray(framed(Image.fromarray(image), source)) for image in chosen])
        return Batch(np.ascontiguousarray(chosen.transpose(0, 3, 1, 2)))

    return Part(len(images), (3, height, width), labels, read)
