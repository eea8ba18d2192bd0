"""A study in slices: what is copied, what comes home, what is left after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from filelock import FileLock

import factories
from pipelines import TINY, Project, copy_source
from trimlab import paths, records
from trimlab.errors import UserError
from trimlab.execution import slices
from trimlab.records import imports

FAKE_DVC = """\
import json, os, subprocess, sys
from pathlib import Path
print("fake dvc", *sys.argv[1:], os.environ["TRIMLAB_COMMIT"], flush=True)
if Path("dvc.lock").exists():
    print("found dvc.lock", flush=True)
Path("dvc.lock").write_text(json.dumps({"stages": dict.fromkeys(os.environ["FAKE_DONE"].split(), {})}))
if os.environ["FAKE_END"] == "never":
    subprocess.run(["python", "-c", "import sys, time; print('at work', sys.executable, flush=True); time.sleep(100)"])
sys.exit(int(os.environ["FAKE_END"]))
"""
"""Finishes the cells FAKE_DONE, then ends with FAKE_END, or waits for a stage that never ends."""

STUDY = factories.study()
CELLS = [
    "fingerprint",
    *(f"prepare@{name}" for name in STUDY.datasets),
    *(f"train@{name}" for name in STUDY.workloads),
    *(f"prune@{name}" for name in STUDY.variants),
    *(f"export@{name}" for name in STUDY.workloads),
    *(f"quantize@{name}" for name in STUDY.variants),
    "runtimes",
    *(f"benchmark@{name}" for name in STUDY.variants),
    "report",
]


@pytest.fixture
def source(tmp_path, project, monkeypatch):
    """A source tree without git, whose `dvc` is the fake one; the working directory."""
    root = tmp_path / "laid"
    for folder in ("src/trimlab", "src/dvc", "stages", "studies", ".dvc/tmp", "train/large"):
        (root / folder).mkdir(parents=True)
    shutil.copy(project / "dvc.yaml", root)
    shutil.copy(project / ".dvc/config", root / ".dvc")
    (root / "src/dvc/__init__.py").touch()
    (root / "src/dvc/__main__.py").write_text(FAKE_DVC)
    (root / "src/trimlab/data.py").write_text("old = 1")
    (root / "src/trimlab/gone.py").write_text("")
    (root / "params.yaml").write_text("study: another")
    (root / "studies/synthetic.yaml").write_text(json.dumps(STUDY.model_dump()))
    monkeypatch.chdir(root)
    monkeypatch.setenv("TRIMLAB_COMMIT", "first")
    monkeypatch.setenv("FAKE_DONE", " ".join(CELLS))
    monkeypatch.setenv("FAKE_END", "0")
    return root


@pytest.fixture
def run_dir(tmp_path):
    return tmp_path / "run"


def go(run_dir, **options):
    """Run one slice; return its exit code and its status."""
    out = run_dir.parent / "out"
    code = slices.run(options.pop("study", "synthetic"), run_dir, out, options.pop("seconds", 30), **options)
    return code, json.loads((out / "status.json").read_text())


def command(run_dir, study="synthetic"):
    return [
        *(sys.executable, "-m", "trimlab.cli", "slice", study, "--run-dir", run_dir),
        *("--out", run_dir.parent / "out", "--seconds", "1000"),
    ]


def start(command, cwd, source, **env):
    """Start a slice in a process group of its own."""
    return subprocess.Popen(
        list(map(str, command)), cwd=cwd, env={**os.environ, "PYTHONPATH": str(source / "src"), **env}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def until(process, text):
    """Read what a process prints up to a line with `text`."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines)
    raise AssertionError(f"{text!r} was not printed in: {''.join(lines)}")


def running(run_dir):
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("_TRIMLAB_SLICE_OF") == str(run_dir):
                found.append(process)
    return found


def names_in(file):
    with tarfile.open(file) as packed:
        return packed.getnames()


