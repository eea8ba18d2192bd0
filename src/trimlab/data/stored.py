"""Images of a prepared file that do not fit in memory: read when they are asked for, and no others."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor


@dataclass(frozen=True)
class StoredImages:
    """Images in a file. Indexed like a tensor of them, by a tensor of indices.

    They are read into memory of their own, not mapped: the pages of a mapping would count as this process's memory
    until the system runs short of it.
    """

    file: Path
    """The safetensors file."""
    offset: int
    """Of the first image in the file, in bytes."""
    shape: torch.Size
    """(N, C, H, W); they are uint8."""

    @classmethod
    def named(cls, file: Path, name: str) -> "StoredImages":
        """Return the images that a safetensors file holds under a name."""
        with file.open("rb") as opened:
            size = int.from_bytes(opened.read(8), "little")
            entry = json.loads(opened.read(size))[name]
        return cls(file, 8 + size + entry["data_offsets"][0], torch.Size(entry["shape"]))

    def __len__(self) -> int:
        """Return how many images there are."""
        return self.shape[0]

    def __getitem__(self, indices: Tensor) -> Tensor:
        """Return chosen images, (M, C, H, W) uint8.

        Args:
            indices: (M,) int64.

        Raises:
            OSError: the file cannot be read, or ends too early.
        """
        images = torch.empty(len(indices), *self.shape[1:], dtype=torch.uint8)
        rows, size = images.numpy(), self.shape[1:].numel()
        order = indices.argsort()  # a disk reads forwards
        with self.file.open("rb", buffering=0) as file:
            for position, index in zip(order.tolist(), indices[order].tolist(), strict=True):
                if os.preadv(file.fileno(), [rows[position]], self.offset + index * size) != size:
                    raise OSError(f"{self.file} ends before image {index}")
        return images
