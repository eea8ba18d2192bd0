"""From weights to measured files: a whole variant, its baseline file, its lineage."""

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import factories
import onnx_examples
import projects
from trimlab import formats, paths, records
from trimlab.benchmark import interpreters, runner
from trimlab.benchmark import stage as benchmark_stage
from trimlab.benchmark.targets import Target
from trimlab.config import Normalisation
from trimlab.data.dataset import calibration_images, load_dataset
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.measure import device, runtimes, scoring
from trimlab.measure.errors import NoRuntimeError, UnavailableError
from trimlab.measure.session import Settings
from trimlab.measure.weights import fitted
from trimlab.quantize import onnx_files
from trimlab.quantize import stage as quantize_stage


@pytest.fixture(scope="module")
def study():
    return projects.STUDY


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with projects.measured(tmp_path_factory.mktemp("project")) as folder:
        yield folder


def measured(folder, variant, precision):
    record = records.read(folder / paths.measurement_file(variant, 0, precision, "onnxruntime"))
    assert isinstance(record, records.Measurement)
    return record


def test_the_baseline_file_is_the_unpruned_variants_file_byte_for_byte(project):
    unpruned = (project / paths.onnx_file("small", 0, "fp32")).read_bytes()
    assert (project / onnx_files.baseline_file("small", 0)).read_bytes() == unpruned


def test_a_variant_has_the_files_of_its_precisions(project):
    names = {file.name for file in (project / "quantize/small-r50").iterdir()}
    assert names == {
        "seed0-fp32.onnx",
        "seed0-int8.onnx",
        "seed0-int8-7bit.onnx",
        "seed0-int8-symmetric.onnx",
        "manifest.json",
    }
    names = {file.name for file in (project / "quantize/small").iterdir()}
    assert {"seed0-fp32.onnx", "seed0-fp16.onnx", "seed0-int8.onnx"} <= names


def test_a_measurement_in_mixed_precision_says_how_its_layers_were_chosen(project, study):
    projects.write_pruned("small-mixed", onnx_examples.model("resnet20", seed=1))
    quantize_stage.quantize_variant(study, "small-mixed")
    (record,) = benchmark_stage.benchmark_variant(study, "small-mixed")
    assert record.precision == "int8-mixed"
    assert record.exact_top1_accuracy is not None
    assert record.calibration_sha256 is not None
    flavour = "" if record.weight_bits == 8 else onnx_files.SEVEN_BIT
    file = paths.onnx_file("small-mixed", 0, "int8-mixed", flavour)
    assert record.file_sha256 == sha256_of(file)
    assert record.mixed == records.Mixed.model_validate(onnx_files.read_manifest("small-mixed")["mixed"][file.name])
    assert record.mixed.num_images == len(load_dataset("digits").holdout)
    assert len(record.mixed.sensitivity) == 22


@pytest.mark.parametrize("precision", ["int8", "int8-mixed"])
def test_each_runtime_gets_the_file_of_its_kind(precision):
    names = {runtime: Target("v", 0, precision, runtime).file.name for runtime in ("onnxruntime", "tensorrt")}
    assert names == {"onnxruntime": f"seed0-{precision}.onnx", "tensorrt": f"seed0-{precision}-symmetric.onnx"}
    assert Target("v", 0, precision, "openvino").seven_bit_file.name == f"seed0-{precision}-7bit.onnx"
    assert Target("v", 0, precision, "tensorrt").seven_bit_file is None


