"""TensorRT on an NVIDIA GPU: an engine built here, run through `cuda-python`."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import numpy as np

from .. import device, timing
from ..errors import MeasureError, one_line
from ..layers import RUNS, WARMUP, from_tensorrt
from ..progress import say
from ..session import Settings, Stopwatch, imported
from .cuda import Buffer, Cuda, Graph
from .engine import engine_of

OF_NO_INTEREST = "ICudaEngine::getProfileDimensions: bindingIndex"
"""TensorRT 8.5 says so at every inference in a second profile, and then does the right thing."""


def gpu_and_tensorrt() -> tuple[Cuda, Any]:
    """Return a GPU by CUDA, and the library.

    Raises:
        NoRuntimeError: one of them is not available here.
    """
    cuda = Cuda()  # first: without a GPU TensorRT's own calls may end the process
    return cuda, imported("tensorrt")


def gpu() -> dict[str, Any]:
    """Return the GPU that TensorRT computes on, as a record's device.

    Raises:
        NoRuntimeError: there is none, or no TensorRT.
    """
    cuda, _ = gpu_and_tensorrt()
    found = cuda.device(device.cores())
    cuda.close()
    return found


class TensorRt:
    """An engine with an execution for batch 1 and one for the large batch; smaller batches are filled up."""

    def __init__(self, path: str, settings: Settings) -> None:
        self._cuda, tensorrt = gpu_and_tensorrt()
        self._trt = tensorrt
        self._logger = _logger(tensorrt)
        self._built = engine_of(tensorrt, self._cuda, path, settings, self._logger)
        self._deserialized()  # what TensorRT loads once is not the engine's memory
        free = self._cuda.free_bytes()
        self._engine = self._deserialized()
        large = self._execution_of(self._engine, settings.batch_size, 1)
        self._memory_bytes = free - self._cuda.free_bytes()
        self._executions = {1: self._execution_of(self._engine, 1, 0), settings.batch_size: large}
        self.version = str(tensorrt.__version__)
        self.versions = {"tensorrt": self.version, **self._cuda.versions}
        self.image_shape = self._executions[1].image_shape
        self.device = self._cuda.device(settings.threads)

    def run(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return logits of a batch."""
        return self._execution(len(batch)).run(batch)

    def stopwatches(self, batch: np.ndarray[Any, Any]) -> dict[str, Stopwatch]:
        """Return wall-clock time with copies and GPU time without, each without and with a CUDA graph."""
        execution = self._execution(len(batch))
        execution.run(batch)
        plain, graph = execution.enqueue, execution.graph().launch
        return {
            "latency": timing.wall(execution.with_copies(plain)),
            "latency_graph": timing.wall(execution.with_copies(graph)),
            "gpu": self._cuda.timed(plain),
            "gpu_graph": self._cuda.timed(graph),
        }

    def layers(self, batch: np.ndarray[Any, Any]) -> list[dict[str, Any]]:
        """Return the engine's layers, profiled in an engine and a context of their own."""
        engine = self._deserialized()
        with closing(self._execution_of(engine, len(batch), list(self._executions).index(len(batch)))) as execution:
            execution.run(batch)
            information = self._inspected(engine, execution.context)
            profiler = _profiler(self._trt)
            execution.context.profiler = profiler
            for _ in range(WARMUP + RUNS):
                execution.run(batch)
        return from_tensorrt(information, {name: _by_run(times)[WARMUP:] for name, times in profiler.times.items()})

    def memory_bytes(self) -> int:
        """Return the device memory that the engine took, with context and buffers of the large batch."""
        return self._memory_bytes

    def engine(self) -> dict[str, Any] | None:
        """Return the engine's size, digest, build time, and what it is bound to."""
        return self._built.facts

    def close(self) -> None:
        """Free the executions' memory, the engine, the stream and the events."""
        for execution in self._executions.values():
            execution.close()
        self._executions, self._engine = {}, None
        self._cuda.close()

    def _execution(self, size: int) -> Execution:
        fitting = [known for known in self._executions if known >= size]
        if not fitting:
            raise MeasureError(f"batch of {size}: the engine takes at most {max(self._executions)} images")
        return self._executions[min(fitting)]

    def _deserialized(self) -> Any:
        engine = self._trt.Runtime(self._logger).deserialize_cuda_engine(self._built.plan)
        if engine is None:
            raise MeasureError(f"the engine does not load ({self._logger.said()}): delete it, to have it built again")
        return engine

    def _execution_of(self, engine: Any, size: int, profile: int) -> Execution:
        context = engine.create_execution_context()
        # Profile 0 as well: TensorRT chooses it by itself for an engine's first context alone.
        context.set_optimization_profile_async(profile, int(self._cuda.stream))
        self._cuda.synchronize()
        return Execution(self._cuda, context, size, self._tensors(engine), self._logger)

    def _inspected(self, engine: Any, context: Any) -> dict[str, Any]:
        """Return what the engine says of its layers; nothing where that is no JSON: times need not be lost for it."""
        inspector = engine.create_engine_inspector()
        inspector.execution_context = context
        text = inspector.get_engine_information(self._trt.LayerInformationFormat.JSON)
        try:
            information: dict[str, Any] = json.loads(text, strict=False)
        except ValueError as error:
            say(f"TensorRT's inspector gives no JSON ({one_line(error)}): layers have times alone")
            return {"Layers": []}
        return information

    def _tensors(self, engine: Any) -> tuple[str, str]:
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        modes = [engine.get_tensor_mode(name) for name in names]
        return names[modes.index(self._trt.TensorIOMode.INPUT)], names[modes.index(self._trt.TensorIOMode.OUTPUT)]


