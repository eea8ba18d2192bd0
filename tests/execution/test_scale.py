"""A study on a cluster of three nodes, all on this machine: what is run, where, what survives a kill."""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from ruamel.yaml import YAML

from pipelines import TINY, Project, copy_source
from toys import SOURCE, SPREAD, Toy
from trimlab import records

ray_cluster = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install --editable '.[scale]'")

from trimlab.execution import ray_cells  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SOURCE))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("RAY_worker_niceness", "0")  # a busy machine would hold up workers of low priority for minutes
        started = ray_cluster.Cluster(
            initialize_head=True, head_node_args={"num_cpus": 1, "resources": {"timing": 1}, "include_dashboard": False}
        )
        for _ in range(2):
            started.add_node(num_cpus=1)
        yield started
        started.shutdown()


def test_a_study_is_spread_over_nodes_and_equals_a_serial_one(cluster, tmp_path):
    toy = Toy(tmp_path / "toy")
    said = toy.scale(cluster.address)
    tracked = {line.split()[1] for line in toy.noted() if line.startswith("tracked")}
    assert tracked == {"fingerprint", "prepare", "report"}, "one process writes to MLflow: the head"
    assert toy.ran() == dict.fromkeys(["fingerprint", "prepare", *SPREAD, "runtimes", "report"], 1)
    assert "1 nodes measure: " in said and "7 run on 3 nodes" in said
    assert "the report is in report/report.md" in said
    assert "up to date" in toy.run("python", "-m", "dvc", "repro")

    serial = Toy(tmp_path / "serial/toy")
    serial.run("python", "-m", "dvc", "repro")
    assert lock(toy) == lock(serial)
    assert (toy.root / "report/report.md").read_bytes() == (serial.root / "report/report.md").read_bytes()

    toy.log.unlink(missing_ok=True)
    shutil.rmtree(toy.root / ".dvc/cache")
    assert "7 cells are in the run cache" not in (again := toy.scale(cluster.address))
    assert "0 run on 3 nodes" in again
    assert set(toy.ran()) <= {"runtimes"}, "the run cache has all"


def lock(project):
    return YAML(typ="safe").load(project.root / "dvc.lock")


def test_a_failed_cell_names_its_log_spares_the_others_and_a_killed_one_is_tried_again(cluster, tmp_path):
    toy = Toy(tmp_path / "toy")
    for mark in ("fail-prune@half", "kill-benchmark@base"):
        (tmp_path / mark).touch()
    said = toy.scale(cluster.address, code=1)
    (log,) = re.findall(r"error: failed: prune@half \(see (\S+)\): run the same command again", said)
    assert "error: prune@half fails" in (toy.root / log).read_text()
    assert "1 did not run" in said and "Traceback" not in said
    ran = toy.ran()
    assert ran["benchmark@half"] == ran["report"] == 0
    assert (ran["prune@half"], ran["benchmark@base"], ran["benchmark@candidate"]) == (1, 2, 1)
    (tmp_path / "fail-prune@half").unlink()
    toy.scale(cluster.address)
    assert toy.ran() == dict.fromkeys(["runtimes", "prune@half", "benchmark@half", "report"], 1)


def test_a_killed_head_and_a_killed_node_lose_nothing_that_was_finished(cluster, tmp_path):
    toy = Toy(tmp_path / "toy")
    held = [f"prune@{key}" for key in ("base", "half", "candidate")]
    for name in held:
        (tmp_path / f"hold-{name}").touch()
    first = start(toy, cluster)
    wait_for(toy, lambda: Counter(toy.noted()) >= Counter(f"start {name}" for name in held))
    first.send_signal(signal.SIGKILL)
    first.wait()
    wait_for(toy, lambda: not running_cells(tmp_path))
    assert Counter(toy.noted())["end train"] == 1
    assert not any(line.startswith("end prune") for line in toy.noted()), "a cell outlived its head"

    second = start(toy, cluster)
    wait_for(toy, lambda: Counter(toy.noted()) >= Counter(f"start {name}" for name in 2 * held))
    lose_a_node(cluster)
    for name in held:
        (tmp_path / f"hold-{name}").unlink()
    try:
        said = second.communicate()[0]
    finally:
        cluster.add_node(num_cpus=1)
    assert second.returncode == 0, said
    notes = Counter(toy.noted())
    ends = {line.split()[1]: count for line, count in notes.items() if line.startswith("end")}
    assert ends.pop("runtimes") == 2
    assert ends == dict.fromkeys(["fingerprint", "prepare", *SPREAD, "report"], 1)
    assert sum(notes[f"start {name}"] for name in held) == 7, "the lost node's one again"


