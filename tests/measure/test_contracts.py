"""The contracts say what decides how a TensorRT backend must be written, and the fakes hold code to them."""

import json

import numpy as np
import pytest

from fake_cuda import FakeCuda
from fake_tensorrt import FakeTensorRT, contract

TENSORRT = ["8.5.3.1", "10.16.1.11", "11.4.0.106"]
CUDA = ["12.9.10", "13.5.0"]
SHAPE = (32, 16, 32, 32)


def classes(version):
    return contract(f"tensorrt-{version}")["classes"]


def members(version, enum):
    return classes(version)[enum]["members"]


@pytest.fixture(params=TENSORRT)
def fake(request):
    return FakeTensorRT(request.param)


@pytest.fixture
def oldest():
    return FakeTensorRT("8.5.3.1")


@pytest.fixture(params=CUDA)
def cuda(request):
    return FakeCuda(request.param)


def values(result):
    """Return the values of a CUDA call that succeeded."""
    status, *found = result
    assert status.name == "cudaSuccess"
    return found[0] if len(found) == 1 else found


# What the contracts say


def test_weak_typing_ends_with_tensorrt_10():
    flags = ["FP16", "INT8", "OBEY_PRECISION_CONSTRAINTS"]
    found = {version: [flag in members(version, "BuilderFlag") for flag in flags] for version in TENSORRT}
    assert found == {"8.5.3.1": [True] * 3, "10.16.1.11": [True] * 3, "11.4.0.106": [False] * 3}
    assert ["precision" in classes(version)["ILayer"]["properties"] for version in TENSORRT] == [True, True, False]


def test_strong_typing_can_be_asked_for_from_tensorrt_10_on():
    found = [members(version, "NetworkDefinitionCreationFlag") for version in TENSORRT]
    assert ["STRONGLY_TYPED" in flags for flags in found] == [False, True, True]
    assert ["EXPLICIT_BATCH" in flags for flags in found] == [True, True, False]


def test_calibrators_end_with_tensorrt_10():
    for name in ("IInt8EntropyCalibrator2", "IInt8MinMaxCalibrator"):
        assert [name in classes(version) for version in TENSORRT] == [True, True, False]


def test_a_member_has_different_numbers_in_different_versions():
    assert [members(version, "BuilderFlag")["TF32"] for version in TENSORRT] == [7, 6, 6]
    assert [members(version, "TacticSource")["JIT_CONVOLUTIONS"] for version in TENSORRT] == [4, 4, 1]
    assert [members(version, "TacticSource").get("CUDNN") for version in TENSORRT] == [2, 2, None]


def test_tensors_have_names_in_all_versions_and_bindings_numbers_in_8_alone():
    found = [classes(version)["ICudaEngine"] for version in TENSORRT]
    assert ["get_binding_shape" in engine["methods"] for engine in found] == [True, False, False]
    assert ["device_memory_size" in engine["properties"] for engine in found] == [True, True, False]
    assert ["device_memory_size_v2" in engine["properties"] for engine in found] == [False, True, True]


@pytest.mark.parametrize(
    "name",
    [
        "Builder.build_serialized_network",
        "Builder.create_network",
        "EngineInspector.get_engine_information",
        "IBuilderConfig.create_timing_cache",
        "IBuilderConfig.set_memory_pool_limit",
        "IBuilderConfig.set_tactic_sources",
        "IBuilderConfig.set_timing_cache",
        "ICudaEngine.create_engine_inspector",
        "ICudaEngine.get_tensor_name",
        "IExecutionContext.execute_async_v3",
        "IExecutionContext.set_tensor_address",
        "IOptimizationProfile.set_shape",
        "OnnxParser.parse",
        "Runtime.deserialize_cuda_engine",
    ],
)
def test_what_all_versions_have_takes_the_same_arguments(name):
    of, method = name.split(".")
    assert len({classes(version)[of]["methods"][method][0] for version in TENSORRT}) == 1


