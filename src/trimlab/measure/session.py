"""What a runtime offers: an open file, and how to open one."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from .errors import NoRuntimeError, one_line

Stopwatch = Callable[[], float]
"""Runs once and returns the seconds of it."""


class Settings(NamedTuple):
    """How a file is opened."""

    precision: str
    """One of the runtime's, see `formats`."""
    threads: int
    """CPU threads, at least 1."""
    batch_size: int
    """The largest batch."""
    engines: Path | None = None
    """Folder in which built engines are kept; None keeps none."""
    build: int = 0
    """Which of several builds of the same engine."""
    calibration: Path | None = None
    """`.npy` of normalised images (N, C, H, W) float32, for what a runtime calibrates itself."""
    exact: bool = False
    """Compute a file as it is written, in ONNX Runtime: an INT8 file's own arithmetic, without fused kernels."""


class Session(Protocol):
    """An open file."""

    version: str
    """Of the runtime."""
    versions: dict[str, str]
    """Of the runtime and what it depends on, by name."""
    image_shape: tuple[int, ...]
    """(C, H, W)."""
    device: dict[str, Any]
    """What computes, as records say it."""

    def run(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return logits (N, classes) of a batch (N, C, H, W) float32, normalised."""

    def stopwatches(self, batch: np.ndarray[Any, Any]) -> dict[str, Stopwatch]:
        """Return the ways of timing a batch, by name.

        `latency`, which all have, is wall-clock time with copies. A GPU has `gpu` and `gpu_graph`, its own time by
        events, copies left out, without and with a CUDA graph, and `latency_graph`, wall-clock time with one.
        """

    def layers(self, batch: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
        """Return what the file was compiled to and how long each part takes, in a run of its own.

        A layer has `name`, `kind`, `precision` (of its arithmetic), `channels` (of its output) and `ms`.
        """

    def memory_bytes(self) -> int:
        """Return the memory that the file takes where it runs."""

    def engine(self) -> dict[str, Any] | None:
        """Return what is known of a built engine; None where the runtime builds none."""

    def close(self) -> None:
        """Give back what the file takes; nothing else may be asked afterwards."""


def imported(module: str, package: str = "") -> Any:
    """Return a runtime's module; nothing of `measure` imports one before it is asked for.

    Args:
        module: what to import.
        package: what it is installed as, where that has another name.

    Raises:
        NoRuntimeError: it is not available here.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NoRuntimeError(f"{package or module} cannot be imported ({one_line(error)}): install it") from None
