"""The measuring part: clean, honest about what it timed, one line where something is missing."""

import ast
import hashlib
import itertools
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import factories
import trimlab.measure
from onnx_examples import SHAPE, brightness, exported, no_limit_for_onednn, white
from trimlab.measure import __main__ as measuring
from trimlab.measure import contract, device, isolated, memory, runtimes, samples, scoring, timing, weights
from trimlab.measure.__main__ import main, measure
from trimlab.measure.contract import SevenBit
from trimlab.measure.errors import MeasureError, NoRuntimeError
from trimlab.measure.session import Settings
from trimlab.quantize import onnx_files

PACKAGE = Path(trimlab.measure.__file__).parent
SOURCES = [*sorted(PACKAGE.rglob("*.py")), PACKAGE.parent / "formats.py"]
ALLOWED = {"numpy", *sys.stdlib_module_names}
"""Runtimes are imported when they are asked for, see `session.imported`."""


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_it_is_python_310_and_imports_numpy_alone(source):
    tree = ast.parse(source.read_text(), feature_version=(3, 10))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= ALLOWED
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.partition(".")[0] in ALLOWED


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_annotations_with_arrays_are_not_evaluated(source):
    """numpy before 1.22, which runs on Python 3.10, has no `ndarray[...]`."""
    text = source.read_text()
    assert "np.ndarray[" not in text or "from __future__ import annotations" in text


@pytest.mark.parametrize("source", [PACKAGE / "__init__.py", PACKAGE.parent / "__init__.py"])
def test_an_old_python_can_read_the_line_that_says_it_is_too_old(source):
    tree = ast.parse(source.read_text(), feature_version=(3, 7))
    assert source.read_text().isascii()
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr | ast.AnnAssign)]


@pytest.mark.parametrize("module", ["bundle", "__main__"])
def test_on_an_old_python_it_stops_in_one_line(module):
    code = f"import sys; sys.version_info, sys.version = (3, 9, 18), '3.9.18 (main)'; import trimlab.measure.{module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: Python 3.9.18 is too old to measure: use 3.10 or newer\n"


class Machine:
    """A clock that calls move on, and what they did."""

    def __init__(self):
        self.now = 0.0
        self.log = []

    def clock(self):
        return self.now

    def stopwatch(self, name, seconds):
        def run():
            self.now += seconds
            self.log.append(name)

        return timing.wall(run, self.clock)


@settings(max_examples=25)
@given(
    repeats=st.integers(1, 60),
    warmup=st.integers(1, 20),
    slow=st.floats(0.0005, 1),
    fast=st.floats(0.0005, 1),
)
def test_timed_calls_are_all_counted_and_take_turns(repeats, warmup, slow, fast):
    machine = Machine()
    calls = [machine.stopwatch("model", fast), machine.stopwatch("baseline", slow)]
    own, other = timing.interleaved(calls, repeats, warmup, machine.clock)
    assert len(own) == len(other) == repeats
    assert own == pytest.approx([fast] * repeats)
    assert other == pytest.approx([slow] * repeats)
    assert machine.log[: 2 * warmup] == ["model"] * warmup + ["baseline"] * warmup
    turns = [name for name, _ in itertools.groupby(machine.log[2 * warmup :])]
    assert turns == ["model", "baseline"] * min(timing.ROUNDS, repeats)


def test_the_first_calls_of_a_turn_are_not_timed():
    machine = Machine()
    slow_starts = itertools.cycle([5.0, 0.1])  # a call, settling, then one timed

    def call():
        machine.now += next(slow_starts)

    stopwatch = timing.wall(call, machine.clock)
    (seconds,) = timing.interleaved([stopwatch], repeats=timing.ROUNDS, warmup=2, timer=machine.clock)
    assert seconds == pytest.approx([0.1] * timing.ROUNDS)


@given(repeats=st.integers(1, 1000))
def test_turns_are_even(repeats):
    shares = timing.shares(repeats)
    assert sum(shares) == repeats
    assert max(shares) - min(shares) <= 1
    assert min(shares) >= 1