def test_the_first_slice_copies_the_source_without_results_and_sets_no_scm(source, run_dir):
    (source / "train/large/seed0.json").write_text("{}")
    (source / ".dvc/tmp/lock").write_text("")
    code, status = go(run_dir)
    assert code == 0
    assert (status["commit"], status["exit_code"]) == ("first", 0)
    assert (run_dir / "src/trimlab/data.py").read_text() == "old = 1"
    assert "no_scm = true" in (run_dir / ".dvc/config.local").read_text()
    assert (run_dir / ".dvc/config").read_bytes() == (source / ".dvc/config").read_bytes()
    assert (run_dir / "params.yaml").read_bytes() == (source / "studies/synthetic.yaml").read_bytes()
    assert not (run_dir / "train").exists() and not (run_dir / ".dvc/tmp/lock").exists()


def test_a_later_slice_goes_on_with_the_first_ones_source_and_commit(source, run_dir, monkeypatch, capfd):
    go(run_dir)
    (source / "src/trimlab/data.py").write_text("new = 1")
    monkeypatch.setenv("TRIMLAB_COMMIT", "second")
    capfd.readouterr()
    _, status = go(run_dir)
    said = capfd.readouterr()
    assert said.err.count("\n") == 1 and "(src/trimlab/data.py)" in said.err and "--fresh-source" in said.err
    assert (status["commit"], (run_dir / "src/trimlab/data.py").read_text()) == ("first", "old = 1")
    assert "fake dvc repro --keep-going first" in said.out


def test_the_same_source_laid_anew_is_not_spoken_of(source, run_dir, tmp_path, monkeypatch, capfd):
    go(run_dir)
    shutil.copytree(source, tmp_path / "laid-again")
    monkeypatch.chdir(tmp_path / "laid-again")
    capfd.readouterr()
    go(run_dir)
    assert capfd.readouterr().err == ""


def test_a_fresh_source_replaces_the_code_and_keeps_results(source, run_dir, monkeypatch, capfd):
    go(run_dir)
    kept = [run_dir / name for name in (".dvc/cache/a", ".dvc/tmp/trimlab/b", "train/large/c")]
    for path in kept:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("result")
    (source / "src/trimlab/data.py").write_text("new = 1")
    (source / "src/trimlab/gone.py").unlink()
    monkeypatch.setenv("TRIMLAB_COMMIT", "second")
    capfd.readouterr()
    _, status = go(run_dir, fresh_source=True)
    assert (status["commit"], (run_dir / "src/trimlab/data.py").read_text()) == ("second", "new = 1")
    assert not (run_dir / "src/trimlab/gone.py").exists()
    assert all(path.read_text() == "result" for path in kept)
    assert "found dvc.lock" not in capfd.readouterr().out, "cells of the former source would count as done"


@pytest.mark.parametrize("fresh", [False, True])
def test_half_a_copy_is_not_trusted(fresh, source, run_dir, monkeypatch):
    if fresh:
        go(run_dir)
        (source / "src/trimlab/data.py").write_text("new = 1")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copytree", lambda *_, **__: 1 / 0)  # killed here
        with pytest.raises(ZeroDivisionError):
            go(run_dir, fresh_source=fresh)
    assert go(run_dir)[0] == 0
    assert (run_dir / "src/trimlab/data.py").read_bytes() == (source / "src/trimlab/data.py").read_bytes()


def test_without_git_and_commit_nothing_is_copied(source, run_dir, monkeypatch):
    monkeypatch.delenv("TRIMLAB_COMMIT")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(source.parent))
    with pytest.raises(UserError, match=r"^every record needs .*: set TRIMLAB_COMMIT to it$"):
        go(run_dir)
    assert not (run_dir / "src").exists()


@pytest.mark.parametrize(
    ("place", "refusal"),
    [
        (".", "is in the source tree"),
        ("deep/inside", "is in the source tree"),
        ("../full", "is not empty and not a run directory"),
    ],
)
def test_a_folder_that_cannot_keep_a_run_is_refused(place, refusal, source):
    (source.parent / "full").mkdir()
    (source.parent / "full/diary.txt").write_text("dear")
    with pytest.raises(UserError, match=refusal):
        go(source / place)
    assert [path.name for path in (source.parent / "full").iterdir()] == ["diary.txt"]


def test_a_slice_is_called_in_a_source_tree(tmp_path, run_dir, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"dvc.yaml does not exist: run this in the root of the source tree"):
        go(run_dir)


