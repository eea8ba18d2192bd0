"""ONNX Runtime on the CPU."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from .. import device, memory, timing
from ..errors import MeasureError
from ..layers import RUNS, WARMUP, from_onnxruntime
from ..session import Settings, Stopwatch, imported


class OnnxRuntime:
    """A session of ONNX Runtime."""

    def __init__(self, path: str, settings: Settings) -> None:
        self._onnxruntime = imported("onnxruntime")
        self._path = path
        self._threads = settings.threads
        self._exact = settings.exact
        self._session = self._opened(self._options())
        source = self._session.get_inputs()[0]
        self._name = source.name
        self.version = str(self._onnxruntime.__version__)
        self.versions = {"onnxruntime": self.version}
        self.image_shape = tuple(int(size) for size in source.shape[1:])
        self.device = device.cpu(settings.threads)

    def run(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return logits of a batch."""
        logits: np.ndarray[Any, Any] = self._session.run(None, {self._name: batch})[0]
        return logits

    def stopwatches(self, batch: np.ndarray[Any, Any]) -> dict[str, Stopwatch]:
        """Return wall-clock time alone."""
        return {"latency": timing.wall(lambda: self.run(batch))}

    def layers(self, batch: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
        """Return the nodes of the optimized graph, from ONNX Runtime's own profile of a session of its own.

        Raises:
            MeasureError: the profile could not be written.
        """
        with tempfile.TemporaryDirectory() as folder:
            options = self._options()
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "profile")
            session = self._opened(options)
            for _ in range(WARMUP + RUNS):
                session.run(None, {self._name: batch})
            profile = Path(session.end_profiling())
            try:
                events = json.loads(profile.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # ONNX Runtime does not say that it could not write all of it
                raise MeasureError(f"ONNX Runtime could not write its profile, {profile}: make room there") from None
        return from_onnxruntime(events)

    def memory_bytes(self) -> int:
        """Return the process's peak resident memory."""
        return memory.peak_bytes()

    def engine(self) -> dict[str, Any] | None:
        """Return None: nothing is built."""
        return None

    def close(self) -> None:
        """Drop the session."""
        self._session = None

    def _opened(self, options: Any) -> Any:
        return self._onnxruntime.InferenceSession(self._path, options, providers=["CPUExecutionProvider"])

    def _options(self) -> Any:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        if self._exact:
            options.graph_optimization_level = self._onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        # Threads spin within a call as ever, but not on after it: the other session has its turn then.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        return options
