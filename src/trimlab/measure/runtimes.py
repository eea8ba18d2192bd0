"""Runtimes by name: each opens a deployed file, ready to run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Callable, Dict, Protocol, Tuple

import numpy as np

from .errors import MeasureError


class Session(Protocol):
    """An open file."""

    version: str
    """Of the runtime."""
    image_shape: Tuple[int, ...]
    """(C, H, W)."""

    def run(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return logits (N, classes) of a batch (N, C, H, W) float32, normalised; copies included."""


class OnnxRuntime:
    """ONNX Runtime on the CPU."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads spin within a call as ever, but not on after it: the other session has its turn then.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        source = self._session.get_inputs()[0]
        self._name = source.name
        self.version = str(onnxruntime.__version__)
        self.image_shape = tuple(int(size) for size in source.shape[1:])

    def run(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return logits of a batch."""
        logits: np.ndarray[Any, Any] = self._session.run(None, {self._name: batch})[0]
        return logits


RUNTIMES: Dict[str, Callable[[str, int], Session]] = {"onnxruntime": OnnxRuntime}
"""What opens a file: (path, threads) to a session."""


def open_file(runtime: str, path: str, threads: int) -> Session:
    """Open a deployed file.

    Args:
        runtime: a key of `RUNTIMES`.
        path: the file.
        threads: CPU threads, at least 1.

    Raises:
        MeasureError: the runtime is unknown or not installed, the file is missing or not one it reads.
    """
    if runtime not in RUNTIMES:
        raise MeasureError(f"runtime {runtime!r} is unknown: use one of {', '.join(RUNTIMES)}")
    if not Path(path).is_file():
        raise MeasureError(f"{path} does not exist: name an exported file")
    try:
        return RUNTIMES[runtime](path, threads)
    except ImportError as error:
        raise MeasureError(
            f"runtime {runtime} cannot be imported ({line(error)}): install it for this Python"
        ) from None
    except Exception as error:  # a runtime raises whatever the bytes provoke
        raise MeasureError(f"{path} is no file that {runtime} opens ({line(error)}): export it again") from None


def cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def line(error: BaseException) -> str:
    """Return what an error says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
