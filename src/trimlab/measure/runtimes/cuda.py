"""CUDA by `cuda-python`: device memory, a stream, events and graphs, without torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import device
from ..errors import NoRuntimeError
from ..session import Stopwatch, imported


class CudaError(RuntimeError):
    """A CUDA call failed."""


class Cuda:
    """The first GPU that this process sees, with a stream of its own."""

    def __init__(self) -> None:
        """Ask the driver whether there is a GPU: a library above it may crash where there is none.

        Raises:
            NoRuntimeError: there is none, or cuda-python is not installed.
        """
        self._runtime = imported("cuda.bindings.runtime", "cuda-python")
        try:
            count = self.call("cudaGetDeviceCount")
        except CudaError as error:
            raise NoRuntimeError(f"no usable NVIDIA GPU here ({error})") from None
        if not count:
            raise NoRuntimeError("no NVIDIA GPU here")
        properties = self.call("cudaGetDeviceProperties", 0)
        self.name = properties.name.decode()
        self.compute_capability = f"{properties.major}.{properties.minor}"
        self.total_bytes = int(properties.totalGlobalMem)
        supported, driver = _version(self.call("cudaDriverGetVersion")), device.nvidia_driver()
        self.driver = f"{driver} for CUDA {supported}" if driver else f"for CUDA {supported}"
        self.versions = {
            "driver": driver or self.driver,
            "cuda": _version(self.call("cudaRuntimeGetVersion")),
        }
        self.stream = self.call("cudaStreamCreate")
        self._events = (self.call("cudaEventCreate"), self.call("cudaEventCreate"))

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function of the runtime; return its value, or several as a tuple.

        Raises:
            CudaError: it failed; the message is CUDA's name for the error.
        """
        status, *values = getattr(self._runtime, name)(*arguments)
        if status != self._runtime.cudaError_t.cudaSuccess:
            raise CudaError(f"{name}: {self._runtime.cudaGetErrorName(status)[1].decode()}")
        return values[0] if len(values) == 1 else tuple(values)

    def device(self, threads: int) -> dict[str, Any]:
        """Return this GPU as a record's device."""
        return device.gpu(self.name, self.compute_capability, self.total_bytes, threads)

    def close(self) -> None:
        """Destroy the stream and the events."""
        for event in self._events:
            self.call("cudaEventDestroy", event)
        self.call("cudaStreamDestroy", self.stream)

    def free_bytes(self) -> int:
        """Return how much device memory nobody has taken."""
        return int(self.call("cudaMemGetInfo")[0])

    def synchronize(self) -> None:
        """Wait for the stream."""
        self.call("cudaStreamSynchronize", self.stream)

    def timed(self, enqueue: Callable[[], None]) -> Stopwatch:
        """Return what times the stream's work by events, in seconds.

        The same work goes before it, untimed: while that runs the host gets ahead, so that its own time does not count.
        """
        start, end = self._events

        def stopwatch() -> float:
            enqueue()
            self.call("cudaEventRecord", start, self.stream)
            enqueue()
            self.call("cudaEventRecord", end, self.stream)
            self.call("cudaEventSynchronize", end)
            return float(self.call("cudaEventElapsedTime", start, end)) / 1000

        return stopwatch

    def captured(self, enqueue: Callable[[], None]) -> Graph:
        """Capture the stream's work in a CUDA graph."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", self.stream, mode)
        try:
            enqueue()
        finally:
            graph = self.call("cudaStreamEndCapture", self.stream)
        launched = self.call("cudaGraphInstantiate", graph, 0)
        self.call("cudaGraphDestroy", graph)
        return Graph(self, launched)


class Graph:
    """Work that is launched as a whole."""

    def __init__(self, cuda: Cuda, launched: Any) -> None:
        self._cuda, self._launched = cuda, launched

    def launch(self) -> None:
        """Start the work in the stream."""
        self._cuda.call("cudaGraphLaunch", self._launched, self._cuda.stream)

    def free(self) -> None:
        """Destroy the graph."""
        self._cuda.call("cudaGraphExecDestroy", self._launched)


class Buffer:
    """The same float32 array twice: in page-locked memory of the host, and on the device."""

    def __init__(self, cuda: Cuda, shape: tuple[int, ...]) -> None:
        self._cuda = cuda
        self._bytes = 4 * int(np.prod(shape))
        self.pointer = int(cuda.call("cudaMalloc", self._bytes))
        # Page-locked: other memory is copied at a fraction of the speed, and not asynchronously.
        self._host = int(cuda.call("cudaMallocHost", self._bytes))
        memory = (ctypes.c_uint8 * self._bytes).from_address(self._host)
        self.host: np.ndarray[Any, Any] = np.ctypeslib.as_array(memory).view(np.float32).reshape(shape)

    def upload(self) -> None:
        """Copy the host's array to the device, in the stream."""
        self._copy(self.pointer, self.host.ctypes.data, "cudaMemcpyHostToDevice")

    def download(self) -> None:
        """Copy the device's array to the host, in the stream."""
        self._copy(self.host.ctypes.data, self.pointer, "cudaMemcpyDeviceToHost")

    def free(self) -> None:
        """Give both memories back; the array must not be touched afterwards."""
        self._cuda.call("cudaFree", self.pointer)
        self._cuda.call("cudaFreeHost", self._host)

    def _copy(self, target: int, source: int, kind: str) -> None:
        kinds = self._cuda._runtime.cudaMemcpyKind
        self._cuda.call("cudaMemcpyAsync", target, source, self._bytes, getattr(kinds, kind), self._cuda.stream)


def _version(number: int) -> str:
    """Write CUDA's version number: 13000 is 13.0."""
    return f"{number // 1000}.{number % 1000 // 10}"
