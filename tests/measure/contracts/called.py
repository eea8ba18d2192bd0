"""The names of TensorRT and CUDA that the measuring part uses. A contract keeps these and what their signatures name.

A name of TensorRT stays here when a newer version removes it: its absence from that version's contract says so.
`tests/measure/test_contracts.py` holds both lists to the code.
"""

import json
import re
from collections.abc import Iterable
from typing import Any

TENSORRT = (
    "Builder.build_serialized_network",
    "Builder.create_builder_config",
    "Builder.create_network",
    "Builder.create_optimization_profile",
    "BuilderFlag.FP16",
    "BuilderFlag.INT8",
    "BuilderFlag.TF32",
    "EngineInspector.execution_context",
    "EngineInspector.get_engine_information",
    "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.clear_flag",
    "IBuilderConfig.create_timing_cache",
    "IBuilderConfig.get_timing_cache",
    "IBuilderConfig.int8_calibrator",
    "IBuilderConfig.profiling_verbosity",
    "IBuilderConfig.set_calibration_profile",
    "IBuilderConfig.set_flag",
    "IBuilderConfig.set_memory_pool_limit",
    "IBuilderConfig.set_tactic_sources",
    "IBuilderConfig.set_timing_cache",
    "ICudaEngine.create_engine_inspector",
    "ICudaEngine.create_execution_context",
    "ICudaEngine.get_tensor_mode",
    "ICudaEngine.get_tensor_name",
    "ICudaEngine.get_tensor_shape",
    "ICudaEngine.num_io_tensors",
    "IExecutionContext.engine",
    "IExecutionContext.execute_async_v3",
    "IExecutionContext.get_tensor_shape",
    "IExecutionContext.profiler",
    "IExecutionContext.set_input_shape",
    "IExecutionContext.set_optimization_profile_async",
    "IExecutionContext.set_tensor_address",
    "IInt8EntropyCalibrator2.get_batch",
    "IInt8EntropyCalibrator2.get_batch_size",
    "IInt8EntropyCalibrator2.read_calibration_cache",
    "IInt8EntropyCalibrator2.write_calibration_cache",
    "ILogger.Severity.ERROR",
    "ILogger.Severity.INTERNAL_ERROR",
    "ILogger.Severity.WARNING",
    "ILogger.log",
    "INetworkDefinition.get_input",
    "IOptimizationProfile.set_shape",
    "IProfiler.report_layer_time",
    "ITensor.name",
    "ITensor.shape",
    "ITimingCache.serialize",
    "LayerInformationFormat.JSON",
    "MemoryPoolType.WORKSPACE",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser.get_error",
    "OnnxParser.num_errors",
    "OnnxParser.parse",
    "ParserError.desc",
    "ProfilingVerbosity.DETAILED",
    "Runtime.deserialize_cuda_engine",
    "TacticSource.__members__",
    "TensorIOMode.INPUT",
    "TensorIOMode.OUTPUT",
)
"""`__members__` stands for all members of an enum."""

CUDA = (
    "cudaDeviceProp.major",
    "cudaDeviceProp.minor",
    "cudaDeviceProp.name",
    "cudaDeviceProp.totalGlobalMem",
    "cudaDriverGetVersion",
    "cudaError_t.cudaSuccess",
    "cudaEventCreate",
    "cudaEventDestroy",
    "cudaEventElapsedTime",
    "cudaEventRecord",
    "cudaEventSynchronize",
    "cudaFree",
    "cudaFreeHost",
    "cudaGetDeviceCount",
    "cudaGetDeviceProperties",
    "cudaGetErrorName",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
    "cudaMalloc",
    "cudaMallocHost",
    "cudaMemGetInfo",
    "cudaMemcpyAsync",
    "cudaMemcpyKind.cudaMemcpyDeviceToHost",
    "cudaMemcpyKind.cudaMemcpyHostToDevice",
    "cudaRuntimeGetVersion",
    "cudaStreamBeginCapture",
    "cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal",
    "cudaStreamCreate",
    "cudaStreamDestroy",
    "cudaStreamEndCapture",
    "cudaStreamSynchronize",
)

CUDA_ERRORS = (
    "cudaError_t.cudaErrorIllegalState",
    "cudaError_t.cudaErrorInsufficientDriver",
    "cudaError_t.cudaErrorInvalidDevice",
    "cudaError_t.cudaErrorInvalidResourceHandle",
    "cudaError_t.cudaErrorInvalidValue",
    "cudaError_t.cudaErrorStreamCaptureUnsupported",
)
"""What the fake answers to a wrong call."""


def kept(contract: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return a contract with some names, dotted as above, and all that their signatures and bases name."""
    wanted = with_owners(names)
    while True:
        classes = among(contract["classes"], wanted)
        found = {**contract, "classes": {name: of_class(name, entry, wanted) for name, entry in classes.items()}}
        if "functions" in contract:
            found["functions"] = among(contract["functions"], wanted)
        words = re.findall(r"[A-Za-z]\w*(?:\.\w+)*", json.dumps(found))
        mentioned = with_owners(word for word in words if word.split(".")[0] in contract["classes"])
        if mentioned <= wanted:
            return found
        wanted |= mentioned


def with_owners(names: Iterable[str]) -> set[str]:
    """Return dotted names with what they are in: `A.B.C` with `A.B` and `A`."""
    split = [name.split(".") for name in names]
    return {".".join(parts[:length]) for parts in split for length in range(1, len(parts) + 1)}


def of_class(name: str, entry: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """Return a class's wanted names; its bases stay, as do its special methods, which Python calls by itself."""
    if "members" in entry and f"{name}.__members__" in wanted:
        return entry
    parts = {part: items if part == "bases" else among(items, wanted, f"{name}.") for part, items in entry.items()}
    return {part: items for part, items in parts.items() if items or part == "members"}


def among(items: Any, wanted: set[str], owner: str = "") -> Any:
    """Return the wanted ones of some names, a list or a dict by name."""
    found = [item for item in items if owner + item in wanted or item.startswith("__")]
    return found if isinstance(items, list) else {item: items[item] for item in found}