class Execution:
    """A context with a fixed batch size, its memory, and what it enqueues."""

    def __init__(self, cuda: Cuda, context: Any, batch_size: int, tensors: tuple[str, str], logger: Any) -> None:
        self._cuda, self.context, self._logger = cuda, context, logger
        source, target = tensors
        self.image_shape = tuple(int(size) for size in tuple(context.engine.get_tensor_shape(source))[1:])
        context.set_input_shape(source, (batch_size, *self.image_shape))
        self._input = Buffer(cuda, (batch_size, *self.image_shape))
        self._output = Buffer(cuda, tuple(int(size) for size in tuple(context.get_tensor_shape(target))))
        context.set_tensor_address(source, self._input.pointer)
        context.set_tensor_address(target, self._output.pointer)
        self._graph: Graph | None = None

    def run(self, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return logits of a batch of at most the batch size."""
        self._input.host[: len(batch)] = batch
        self.with_copies(self.enqueue)()
        logits: np.ndarray[Any, Any] = self._output.host[: len(batch)].copy()
        return logits

    def enqueue(self) -> None:
        """Start the inference in the stream."""
        if not self.context.execute_async_v3(int(self._cuda.stream)):
            raise MeasureError(f"TensorRT did not start the inference ({self._logger.said()}): use a smaller batch")

    def graph(self) -> Graph:
        """Return the inference as a CUDA graph, captured once."""
        if self._graph is None:
            self._graph = self._cuda.captured(self.enqueue)
        return self._graph

    def close(self) -> None:
        """Drop the context and free its memory."""
        self._cuda.synchronize()
        if self._graph is not None:
            self._graph.free()
        self.context = None
        self._input.free()
        self._output.free()

    def with_copies(self, start: Callable[[], None]) -> Callable[[], None]:
        """Return what copies the images over, starts, and waits for the logits to be back."""

        def whole() -> None:
            self._input.upload()
            start()
            self._output.download()
            self._cuda.synchronize()

        return whole


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Shows warnings and keeps errors: TensorRT returns None and says why here alone."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            level, said = trt.ILogger.Severity, " ".join(message.split())
            if said.startswith(OF_NO_INTEREST):
                return
            if severity in (level.INTERNAL_ERROR, level.ERROR, level.WARNING):
                say(f"TensorRT: {said}")
            if severity in (level.INTERNAL_ERROR, level.ERROR):
                self._errors.append(said)

        def said(self) -> str:
            """Return the last error."""
            return self._errors[-1] if self._errors else ""

    return Logger()


def _by_run(times: list[float]) -> list[float]:
    """Return one time a run: layers of one name are added up."""
    runs = WARMUP + RUNS
    return times if len(times) % runs else [float(sum(run)) for run in np.reshape(times, (runs, -1))]


def _profiler(trt: Any) -> Any:
    class Profiler(trt.IProfiler):  # type: ignore[misc]
        """Collects every layer's milliseconds."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    return Profiler()
