"""The contracts hold what the measuring part calls, and the fakes hold code to them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import used
from contracts.called import CUDA, CUDA_ERRORS, TENSORRT, kept, with_owners
from fake_cuda import FakeCuda
from fake_tensorrt import CONTRACTS, FakeTensorRT, contract
from trimlab import measure

TENSORRT_VERSIONS = ["8.5.3.1", "10.16.1.11", "11.4.0.106"]
CUDA_VERSIONS = ["12.9.10", "13.5.0"]


def classes(version):
    return contract(f"tensorrt-{version}")["classes"]


def members(version, enum):
    return classes(version)[enum]["members"]


def source(word):
    """Return the source of all measuring modules that hold a word, one after the other."""
    texts = [path.read_text() for path in sorted(Path(measure.__file__).parent.glob("*.py"))]
    return "\n".join(text for text in texts if re.search(rf"\b{word}", text))


@pytest.fixture(params=TENSORRT_VERSIONS)
def fake(request):
    return FakeTensorRT(request.param)


@pytest.fixture(params=CUDA_VERSIONS)
def cuda(request):
    return FakeCuda(request.param)


def values(result):
    """Return the values of a CUDA call that succeeded."""
    status, *found = result
    assert status.name == "cudaSuccess"
    return found[0] if len(found) == 1 else found


# What the contracts hold


@pytest.mark.parametrize(
    ("names", "used_in", "word"),
    [(TENSORRT, used.of_tensorrt, r"trt\b"), (CUDA, used.of_cuda, r"cuda[A-Z]")],
    ids=["tensorrt", "cuda"],
)
def test_the_list_is_what_the_measuring_part_uses(names, used_in, word):
    found = used_in(source(word))
    parts = {part for name in names for part in name.split(".")}
    assert found - parts == set(), "add them to contracts/called.py, and write the contracts again"
    assert {name.split(".")[-1] for name in names} - found == set(), "take them out of contracts/called.py"


@pytest.mark.parametrize(
    "code",
    [
        "trt.New",
        "def f(trt): return hasattr(trt.BuilderFlag, 'New')",
        "def f(trt): flags = trt.BuilderFlag; flags.New",
        "def f(self): self._engine = self.trt.Runtime(0).load(); self._engine.New()",
        "def f(config: Any): config.New = 1",
        "class Calibrator(trt.IInt8EntropyCalibrator2):\n def New(self): pass",
    ],
)
def test_a_new_name_is_noticed(code):
    assert "New" in used.of_tensorrt(code)


@pytest.mark.parametrize("path", sorted(CONTRACTS.glob("*.json")), ids=lambda path: path.stem)
def test_a_contract_holds_no_more_than_the_list(path):
    found = json.loads(path.read_text())
    assert kept(found, TENSORRT if path.stem.startswith("tensorrt") else CUDA + CUDA_ERRORS) == found


def declared(found):
    """Return the dotted names of a contract."""
    names = {*found["classes"], *found.get("functions", {})}
    for name, entry in found["classes"].items():
        names |= {f"{name}.{item}" for part, items in entry.items() if part != "bases" for item in items}
        names |= {f"{name}.__members__"} & {f"{name}.__{part}__" for part in entry}
    return names


def test_every_listed_name_is_in_a_contract():
    """One that is not is misspelt, or the contracts were not written again."""
    tensorrt = [declared(contract(f"tensorrt-{version}")) for version in TENSORRT_VERSIONS]
    assert with_owners(TENSORRT) - set().union(*tensorrt) == set()
    for version in CUDA_VERSIONS:
        assert with_owners(CUDA + CUDA_ERRORS) - declared(contract(f"cuda-bindings-{version}")) == set()


def test_what_no_signature_names_is_left_out():
    engine = {"methods": {"run": ["(self, mode: Mode=Mode.FAST) -> Plan"], "stop": ["(self) -> Reason"]}}
    classes = {"Engine": engine, "Mode": {"members": {"FAST": 0, "SLOW": 1}}, "Plan": {"bases": ["Memory"]}}
    classes |= {"Memory": {"methods": {"__len__": ["(self) -> int"], "free": ["(self) -> None"]}}, "Reason": {}}
    assert kept({"version": "1", "classes": classes}, ["Engine.run"]) == {
        "version": "1",
        "classes": {
            "Engine": {"methods": {"run": ["(self, mode: Mode=Mode.FAST) -> Plan"]}},
            "Mode": {"members": {"FAST": 0}},
            "Plan": {"bases": ["Memory"]},
            "Memory": {"methods": {"__len__": ["(self) -> int"]}},
        },
    }


# What the versions differ in


def test_weak_typing_ends_with_tensorrt_10():
    found = [members(version, "BuilderFlag") for version in TENSORRT_VERSIONS]
    for flag in ("FP16", "INT8"):
        assert [flag in flags for flags in found] == [True, True, False]


def test_strong_typing_can_be_asked_for_from_tensorrt_10_on():
    found = [members(version, "NetworkDefinitionCreationFlag") for version in TENSORRT_VERSIONS]
    assert ["STRONGLY_TYPED" in flags for flags in found] == [False, True, True]
    assert ["EXPLICIT_BATCH" in flags for flags in found] == [True, True, False]


def test_calibrators_end_with_tensorrt_10():
    found = ["IInt8EntropyCalibrator2" in classes(version) for version in TENSORRT_VERSIONS]
    assert found == [True, True, False]


def test_a_member_has_different_numbers_in_different_versions():
    assert [members(version, "BuilderFlag")["TF32"] for version in TENSORRT_VERSIONS] == [7, 6, 6]
    assert [members(version, "TacticSource")["JIT_CONVOLUTIONS"] for version in TENSORRT_VERSIONS] == [4, 4, 1]
    assert [members(version, "TacticSource").get("CUDNN") for version in TENSORRT_VERSIONS] == [2, 2, None]


def test_a_method_takes_the_same_arguments_in_all_versions_that_have_it():
    """By its first overload: newer versions have more."""
    different = set()
    for of, *_, method in [name.split(".") for name in TENSORRT]:
        entries = [classes(version).get(of, {}).get("methods", {}).get(method) for version in TENSORRT_VERSIONS]
        if len({entry[0] for entry in entries if entry}) > 1:
            different.add(f"{of}.{method}")
    assert different == {"ICudaEngine.create_execution_context", "IExecutionContext.set_input_shape"}


def test_both_cuda_bindings_have_the_same_functions():
    assert contract("cuda-bindings-12.9.10")["functions"] == contract("cuda-bindings-13.5.0")["functions"]


# What the fakes refuse


def test_a_name_that_a_version_lacks_is_no_attribute():
    newest = FakeTensorRT("11.4.0.106")
    for of, name in [
        (newest.module, "IInt8EntropyCalibrator2"),
        (newest.module.BuilderFlag, "FP16"),
        (newest.module.IBuilderConfig, "int8_calibrator"),
        (newest.make("IBuilderConfig"), "set_calibration_profile"),
    ]:
        with pytest.raises(AttributeError, match=rf"^TensorRT 11\.4\.0\.106 has no (\w+\.)?{name}$"):
            getattr(of, name)


def test_a_name_that_is_never_called_is_no_attribute_and_the_error_says_where_to_add_it(fake, cuda):
    for of, name in [
        (fake.module, "Refitter"),
        (fake.module.BuilderFlag, "REFIT"),
        (fake.module.IExecutionContext, "execute_v2"),
        (fake.make("IBuilderConfig"), "builder_optimization_level"),
        (cuda.module, "cudaMemset"),
    ]:
        with pytest.raises(AttributeError, match=rf"{name} is not in the contract of .*: add it to called\.py"):
            getattr(of, name)


def test_an_attribute_that_is_not_declared_cannot_be_written(fake):
    with pytest.raises(AttributeError, match="max_workspace"):
        fake.make("IBuilderConfig").max_workspace = 1 << 30
    with pytest.raises(AttributeError, match="num_errors"):
        fake.make("OnnxParser").num_errors = 2
    assert fake.calls == []


def test_a_call_that_no_overload_takes_is_a_type_error(fake):
    trt, logger = fake.module, fake.make("ILogger")
    config, context = fake.make("IBuilderConfig"), fake.make("IExecutionContext")
    for wrong in [
        lambda: trt.Builder(),
        lambda: trt.Builder(None),
        lambda: trt.ICudaEngine(),
        lambda: trt.OnnxParser(None, logger),
        lambda: config.set_flag(int(trt.BuilderFlag.TF32)),
        lambda: config.set_flag(trt.BuilderFlag.TF32, trt.BuilderFlag.TF32),
        lambda: config.set_flag(option=trt.BuilderFlag.TF32),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1e9),
        lambda: context.set_input_shape("x", 32),
        lambda: context.execute_async_v3(stream="0"),
        lambda: trt.Runtime(logger).deserialize_cuda_engine("text"),
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


def test_a_subclass_calls_the_constructor_of_its_base(fake):
    class Careless(fake.module.IProfiler):
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
    builder = fake.module.Builder(fake.make("ILogger"))
    plan = builder.build_serialized_network(fake.make("INetworkDefinition"), builder.create_builder_config())
    (tmp_path / "plan").write_bytes(plan)
    assert (tmp_path / "plan").read_bytes() == bytes(plan) == b"plan" and plan
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
    parser = fake.module.OnnxParser(fake.make("INetworkDefinition"), fake.make("ILogger"))
    with pytest.raises(TypeError, match="returns bool"):
        parser.parse(b"model")


# How the libraries are used


def test_what_is_copied_to_the_device_comes_back(cuda):
    rt, kinds = cuda.module, cuda.module.cudaMemcpyKind
    sent, back = np.arange(6, dtype=np.float32), np.zeros(6, np.float32)
    pointer = values(rt.cudaMalloc(sent.nbytes))
    values(rt.cudaMemcpyAsync(pointer, sent.ctypes.data, sent.nbytes, kinds.cudaMemcpyHostToDevice, None))
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
        assert rt.cudaMemcpyAsync(*wrong, None) == (rt.cudaError_t.cudaErrorInvalidValue,)
    values(rt.cudaFree(pointer))
    assert rt.cudaFree(pointer) == (rt.cudaError_t.cudaErrorInvalidValue,)
    with pytest.raises(TypeError):
        rt.cudaMemcpyAsync(pointer, data, 8)


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