def test_both_cuda_bindings_have_the_same_functions():
    assert contract("cuda-bindings-12.9.10")["functions"] == contract("cuda-bindings-13.5.0")["functions"]


# What the fakes refuse


def test_a_name_that_a_version_lacks_is_no_attribute():
    newest = FakeTensorRT("11.4.0.106").module
    for of, name in [
        (newest, "IInt8EntropyCalibrator2"),
        (newest.BuilderFlag, "FP16"),
        (newest.IExecutionContext, "execute_async_v2"),
        (newest.TacticSource, "CUBLAS"),
    ]:
        assert not hasattr(of, name)


def test_an_attribute_that_is_not_declared_cannot_be_written(fake):
    config = fake.make("IBuilderConfig")
    with pytest.raises(AttributeError, match="max_workspace"):
        config.max_workspace = 1 << 30
    with pytest.raises(AttributeError):
        config.num_optimization_profiles = 2
    assert fake.calls == []


def test_a_call_that_no_overload_takes_is_a_type_error(fake):
    trt = fake.module
    config, context = fake.make("IBuilderConfig"), fake.make("IExecutionContext")
    for wrong in [
        lambda: trt.Builder(),
        lambda: trt.Builder(None),
        lambda: trt.Logger(2),
        lambda: trt.ICudaEngine(),
        lambda: trt.OnnxParser(None, trt.Logger()),
        lambda: config.set_flag(int(trt.BuilderFlag.TF32)),
        lambda: config.set_flag(trt.BuilderFlag.TF32, trt.BuilderFlag.REFIT),
        lambda: config.set_flag(option=trt.BuilderFlag.TF32),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1e9),
        lambda: context.set_input_shape("x", 32),
        lambda: context.execute_async_v3(stream="0"),
        lambda: trt.Runtime(trt.Logger()).deserialize_cuda_engine("text"),
    ]:
        with pytest.raises(TypeError):
            wrong()


def test_a_written_attribute_has_the_declared_type(fake):
    trt, config = fake.module, fake.make("IBuilderConfig")
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    with pytest.raises(TypeError, match="profiling_verbosity"):
        config.profiling_verbosity = 2
    assert config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED
    assert fake.calls == [("IBuilderConfig.profiling_verbosity", {"value": trt.ProfilingVerbosity.DETAILED})]


def test_a_member_of_an_enum_is_no_number_but_converts_to_one(fake):
    flag = fake.module.BuilderFlag.TF32
    assert 1 << int(flag) == 1 << members(fake.module.__version__, "BuilderFlag")["TF32"]
    assert flag != int(flag) and flag.name == "TF32"
    with pytest.raises(TypeError):
        1 << flag


def test_a_subclass_calls_the_constructor_of_its_base(oldest):
    class Careless(oldest.module.IProfiler):
        def __init__(self):
            self.times = []

    class Careful(Careless):
        def __init__(self):
            super(Careless, self).__init__()
            self.times = []

    assert Careful().times == []
    with pytest.raises(TypeError, match="must be called"):
        Careless()


def test_shapes_are_compared_with_sequences_alone(fake):
    shape = fake.module.Dims((1, 3))
    assert shape == (1, 3) and shape == [1, 3] and tuple(shape) == (1, 3) and shape[1:] == (3,)
    with pytest.raises(TypeError):
        _ = shape == fake.module.Dims((1, 3))


def test_a_plan_gives_its_bytes_to_who_reads_a_buffer(fake, tmp_path):
    fake.returns("Builder.build_serialized_network", b"plan")
    builder = fake.module.Builder(fake.module.Logger())
    plan = builder.build_serialized_network(fake.make("INetworkDefinition"), builder.create_builder_config())
    (tmp_path / "plan").write_bytes(plan)
    assert (tmp_path / "plan").read_bytes() == bytes(plan) == b"plan" and plan.nbytes == 4 and plan
    with pytest.raises(TypeError):
        len(plan)
    assert not hasattr(plan, "decode")


# What a test may ask of the fakes


