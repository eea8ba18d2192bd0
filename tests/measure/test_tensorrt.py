"""The TensorRT path against the real libraries' names and signatures, 8.5 to 11, without a GPU."""

import json
import sys

import numpy as np
import pytest

import factories
from gpus import SHAPE, VERSIONS, Gpu, logits
from trimlab.measure import __main__ as measuring
from trimlab.measure import runtimes
from trimlab.measure.errors import MeasureError, NoRuntimeError, UnavailableError
from trimlab.measure.runtimes import engine
from trimlab.measure.session import Settings
from trimlab.records import Measurement

BATCH = 4


@pytest.fixture(params=VERSIONS)
def gpu(request, monkeypatch):
    monkeypatch.delenv(engine.TACTIC_SOURCES, raising=False)
    return Gpu(request.param, monkeypatch)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"an ONNX file")
    return str(path)


@pytest.fixture
def calibration(tmp_path):
    path = tmp_path / "calibration.npy"
    np.save(path, np.random.default_rng(0).standard_normal((130, *SHAPE), dtype=np.float32))
    return path


def opened(model, precision="fp32", **settings):
    return runtimes.open_file("tensorrt", model, Settings(precision, 1, BATCH, **settings))


def images(count):
    return np.random.default_rng(1).standard_normal((count, *SHAPE), dtype=np.float32)


def left(gpu):
    """What was made on the GPU and not given back, by kind."""
    return {kind: len(alive) for kind, alive in gpu.cuda.alive.items() if alive}


@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY\x01\x00", np.float32(1)])
def test_broken_calibration_images_are_one_line(gpu, model, content, tmp_path):
    if not hasattr(gpu.trt.module, "IInt8EntropyCalibrator2"):
        return
    path = tmp_path / "broken.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(MeasureError, match=r"broken\.npy holds .*: name a \.npy of them"):
        opened(model, "int8-entropy", calibration=path)


def test_warnings_are_shown_but_not_the_one_of_every_inference(gpu, model, capsys):
    """An H100's first 226 seconds with TensorRT 8.5.3 held 6,818 of them."""
    opened(model)
    logger, warning = gpu.trt.named("Builder.__init__")[0]["logger"], gpu.trt.module.ILogger.Severity.WARNING
    capsys.readouterr()
    logger.log(warning, "ICudaEngine::getProfileDimensions: bindingIndex 0 is not in profile 1. Using 2 instead.")
    logger.log(warning, "the timing cache\nwill not be used")
    assert capsys.readouterr().err == "TensorRT: the timing cache will not be used\n"


def test_a_closed_session_gives_everything_back(gpu, model):
    session = opened(model)
    assert left(gpu)["device"] == left(gpu)["host"] == 4
    for size in (1, BATCH):
        for _ in range(2):
            session.stopwatches(images(size))
        session.layers(images(size))
    assert left(gpu) == {"device": 4, "host": 4, "cudaStream_t": 1, "cudaEvent_t": 2, "cudaGraphExec_t": 2}
    session.close()
    assert left(gpu) == {}


def test_asking_for_the_device_leaves_nothing_behind(gpu):
    found = runtimes.device_of("tensorrt")
    assert (found["name"], found["features"]) == ("Fake GPU", ["compute capability 9.0", "80 GiB"])
    assert left(gpu) == {}


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "int8"])
def test_precision_lives_in_the_file_or_in_flags_where_typing_is_weak(gpu, model, precision):
    opened(model, precision)
    trt = gpu.trt.module
    (call,) = gpu.trt.named("Builder.create_network")
    kinds = trt.NetworkDefinitionCreationFlag
    strong = hasattr(kinds, "STRONGLY_TYPED")
    assert call["flags"] == 1 << int(kinds.STRONGLY_TYPED if strong else kinds.EXPLICIT_BATCH)
    weak = {"fp16": {"FP16"}, "int8": {"INT8"}}.get(precision, set())
    assert gpu.flags() == ({"TF32"} if precision == "tf32" else set() if strong else weak)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tf32_is_off_unless_asked_for(gpu, model, precision):
    opened(model, precision)
    assert [call["flag"].name for call in gpu.trt.named("IBuilderConfig.clear_flag")] == ["TF32"]


def test_one_profile_suits_batch_1_and_one_the_large_batch(gpu, model):
    opened(model)
    shapes = [
        [tuple(call[bound]) for bound in ("min", "opt", "max")]
        for call in gpu.trt.named("IOptimizationProfile.set_shape")
    ]
    assert shapes == [[(1, *SHAPE)] * 3, [(1, *SHAPE), (BATCH, *SHAPE), (BATCH, *SHAPE)]]
    assert len(gpu.trt.named("IBuilderConfig.add_optimization_profile")) == 2


@pytest.mark.parametrize("count", [1, 2, BATCH])
def test_logits_come_back_however_few_images_there_are(gpu, model, count):
    batch = images(count)
    np.testing.assert_array_equal(opened(model).run(batch), logits(batch))


