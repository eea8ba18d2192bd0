"""A prepared dataset's file, written as a stream: images pass through memory a few batches at a time."""

import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from trimlab.data.parts import Batch, Part
from trimlab.machine import cores

T = TypeVar("T")
R = TypeVar("R")

BATCH_IMAGES, BATCH_BYTES = 32, 4 * 2**20
"""A batch has at most so many images, so that progress is seen, and so many pixels, so that dozens fit in memory."""
MOST_THREADS = 32


@dataclass(frozen=True)
class Sums:
    """Exact sums over pixels, one a channel. They give the same mean and deviation on every machine."""

    count: int
    """Number of pixels in a channel."""
    total: NDArray[np.int64]
    """Sum of values, (C,)."""
    squares: NDArray[np.int64]
    """Sum of squared values, (C,)."""

    @classmethod
    def over(cls, images: NDArray[np.uint8]) -> "Sums":
        """Sum images (N, C, H, W)."""
        squares = np.square(images, dtype=np.uint16)  # 255² fits
        total, of_squares = (values.sum((0, 2, 3), dtype=np.int64) for values in (images, squares))
        return cls(images.size // images.shape[1], total, of_squares)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.count + other.count, self.total + other.total, self.squares + other.squares)

    def constant(self) -> list[int]:
        """Return the channels in which all pixels have one value."""
        return [channel for channel, spread in enumerate(self._spreads()) if not spread]

    def mean(self) -> NDArray[np.float32]:
        """Return the mean of pixels in [0, 1], (C,)."""
        return np.array([int(total) / (255 * self.count) for total in self.total], np.float32)

    def std(self) -> NDArray[np.float32]:
        """Return the standard deviation of pixels in [0, 1], (C,); 1 for a constant channel."""
        scale = 255**2 * self.count * (self.count - 1)
        return np.array([math.sqrt(spread / scale) if spread else 1 for spread in self._spreads()], np.float32)

    def _spreads(self) -> list[int]:
        """Return each channel's sum of squared deviations, times the number of pixels."""
        pairs = zip(self.total, self.squares, strict=True)
        return [self.count * int(square) - int(total) ** 2 for total, square in pairs]


@dataclass
class Reading:
    """The images of a part, one (C, H, W) after another, and what is known of them after the last."""

    part: Part
    sums: Sums = field(init=False)
    damaged: list[str] = field(default_factory=list)
    animated: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sums = Sums.over(np.empty((0, *self.part.image_shape), np.uint8))

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        each = max(1, min(BATCH_IMAGES, BATCH_BYTES // math.prod(self.part.image_shape)))
        for batch, sums in _in_order(self._read, [(at, at + each) for at in range(0, self.part.count, each)]):
            self.damaged += batch.damaged
            self.animated += batch.animated
            self.sums += sums
            yield from batch.images

    def _read(self, bounds: tuple[int, int]) -> tuple[Batch, Sums]:
        batch = self.part.read(*bounds)
        return batch, Sums.over(batch.images)


def _in_order(function: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield results in the order of the items: one thread a core, and a few results ahead.

    Threads, because Pillow decodes and resizes, and numpy sums, without Python's lock.
    """
    waiting: deque[Future[R]] = deque()
    threads = min(cores(), MOST_THREADS)
    pool = ThreadPoolExecutor(threads)
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


Shapes = Mapping[str, tuple[str, Sequence[int]]]
"""Tensors' numpy types and shapes, by name."""

_TYPES = {"int64": ("I64", "<i8"), "float32": ("F32", "<f4"), "uint8": ("U8", "u1")}


class Tensors:
    """A safetensors file that is written one tensor at a time, with the same bytes as safetensors writes at once."""

    def __init__(self, file: BinaryIO, shapes: Shapes, metadata: dict[str, str]):
        """Write the header.

        Args:
            file: empty, opened for writing.
            shapes: of all tensors.
            metadata: what safetensors calls so.
        """
        layout, at = dict[str, tuple[int, int]](), 0
        # safetensors orders tensors by their type, the widest first, and then by name.
        for name in sorted(shapes, key=lambda name: (-np.dtype(shapes[name][0]).itemsize, name)):
            layout[name] = at, at + math.prod(shapes[name][1]) * np.dtype(shapes[name][0]).itemsize
            at = layout[name][1]
        header = _header(shapes, layout, metadata)
        file.write(header)
        self._file, self.size_bytes = file, len(header) + at
        self._bounds = {name: (len(header) + start, len(header) + end) for name, (start, end) in layout.items()}

    def write(self, name: str, arrays: Iterable[NDArray[Any]]) -> None:
        """Write a tensor, given as pieces along its first dimension."""
        start, end = self._bounds[name]
        self._file.seek(start)
        for array in arrays:
            self._file.write(np.ascontiguousarray(array, _TYPES[array.dtype.name][1]).data)
        assert self._file.tell() == end


def _header(shapes: Shapes, layout: Mapping[str, tuple[int, int]], metadata: dict[str, str]) -> bytes:
    """Return a safetensors header, with each tensor's first and last offset after it."""
    entries: dict[str, Any] = {"__metadata__": metadata}
    for name, offsets in layout.items():
        dtype, shape = shapes[name]
        entries[name] = {"dtype": _TYPES[dtype][0], "shape": list(shape), "data_offsets": offsets}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of `path` once it is whole; otherwise nothing changes."""
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with part.open("wb") as file:
            yield file
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
