"""A fake `cuda.bindings.runtime` made out of a contract in tests/measure/contracts: one GPU, its memory in the host's.

    cuda = FakeCuda("12.9.10")
    cuda.install(monkeypatch)
    assert cuda.alive == {}

Device memory is ordinary memory that only copies of the right kind may touch, so that what is copied there and back is
the same, and a wrong pointer is an error code instead of a crash. What is asked of a stream is done at once, or, where
the stream is captured, each time that the graph is launched.
"""

import ctypes
import enum
import sys
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fake_tensorrt import Declared, contract, missing

PROPERTIES = {"name": b"Fake GPU", "major": 9, "minor": 0, "totalGlobalMem": 80 << 30}

WITHOUT_GPU = {"cudaDriverGetVersion", "cudaGetErrorName", "cudaRuntimeGetVersion"}
"""What works on a machine without a GPU."""

ON_DEVICE = {"cudaMemcpyHostToDevice": (True, False), "cudaMemcpyDeviceToHost": (False, True)}
"""Whether a copy's destination and source are on the device."""


class Failure(Exception):
    """A status other than success, by its name."""


class Handle:
    """A stream, an event or a graph: a number."""

    def __init__(self, number: int = 0) -> None:
        self._number = number

    def __int__(self) -> int:
        return self._number

    __index__ = __hash__ = __int__

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and hash(self) == hash(other)


