"""A bundle: measures on a Python with none of ours, and its records are taken like a stage's."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

import projects
from trimlab import archive, bundles, params, paths, records
from trimlab.errors import UserError


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


def run(bundle, folder, *options):
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "TRIMLAB", "DVC"))}
    command = [sys.executable, "-s", str(bundle), *options]
    return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)


def test_a_bundle_holds_every_content_once_and_no_more_of_ours_than_measure(bundle):
    with zipfile.ZipFile(bundle) as packed:
        names = packed.namelist()
    assert len(names) == len(set(names))
    assert {name.split("/")[1] for name in names if name.startswith("trimlab/")} == {"__init__.py", "measure"}


def test_it_measures_what_the_device_has_and_says_what_it_has_not(brought):
    folder, said = brought
    assert [path.name for path in (folder / "records").glob("*.json")] == ["small-r50-seed0-int8-onnxruntime.json"]
    assert "tensorrt is not to be had here: " in said
    assert "1 of 3 records lie in records: take that folder home, `trimlab import` it" in said


def test_its_record_is_the_stages_but_for_times(project, brought):
    folder, _ = brought
    ours = records.read(project / paths.measurement_file("small-r50", 0, "int8", "onnxruntime"))
    theirs = records.read(folder / "records/small-r50-seed0-int8-onnxruntime.json")
    assert records.stable(theirs) == records.stable(ours)


def test_its_records_are_imported_with_those_of_the_weights(project, brought, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, _ = brought
    with pytest.raises(UserError, match="which no training or pruning record of study"):
        archive.import_records([folder / "records"])
    pruned = project / paths.record_file(paths.pruned("small-r50"), 0)
    assert archive.import_records([pruned, folder / "records"]).new == 2


def test_what_has_a_record_is_not_measured_again(bundle, brought):
    folder, _ = brought
    path = folder / "records/small-r50-seed0-int8-onnxruntime.json"
    before = path.read_bytes()
    assert run(bundle, folder, "--runtime", "onnxruntime").returncode == 0
    assert path.read_bytes() == before


def test_a_device_without_any_of_the_runtimes_fails_in_a_line(bundle, tmp_path):
    done = run(bundle, tmp_path, "--runtime", "tensorrt")
    assert done.returncode == 1
    assert "0 of 2 records lie in records" in done.stderr
    assert "Traceback" not in done.stderr


def test_threads_can_be_set_for_the_device(bundle, tmp_path):
    assert run(bundle, tmp_path, "--runtime", "onnxruntime", "--threads", "2").returncode == 0
    (path,) = (tmp_path / "records").glob("*.json")
    assert json.loads(path.read_text())["device"]["threads"] == 2


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
    with pytest.raises(UserError, match="runtime 'abacus' is unknown: use some of onnxruntime, openvino, tensorrt"):
        params.runtimes(["abacus"])