def test_an_unknown_study_is_one_line(source, run_dir):
    (source / "params.yaml").write_text(json.dumps(factories.study(study="another").model_dump()))
    with pytest.raises(UserError, match=r"'unknown' .* use one of another, synthetic"):
        go(run_dir, study="unknown")


def test_two_slices_at_once_are_refused(source, run_dir):
    go(run_dir)
    with FileLock(run_dir / ".slice/lock"), pytest.raises(UserError, match="another slice is running"):
        go(run_dir)


@pytest.mark.parametrize(
    ("end", "code", "done", "said"),
    [
        ("0", 0, len(CELLS), "28 of 28 cells are done\n"),
        ("1", 1, 14, "without quantize@large, quantize@large-r50, quantize@large-r80 and 11 more: some of them failed"),
        ("never", 75, 27, "27 of 28 cells are done, without report: call again\n"),
    ],
)  # fmt: skip
def test_the_exit_code_and_the_last_line_say_how_far_it_is(
    end, code, done, said, source, run_dir, monkeypatch, capfd
):  # fmt: skip
    monkeypatch.setenv("FAKE_DONE", " ".join(CELLS[:done]))
    monkeypatch.setenv("FAKE_END", end)
    found, status = go(run_dir, seconds=1)
    assert (found, status["exit_code"]) == (code, code)
    assert (status["done"], status["left"]) == (CELLS[:done], CELLS[done:])
    assert said in capfd.readouterr().out
    assert not running(run_dir)


def test_records_of_finished_cells_alone_come_home(source, run_dir, monkeypatch, tmp_path):
    go(run_dir)
    made = factories.run_stages(STUDY, run_dir)
    (run_dir / "dvc.lock").unlink()
    done = {"train@large", "prune@large", "prune@large-r50", "benchmark@large"}
    monkeypatch.setenv("FAKE_DONE", " ".join(done))
    (run_dir / paths.index_file("candidate")).write_text('{"half')
    go(run_dir)
    names = names_in(tmp_path / "out/records.tar.gz")
    wanted = [path for path in map(factories.stage_file, made) if "@".join(path.parts[:2]) in done]
    assert {name for name in names if name.endswith(".json")} == set(map(str, wanted))
    monkeypatch.chdir(tmp_path)
    assert imports.import_records([Path("out/records.tar.gz")]).new == len(wanted) == 6
    assert len(list(paths.RECORDS.rglob("*.npy"))) == 3


def test_records_come_home_while_dvc_runs(source, run_dir, tmp_path, monkeypatch, project):
    go(run_dir)
    made = factories.run_stages(STUDY, run_dir)
    slice_ = start(command(run_dir), source, project, FAKE_END="never")
    until(slice_, "at work")
    os.killpg(slice_.pid, signal.SIGKILL)
    slice_.communicate()
    names = names_in(tmp_path / "out/records.tar.gz")
    assert len([name for name in names if name.endswith(".json")]) == len(made)
    assert json.loads((tmp_path / "out/status.json").read_text())["exit_code"] is None


def test_what_an_unfinished_cell_has_measured_comes_home(source, run_dir, tmp_path, monkeypatch):
    go(run_dir)
    made = factories.run_stages(STUDY, run_dir)
    kept = run_dir / ".dvc/tmp/trimlab/measured/large"
    shutil.copytree(run_dir / "benchmark/large", kept, ignore=shutil.ignore_patterns("index.json"))
    unfinished = [cell for cell in CELLS if cell not in ("benchmark@large", "report")]
    (run_dir / "dvc.lock").write_text(json.dumps({"stages": {cell: {} for cell in unfinished}}))
    monkeypatch.setenv("FAKE_DONE", " ".join(unfinished))
    monkeypatch.setenv("FAKE_END", "1")
    assert go(run_dir)[0] == 1
    names = names_in(tmp_path / "out/records.tar.gz")
    assert len([name for name in names if name.startswith(".dvc/") and name.endswith(".json")]) == 3
    monkeypatch.chdir(tmp_path)
    assert imports.import_records([tmp_path / "out/records.tar.gz"]).new == len(made)


