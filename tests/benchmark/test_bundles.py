"""A bundle: measures on a Python with none of ours, and its records are taken like a stage's."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile

import pytest

import factories
import projects
from trimlab import cli, config, paths, records
from trimlab.benchmark import bundles
from trimlab.errors import UserError
from trimlab.measure import bundle as carried
from trimlab.records import imports


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with projects.measured(tmp_path_factory.mktemp("bundles")) as folder:
        yield folder


@pytest.fixture(scope="module")
def bundle(project):
    path = project / "out/small.zip"
    assert bundles.write(projects.STUDY, ["small-r50"], ["onnxruntime", "tensorrt"], path) == 3
    return path


@pytest.fixture(scope="module")
def brought(bundle, tmp_path_factory):
    """What the bundle wrote on a device: a folder elsewhere, a Python that sees neither ours nor the checkout."""
    device = tmp_path_factory.mktemp("device")
    done = run(bundle, device)
    assert done.returncode == 0, done.stderr
    return device, done.stderr


def record_of(folder):
    (path,) = (folder / "records").glob("*.json")
    return path


def run(bundle, folder, *options):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TRIMLAB", "DVC"))}
    command = [sys.executable, "-s", str(bundle), *options]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


def test_a_bundle_holds_every_content_once_and_no_more_of_ours_than_measure(bundle):
    with zipfile.ZipFile(bundle) as packed:
        names = packed.namelist()
    assert len(names) == len(set(names))
    ours = {name.split("/")[1] for name in names if name.startswith("trimlab/")}
    assert ours == {"__init__.py", "formats.py", "measure"}


def test_it_measures_what_the_device_has_and_says_what_it_has_not(brought):
    folder, said = brought
    assert record_of(folder).name.startswith("small-r50-seed0-int8-onnxruntime-")
    assert "tensorrt is not available here: " in said
    assert said.endswith("1 measured, 0 found, of 3 in all: copy records back and `trimlab import` it\n")


def test_it_says_of_each_measurement_what_came_out(brought):
    folder, said = brought
    record = records.read(record_of(folder))
    expected = f"  top-1 {100 * record.top1_accuracy:.2f} %, {record.latency.p50_ms:.3g} ms at batch 1, "
    assert f"{expected}{record.batch_latency.images_per_second:,.0f} images/s at batch 64" in said.splitlines()


def test_its_record_is_the_stages_but_for_times(project, brought):
    folder, _ = brought
    ours = records.read(project / paths.measurement_file("small-r50", 0, "int8", "onnxruntime"))
    theirs = records.read(record_of(folder))
    assert records.stable(theirs) == records.stable(ours)


def test_its_records_are_imported_with_those_of_the_weights(project, brought, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = brought
    with pytest.raises(UserError, match="which no training or pruning record of study"):
        imports.import_records([folder / "records"])
    pruned = project / paths.record_file(paths.pruned("small-r50"), 0)
    assert imports.import_records([pruned, folder / "records"]).new == 2


def test_what_has_a_record_is_not_measured_again(bundle, brought):
    folder, _ = brought
    before = record_of(folder).read_bytes()
    done = run(bundle, folder, "--runtime", "onnxruntime")
    assert done.returncode == 0
    assert "0 measured, 1 found, of 1 in all" in done.stderr
    assert record_of(folder).read_bytes() == before


def test_another_device_and_another_bundle_do_not_count_a_folders_records_as_theirs(bundle, brought, tmp_path):
    folder, _ = brought
    shutil.copytree(folder / "records", tmp_path / "records")
    done = run(bundle, tmp_path, "--runtime", "onnxruntime", "--threads", "2")
    assert "1 measured, 0 found, of 1 in all" in done.stderr
    other = edited(bundle, tmp_path / "other.zip", lambda requests: [r.update(repeats=11) for r in requests])
    done = run(other, tmp_path, "--runtime", "onnxruntime")
    assert "1 measured, 0 found, of 1 in all" in done.stderr
    found = [json.loads(path.read_text()) for path in (tmp_path / "records").glob("*.json")]
    assert sorted((record["device"]["threads"], record["latency"]["n"]) for record in found) == [
        (1, 10),
        (1, 11),
        (2, 10),
    ]


def edited(bundle, path, change):
    """Write a copy of a bundle with other requests."""
    with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "bundle.json":
                requests = json.loads(content)
                changed = change(requests)
                content = changed if isinstance(changed, bytes) else json.dumps(requests).encode()
            target.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda requests: b"{", "JSONDecodeError"),
        (lambda requests: b'{"a": 1}', "no list"),
        (lambda requests: b"[3]", "bundle.json is not a request (no JSON object)"),
        (lambda requests: b"[" * 100_000, "RecursionError"),
        (lambda requests: requests[0].pop("warmup"), "lacks warmup"),
        (lambda requests: requests[0].update(model="../../secret.onnx"), "is not in it"),
        (lambda requests: requests[0].update(model="files/gone.onnx"), "is not in it"),
        (lambda requests: requests[0]["lineage"].pop("variant"), "KeyError"),
        (lambda requests: requests[0]["lineage"].update(variant="../up"), "is not a name"),
        (lambda requests: requests[0]["lineage"].update(seed="../up"), "seed"),
        (lambda requests: requests[0]["lineage"].update(seed=None), "seed None is not a whole number"),
        (lambda requests: requests[0].update(threads=-3), "threads -3 is not a whole number"),
        (lambda requests: requests[0].update(seven_bit={"model": 3}), "seven_bit is not a JSON object"),
    ],
)
def test_an_altered_bundle_is_one_line(change, said, bundle, tmp_path):
    done = run(edited(bundle, tmp_path / "altered.zip", change), tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not (tmp_path / "records").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--runtime", "abacus"], "error: --runtime 'abacus' is not in this bundle: use some of onnxruntime, tensorrt"),
        (["--records", "file"], "error: --records file is not a folder (["),
        (["--records", "file/below"], "error: --records file/below is not a folder (["),
        (["--threads", "-3"], "argument --threads: '-3' is not a whole number in [0, 1024]"),
    ],
)
def test_a_wrong_option_is_said_before_anything_is_measured(options, said, bundle, tmp_path):
    (tmp_path / "file").touch()
    done = run(bundle, tmp_path, *options)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_record_that_cannot_be_written_leaves_nothing_behind(tmp_path, monkeypatch, capsys):
    def measured(interpreter, source, request):
        carried.Path(request.predictions).touch()
        took = {"p50_ms": 1.0, "batch_size": 1}
        return {"top1_accuracy": 1.0, "latency": took, "batch_latency": took}

    def full(record, path):
        path.with_suffix(".tmp").touch()
        raise OSError("No space left on device")

    monkeypatch.setattr(carried.isolated, "run", measured)
    monkeypatch.setattr(carried, "_write", full)
    path = tmp_path / "a.json"
    assert carried._record(factories.request(predictions=str(path.with_suffix(".npy"))), path, tmp_path) == "failed"
    assert "error: No space left on device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_carries_both_int8_files_and_the_device_chooses(bundle, brought):
    with zipfile.ZipFile(bundle) as packed:
        (request,) = [one for one in json.loads(packed.read("bundle.json")) if one["runtime"] == "onnxruntime"]
        models = [hashlib.sha256(packed.read(part["model"])).hexdigest() for part in (request, request["seven_bit"])]
        assert packed.read(request["exact_labels"]) and packed.read(request["seven_bit"]["exact_labels"])
    record = records.read(record_of(brought[0]))
    assert len(set(models)) == 2
    assert record.file_sha256 == models[0 if record.weight_bits == 8 else 1]
    assert record.exact_agreement is not None


@pytest.mark.parametrize("out", [".", "file/x.zip", "pipe", f"{300 * 'x'}.zip"])
def test_a_place_where_no_bundle_can_be_is_one_line(out, project, tmp_path):
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    places = r"--out .* (is a folder: name a file in it|is no regular file: name another|cannot be written \()"
    with pytest.raises(UserError, match=places):
        bundles.write(projects.STUDY, ["small-r50"], ["onnxruntime"], tmp_path / out)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "pipe"}
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(
    ("name", "length"),
    [("quantize/small-r50/seed0-int8.onnx", 1000), ("quantize/small-r50/seed0-fp32.onnx", 0),
     ("export/small/seed0-baseline.onnx", None), ("prune/small-r50/model/seed0-labels.npy", None)],
)  # fmt: skip
def test_a_broken_input_is_one_line_and_leaves_no_half_a_bundle(name, length, project, tmp_path, monkeypatch):
    for folder in ("prepare", "prune", "export", "quantize"):
        shutil.copytree(project / folder, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / name
    file.write_bytes(file.read_bytes()[:length]) if length is not None else file.unlink()
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError) as caught:
        bundles.write(projects.STUDY, ["small-r50"], ["onnxruntime", "tensorrt"], tmp_path / "out/x.zip")
    assert file.name in str(caught.value) and "\n" not in str(caught.value)
    assert list((tmp_path / "out").iterdir()) == []


def test_by_default_a_bundle_measures_in_the_studys_runtimes(project, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "load", lambda: projects.STUDY)
    wanted = []
    monkeypatch.setattr(
        bundles, "write", lambda study, variants, runtimes, path: wanted.append(runtimes) or path.touch()
    )
    cli.bundle(["small-r50"], tmp_path / "x.zip", None)
    cli.bundle(["small-r50"], tmp_path / "x.zip", ["openvino"])
    assert wanted == [["onnxruntime"], ["openvino"]]


def test_a_device_without_any_of_the_runtimes_fails_in_a_line(bundle, tmp_path):
    done = run(bundle, tmp_path, "--runtime", "tensorrt")
    assert done.returncode == 1
    assert "0 measured, 0 found, of 2 in all" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("nobody", "variant 'nobody' is not in the study: use some of small, small-r50"),
        ("small-r80", r"variants\.small-r80\.precisions \[\] leaves nothing to measure"),
        ("unmade", "quantize/unmade does not exist: run `dvc repro quantize@unmade`"),
    ],
)
def test_what_cannot_be_packed_is_said(project, variant, message, tmp_path):
    with pytest.raises(UserError, match=message):
        bundles.write(projects.STUDY, [variant], ["onnxruntime"], tmp_path / "x.zip")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_runtime_is_said():
    with pytest.raises(UserError, match="runtime 'abacus' is unknown: use one of onnxruntime, openvino, tensorrt"):
        config.runtimes(["abacus"])