def test_the_manifest_names_every_file_by_its_digest(project):
    manifest = json.loads((project / "quantize/small/manifest.json").read_text())
    files = (project / "quantize/small").glob("*.onnx")
    assert manifest["files_sha256"] == {file.name: sha256_of(file) for file in files}
    weights = sha256_of(project / paths.weights_file(paths.pruned("small"), 0))
    assert manifest["weights_sha256"] == {"0": weights}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_record_speaks_of_its_file_and_its_weights(project, study, precision):
    record = measured(project, "small", precision)
    flavour = onnx_files.SEVEN_BIT if record.weight_bits == 7 else ""  # this processor's choice
    file = project / paths.onnx_file("small", 0, precision, flavour)
    assert (record.weight_bits is None) == (precision != "int8")
    assert record.weight_bytes == onnx_files.weight_bytes(file)
    assert record.file_sha256 == sha256_of(file)
    assert record.file_bytes == file.stat().st_size > record.weight_bytes
    assert record.weights_sha256 == sha256_of(project / paths.weights_file(paths.pruned("small"), 0))
    assert record.baseline_file_sha256 == sha256_of(project / onnx_files.baseline_file("small", 0))
    assert record.params_digest == study.measurement_digest("small", record.runtime, precision)
    assert record.device.threads == 1
    assert record.latency.batch_size == 1
    assert record.batch_latency.batch_size == 64
    assert (record.calibration_sha256 is None) == (precision != "int8")


@pytest.mark.parametrize("precision", formats.QUANTIZED)
def test_int8_files_come_in_flavours_with_and_without_training_for_them(precision):
    gpu, cpu = (Target("small", 0, precision, runtime) for runtime in ("tensorrt", "openvino"))
    assert (gpu.file.name, gpu.seven_bit_file) == (f"seed0-{precision}-symmetric.onnx", None)
    assert (cpu.file.name, cpu.seven_bit_file.name) == (f"seed0-{precision}.onnx", f"seed0-{precision}-7bit.onnx")


def test_a_measurement_says_how_the_weights_of_its_file_were_trained(project, study, tmp_path, monkeypatch):
    for stage in ("prune", "quantize"):
        shutil.copytree(project / stage, tmp_path / stage)
    monkeypatch.chdir(tmp_path)
    manifest = onnx_files.read_manifest("small")
    told = factories.learned(study, factories.pruning(study, "small")).model_dump()
    onnx_files.write_manifest("small", {**manifest, "qat": {"0": told}})
    plain, trained = (Target("small", 0, precision, "onnxruntime") for precision in ("int8", "int8-qat"))
    shutil.copyfile(plain.file, trained.file)
    lineage = benchmark_stage._lineage(study, trained)
    assert (lineage["qat"], lineage["weight_bits"]) == (told, 8)
    assert lineage["calibration_sha256"] == manifest["calibration_sha256"]
    assert "qat" not in benchmark_stage._lineage(study, plain)


def test_fp32_files_agree_with_torch(project):
    assert measured(project, "small", "fp32").torch_agreement > 0.995
    assert measured(project, "small", "fp16").torch_agreement > 0.97


def exact_labels(file, images):
    session = runtimes.open_file("onnxruntime", str(file), Settings("int8", 1, len(images), exact=True))
    return session.run(images).argmax(1)


def scored_images(folder):
    runner.write_pack(projects.STUDY.workloads["small"], "test", folder / "scored.npz")
    pack = scoring.load(str(folder / "scored.npy"), str(folder / "scored.npz"), (3, 32, 32))
    return pack.batch(np.arange(len(pack.images))), pack.labels


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("flags", "bits"), [({"avx2"}, 7), ({"avx2", "avx_vnni"}, 8)])
def test_an_int8_record_has_its_own_files_exact_arithmetic(runtime, flags, bits, project, study, monkeypatch, tmp_path):
    """By a processor's flags: what this one's kernels make of either file decides nothing here."""
    monkeypatch.chdir(project)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setattr(device, "is_arm", lambda: False)
    monkeypatch.setattr(device, "processor_flags", lambda: frozenset(flags))
    onnx_examples.no_limit_for_onednn(monkeypatch)
    target = Target("small-r50", 0, "int8", runtime)
    pack = tmp_path / "pack.npz"
    runner.write_pack(projects.STUDY.workloads["small"], "test", pack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "measured", lambda variant: tmp_path / variant)
        asked = fitted(benchmark_stage.request(study, target, pack, tmp_path))
        record = benchmark_stage._measure(target, asked, runner.digest(asked), {}, tmp_path).record
    file = paths.onnx_file("small-r50", 0, "int8", onnx_files.SEVEN_BIT if bits == 7 else "")
    images, labels = scored_images(tmp_path)
    exact = exact_labels(file, images)
    predictions = np.load(tmp_path / f"small-r50/seed0-int8-{runtime}.npy")
    assert (record.weight_bits, record.file_sha256) == (bits, sha256_of(file))
    assert record.exact_top1_accuracy == np.mean(exact == labels)
    assert record.exact_agreement == np.mean(exact == predictions)
    assert record.onnx_agreement == (None if runtime == "onnxruntime" else record.exact_agreement)