def test_a_test_decides_what_a_call_returns(fake):
    fake.returns("ICudaEngine.get_tensor_name", lambda engine, index: ["x", "y"][index])
    fake.returns("ICudaEngine.get_tensor_shape", (1, 3))
    fake.returns("ICudaEngine.create_execution_context", None)
    engine = fake.make("ICudaEngine")
    assert [engine.get_tensor_name(n) for n in range(2)] == ["x", "y"]
    assert engine.get_tensor_shape("x") == (1, 3)
    assert engine.create_execution_context() is None
    assert fake.named("ICudaEngine.get_tensor_name") == [{"index": 0}, {"index": 1}]


def test_a_test_cannot_ask_for_what_the_library_could_not_return(fake):
    with pytest.raises(KeyError, match="get_tensor_size"):
        fake.returns("ICudaEngine.get_tensor_size", 1)
    fake.returns("OnnxParser.parse", "yes")
    parser = fake.module.OnnxParser(fake.make("INetworkDefinition"), fake.module.Logger())
    with pytest.raises(TypeError, match="returns bool"):
        parser.parse(b"model")


# How the libraries are used


def test_an_onnx_file_is_built_and_run_in_every_version(fake, cuda):
    trt, rt = fake.module, cuda.module
    fake.returns("ICudaEngine.num_io_tensors", 2)
    fake.returns("ICudaEngine.get_tensor_name", lambda engine, index: ["x", "y"][index])
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = [getattr(trt.NetworkDefinitionCreationFlag, name, None) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED")]
    network = builder.create_network(sum(1 << int(flag) for flag in flags if flag is not None))
    assert trt.OnnxParser(network, logger).parse(b"model")
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 3, 32, 32), (64, 3, 32, 32), (64, 3, 32, 32))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    engine = trt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))
    context = engine.create_execution_context()
    stream = values(rt.cudaStreamCreate())
    for name in [engine.get_tensor_name(n) for n in range(engine.num_io_tensors)]:
        assert context.set_tensor_address(name, values(rt.cudaMalloc(64)))
    assert context.set_input_shape("x", (1, 3, 32, 32))
    assert context.execute_async_v3(int(stream))
    assert fake.named("IExecutionContext.execute_async_v3") == [{"stream_handle": int(stream)}]


def test_a_network_is_built_layer_by_layer_and_calibrated_in_8(oldest):
    trt = oldest.module

    class Calibrator(trt.IInt8MinMaxCalibrator):
        def __init__(self, pointer):
            super().__init__()
            self.batches = [pointer]

        def get_batch(self, names):
            return [self.batches.pop()] if self.batches else None

    builder = trt.Builder(trt.Logger(trt.Logger.WARNING))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH))
    tensor = network.add_input("x", trt.float32, SHAPE)
    weights, bias = np.zeros((32, 16, 3, 3), np.float32), np.zeros(32, np.float32)
    convolution = network.add_convolution_nd(tensor, 32, (3, 3), weights, bias)
    convolution.padding_nd = (1, 1)
    convolution.precision = trt.int8
    relu = network.add_activation(convolution.get_output(0), trt.ActivationType.RELU).get_output(0)
    mean = network.add_reduce(relu, trt.ReduceOperation.AVG, 1 << 2 | 1 << 3, False).get_output(0)
    mean.name = "y"
    network.mark_output(mean)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 30)
    config.set_tactic_sources(1 << int(trt.TacticSource.JIT_CONVOLUTIONS))
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_flag(trt.BuilderFlag.INT8)
    config.int8_calibrator = Calibrator(5)
    assert config.int8_calibrator.get_batch(["x"]) == [5]
    assert isinstance(builder.build_serialized_network(network, config), trt.IHostMemory)
    assert oldest.named("ITensor.name") == [{"value": "y"}]


def test_the_inspector_answers_in_json(fake):
    fake.returns("EngineInspector.get_engine_information", '{"Layers": []}')
    inspector = fake.make("ICudaEngine").create_engine_inspector()
    text = inspector.get_engine_information(fake.module.LayerInformationFormat.JSON)
    assert json.loads(text) == {"Layers": []}