class FakeCuda:
    """A fake module, `module`, and what was done with it, `calls`: (name, arguments) in order.

    Args:
        version: of the contract.
        devices: GPUs there are.
        error: what every call that needs a GPU returns, such as cudaErrorInsufficientDriver where there is no driver.
    """

    def __init__(self, version: str, devices: int = 1, error: str = "") -> None:
        self.module = types.ModuleType("cuda.bindings.runtime")
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.alive: dict[str, dict[int, Any]] = {}
        """What was made and not yet freed, by kind: "device" and "host" memory by address, handles by number."""
        major, minor, _ = version.split(".")
        self._version = 1000 * int(major) + 10 * int(minor)
        self._devices = devices
        self._error = error
        self._declared = Declared(self.module)
        self._made = 0
        self._milliseconds = 0.0
        self._captured: dict[int, list[Callable[[], None]]] = {}
        self._fill(contract(f"cuda-bindings-{version}"))
        vars(self.module)["__getattr__"] = self._no_attribute

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let `cuda.bindings.runtime` be the fake."""
        bindings, cuda = types.ModuleType("cuda.bindings"), types.ModuleType("cuda")
        vars(bindings)["runtime"], vars(cuda)["bindings"] = self.module, bindings
        for module in (cuda, bindings, self.module):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    def array(self, address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return device memory as an array that shares it."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        start, memory = self._holding("device", self._side(address, size, True))
        return memory[address - start :][:size].view(dtype).reshape(shape)

    def enqueue(self, stream: Any, action: Callable[[], Any]) -> None:
        """Do something now, or at each launch of the graph where the stream is captured: a fake inference, say."""
        if int(stream or 0) in self._captured:
            self._captured[int(stream)].append(action)
        else:
            action()

    def _fill(self, found: Any) -> None:
        for name, parts in found["classes"].items():
            of = self._class(name, parts)
            self._declared.classes[name] = of
            setattr(self.module, name, of)
        for name, overloads in found["functions"].items():
            setattr(self.module, name, self._function(name, overloads))

    def _no_attribute(self, name: str) -> Any:
        raise missing(self.module.__name__, name)

    def _class(self, name: str, parts: Any) -> type:
        if "members" in parts:
            return enum.IntEnum(name, parts["members"])
        if name == "cudaDeviceProp":
            return type(name, (), {"__slots__": parts["attributes"]})
        return type(name, (Handle,), {})

    def _function(self, name: str, overloads: list[str]) -> Callable[..., tuple[Any, ...]]:
        def call(*given: Any, **named: Any) -> tuple[Any, ...]:
            arguments, returned = self._declared.bind(name, overloads, given, named)
            self.calls.append((name, arguments))
            status = self._declared.classes["cudaError_t"]
            try:
                if self._error and name not in WITHOUT_GPU:
                    raise Failure(self._error)
                return status["cudaSuccess"], *getattr(self, f"_{name}")(**arguments)
            except Failure as failure:
                return status[str(failure)], *[None] * returned.count(",")

        return call

    def _make(self, kind: str, value: Any) -> Any:
        """Return a handle of a class, which stands for a value from now on."""
        self._made += 1
        self.alive.setdefault(kind, {})[self._made] = value
        return self._declared.classes[kind](self._made)

    def _of(self, kind: str, handle: Any) -> Any:
        """Return the value that a handle stands for."""
        return self._table(kind, handle)[int(handle)]

    def _drop(self, kind: str, handle: Any) -> tuple[()]:
        del self._table(kind, handle)[int(handle)]
        return ()

    def _table(self, kind: str, handle: Any) -> dict[int, Any]:
        table = self.alive.get(kind, {})
        if handle is None or int(handle) not in table:
            raise Failure("cudaErrorInvalidResourceHandle")
        return table

    def _stream(self, stream: Any) -> int:
        """Return a stream's number; None and 0 are the default stream."""
        if stream is not None and int(stream) != 0:
            self._of("cudaStream_t", stream)
        return int(stream or 0)

    def _no_capture(self) -> tuple[()]:
        if self._captured:
            raise Failure("cudaErrorStreamCaptureUnsupported")
        return ()

    def _allocate(self, where: str, size: int) -> tuple[int]:
        self._no_capture()
        memory = np.full(max(size, 1), 0xA5, np.uint8)  # no zeros: a GPU's memory holds anything
        self.alive.setdefault(where, {})[memory.ctypes.data] = memory
        return (memory.ctypes.data,)

    def _release(self, where: str, pointer: Any) -> tuple[()]:
        self._no_capture()
        if int(pointer or 0) != 0 and self.alive.get(where, {}).pop(int(pointer), None) is None:
            raise Failure("cudaErrorInvalidValue")
        return ()

    def _holding(self, where: str, address: int) -> tuple[int, Any] | None:
        """Return the memory that holds an address, with its start."""
        blocks = self.alive.get(where, {}).items()
        return next(((start, memory) for start, memory in blocks if start <= address < start + memory.size), None)

    def _side(self, pointer: Any, size: int, on_device: bool) -> int:
        """Return the address of a copy's one side; the whole range must be where it is said to be."""
        address = int(pointer.ctypes.data if isinstance(pointer, np.ndarray) else pointer)
        device = self._holding("device", address)
        block = device or self._holding("host", address)
        beyond = block is not None and address + size > block[0] + block[1].size
        if beyond or on_device != (device is not None):
            raise Failure("cudaErrorInvalidValue")
        return address

    def _copy(self, dst: Any, src: Any, count: int, kind: Any) -> None:
        to_device, from_device = ON_DEVICE[kind.name]
        ctypes.memmove(self._side(dst, count, to_device), self._side(src, count, from_device), count)

    def _cudaMalloc(self, size: int) -> tuple[int]:
        return self._allocate("device", size)

    def _cudaFree(self, devPtr: Any) -> tuple[()]:
        return self._release("device", devPtr)

    def _cudaMallocHost(self, size: int) -> tuple[int]:
        return self._allocate("host", size)

    def _cudaFreeHost(self, ptr: Any) -> tuple[()]:
        return self._release("host", ptr)

    def _cudaMemcpyAsync(self, dst: Any, src: Any, count: int, kind: Any, stream: Any) -> tuple[()]:
        self.enqueue(self._stream(stream), lambda: self._copy(dst, src, count, kind))
        return ()

    def _cudaMemGetInfo(self) -> tuple[int, int]:
        total = PROPERTIES["totalGlobalMem"]
        return total - sum(memory.size for memory in self.alive.get("device", {}).values()), total

    def _cudaStreamCreate(self) -> tuple[Any]:
        return (self._make("cudaStream_t", None),)

    def _cudaStreamDestroy(self, stream: Any) -> tuple[()]:
        return self._drop("cudaStream_t", stream)

    def _cudaStreamSynchronize(self, stream: Any) -> tuple[()]:
        self._stream(stream)
        return self._no_capture()

    def _cudaStreamBeginCapture(self, stream: Any, mode: Any) -> tuple[()]:
        if self._stream(stream) == 0 or int(stream) in self._captured:
            raise Failure("cudaErrorStreamCaptureUnsupported")
        self._captured[int(stream)] = []
        return ()

    def _cudaStreamEndCapture(self, stream: Any) -> tuple[Any]:
        if self._stream(stream) not in self._captured:
            raise Failure("cudaErrorIllegalState")
        return (self._make("cudaGraph_t", self._captured.pop(int(stream))),)

    def _cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any]:
        return (self._make("cudaGraphExec_t", self._of("cudaGraph_t", graph)),)

    def _cudaGraphLaunch(self, graphExec: Any, stream: Any) -> tuple[()]:
        for action in self._of("cudaGraphExec_t", graphExec):
            self.enqueue(self._stream(stream), action)
        return ()

    def _cudaGraphExecDestroy(self, graphExec: Any) -> tuple[()]:
        return self._drop("cudaGraphExec_t", graphExec)

    def _cudaGraphDestroy(self, graph: Any) -> tuple[()]:
        return self._drop("cudaGraph_t", graph)

    def _cudaEventCreate(self) -> tuple[Any]:
        return (self._make("cudaEvent_t", []),)

    def _cudaEventRecord(self, event: Any, stream: Any) -> tuple[()]:
        """Record a time a millisecond after the last one."""
        self._milliseconds += 1
        self._of("cudaEvent_t", event)[:] = [self._milliseconds]
        self._stream(stream)
        return ()

    def _cudaEventSynchronize(self, event: Any) -> tuple[()]:
        self._of("cudaEvent_t", event)
        return self._no_capture()

    def _cudaEventElapsedTime(self, start: Any, end: Any) -> tuple[float]:
        times = self._of("cudaEvent_t", start) + self._of("cudaEvent_t", end)
        if len(times) < 2:
            raise Failure("cudaErrorInvalidResourceHandle")
        return (times[1] - times[0],)

    def _cudaEventDestroy(self, event: Any) -> tuple[()]:
        return self._drop("cudaEvent_t", event)

    def _cudaGetDeviceCount(self) -> tuple[int]:
        return (self._devices,)

    def _cudaGetDeviceProperties(self, device: int) -> tuple[Any]:
        if not 0 <= device < self._devices:
            raise Failure("cudaErrorInvalidDevice")
        made = self._declared.classes["cudaDeviceProp"]()
        for name, value in PROPERTIES.items():
            setattr(made, name, value)
        return (made,)

    def _cudaDriverGetVersion(self) -> tuple[int]:
        return (0 if self._error == "cudaErrorInsufficientDriver" else self._version,)

    def _cudaRuntimeGetVersion(self) -> tuple[int]:
        return (self._version,)

    def _cudaGetErrorName(self, error: Any) -> tuple[bytes]:
        return (error.name.encode(),)
