"""What only a GPU with TensorRT can show. TRIMLAB_PYTHON_TENSORRT names the Python that has it, if not this one."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import projects
from trimlab import paths, records
from trimlab.benchmark import interpreters, runner
from trimlab.benchmark import stage as benchmark_stage
from trimlab.benchmark.targets import Target, targets
from trimlab.data import stage as data_stage
from trimlab.data.dataset import load_dataset
from trimlab.models import checkpoint
from trimlab.quantize import stage as quantize_stage
from trimlab.train import stage as train_stage

pytestmark = pytest.mark.gpu
BATCH = 256
STUDY = projects.STUDY.model_copy(
    update={
        "benchmark": projects.STUDY.benchmark.model_copy(
            update={"runtimes": ["tensorrt", "onnxruntime"], "gpu_batch_size": BATCH, "builds": 2}
        ),
        "training": {"short": projects.STUDY.training["short"].model_copy(update={"epochs": 30})},
    }
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A trained ResNet-20, exported, and measured on all digits: so many that one image is less than 0.1 points."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("gpu")
        patch.chdir(folder)
        patch.setenv("DVC_ROOT", str(folder))
        data_stage.prepare("digits", STUDY.datasets["digits"], STUDY.data)
        train_stage.train_workload(STUDY, "small", 0, lambda _: None)
        projects.write_pruned("small", checkpoint.load(paths.weights_file(paths.trained("small"), 0)))
        quantize_stage.export_workload(STUDY, "small")
        quantize_stage.quantize_variant(STUDY, "small")
        yield folder


@pytest.fixture(scope="module")
def measured(project):
    """Every record of the variant, by runtime and precision, scored on all digits."""
    dataset, pack = load_dataset("digits"), project / "all.npz"
    runner.write_pack(STUDY.workloads["small"], "test", project / "test.npz")
    images = np.concatenate([dataset.train_images.numpy(), dataset.test_images.numpy()])
    labels = np.concatenate([dataset.train_labels.numpy(), dataset.test_labels.numpy()])
    np.save(project / "all.npy", images)
    np.savez(pack, **{**np.load(project / "test.npz"), "labels": labels})
    np.save(project / "torch.npy", labels)
    found = {}
    for target in targets(STUDY, "small", ["tensorrt", "onnxruntime"]):
        request = benchmark_stage.request(STUDY, target, pack, project)._replace(
            predictions=str(project / f"{target.precision}-{target.runtime}.npy"),
            torch_labels=str(project / "torch.npy"),
        )
        runner.score(request)
        record = records.Measurement.model_validate(interpreters.run_measure(request))
        found[target.runtime, target.precision] = record
    return found


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16", "int8", "int8-entropy"])
def test_an_engine_is_as_accurate_as_onnxruntime(measured, precision):
    record = measured["tensorrt", precision]
    reference = record.onnx_top1_accuracy
    assert reference > 0.9
    assert abs(record.top1_accuracy - reference) <= 0.002


@pytest.mark.parametrize(("precision", "least"), [("int8", 1.0), ("int8-entropy", 0.5)])
def test_int8_layers_are_really_int8(measured, precision, least):
    """Q/DQ asks for INT8; after calibration TensorRT may leave a layer in FP32 where that is faster."""
    weighted = [layer for layer in measured["tensorrt", precision].batch_layers if layer.channels is not None]
    convolutions = [layer for layer in weighted if "onv" in layer.kind + layer.name]
    assert len(convolutions) >= 15
    assert sum(layer.precision == "INT8" for layer in convolutions[1:]) >= least * len(convolutions[1:])


def test_strict_fp32_uses_no_tensor_cores(measured):
    precisions = {layer.precision for layer in measured["tensorrt", "fp32"].batch_layers if layer.channels is not None}
    assert precisions == {"FP32"}


def test_a_gpu_knows_more_clocks_and_they_are_in_order(measured):
    record = measured["tensorrt", "fp16"]
    clocks = {clock.name: clock for clock in record.clocks}
    assert clocks["gpu_graph"].latency.p50_ms <= clocks["gpu"].latency.p50_ms * 1.1
    assert clocks["gpu"].batch_latency.p50_ms < record.batch_latency.p50_ms
    assert len(record.builds) == 2


def test_a_kept_engine_predicts_the_same(project, measured):
    engines = project / ".dvc/tmp/trimlab/engines"
    before = {path.name: path.stat().st_mtime_ns for path in engines.glob("*.engine")}
    target = Target("small", 0, "int8", "tensorrt")
    again = project / "again.npy"
    request = benchmark_stage.request(STUDY, target, project / "all.npz", project)
    changes = {"predictions": str(again), "torch_labels": str(project / "torch.npy"), "builds": 1}
    interpreters.run_measure(request._replace(**changes))
    np.testing.assert_array_equal(np.load(again), np.load(project / "int8-tensorrt.npy"))
    assert {path.name: path.stat().st_mtime_ns for path in engines.glob("*.engine")} == before


GRAPH = """
import json, sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from trimlab.measure import runtimes
from trimlab.measure.session import Settings

session = runtimes.open_file("tensorrt", sys.argv[2], Settings("fp16", 1, int(sys.argv[3])))
differences = []
for size in (1, int(sys.argv[3])):
    batch = np.random.default_rng(size).standard_normal((size, *session.image_shape)).astype(np.float32)
    plain = session.run(batch)
    graph = session.stopwatches(batch)["latency_graph"]
    execution = session._execution(size)
    execution._output.host[:] = np.nan
    graph()
    differences.append(float(np.abs(execution._output.host - plain).max()))
print(json.dumps(differences))
"""


def test_a_cuda_graph_computes_what_the_plain_inference_does(project):
    interpreter = os.environ.get("TRIMLAB_PYTHON_TENSORRT", sys.executable)
    source = interpreters.source()
    file = paths.onnx_file("small", 0, "fp16")
    command = [interpreter, "-c", GRAPH, str(source), str(file), str(BATCH)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [0.0, 0.0]
