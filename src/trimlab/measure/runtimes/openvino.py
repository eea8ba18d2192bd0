"""OpenVINO on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import device, memory, timing
from ..errors import UnavailableError
from ..layers import RUNS, WARMUP, from_openvino
from ..session import Settings, Stopwatch, imported


class OpenVino:
    """A file compiled for each shape of batch when it first comes: OpenVINO is faster with fixed shapes."""

    def __init__(self, path: str, settings: Settings) -> None:
        openvino = imported("openvino")
        if settings.precision == "bf16" and not device.has_native_bf16():
            name = device.processor_name()
            raise UnavailableError(f"{name} has no bf16 arithmetic: use a processor with AMX or AVX-512 BF16")
        self._path = path
        self._core = openvino.Core()
        self._options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": settings.threads,
            # Left alone, OpenVINO takes bf16 for FP32 files where the processor has it.
            "INFERENCE_PRECISION_HINT": "bf16" if settings.precision == "bf16" else "f32",
        }
        self._requests: dict[tuple[int, ...], Any] = {}
        shape = self._core.read_model(path).inputs[0].get_partial_shape()
        self.version = str(openvino.__version__).split("-")[0]
        self.versions = {"openvino": self.version}
        self.image_shape = tuple(int(size.get_length()) for size in list(shape)[1:])
        self.device = device.cpu(settings.threads, onednn=True)

    def run(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return logits of a batch."""
        if batch.shape not in self._requests:
            self._requests[batch.shape] = self._compiled(batch.shape, self._options).create_infer_request()
        request = self._requests[batch.shape]
        request.infer([batch], share_inputs=True)
        logits: np.ndarray[Any, Any] = request.get_output_tensor(0).data.copy()
        return logits

    def stopwatches(self, batch: np.ndarray[Any, Any]) -> dict[str, Stopwatch]:
        """Return wall-clock time alone."""
        return {"latency": timing.wall(lambda: self.run(batch))}

    def layers(self, batch: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
        """Return the layers that ran, from OpenVINO's counters in a model of its own."""
        compiled = self._compiled(batch.shape, {**self._options, "PERF_COUNT": True})
        request = compiled.create_infer_request()
        runs = []
        for _ in range(WARMUP + RUNS):
            request.infer([batch], share_inputs=True)
            runs.append(request.profiling_info)
        return from_openvino(runs[WARMUP:], compiled.get_runtime_model())

    def memory_bytes(self) -> int:
        """Return the process's peak resident memory."""
        return memory.peak_bytes()

    def engine(self) -> dict[str, Any] | None:
        """Return None: nothing is kept that was built."""
        return None

    def close(self) -> None:
        """Drop what was compiled."""
        self._requests.clear()

    def _compiled(self, shape: tuple[int, ...], options: dict[str, Any]) -> Any:
        model = self._core.read_model(self._path)
        model.reshape(list(shape))
        return self._core.compile_model(model, "CPU", options)
