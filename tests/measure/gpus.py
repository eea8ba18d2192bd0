"""A GPU with TensorRT out of the contracts: takes the calls that the real libraries take, and computes a toy network.

Its logits are the first image row's values. Nothing here says how the real thing behaves beyond names and signatures.
"""

import json

import numpy as np
import pytest

from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRT

SHAPE = (3, 10, 10)
VERSIONS = {"8.5.3.1": "12.9.10", "10.16.1.11": "13.5.0", "11.4.0.106": "13.5.0"}
"""TensorRT, and the CUDA bindings that go with it here."""
INFORMATION = {
    "Layers": [{"Name": "conv1", "LayerType": "CaskConvolution", "Weights": {"Type": "Int8"}, "OutMaps": 10}]
}


def logits(images: np.ndarray) -> np.ndarray:
    """Return what the toy network makes of images."""
    return images[:, 0, 0, :10]


class Gpu:
    """Both fakes, installed."""

    def __init__(self, version: str, monkeypatch: pytest.MonkeyPatch, **cuda: object) -> None:
        self.trt = FakeTensorRT(version)
        self.cuda = FakeCuda(VERSIONS[version], **cuda)
        self.trt.install(monkeypatch)
        self.cuda.install(monkeypatch)
        self.built = 0
        self._state: dict[int, dict] = {}
        self._teach()

    def flags(self) -> set[str]:
        """Name the builder flags that were set."""
        return {call["flag"].name for call in self.trt.named("IBuilderConfig.set_flag")}

    def _teach(self) -> None:
        returns, trt = self.trt.returns, self.trt.module
        tensor = self.trt.make("ITensor")
        returns("ITensor.name", "x")
        returns("ITensor.shape", (-1, *SHAPE))
        returns("INetworkDefinition.get_input", tensor)
        returns("Builder.build_serialized_network", self._build)
        returns("ITimingCache.serialize", b"kernels")
        returns("ICudaEngine.num_io_tensors", 2)
        returns("ICudaEngine.get_tensor_name", lambda engine, index: ["x", "logits"][index])
        modes = {"x": trt.TensorIOMode.INPUT, "logits": trt.TensorIOMode.OUTPUT}
        returns("ICudaEngine.get_tensor_mode", lambda engine, name: modes[name])
        returns("ICudaEngine.get_tensor_shape", lambda engine, name: (-1, *SHAPE))
        returns("IExecutionContext.engine", self.trt.make("ICudaEngine"))
        returns("IExecutionContext.set_input_shape", lambda context, name, shape: self._set(context, "shape", shape))
        returns("IExecutionContext.get_tensor_shape", lambda context, name: (self._of(context)["shape"][0], 10))
        returns("IExecutionContext.set_tensor_address", lambda context, name, memory: self._set(context, name, memory))
        returns("IExecutionContext.execute_async_v3", self._execute)
        returns("EngineInspector.get_engine_information", json.dumps(INFORMATION))

    def _build(self, builder: object, **_: object) -> bytes:
        self.built += 1
        return f"plan {self.built}".encode()

    def _of(self, context: object) -> dict:
        return self._state.setdefault(id(context), {"context": context})

    def _set(self, context: object, key: str, value: object) -> bool:
        self._of(context)[key] = value
        return True

    def _execute(self, context: object, stream_handle: int) -> bool:
        state = self._of(context)
        size = state["shape"][0]

        def infer() -> None:
            images = self.cuda.array(state["x"], (size, *SHAPE), np.float32)
            self.cuda.array(state["logits"], (size, 10), np.float32)[:] = logits(images)

        self.cuda.enqueue(stream_handle, infer)
        if context.profiler is not None and hasattr(context.profiler, "times"):
            context.profiler.report_layer_time("conv1", 0.02)
        return True