def test_what_is_copied_to_the_device_comes_back(cuda):
    rt, kinds = cuda.module, cuda.module.cudaMemcpyKind
    sent, back = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
    pointer = values(rt.cudaMalloc(sent.nbytes))
    values(rt.cudaMemcpy(pointer, sent.ctypes.data, sent.nbytes, kinds.cudaMemcpyHostToDevice))
    cuda.array(pointer, (2, 3), np.float32)[1] *= 2
    values(rt.cudaMemcpyAsync(back.ctypes.data, pointer, back.nbytes, kinds.cudaMemcpyDeviceToHost, None))
    assert back.tolist() == [0, 1, 2, 6, 8, 10]
    assert values(rt.cudaFree(pointer)) == [] and cuda.alive == {"device": {}}


def test_a_copy_that_leaves_its_memory_is_an_error_code(cuda):
    rt, kinds = cuda.module, cuda.module.cudaMemcpyKind
    host, pointer = np.zeros(8, np.uint8), values(rt.cudaMalloc(8))
    data = host.ctypes.data
    for wrong in [
        (pointer, data, 9, kinds.cudaMemcpyHostToDevice),
        (pointer, data, 8, kinds.cudaMemcpyDeviceToHost),
        (data, data, 8, kinds.cudaMemcpyHostToDevice),
    ]:
        assert rt.cudaMemcpy(*wrong) == (rt.cudaError_t.cudaErrorInvalidValue,)
    values(rt.cudaFree(pointer))
    assert rt.cudaFree(pointer) == (rt.cudaError_t.cudaErrorInvalidValue,)
    with pytest.raises(TypeError):
        rt.cudaMemcpy(pointer, data, 8)


def test_a_captured_inference_is_done_at_each_launch(fake, cuda):
    rt, runs = cuda.module, []
    fake.returns(
        "IExecutionContext.execute_async_v3",
        lambda context, stream_handle: cuda.enqueue(stream_handle, lambda: runs.append(1)) is None,
    )
    stream = values(rt.cudaStreamCreate())
    values(rt.cudaStreamBeginCapture(stream, rt.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
    assert fake.make("IExecutionContext").execute_async_v3(int(stream)) and runs == []
    assert rt.cudaStreamSynchronize(stream) == (rt.cudaError_t.cudaErrorStreamCaptureUnsupported,)
    graph = values(rt.cudaGraphInstantiate(values(rt.cudaStreamEndCapture(stream)), 0))
    start, end = values(rt.cudaEventCreate()), values(rt.cudaEventCreate())
    values(rt.cudaEventRecord(start, stream))
    for _ in range(3):
        values(rt.cudaGraphLaunch(graph, stream))
    values(rt.cudaEventRecord(end, stream))
    assert len(runs) == 3 and values(rt.cudaEventElapsedTime(start, end)) > 0


def test_a_machine_without_a_driver_answers_with_an_error_code():
    rt = FakeCuda("13.5.0", error="cudaErrorInsufficientDriver").module
    missing = rt.cudaError_t.cudaErrorInsufficientDriver
    assert rt.cudaGetDeviceCount() == (missing, None) and rt.cudaMemGetInfo() == (missing, None, None)
    assert rt.cudaDriverGetVersion() == (rt.cudaError_t.cudaSuccess, 0)
    assert values(rt.cudaGetErrorName(missing)) == b"cudaErrorInsufficientDriver"
    assert values(FakeCuda("13.5.0", devices=0).module.cudaGetDeviceCount()) == 0


def test_device_properties_are_those_of_the_version():
    old, new = (values(FakeCuda(version).module.cudaGetDeviceProperties(0)) for version in CUDA)
    assert (new.name, new.major, new.minor) == (b"Fake GPU", 9, 0) and new.totalGlobalMem > 0
    assert hasattr(old, "clockRate") and not hasattr(new, "clockRate")