@given(seconds=st.lists(st.floats(1e-6, 10), min_size=1), batch_size=st.integers(1, 512))
def test_percentiles_are_ordered_and_within_the_timed_calls(seconds, batch_size):
    latency = timing.latency(seconds, batch_size)
    bounds = 1000 * min(seconds) - 1e-5, 1000 * max(seconds) + 1e-5
    assert bounds[0] <= latency["p50_ms"] <= latency["p90_ms"] <= bounds[1]
    assert latency["p99_ms"] is None
    assert latency["n"] == len(seconds)
    assert latency["batch_size"] == batch_size


@pytest.mark.parametrize(("calls", "known"), [(999, False), (1000, True)])
def test_the_99th_percentile_takes_1000_calls(calls, known):
    assert (timing.latency(list(np.linspace(1, 2, calls)), 1)["p99_ms"] is not None) == known


@given(seconds=st.lists(st.floats(1e-9, 1e6), min_size=1, max_size=50))
def test_samples_come_back_with_five_digits(seconds):
    np.testing.assert_allclose(samples.decode(samples.encode(seconds)), seconds, rtol=5.1e-5)


def test_samples_take_less_than_four_bytes_a_call():
    calls = 234e-6 * np.exp(np.abs(np.random.default_rng(0).normal(0, 0.03, 1000)))
    assert len(samples.encode(calls)) < 4000


def test_samples_that_unpack_to_more_than_any_record_holds_are_refused(monkeypatch):
    monkeypatch.setattr(samples, "MOST", 100)
    with pytest.raises(ValueError, match="not 1 to 100 of finite length"):
        samples.decode(samples.encode([0.001] * 10_000))


@given(
    processes=st.lists(st.lists(st.floats(1e-6, 10), min_size=1, max_size=20), min_size=1, max_size=5),
)
def test_a_records_percentiles_follow_from_its_samples(processes):
    kept = [{"latency": timing.series(seconds, 8)} for seconds in processes]
    for one in kept:
        (series,) = one.values()
        decoded = samples.decode(series["samples"]).tolist()
        assert timing.latency(decoded, 8) == {key: series[key] for key in series if key != "samples"}
    pooled = timing.pooled(kept)["latency"]
    assert pooled["n"] == sum(map(len, processes)) and pooled["batch_size"] == 8
    everything = [1000 * second for seconds in processes for second in seconds]
    assert min(everything) * 0.999 <= pooled["p50_ms"] <= max(everything) * 1.001


def write_pack(folder, **changes):
    """Write a pack of 10 images, or of what is given in their place; return its two files."""
    content = {**make_pack(10)._asdict(), **changes}
    np.save(folder / "images.npy", content.pop("images"))
    np.savez(folder / "pack.npz", **content)
    return {"images": str(folder / "images.npy"), "pack": str(folder / "pack.npz")}


def make_pack(count):
    generator = np.random.default_rng(0)
    return scoring.Pack(
        images=generator.integers(0, 256, (count, *SHAPE), dtype=np.uint8),
        labels=generator.integers(0, 10, count),
        mean=np.array([0.5, 0.4, 0.3], np.float32),
        std=np.array([0.2, 0.3, 0.4], np.float32),
    )


@given(count=st.integers(1, 5), size=st.integers(1, 17))
def test_a_batch_larger_than_the_dataset_repeats_it(count, size):
    pack = make_pack(count)
    tiled = pack.tiled(size)
    assert tiled.shape == (size, *SHAPE)
    for index in range(size):
        np.testing.assert_array_equal(tiled[index], pack.batch(np.array([index % count]))[0])


def test_images_are_normalised_by_mean_and_std():
    pack = make_pack(2)
    expected = (pack.images[1, 2] / 255.0 - 0.3) / 0.4
    np.testing.assert_allclose(pack.batch(np.array([0, 1]))[1, 2], expected, rtol=1e-5, atol=1e-5)


@given(count=st.integers(1, 9), batch_size=st.integers(1, 12))
def test_labels_do_not_depend_on_the_batch_size(count, batch_size):
    class Brightest:
        def run(self, batch):
            return batch[:, 0, 0, :10]

    pack = make_pack(count)
    whole = scoring.predict(Brightest(), pack, count)
    parts = scoring.predict(Brightest(), pack, batch_size)
    assert parts.labels.dtype == np.uint16
    np.testing.assert_array_equal(parts.labels, whole.labels)
    assert parts[1:] == whole[1:]