def test_images_are_normalised_as_the_workload_says(project, study, monkeypatch, tmp_path):
    """Those that a file is scored on, and those that calibrate it."""
    monkeypatch.chdir(tmp_path)
    for folder in ("prepare", "train", "prune"):
        shutil.copytree(project / folder, folder)
    given = {"mean": [0.25, 0.5, 0.75], "std": [0.5, 0.25, 0.125]}
    workload = study.workloads["small"].model_copy(update={"normalisation": Normalisation.model_validate(given)})
    runner.write_pack(workload, "test", tmp_path / "pack.npz")
    with np.load(tmp_path / "pack.npz") as pack:
        assert {key: pack[key].tolist() for key in ("mean", "std")} == given
    quantize_stage.export_workload(study.model_copy(update={"workloads": {"small": workload}}), "small")
    lowest = np.load(onnx_files.calibration_file("small")).min(axis=(0, 2, 3))
    np.testing.assert_allclose(lowest, [-0.5, -2, -6], rtol=1e-6)  # black pixels


def test_calibration_images_are_normalised_in_parts(project, study, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project / "prepare", "prepare")
    shutil.copytree(project / "train", "train")
    monkeypatch.setattr(quantize_stage, "_AT_ONCE", 7)
    quantize_stage.export_workload(study, "small")
    dataset = load_dataset("digits")
    drawn = calibration_images(dataset, study.quantization.calibration_images)
    assert len(drawn) % 7, "the last part is to be smaller"
    expected = dataset.normalise(dataset.train_images[drawn]).numpy()
    np.testing.assert_array_equal(onnx_files.read_calibration("small"), expected)