def test_more_images_than_the_engine_takes_are_refused(gpu, model):
    with pytest.raises(MeasureError, match=f"batch of {BATCH + 1}: the engine takes at most {BATCH} images"):
        opened(model).run(images(BATCH + 1))


@pytest.mark.parametrize("size", [1, BATCH])
def test_a_cuda_graph_gives_the_logits_of_the_plain_inference(gpu, model, size):
    session, batch = opened(model), images(size)
    stopwatches = session.stopwatches(batch)
    assert set(stopwatches) == {"latency", "latency_graph", "gpu", "gpu_graph"}
    execution = session._execution(size)
    for name, stopwatch in stopwatches.items():
        execution._output.host[:] = np.nan
        assert stopwatch() > 0
        execution._output.download()
        np.testing.assert_array_equal(execution._output.host, logits(batch), err_msg=name)


def test_layers_are_profiled_in_an_engine_of_their_own(gpu, model):
    session = opened(model, "int8")
    before = len(gpu.trt.named("Runtime.deserialize_cuda_engine"))
    found = session.layers(images(BATCH))
    assert found == [{"name": "conv1", "kind": "CaskConvolution", "precision": "INT8", "channels": 10, "ms": 0.02}]
    assert len(gpu.trt.named("Runtime.deserialize_cuda_engine")) == before + 1
    assert len(gpu.trt.named("IExecutionContext.profiler")) == 1


def test_the_entropy_calibrator_is_shown_every_image_or_is_said_to_be_missing(gpu, model, calibration):
    if not hasattr(gpu.trt.module, "IInt8EntropyCalibrator2"):
        with pytest.raises(UnavailableError, match=r"int8-entropy: TensorRT 11\.\S+ has no calibrators"):
            opened(model, "int8-entropy", calibration=calibration)
        return
    shown = []

    def build(builder, **_):
        (call,) = gpu.trt.named("IBuilderConfig.int8_calibrator")
        size = call["value"].get_batch_size()
        while (pointers := call["value"].get_batch(["x"])) is not None:
            shown.append(gpu.cuda.array(pointers[0], (size, *SHAPE), np.float32).copy())
        return b"plan"

    gpu.trt.returns("Builder.build_serialized_network", build)
    opened(model, "int8-entropy", calibration=calibration).close()
    assert left(gpu) == {}
    np.testing.assert_array_equal(np.concatenate(shown), np.load(calibration))
    assert gpu.flags() == {"INT8"}
    kinds = gpu.trt.module.NetworkDefinitionCreationFlag
    (network,) = gpu.trt.named("Builder.create_network")
    assert network["flags"] == 1 << int(kinds.EXPLICIT_BATCH)


def test_an_engine_is_built_once_and_kept_with_what_it_is_bound_to(gpu, model, tmp_path):
    engines = tmp_path / "engines"
    first, second = (opened(model, engines=engines).engine() for _ in range(2))
    assert gpu.built == 1
    assert first == second
    assert (first["tensorrt"], first["gpu"]) == (gpu.trt.module.__version__, "Fake GPU")
    assert first["driver"].endswith(("for CUDA 12.9", "for CUDA 13.5"))
    (path,) = engines.glob("*.engine")
    assert path.stat().st_size == first["size_bytes"]


@pytest.mark.parametrize("stale", ["plan", "facts", "gone", "driver", "file", "build"])
def test_a_stale_engine_is_built_again(gpu, model, tmp_path, stale, monkeypatch):
    engines = tmp_path / "engines"
    opened(model, engines=engines)
    (path,) = engines.glob("*.engine")
    facts = path.with_suffix(".json")
    settings = {"engines": engines}
    if stale == "plan":
        path.write_bytes(b"another")
    elif stale == "facts":
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "gpu": "Another GPU"}))
    elif stale == "gone":
        facts.unlink()
    elif stale == "driver":
        monkeypatch.setattr(sys.modules["cuda.bindings.runtime"], "cudaDriverGetVersion", lambda: (0, 12080))
    elif stale == "file":
        (tmp_path / "model.onnx").write_bytes(b"another ONNX file")
    else:
        settings["build"] = 1
    opened(model, **settings)
    assert gpu.built == 2


def test_a_timing_cache_is_handed_on(gpu, model, tmp_path):
    for precision in ("fp32", "tf32"):
        opened(model, precision, engines=tmp_path / "engines")
    given = [bytes(call["serialized_timing_cache"]) for call in gpu.trt.named("IBuilderConfig.create_timing_cache")]
    assert given == [b"", b"kernels"]


def test_tactic_sources_can_be_named(gpu, model, monkeypatch):
    opened(model)
    assert gpu.trt.named("IBuilderConfig.set_tactic_sources") == []
    monkeypatch.setenv(engine.TACTIC_SOURCES, "EDGE_MASK_CONVOLUTIONS,JIT_CONVOLUTIONS")
    opened(model)
    sources = gpu.trt.module.TacticSource
    bits = 1 << int(sources.EDGE_MASK_CONVOLUTIONS) | 1 << int(sources.JIT_CONVOLUTIONS)
    assert gpu.trt.named("IBuilderConfig.set_tactic_sources") == [{"tactic_sources": bits}]