def test_a_pack_of_more_classes_than_the_file_has_is_refused():
    class FewClasses:
        def run(self, batch):
            return batch[:, 0, 0, :3]

    with pytest.raises(MeasureError, match="labels from 0 to 9, the file has 3 classes: pack the dataset"):
        scoring.predict(FewClasses(), make_pack(50), 8)


def run(request, folder):
    file = folder / "request.json"
    file.write_text(json.dumps(request))
    return subprocess.run(
        [sys.executable, "-m", "trimlab.measure", str(file)],
        env={"PYTHONPATH": str(Path(trimlab.measure.__file__).parents[2]), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def request_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measure")
    np.save(folder / "torch.npy", np.zeros(70, np.uint16))
    return {
        "model": str(exported("resnet20")),
        "precision": "fp32",
        "baseline": str(exported("resnet20")),
        "runtime": "onnxruntime",
        **write_pack(folder, **make_pack(70)._asdict()),
        "predictions": str(folder / "labels.npy"),
        "torch_labels": str(folder / "torch.npy"),
        "onnx_labels": None,
        "exact_labels": None,
        "seven_bit": None,
        "calibration": None,
        "engines": None,
        "batch_size": 16,
        "warmup": 1,
        "repeats": 10,
        "batch_repeats": 5,
        "processes": 1,
        "threads": 1,
        "builds": 1,
        "lineage": {"study": "made up", "versions": {"torch": "2.14.1"}},
    }


def test_one_json_line_holds_what_the_file_did(request_file, tmp_path):
    done = run(request_file, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    record = json.loads(done.stdout)
    pack = make_pack(70)
    session = onnx_files.open_session(exported("resnet20"))
    expected = session.run(None, {"x": pack.batch(np.arange(70))})[0].argmax(1)
    predictions = np.load(request_file["predictions"])
    np.testing.assert_array_equal(predictions, expected)
    assert record["top1_accuracy"] == np.mean(expected == pack.labels)
    assert record["device"]["threads"] == 1
    assert record["study"] == "made up"
    assert set(record["versions"]) == {"torch", "numpy", "onnxruntime"}
    content = Path(request_file["predictions"]).read_bytes()
    assert record["predictions_sha256"] == hashlib.sha256(content).hexdigest()
    assert record["file_bytes"] == exported("resnet20").stat().st_size
    assert 20e6 < record["peak_memory_bytes"] < 1e9
    counts = [(record[key]["n"], record[key]["batch_size"]) for key in ("latency", "baseline_latency")]
    assert counts == [(10, 1), (10, 1)]
    batch_counts = [
        (record[f"{key}batch_latency"]["n"], record[f"{key}batch_latency"]["batch_size"]) for key in ("", "baseline_")
    ]
    assert batch_counts == [(5, 16), (5, 16)]
    (process,) = record["processes"]
    assert {key: [process[key]["n"], len(samples.decode(process[key]["samples"]))] for key in process} == {
        "latency": [10, 10], "batch_latency": [5, 5], "baseline_latency": [10, 10], "baseline_batch_latency": [5, 5],
    }  # fmt: skip
    for key, series in process.items():
        assert record[key] == {name: value for name, value in series.items() if name != "samples"}


def test_each_of_several_processes_times_both_files_and_one_scores(request_file, tmp_path, monkeypatch, capsys):
    asked = contract.parse({**request_file, "processes": 3, "predictions": str(tmp_path / "labels.npy")}, "request")
    record = isolated.run(sys.executable, PACKAGE.parents[1], asked)
    said = capsys.readouterr().err
    assert len(record["processes"]) == 3
    assert record["latency"]["n"] == 30 and record["baseline_batch_latency"]["n"] == 15
    assert record["latency"] == timing.pooled(record["processes"])["latency"]
    assert said.count("scoring 70 images") == 1 and said.count("timing batch 16") == 3
    assert [line for line in said.splitlines() if " of 3" in line] == ["  process 2 of 3", "  process 3 of 3"]


@pytest.mark.parametrize(("number", "first"), [(0, "model"), (1, "baseline"), (2, "model"), (3, "baseline")])
def test_in_every_odd_process_the_baseline_takes_its_turns_first(number, first, request_file, monkeypatch):
    opened, turns = [], []

    class Session:
        image_shape = SHAPE

        def __init__(self, name):
            self.name = name

        def stopwatches(self, batch):
            return {"latency": lambda: turns.append(self.name) or (0.001 if self.name == "model" else 0.003)}

        def close(self):
            pass

    def open_session(request, file, settings):
        opened.append("baseline" if file == "unpruned.onnx" else "model")
        return Session(opened[-1])

    monkeypatch.setattr(measuring, "_open", open_session)
    asked = contract.parse({**request_file, "baseline": "unpruned.onnx", "repeats": 20}, "request")
    found = measuring.times(asked, number)
    (process,) = found["processes"]
    assert (opened[0], turns[0]) == (first, first)
    assert set(opened) == {"model", "baseline"}
    assert (process["latency"]["p50_ms"], process["baseline_latency"]["p50_ms"]) == (1.0, 3.0)
    assert set(found) == {"processes", "contended"}


def test_a_record_is_contended_where_one_of_its_processes_was():
    one = {"latency": timing.series([0.001], 1)}
    for record, timed in itertools.product([False, True], repeat=2):
        joined = isolated._timed_again(
            {"processes": [one], "contended": record}, {"processes": [one], "contended": timed}
        )
        assert joined["contended"] == (record or timed) and joined["latency"]["n"] == 2


@pytest.mark.parametrize("arguments", [[], ["--times", "request.json"], ["--times", "-1", "r"], ["a.json", "b.json"]])
def test_without_a_request_file_it_says_how_it_is_called(arguments, capsys):
    assert main(arguments) == 2
    assert one_line(capsys) == "error: one request file is needed: python -m trimlab.measure REQUEST.json\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "missing.onnx"}, "missing.onnx does not exist"),
        ({"model": __file__}, "is not a file that onnxruntime opens"),
        ({"pack": __file__}, "is not a packed dataset"),
        ({"runtime": "abacus"}, "runtime 'abacus' is unknown: use one of onnxruntime"),
        ({"precision": "bf16"}, "precision 'bf16' is not one of onnxruntime's: use one of fp32, fp16, int8"),
        ({"torch_labels": __file__}, "holds no labels"),
        ({"torch_labels": os.devnull}, "holds no labels"),
        ({"exact_labels": "missing.npy"}, "missing.npy holds no labels"),
        (
            {"seven_bit": {"model": "other.onnx"}},
            "seven_bit is not a JSON object with model, onnx_labels, exact_labels",
        ),
        ({"lineage": []}, "lineage [] is not a JSON object"),
        ({"calibration": 3}, "calibration 3 is not a string: give a name in quotes, or null"),
        ({"predictions": str(Path(__file__).parent)}, "cannot be written"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(request_file, change, message, tmp_path):
    assert message in complaint({**request_file, **change}, tmp_path)


def complaint(request, folder):
    """The one line that a run ends with."""
    done = run(request, folder)
    assert done.returncode == 1, done.stdout
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (last,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.endswith(last + "\n")
    return last


def test_a_request_nested_too_deep_is_one_line(tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text("[" * 100_000)
    assert main([str(file)]) == 1
    assert "is not a request (" in one_line(capsys)


@pytest.mark.parametrize("value", [None, 3, "model", [], True])
def test_a_request_is_an_object(value, tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text(json.dumps(value))
    assert main([str(file)]) == 1
    assert "is not a request (no JSON object): give one with model, " in one_line(capsys)


@pytest.mark.parametrize(
    ("key", "value", "bounds"),
    [
        ("batch_size", 0, "[1, 65536]"),
        ("batch_size", -3, "[1, 65536]"),
        ("batch_size", "4", "[1, 65536]"),
        ("batch_size", 10**30, "[1, 65536]"),
        ("warmup", 0, "[1, 1000]"),
        ("repeats", 0, "[1, 100000]"),
        ("repeats", True, "[1, 100000]"),
        ("batch_repeats", 2.5, "[1, 100000]"),
        ("processes", 0, "[1, 20]"),
        ("threads", -1, "[0, 1024]"),
        ("threads", None, "[0, 1024]"),
    ],
)
def test_a_count_is_a_whole_number_within_its_bounds(request_file, key, value, bounds, tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text(json.dumps({**request_file, key: value}))
    assert main([str(file)]) == 1
    assert f"{key} {json.dumps(value)} is not a whole number in {bounds}: give one" in one_line(capsys)


@pytest.mark.parametrize("key", ["model", "baseline", "runtime", "images", "pack", "predictions"])
@pytest.mark.parametrize("value", [None, 3, ["onnxruntime"]])
def test_a_name_is_a_string(request_file, key, value, tmp_path, capsys):
    file = tmp_path / "request.json"
    file.write_text(json.dumps({**request_file, key: value}))
    assert main([str(file)]) == 1
    assert f"{key} {json.dumps(value)} is not a string: give a name in quotes" in one_line(capsys)


@pytest.mark.parametrize(("name", "code"), [("onnxruntime", 0), ("tensorrt", 4), ("abacus", 1)])
def test_the_exit_code_says_whether_a_runtime_is_here_and_the_output_on_which_device(name, code, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert main(["--runtime", name]) == code
    printed = capsys.readouterr().out
    assert (json.loads(printed) if printed else None) == (device.cpu(device.cores()) if code == 0 else None)


def test_a_measurement_ends_with_the_stage_that_started_it():
    code = (
        "import time; from trimlab.measure import __main__ as m; m.end_with_parent(); print(flush=True); time.sleep(99)"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as process:
        process.stdout.readline()
        assert process.poll() is None
        process.stdin.close()  # as the system does for a killed stage
        assert process.wait(60) == 1


def test_looking_for_an_unknown_runtime_is_one_line():
    source = Path(trimlab.measure.__file__).parents[2]
    with pytest.raises(MeasureError, match="looking for abacus failed with exit code 1: runtime 'abacus' is unknown"):
        isolated.device(sys.executable, source, "abacus")


def one_line(capsys):
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": np.zeros(9, np.int64)},
            "pack.npz holds labels (9,) int64 for images (10, 3, 32, 32): pack (10,) of them",
        ),
        ({"labels": np.zeros(10)}, "pack.npz holds labels (10,) float64"),
        (
            {"mean": np.zeros(1, np.float32)},
            "pack.npz holds mean (1,) float32 for images (10, 3, 32, 32): pack (3,) of them",
        ),
        ({"std": np.array(["a", "b", "c"])}, "pack.npz holds std (3,) <U1"),
        (
            {"images": np.zeros((10, 3, 28, 28), np.uint8)},
            "images.npy holds images (3, 28, 28), the model takes (3, 32, 32)",
        ),
        (
            {"images": np.zeros((10, 1, 32, 32), np.uint8)},
            "images.npy holds images (1, 32, 32), the model takes (3, 32, 32)",
        ),
        (
            {"images": np.zeros((0, *SHAPE), np.uint8), "labels": np.zeros(0, np.int64)},
            "images.npy holds no images: pack at least one",
        ),
        (
            {"images": np.zeros((10, *SHAPE), np.float32)},
            "images.npy holds images (10, 3, 32, 32) float32, not (N, C, H, W) uint8",
        ),
        ({"images": np.uint8(0)}, "images.npy holds images () uint8, not (N, C, H, W) uint8"),
    ],
)
def test_a_pack_fits_itself_and_the_model(changes, message, tmp_path):
    files = write_pack(tmp_path, **changes)
    with pytest.raises(MeasureError, match=re.escape(message)):
        scoring.load(files["images"], files["pack"], SHAPE)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", None])
def test_what_is_no_archive_is_no_pack(content, tmp_path):
    files = write_pack(tmp_path)
    path = tmp_path / "pack.npz"
    if content is None:
        np.save(path.open("wb"), np.zeros(3))  # an array, no archive of them
    else:
        path.write_bytes(content)
    with pytest.raises(MeasureError, match=r"pack\.npz is not a packed dataset \(.*\): pack it again"):
        scoring.load(files["images"], files["pack"], SHAPE)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00", None])
def test_what_is_no_array_is_no_image(content, tmp_path):
    files = write_pack(tmp_path)
    path = tmp_path / "images.npy"
    if content is None:
        np.savez(path.open("wb"), np.zeros(3))  # an archive
    else:
        path.write_bytes(content)
    with pytest.raises(MeasureError, match=r"images\.npy is not a packed dataset \(.*\): pack it again"):
        scoring.load(files["images"], files["pack"], SHAPE)


def test_images_are_mapped(tmp_path):
    files = write_pack(tmp_path)
    pack = scoring.load(files["images"], files["pack"], SHAPE)
    assert isinstance(pack.images, np.memmap)
    np.testing.assert_array_equal(pack.batch(np.arange(10)), make_pack(10).batch(np.arange(10)))


def test_a_pack_of_another_size_ends_in_one_line(request_file, tmp_path):
    images = np.zeros((70, 3, 28, 28), np.uint8)
    line = complaint({**request_file, **write_pack(tmp_path, images=images)}, tmp_path)
    assert "holds images (3, 28, 28), the model takes (3, 32, 32)" in line


def identity(path, batch, size=32):
    """Write a file that takes a batch of one-channel images, and returns them."""
    text = f"agraph (float[{batch},1,{size},{size}] x) => (float[{batch},1,{size},{size}] y) {{ y = Identity(x) }}"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), path)
    return str(path)


def test_a_file_for_one_image_does_not_run_in_batches(request_file, tmp_path):
    model = identity(tmp_path / "single.onnx", 1)
    assert "single.onnx does not run at batch_size 16 (" in complaint({**request_file, "model": model}, tmp_path)


def test_a_baseline_file_takes_the_same_images(request_file, tmp_path):
    change = {"baseline": identity(tmp_path / "other.onnx", "N", 8), "predictions": str(tmp_path / "labels.npy")}
    line = complaint({**request_file, **change}, tmp_path)
    assert "baseline takes images (1, 8, 8), model takes (3, 32, 32): name files of one image size" in line


def test_predictions_get_their_folder_and_the_very_name_asked_for(request_file, tmp_path):
    path = tmp_path / "a/new/folder/labels"
    done = run({**request_file, "predictions": str(path)}, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(np.load(path)) == 70


def test_a_request_without_a_key_names_it(request_file, tmp_path):
    done = run({key: value for key, value in request_file.items() if key != "warmup"}, tmp_path)
    assert done.returncode == 1
    assert "lacks warmup" in done.stderr


def test_a_request_with_an_unknown_key_names_it(request_file):
    with pytest.raises(MeasureError, match=r"request.json has repeat, which no request has: remove it"):
        contract.parse({**request_file, "repeat": 3}, "request.json")


PATHS = st.text(min_size=1)
SEVEN_BIT = st.builds(
    SevenBit, model=PATHS, onnx_labels=st.none() | PATHS, exact_labels=st.none() | PATHS,
    lineage=st.dictionaries(st.text(), st.integers()),
)  # fmt: skip


@given(
    names=st.fixed_dictionaries(dict.fromkeys(("model", "precision", "runtime", "predictions"), PATHS)),
    optional=st.fixed_dictionaries({key: st.none() | PATHS for key in ("onnx_labels", "exact_labels", "engines")}),
    counts=st.fixed_dictionaries({key: st.integers(*bounds) for key, bounds in contract.BOUNDS.items()}),
    seven_bit=st.none() | SEVEN_BIT,
)
def test_a_request_comes_back_from_its_json(names, optional, counts, seven_bit):
    asked = factories.request(**names, **optional, **counts, seven_bit=seven_bit)
    assert contract.parse(json.loads(json.dumps(contract.to_json(asked))), "request.json") == asked


def test_a_moved_request_names_each_of_its_files_elsewhere_and_nothing_else():
    asked = factories.request(
        exact_labels="exact.npy", calibration="images.npy", engines="engines",
        seven_bit=SevenBit("7.onnx", None, "exact7.npy", {"weight_bits": 7}),
    )  # fmt: skip
    moved = contract.moved(asked, lambda name: f"elsewhere/{name}")
    files = {key: f"elsewhere/{getattr(asked, key)}" for key in (
        "model", "baseline", "images", "pack", "torch_labels", "exact_labels", "calibration"
    )}  # fmt: skip
    seven_bit = SevenBit("elsewhere/7.onnx", None, "elsewhere/exact7.npy", {"weight_bits": 7})
    assert moved == asked._replace(**files, seven_bit=seven_bit)


def test_a_runtime_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(NoRuntimeError, match="onnxruntime cannot be imported"):
        runtimes.open_file("onnxruntime", str(exported("resnet20")), Settings("fp32", 1, 16))


def test_a_profile_for_which_there_is_no_room_is_one_line():
    session = runtimes.open_file("onnxruntime", str(exported("resnet20")), Settings("fp32", 1, 1))
    had = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, had[1]))  # as on a full disk
    try:
        with pytest.raises(MeasureError, match=r"could not write its profile, .*: make room there"):
            session.layers(np.zeros((1, 3, 32, 32), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, had)


def without_fused_kernels(file, batch):
    """What a file's own arithmetic gives."""
    return runtimes.open_file("onnxruntime", str(file), Settings("int8", 1, len(batch), exact=True)).run(batch)


@pytest.mark.parametrize(
    ("flags", "arm", "bits"),
    [
        ({"avx2"}, False, 7),
        ({"avx2", "avx512f"}, False, 7),
        ({"avx2", "avx512f", "avx512_bf16"}, False, 7),
        ({"avx2", "avx_vnni"}, False, 8),
        ({"avx2", "avx512f", "avx512_vnni"}, False, 8),
        ({"amx_int8"}, False, 8),
        ({"asimd"}, True, 8),
        ({"asimd", "asimddp", "i8mm", "sve"}, True, 8),
        (set(), True, 8),
        (set(), False, 7),
    ],
)
def test_weights_have_the_bits_that_a_processor_multiplies_without_saturating(flags, arm, bits):
    assert weights.weight_bits(flags, arm) == bits


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("vnni", [True, False])
def test_a_request_takes_its_file_of_7_bits_where_8_would_saturate(runtime, vnni, monkeypatch):
    monkeypatch.setattr(device, "is_arm", lambda: False)
    monkeypatch.setattr(device, "processor_flags", lambda: frozenset({"avx2", "avx_vnni"} if vnni else {"avx2"}))
    no_limit_for_onednn(monkeypatch)
    seven_bit = SevenBit("7.onnx", onnx_labels=None, exact_labels="7.npy", lineage={"weight_bits": 7})
    asked = factories.request(
        model="8.onnx",
        runtime=runtime,
        exact_labels="8.npy",
        lineage={"weight_bits": 8, "seed": 1},
        seven_bit=seven_bit,
    )
    fitted = weights.fitted(asked)
    bits = 8 if vnni else 7
    lineage = {"weight_bits": bits, "seed": 1}
    chosen = {"model": f"{bits}.onnx", "exact_labels": f"{bits}.npy", "lineage": lineage}
    assert fitted == asked._replace(seven_bit=None, **chosen)
    assert weights.fitted(fitted) == fitted


@pytest.mark.parametrize("limit", ["AVX2", "AVX512_CORE"])
def test_openvino_takes_7_bits_where_onednn_may_not_use_vnni(limit, monkeypatch):
    monkeypatch.setattr(device, "is_arm", lambda: False)
    monkeypatch.setattr(device, "processor_flags", lambda: frozenset({"avx2", "avx512f", "avx512_vnni"}))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    asked = factories.request(model="8.onnx", seven_bit=SevenBit("7.onnx", None, None, {}))
    found = [weights.fitted(asked._replace(runtime=runtime)).model for runtime in ("onnxruntime", "openvino")]
    assert found == ["8.onnx", "7.onnx"]


CHOSEN = """
import json, sys
import numpy as np
from trimlab.measure import contract, runtimes, weights
from trimlab.measure.session import Settings

request = contract.parse(json.loads(sys.argv[1]), "request")
file = weights.fitted(request).model
session = runtimes.open_file(request.runtime, file, Settings("int8", 1, 4))
print(json.dumps([file, session.run(np.load(sys.argv[2])).tolist()]))
"""


@pytest.mark.parametrize(("runtime", "limit"), [("onnxruntime", ""), ("openvino", ""), ("openvino", "AVX2")])
def test_the_chosen_int8_file_is_computed_as_it_is_written_on_whatever_processor_this_is(runtime, limit, tmp_path):
    files = brightness(tmp_path)
    batch = white(4)
    np.save(tmp_path / "white.npy", batch)
    seven_bit = SevenBit(str(files.seven_bit), None, None, {})
    asked = factories.request(model=str(files.u8s8), runtime=runtime, seven_bit=seven_bit)
    done = subprocess.run(
        [sys.executable, "-c", CHOSEN, json.dumps(contract.to_json(asked)), tmp_path / "white.npy"],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": limit},
        capture_output=True,
        text=True,
        check=True,
    )
    file, logits = json.loads(done.stdout)
    np.testing.assert_allclose(logits, without_fused_kernels(file, batch), rtol=0.02)


def test_an_int8_record_says_how_far_it_is_from_its_files_own_arithmetic(request_file, tmp_path):
    exact = np.arange(70, dtype=np.uint16) % 10
    np.save(tmp_path / "exact.npy", exact)
    done = run({**request_file, "exact_labels": str(tmp_path / "exact.npy")}, tmp_path)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["exact_top1_accuracy"] == np.mean(exact == make_pack(70).labels)
    assert record["exact_agreement"] == np.mean(np.load(request_file["predictions"]) == exact)


def test_a_record_is_of_the_file_that_was_really_run(request_file, tmp_path):
    """Whatever this processor is: the request's flags are of one that saturates."""
    other = exported("torchvision/mobilenet_v2")
    np.save(tmp_path / "exact.npy", np.zeros(70, np.uint16))
    lineage = {"weight_bytes": 3, "weight_bits": 7}
    seven_bit = {
        "model": str(other),
        "onnx_labels": None,
        "exact_labels": str(tmp_path / "exact.npy"),
        "lineage": lineage,
    }
    asked = {**request_file, "lineage": {"weight_bytes": 4, "weight_bits": 8}, "seven_bit": seven_bit}
    asked["predictions"] = str(tmp_path / "labels.npy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "is_arm", lambda: False)
        patch.setattr(device, "processor_flags", lambda: frozenset({"avx2"}))
        record = measure(contract.parse(asked, "request"))
    assert (record["weight_bits"], record["weight_bytes"]) == (7, 3)
    assert record["file_sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
    assert record["file_bytes"] == other.stat().st_size
    assert record["exact_agreement"] == np.mean(np.load(tmp_path / "labels.npy") == 0)


def test_a_long_scoring_says_how_far_it_is(monkeypatch, capsys):
    class Slow:
        def run(self, batch):
            return np.zeros((len(batch), 10))

    clock = itertools.count(0, scoring.SAY_SECONDS)
    monkeypatch.setattr(scoring.time, "monotonic", lambda: float(next(clock)))
    scoring.predict(Slow(), make_pack(5), 2)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "scored 4 of 5 images"


def test_peak_memory_is_known_where_proc_is_not(monkeypatch):
    before = memory.peak_bytes()
    monkeypatch.setattr(memory.Path, "read_text", lambda *_: "Name: python\n")  # a kernel that leaves VmHWM out
    assert memory.peak_bytes() > 0.5 * before


def test_peak_memory_grows_with_what_was_held():
    before = memory.peak_bytes()
    held = np.ones(100 + before // 8)  # more than this process ever had
    assert memory.peak_bytes() >= held.nbytes


def test_peak_memory_is_not_the_parents():
    held = np.ones(40_000_000)
    code = "from trimlab.measure import memory; print(memory.peak_bytes())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(trimlab.measure.__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) < held.nbytes