def test_the_archive_depends_on_the_records_alone(source, run_dir, tmp_path):
    go(run_dir)
    factories.run_stages(STUDY, run_dir)
    packed = tmp_path / "out/records.tar.gz"
    go(run_dir)
    before = packed.read_bytes()
    packed.unlink()
    for path in run_dir.rglob("seed0*"):
        os.utime(path, (1, 1))
    go(run_dir)
    assert packed.read_bytes() == before


def test_too_many_records_come_home_in_several_archives(source, run_dir, tmp_path, monkeypatch, capfd):
    go(run_dir)
    made = factories.run_stages(STUDY, run_dir)
    monkeypatch.setattr(slices, "PART_BYTES", 20_000)
    go(run_dir)
    parts = sorted((tmp_path / "out").glob("records*.tar.gz"), key=lambda path: path.stat().st_mtime_ns)
    assert len(parts) > 1
    assert f"import all {len(parts)} archives" in capfd.readouterr().err
    order = [Path(name).parts[0] for part in parts for name in names_in(part)]
    assert order == sorted(order, key=["train", "prune", "benchmark"].index), "weights are not known before their files"
    monkeypatch.chdir(tmp_path)
    assert imports.import_records(parts).new == len(made)


def test_the_logs_end_comes_home(source, run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "LOG_BYTES", 6)
    go(run_dir)
    assert (tmp_path / "out/slice.log").read_text() == "first\n"


def test_another_study_keeps_results_but_no_cell_counts_as_done(source, run_dir, tmp_path, monkeypatch, capfd):
    other = factories.study(study="other", seeds=[1])
    (source / "studies/other.yaml").write_text(json.dumps(other.model_dump()))
    go(run_dir)
    (run_dir / "train/large").mkdir(parents=True)
    capfd.readouterr()
    go(run_dir, study="other")
    assert "found dvc.lock" not in capfd.readouterr().out
    assert (run_dir / "train/large").exists()
    assert json.loads((run_dir / "params.yaml").read_text())["seeds"] == [1]


def test_sigterm_ends_a_slice_as_when_its_time_is_over(source, run_dir, tmp_path, project):
    slice_ = start(command(run_dir), source, project, FAKE_END="never", PATH=os.defpath)
    until(slice_, f"at work {sys.executable}")
    slice_.terminate()
    out, _ = slice_.communicate(timeout=100)
    assert slice_.returncode == 75
    assert "call again" in out
    assert not running(run_dir)
    assert json.loads((tmp_path / "out/status.json").read_text())["exit_code"] == 75


def test_what_a_killed_slice_left_running_is_ended_by_the_next(source, run_dir, project):
    slice_ = start(command(run_dir), source, project, FAKE_END="never")
    until(slice_, "at work")
    slice_.kill()
    slice_.wait()
    orphans = running(run_dir)
    assert len(orphans) >= 2, "dvc and its stage"
    assert go(run_dir)[0] == 0
    assert not running(run_dir)


def test_processes_without_the_mark_are_found_by_those_that_started_them(run_dir):
    """On macOS the system's shell hides its environment."""
    program = "import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], env={})"
    env = {**os.environ, "_TRIMLAB_SLICE_OF": str(run_dir)}
    marked = subprocess.Popen([sys.executable, "-c", f"{program}.wait()"], env=env)
    until_children(marked)
    [hidden] = psutil.Process(marked.pid).children()
    try:
        assert {process.pid for process in slices._processes(run_dir)} == {marked.pid, hidden.pid}
    finally:
        slices._end_processes(run_dir)
    marked.wait()
    assert not hidden.is_running() or hidden.status() == psutil.STATUS_ZOMBIE


def until_children(process):
    deadline = time.monotonic() + 20
    while not psutil.Process(process.pid).children():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(("how", "trusted"), [("kill", False), ("terminate", True)])