def lose_a_node(cluster):
    """Kill a node and all that runs on it, as when its machine loses its power."""
    (lost, *_) = cluster.worker_nodes
    (raylet,) = lost.all_processes["raylet"]
    running = psutil.Process(raylet.process.pid).children(recursive=True)
    cluster.remove_node(lost, allow_graceful=False)
    for process in running:
        with contextlib.suppress(psutil.Error):
            process.kill()


def running_cells(folder):
    """The running cells of projects below a folder."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[1:2] == ["cell.py"] and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found


@pytest.mark.e2e
def test_the_tiny_study_on_nodes_gives_the_records_of_a_serial_run(cluster, reproduced, tmp_path):
    tiny = Project(copy_source(tmp_path / "project"))
    tiny.params.write_text(TINY)
    for words in (
        ["init", "-q"], ["config", "user.name", "Test"], ["config", "user.email", "test@example.org"],
    ):  # fmt: skip
        tiny.run("git", *words)
    tiny.run("python", "-m", "dvc", "remote", "add", "-q", "-d", "storage", str(tmp_path / "remote"))
    tiny.commit("start")
    tiny.run("python", "-m", "trimlab.cli", "scale", "--address", cluster.address, "--folder", str(tmp_path / "node"))
    assert "up to date" in tiny.run("python", "-m", "dvc", "repro")
    scaled, serial = tiny.records(), reproduced.records()
    assert {key: records.stable(r) for key, r in scaled.items()} == {
        key: records.stable(r) for key, r in serial.items()
    }
    assert without_times(lock(tiny)) == without_times(lock(reproduced))
    assert files(tiny.root / "report") == files(reproduced.root / "report")
    assert (tiny.root / "mlflow.db").exists()


def without_times(locked):
    """A dvc.lock without the digests of what holds times, and without what follows from them."""
    timed = re.compile(r"(train|prune)/\w+/record|(train|prune)$|benchmark.*|report/.*")
    return {
        name: {
            key: [each for each in value if not timed.fullmatch(each["path"])] if key in ("deps", "outs") else value
            for key, value in entry.items()
        }
        for name, entry in locked["stages"].items()
    }


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def start(toy, cluster):
    env = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, *toy.command(cluster.address)[1:]]
    return subprocess.Popen(command, cwd=toy.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(toy, moment):
    for _ in range(2400):
        if moment():
            return
        time.sleep(0.1)
    raise AssertionError(toy.noted())


def test_what_is_missing_is_one_line(tmp_path):
    toy = Toy(tmp_path / "toy")
    (toy.root / "cell.py").write_text("")
    said = toy.scale("local", code=1)
    assert said == "error: cell.py differs from the last commit, which the nodes get: commit it first\n"
    toy.run("git", "checkout", "-q", ".")
    toy.run("python", "-m", "dvc", "remote", "remove", "storage")
    toy.commit("no remote")
    said = toy.scale("local", code=1)
    assert said == "error: DVC has no default remote: nodes share results through one, `dvc remote add -d NAME URL`\n"
    toy.run("python", "-m", "dvc", "remote", "add", "-d", "storage", str(tmp_path / "remote"))
    toy.commit("a remote")
    for address in ("127.0.0.1:1", "ray://somewhere"):
        said = toy.scale(address, code=1)
        assert re.match(rf"error: no Ray cluster answers at {address} \(.*\): give --address HOST:PORT as ", said)
        assert said.count("\n") == 1


def test_the_time_left_is_as_long_as_cells_of_that_stage_took_so_far():
    assert ray_cells.seconds_left({}, ["train@a"], 5) is None
    # 3 cells at once: 30 s of work in 10 s.
    done = {"prune": [10.0, 10.0], "train": [10.0]}
    assert ray_cells.seconds_left(done, ["prune@x", "prune@y", "benchmark@x"], 10) == pytest.approx(10)
    assert ray_cells.seconds_left({"prune": [1.0], "train": [9.0]}, ["prune@x"], 10) == pytest.approx(1)