def test_an_unknown_tactic_source_is_said(gpu, model, monkeypatch):
    monkeypatch.setenv(engine.TACTIC_SOURCES, "MAGIC")
    with pytest.raises(MeasureError, match=r"TACTIC_SOURCES 'MAGIC' is unknown: use some of .*JIT_CONVOLUTIONS"):
        opened(model)


def test_a_file_that_does_not_parse_says_why(gpu, model):
    gpu.trt.returns("OnnxParser.parse", False)
    gpu.trt.returns("OnnxParser.num_errors", 1)
    gpu.trt.returns("ParserError.desc", "opset 99")
    with pytest.raises(MeasureError, match=r"model\.onnx is not a file that TensorRT \S+ parses \(opset 99\)"):
        opened(model)


def test_an_engine_that_cannot_be_built_says_why(gpu, model):
    def fail(builder, **_):
        logger = gpu.trt.named("Builder.__init__")[0]["logger"]
        logger.log(gpu.trt.module.ILogger.Severity.ERROR, "no kernel\nfits")

    gpu.trt.returns("Builder.build_serialized_network", fail)
    with pytest.raises(MeasureError, match=r"no engine of \S+ can be built in fp32 \(no kernel fits\)"):
        opened(model)


@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        ({"devices": 0}, r"no NVIDIA GPU"),
        ({"error": "cudaErrorInsufficientDriver"}, r"no usable NVIDIA GPU here .*cudaErrorInsufficientDriver"),
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_without_a_gpu_tensorrt_is_never_called(version, cuda, said, model, monkeypatch):
    gpu = Gpu(version, monkeypatch, **cuda)
    with pytest.raises(NoRuntimeError, match=said):
        opened(model)
    assert gpu.trt.calls == []


def test_without_tensorrt_it_says_so(gpu, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(NoRuntimeError, match="tensorrt cannot be imported"):
        opened(model)


def test_without_cuda_python_it_says_so(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(NoRuntimeError, match="cuda-python cannot be imported"):
        opened(model)


def test_a_measurement_on_a_gpu_is_a_whole_record(gpu, model, tmp_path):
    study = factories.study()
    scored = 6
    labels = np.zeros(scored, np.uint16)
    pack = tmp_path / "pack.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (scored, *SHAPE), dtype=np.uint8)
    np.save(tmp_path / "pack.npy", pixels)
    np.savez(pack, labels=labels, mean=np.zeros(3, np.float32), std=np.ones(3, np.float32))
    np.save(tmp_path / "labels.npy", labels)
    lineage = {
        key: value
        for key, value in factories.measurement(study, "candidate", "int8").model_dump().items()
        if key in ("study", "workload", "model", "dataset", "dataset_sha256", "split", "num_classes", "num_images")
        or key in ("seed", "params_digest", "weights_sha256", "commit", "versions", "variant", "ratio", "num_params")
        or key in ("macs", "weight_bytes", "torch_top1_accuracy", "calibration_sha256", "kind")
    }
    request = factories.request(
        model=model, baseline=model, precision="int8", runtime="tensorrt",
        images=str(tmp_path / "pack.npy"), pack=str(pack),
        predictions=str(tmp_path / "predicted.npy"), torch_labels=str(tmp_path / "labels.npy"),
        onnx_labels=str(tmp_path / "labels.npy"), exact_labels=str(tmp_path / "labels.npy"),
        engines=str(tmp_path / "engines"), batch_size=BATCH, repeats=10, batch_repeats=5, builds=3, lineage=lineage,
    )  # fmt: skip
    record = Measurement.model_validate(measuring.measure(request))
    expected = np.argmax(logits(pixels.astype(np.float32)), axis=1)
    np.testing.assert_array_equal(np.load(tmp_path / "predicted.npy"), expected)
    assert record.device.kind == "cuda"
    assert record.device.name == "Fake GPU"
    assert [clock.name for clock in record.clocks] == ["latency_graph", "gpu", "gpu_graph"]
    assert record.clocks[0].batch_latency.batch_size == BATCH
    assert record.engine is not None
    assert record.engine.onnx_sha256 == record.file_sha256
    assert [build.size_bytes for build in record.builds] == [6, 6, 6]
    assert len({build.sha256 for build in record.builds}) == 3
    assert record.builds[0].sha256 == record.engine.sha256
    assert record.peak_memory_bytes > 0
    assert record.exact_agreement == record.onnx_agreement == np.mean(expected == 0)
    assert set(record.versions) == {"torch", "numpy", "tensorrt", "cuda", "driver"}
    assert left(gpu) == {}, "a build, the layers' own engine or a graph was not freed"
    (process,) = measuring.times(request, number=1)["processes"]
    assert {key: series["n"] for key, series in process.items()} == {
        "latency": 10, "batch_latency": 5, "baseline_latency": 10, "baseline_batch_latency": 5,
    }  # fmt: skip
    assert left(gpu) == {}