def test_dvc_lock_is_forgotten_after_a_kill_alone(how, trusted, source, run_dir, project, capfd):
    (run_dir / ".slice").mkdir(parents=True)
    slice_ = start(command(run_dir), source, project, FAKE_END="never")
    until(slice_, "at work")
    getattr(slice_, how)()
    slice_.wait()
    (run_dir / ".dvc/tmp").mkdir()
    (run_dir / ".dvc/tmp/rwlock").write_text('{"write"')
    go(run_dir)
    assert ("found dvc.lock" in capfd.readouterr().out) == trusted
    assert not (run_dir / ".dvc/tmp/rwlock").exists()


HALF = """\
  half:
    workload: digits
    pruning: sweep.half
    precisions: []
"""
CANDIDATE = "candidate: {workload: digits, pruning: prune"
SMALLER = TINY.replace(HALF, "").replace(CANDIDATE, f"{CANDIDATE}, precisions: [fp32]")
"""The tiny study with fewer cells and files, each as it is there: every slice pays for its imports."""


def in_smaller(record):
    """Whether a record of the tiny study is one of the smaller's too."""
    variant, precision = getattr(record, "variant", None), getattr(record, "precision", None)
    return variant != "half" and not (variant == "candidate" and record.kind == "measurement" and precision != "fp32")


class Host:
    """A machine without git, on which every command begins in a source tree that was laid anew."""

    def __init__(self, root):
        self.run_dir, self.laid, self.calls, self.printed = root / "run", root, 0, []

    def start(self):
        """Lay the source somewhere and start a slice there."""
        if self.calls:
            shutil.rmtree(self.laid)
        self.calls += 1
        self.laid = copy_source(self.run_dir.parent / f"laid-{self.calls}")
        (self.laid / "studies/tiny.yaml").write_text(SMALLER)
        return start(command(self.run_dir, "tiny"), self.laid, self.laid,
                     PATH=os.defpath, TRIMLAB_COMMIT="0123456789ab")  # fmt: skip

    def stopped_at(self, text, how):
        """Run a slice until it prints `text`, then send a signal to all of it; return its exit code."""
        slice_ = self.start()
        self.printed.append(until(slice_, text))
        os.killpg(slice_.pid, how)
        self.printed.append(slice_.communicate(timeout=100)[0])
        return slice_.returncode

    def finish(self):
        """Run slices until the study is finished."""
        for _ in range(20):
            slice_ = self.start()
            self.printed.append(slice_.communicate()[0])
            if slice_.returncode != 75:
                return slice_.returncode
        raise AssertionError(self.printed[-1])


@pytest.mark.e2e
def test_a_study_that_is_killed_again_and_again_ends_as_one_that_never_was(reproduced, tmp_path):
    host, out = Host(tmp_path / "host"), tmp_path / "host/out"
    host.stopped_at("train digits: epoch 1/3", signal.SIGKILL)
    host.stopped_at("train digits: going on at epoch", signal.SIGKILL)
    assert host.stopped_at("benchmark base: seed 0, fp16", signal.SIGTERM) == 75
    assert not running(host.run_dir)
    assert {"train/digits/record/seed0.json", "prune/base/record/seed0.json"} <= set(names_in(out / "records.tar.gz"))
    assert host.finish() == 0, host.printed[-1]

    printed = "".join(host.printed)
    assert printed.count("train digits: epoch 1/3") == 1, "trained again"
    assert printed.count("train digits: going on at epoch") == 2
    assert [printed.count(f"Running stage '{cell}'") for cell in ("prepare@digits", "train@digits")] == [1, 3]
    fresh = Project(copy_source(tmp_path / "home"))
    (fresh.root / "studies/tiny.yaml").write_text(SMALLER)
    found = [record for record in reproduced.records().values() if in_smaller(record)]
    assert fresh.run("trimlab", "import", str(out / "records.tar.gz")).startswith(f"{len(found)} records added")
    brought = [records.read(path) for path in (fresh.root / "records/tiny").rglob("*.json")]
    assert by_content(brought) == by_content(found)
    assert all(record.resumptions for record in brought if record.kind == "training")
    assert {r.commit for r in brought} == {"0123456789ab"}
    fresh.run("trimlab", "report", "tiny")
    assert (fresh.root / "reports/tiny/report.md").read_text().startswith("# Tiny")


def by_content(found):
    return sorted(json.dumps(records.stable(record), sort_keys=True) for record in found)