@pytest.mark.parametrize("split", ["test", "holdout"])
def test_a_pack_holds_the_scored_images_in_order(split, project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    runner.write_pack(projects.STUDY.workloads["small"], split, tmp_path / "pack.npz")
    pack = scoring.load(str(tmp_path / "pack.npy"), str(tmp_path / "pack.npz"), (3, 32, 32))
    scored = load_dataset("digits").scored(split)
    np.testing.assert_array_equal(pack.images, scored.read(torch.arange(len(scored))))
    np.testing.assert_array_equal(pack.labels, scored.labels)


def test_a_record_carries_its_weights_normalisation(project):
    pruning = records.read(project / paths.record_file(paths.pruned("small"), 0))
    assert measured(project, "small", "fp32").normalisation == pruning.normalisation
    assert pruning.normalisation.model_dump() == projects.NORMALISATION


def test_a_file_is_timed_in_as_many_processes_as_the_study_asks_for(project, study, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    asked = study.model_copy(update={"benchmark": study.benchmark.model_copy(update={"processes": 2})})
    target, pack = Target("small-r50", 0, "fp32", "onnxruntime"), tmp_path / "pack.npz"
    runner.write_pack(study.workloads["small"], "test", pack)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "measured", lambda variant: tmp_path / variant)
        request = fitted(benchmark_stage.request(asked, target, pack, tmp_path))
        assert runner.digest(request) != runner.digest(request._replace(processes=1))
        record = benchmark_stage._measure(target, request, runner.digest(request), set(), tmp_path).record
    assert [process.latency.n for process in record.processes] == [10, 10]
    assert record.latency.n == 20
    assert record.params_digest != study.measurement_digest("small-r50", "onnxruntime", record.precision)
    assert records.read(tmp_path / "small-r50/seed0-fp32-onnxruntime.json") == record


def test_other_precisions_have_no_exact_arithmetic_of_their_own(project):
    for precision in ("fp32", "fp16"):
        record = measured(project, "small", precision)
        assert record.exact_top1_accuracy is record.exact_agreement is record.weight_bits is None


def test_agreement_is_the_share_of_equal_labels(project):
    record = measured(project, "small-r50", "int8")
    path = project / paths.measurement_file("small-r50", 0, "int8", "onnxruntime")
    predictions = np.load(path.with_suffix(".npy"))
    labels = np.load(project / paths.torch_labels_file("small-r50", 0))
    assert record.torch_agreement == np.mean(predictions == labels)
    assert record.predictions_sha256 == sha256_of(path.with_suffix(".npy"))


def test_measuring_again_gives_the_same_record_but_for_times(project, study, monkeypatch):
    monkeypatch.chdir(project)
    before = records.stable(measured(project, "small-r50", "int8"))
    quantize_stage.quantize_variant(study, "small-r50")
    (again,) = benchmark_stage.benchmark_variant(study, "small-r50")
    assert records.stable(again) == before


def test_a_variant_without_precisions_is_measured_as_nothing(project):
    files = [file.name for file in (project / "benchmark/small-r80").iterdir()]
    assert files == ["index.json"]
    assert json.loads((project / "benchmark/small-r80/index.json").read_text())["records"] == []


def test_a_variant_without_precisions_loads_no_torch(project):
    code = (
        "import sys\nfrom trimlab import config\nfrom trimlab.benchmark import stage as benchmark\n"
        "from trimlab.quantize import stage as quantize\n"
        "study = config.Params.model_validate_json(sys.stdin.read())\n"
        "quantize.quantize_variant(study, 'small-r80')\n"
        "benchmark.benchmark_variant(study, 'small-r80')\n"
        "sys.exit('torch' in sys.modules)"
    )
    dumped = projects.STUDY.model_dump_json()
    subprocess.run([sys.executable, "-c", code], input=dumped, text=True, cwd=project, check=True)


def test_another_interpreter_can_be_named(project, study, monkeypatch):
    monkeypatch.chdir(project)
    monkeypatch.setenv("TRIMLAB_PYTHON", "no-such-python")
    with pytest.raises(UserError, match="interpreter 'no-such-python' does not run"):
        benchmark_stage.benchmark_variant(study, "small-r50")


def interpreter(folder, script):
    """An executable that stands for a Python."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("script", ["true", 'echo "$@"'])
def test_an_interpreter_that_is_no_python_is_named(script, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMLAB_PYTHON", interpreter(tmp_path, script))
    with pytest.raises(UserError, match=r"interpreter '.*/python' printed no JSON: set TRIMLAB_PYTHON to a Python"):
        interpreters.run_measure(factories.request(model="a.onnx"))
    with pytest.raises(UserError, match=r"interpreter '.*/python' printed no JSON: set TRIMLAB_PYTHON to a Python"):
        interpreters.find_runtimes(["onnxruntime"])


def test_what_a_runtime_prints_need_not_be_utf8(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMLAB_PYTHON", interpreter(tmp_path, r"printf 'caf\351\n' >&2; exit 1"))
    with pytest.raises(UserError, match=r"measuring a\.onnx failed with exit code 1: caf\ufffd"):
        interpreters.run_measure(factories.request(model="a.onnx"))


def test_a_killed_measurement_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMLAB_PYTHON", interpreter(tmp_path, "echo timing batch 64 >&2; kill -9 $$"))
    with pytest.raises(UserError, match=r"measuring a\.onnx failed with exit code -9: timing batch 64"):
        interpreters.run_measure(factories.request(model="a.onnx"))


def test_a_record_names_the_python_that_measured(project, study, monkeypatch):
    monkeypatch.chdir(project)
    path = paths.measurement_file("small-r50", 0, "int8", "onnxruntime")
    before = path.read_bytes()
    monkeypatch.setenv("TRIMLAB_PYTHON_ONNXRUNTIME", sys.executable)
    monkeypatch.setenv("TRIMLAB_PYTHON", "no-such-python")
    (record,) = benchmark_stage.benchmark_variant(study, "small-r50")
    path.write_bytes(before)
    assert record.device.system.endswith(f"Python {platform.python_version()}")
    assert measured(project, "small-r50", "int8").device.system.endswith(f"Python {platform.python_version()}")


def test_a_broken_file_is_one_line(tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"bad\.onnx is not a file that onnxruntime opens") as caught:
        interpreters.run_measure(factories.request(model=str(tmp_path / "bad.onnx")))
    assert "\n" not in str(caught.value)


def scored_in_onnxruntime(lines):
    """The files that ONNX Runtime was asked to label so that another runtime can be compared with it."""
    return [line.split()[1] for line in lines if line.startswith("scoring seed")]


def test_what_the_stage_before_did_not_find_is_not_asked_for(project, study, monkeypatch, capsys):
    monkeypatch.chdir(project)
    path = paths.index_file("small-r50")
    before = path.read_bytes()
    asked = study.benchmark.model_copy(update={"runtimes": ["tensorrt", "onnxruntime"], "warmup": 2})
    measured = benchmark_stage.benchmark_variant(study.model_copy(update={"benchmark": asked}), "small-r50")
    path.write_bytes(before)
    assert [record.runtime for record in measured] == ["onnxruntime"]
    lines = capsys.readouterr().err.splitlines()
    assert len(scored_in_onnxruntime(lines)) == 1, "ONNX Runtime scored a file for a runtime that is not here"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "here.json lists no runtimes"),
        ("{", "here.json lists no runtimes"),
        ("[]", "here.json lists no runtimes"),
        ('{"runtimes": 3}', "here.json lists no runtimes"),
        ('{"runtimes": ["openvino"]}', "here.json lists no runtime of onnxruntime"),
    ],
)
def test_without_the_list_of_runtimes_nothing_is_measured(content, message, project, study, monkeypatch):
    monkeypatch.chdir(project)
    path = paths.runtimes_file()
    before = path.read_text()
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=rf"runtimes/{message}.*: run `dvc repro -f -s runtimes`"):
        benchmark_stage.benchmark_variant(study, "small-r50")
    path.write_text(before)


def test_a_runtime_that_is_gone_since_is_no_result(project, study, monkeypatch):
    """Else a cell without it would be restored on every machine."""

    def gone(request):
        raise NoRuntimeError("onnxruntime cannot be imported")

    monkeypatch.chdir(project)
    monkeypatch.setattr(interpreters, "run_measure", gone)
    with pytest.raises(UserError, match=r"onnxruntime is no longer available here .*: run `dvc repro -f -s runtimes`"):
        benchmark_stage.benchmark_variant(study, "small-r50")


@pytest.mark.parametrize("wanted", [["openvino"], ["onnxruntime", "openvino"]])
def test_onnxruntime_labels_a_file_once(wanted, project, study, monkeypatch, capsys):
    monkeypatch.chdir(project)
    onnx_examples.no_limit_for_onednn(monkeypatch)  # else OpenVINO may run another file than ONNX Runtime
    path = paths.index_file("small-r50")
    before = path.read_bytes()
    asked = study.benchmark.model_copy(update={"runtimes": wanted})
    measured = benchmark_stage.benchmark_variant(study.model_copy(update={"benchmark": asked}), "small-r50")
    path.write_bytes(before)
    assert len(scored_in_onnxruntime(capsys.readouterr().err.splitlines())) == 1
    assert [record.runtime for record in measured] == wanted
    assert len({record.exact_top1_accuracy for record in measured}) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("quantize/small-r50/manifest.json", None, r"manifest\.json is not a manifest \(FileNotFoundError"),
        ("quantize/small-r50/manifest.json", b"{", r"manifest\.json is not a manifest \(JSONDecodeError"),
        ("quantize/small-r50/manifest.json", b"[]", r"manifest\.json is not a manifest \(TypeError"),
        ("quantize/small-r50/manifest.json", b"{}", r"manifest\.json is not a manifest \(KeyError"),
        ("quantize/small-r50/seed0-int8.onnx", None, r"seed0-int8\.onnx is not a complete ONNX file"),
        ("quantize/small-r50/seed0-int8.onnx", 1000, r"seed0-int8\.onnx is not a complete ONNX file"),
        ("quantize/small-r50/seed0-int8-7bit.onnx", 1000, r"seed0-int8-7bit\.onnx is not a complete ONNX file"),
        ("export/small/seed0-baseline.onnx", None, r"seed0-baseline\.onnx cannot be read \(No such file"),
        (
            "export/small/seed0-baseline.onnx",
            1000,
            r"seed0-baseline\.onnx is not a file that onnxruntime opens",
        ),
        ("prune/small-r50/model/seed0-labels.npy", None, r"seed0-labels\.npy cannot be read \(No such file"),
        ("prune/small-r50/model/seed0-labels.npy", 50, r"seed0-labels\.npy holds no labels"),
        ("prune/small-r50/model/seed0-labels.npy", b"", r"seed0-labels\.npy holds no labels"),
        ("prune/small-r50/model/seed0.json", 50, r"seed0\.json does not say what its weights achieve"),
    ],
)
def test_a_missing_or_broken_input_is_one_line(name, content, message, project, study, monkeypatch, tmp_path):
    for folder in ("prepare", "prune", "export", "quantize", "runtimes"):
        shutil.copytree(project / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    file = Path(name)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:content] if isinstance(content, int) else content)
    with pytest.raises(UserError, match=message) as caught:
        benchmark_stage.benchmark_variant(study, "small-r50")
    assert "\n" not in str(caught.value)


def test_only_what_is_asked_otherwise_is_measured_again(project, study, monkeypatch):
    monkeypatch.chdir(project)
    before = {path: path.read_bytes() for path in paths.measured("small-r50").iterdir()}
    measure, asked = interpreters.run_measure, []
    monkeypatch.setattr(interpreters, "run_measure", lambda request: asked.append(request.runtime) or measure(request))

    def measured(**changes):
        asked.clear()
        benchmark = study.benchmark.model_copy(update=changes)
        benchmark_stage.benchmark_variant(study.model_copy(update={"benchmark": benchmark}), "small-r50")
        return list(asked)

    try:
        benchmark_stage.benchmark_variant(study, "small-r50")
        assert set(measured()) == {"onnxruntime"}, "nothing is new: the cell was forced"
        files = len(asked)
        assert measured(runtimes=["onnxruntime", "openvino"]) == ["openvino"] * files
        assert measured(runtimes=["onnxruntime"]) == []
        assert measured(builds=3, gpu_batch_size=64) == [], "neither is a setting of ONNX Runtime's"
        assert measured(warmup=2) == ["onnxruntime"] * files
    finally:
        for path in [*paths.measured("small-r50").iterdir()]:
            path.unlink()
        for path, content in before.items():
            path.write_bytes(content)


def test_what_dvc_was_killed_before_it_saved_is_not_measured_again(project, study, monkeypatch):
    monkeypatch.chdir(project)
    measure, asked = interpreters.run_measure, []
    monkeypatch.setattr(
        interpreters, "run_measure", lambda request: asked.append(request.precision) or measure(request)
    )
    once = study.model_copy(update={"benchmark": study.benchmark.model_copy(update={"warmup": 4})})
    before = {path: path.read_bytes() for path in paths.measured("small-r50").iterdir()}
    saved = "schema: '2.0'\nstages:\n  benchmark@small-r50:\n    cmd: python stages/benchmark.py small-r50\n"
    try:
        Path("dvc.lock").write_text("schema: '2.0'\nstages:\n")
        made = benchmark_stage.benchmark_variant(once, "small-r50")
        files = len(asked)
        assert benchmark_stage.benchmark_variant(once, "small-r50") == made, "DVC has saved nothing since"
        assert len(asked) == files
        Path("dvc.lock").write_text(saved)
        benchmark_stage.benchmark_variant(once, "small-r50")
        assert len(asked) == 2 * files, "DVC has saved it: the cell was forced"
    finally:
        Path("dvc.lock").unlink()
        for path, content in before.items():
            path.write_bytes(content)


def test_a_forced_cell_is_known_where_this_machine_lacks_a_precision(project, study, monkeypatch):
    monkeypatch.chdir(project)
    before = paths.index_file("small-r50").read_bytes()
    measure, asked = interpreters.run_measure, []

    def lacking(request):
        if request.precision == "fp32":
            raise UnavailableError("fp32 is not available on this device")
        asked.append(request.precision)
        return measure(request)

    monkeypatch.setattr(interpreters, "run_measure", lacking)
    once = study.model_copy(update={"benchmark": study.benchmark.model_copy(update={"warmup": 3})})
    for _ in range(2):
        benchmark_stage.benchmark_variant(once, "small-r50")
    paths.index_file("small-r50").write_bytes(before)
    assert asked == ["int8", "int8"]


def test_a_file_that_fails_costs_no_other_its_measurement(project, study, monkeypatch):
    monkeypatch.chdir(project)
    before = paths.index_file("small").read_bytes()
    measure, asked = interpreters.run_measure, []

    def failing(request):
        asked.append(request.precision)
        if request.precision == "fp16" and asked.count("fp16") == 1:
            raise UserError("measuring it failed with exit code -11")
        return measure(request)

    monkeypatch.setattr(interpreters, "run_measure", failing)
    with pytest.raises(UserError, match="exit code -11; what was measured is kept for the next call"):
        benchmark_stage.benchmark_variant(study, "small")
    assert asked == ["fp32", "fp16", "int8"]
    kept = {path.stem: records.read(path).created for path in paths.kept_measurements("small")}
    assert len(kept) == 2
    found = benchmark_stage.benchmark_variant(study, "small")
    paths.index_file("small").write_bytes(before)
    assert asked == ["fp32", "fp16", "int8", "fp16"]
    assert set(kept.values()) <= {record.created for record in found}
    assert [record.precision for record in found] == ["fp32", "fp16", "int8"]
    assert paths.kept_measurements() == []


def test_a_process_deletes_what_itself_kept_alone(project, study, monkeypatch):
    """Two queue workers may be at work on one variant with other params."""
    monkeypatch.chdir(project)
    before = paths.index_file("small-r50").read_bytes()
    others = paths.kept_measurement("small-r50", "0" * 64)
    others.parent.mkdir(parents=True, exist_ok=True)
    for file in (others, others.with_suffix(".npy")):
        file.write_text("another worker's")
    benchmark_stage.benchmark_variant(study, "small-r50")
    paths.index_file("small-r50").write_bytes(before)
    assert paths.kept_measurements("small-r50") == [others]
    assert others.with_suffix(".npy").exists()
    others.unlink()


@pytest.mark.parametrize("gone", [".json", ".npy"])
def test_a_kept_measurement_that_another_process_deletes_is_measured_anew(gone, project, study, monkeypatch):
    monkeypatch.chdir(project)
    before = paths.index_file("small-r50").read_bytes()
    take, run_measure, measured = benchmark_stage._take, interpreters.run_measure, []

    def deleted(kept, path):
        if kept.exists():
            kept.with_suffix(gone).unlink()
        return take(kept, path)

    def counted(request):
        measured.append(request.model)
        return run_measure(request)

    monkeypatch.setattr(benchmark_stage, "_take", deleted)
    monkeypatch.setattr(interpreters, "run_measure", counted)
    monkeypatch.setattr(benchmark_stage, "_write_index", lambda *_: 1 / 0)  # a kill
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            benchmark_stage.benchmark_variant(study, "small-r50")
    assert len(measured) == 2
    monkeypatch.undo()
    monkeypatch.chdir(project)
    benchmark_stage.benchmark_variant(study, "small-r50")
    paths.index_file("small-r50").write_bytes(before)


def test_a_kept_measurement_of_another_file_is_not_taken(project, study, monkeypatch):
    monkeypatch.chdir(project)
    target = Target("small", 0, "int8", "onnxruntime")
    asked = benchmark_stage.request(study, target, project / "pack.npz", project)
    digest = runner.digest(asked)
    elsewhere = {
        "images": "a.npy",
        "pack": "a.npz",
        "engines": "engines",
        "exact_labels": "a.npy",
        "predictions": "b.npy",
    }
    assert runner.digest(asked._replace(**elsewhere)) == digest
    for change in ({"repeats": 1}, {"model": str(project / paths.onnx_file("small", 0, "fp32"))}, {"lineage": {}}):
        assert runner.digest(asked._replace(**change)) != digest
    with monkeypatch.context() as patched:
        patched.setattr(device, "processor_name", lambda: "another machine, with a copy of this project")
        assert runner.digest(asked) != digest
    monkeypatch.setattr(runner.fingerprint, "of", lambda module: "edited")
    assert runner.digest(asked) != digest


def test_an_impossible_figure_is_one_line(project, study, monkeypatch):
    monkeypatch.chdir(project)
    measure = interpreters.run_measure
    monkeypatch.setattr(interpreters, "run_measure", lambda request: {**measure(request), "top1_accuracy": 7.5})
    with pytest.raises(UserError, match=r"what onnxruntime gave for .*top1_accuracy 7\.5") as error:
        benchmark_stage.benchmark_variant(study, "small-r50")
    assert len(str(error.value).splitlines()) == 1


def test_openvino_computes_the_same_files_in_its_own_precisions(project, study, monkeypatch):
    monkeypatch.chdir(project)
    path = paths.index_file("small")
    before = path.read_bytes()
    asked = study.benchmark.model_copy(update={"runtimes": ["openvino"]})
    measured = benchmark_stage.benchmark_variant(study.model_copy(update={"benchmark": asked}), "small")
    path.write_bytes(before)
    found = {record.precision: record for record in measured}
    assert set(found) == {"fp32", "fp16", "int8"} | ({"bf16"} if device.has_native_bf16() else set())
    assert found["fp32"].onnx_agreement > 0.995
    for record in measured:
        own = "FP32" if record.precision == "fp16" else record.precision.upper()
        (linear,) = [layer for layer in record.batch_layers if layer.kind.startswith("FullyConnected")]
        assert (linear.precision, linear.channels) == (own, 10)
        convolutions = [layer for layer in record.batch_layers if layer.kind == "Convolution"]
        assert len(convolutions) >= 19
        assert {layer.precision for layer in convolutions} == {own}
        assert {layer.channels for layer in convolutions} <= {16, 32, 64}


def test_calibration_images_take_turns_by_class(project, study):
    images = np.load(project / onnx_files.calibration_file("small"))
    assert images.shape == (20, 1, 32, 32) or images.shape == (20, 3, 32, 32)
    assert images.dtype == np.float32
