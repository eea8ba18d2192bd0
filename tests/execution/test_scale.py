"""A study on a cluster of three nodes, all on this machine: what is run, where, what survives a kill."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipelines import TINY, Project
from trimlab.execution import cell as one_cell

ray_cluster = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed: pip install 'trimlab[scale]'")

from trimlab.execution import ray_cells  # noqa: E402

CELL = """\
import json, os, signal, sys, time
from pathlib import Path
name, out, seconds = sys.argv[1:4]
log = Path("LOG")
def note(what):
    with log.open("a") as file:
        file.write(f"{what} {name}\\n")
note("start")
assert os.environ.get("TRIMLAB_TRACKING") == "off" or name in ("fingerprint", "prepare", "report"), "it is tracked"
time.sleep(float(seconds))
if (log.parent / f"fail-{name}").exists():
    sys.exit(f"error: {name} fails")
if (log.parent / f"kill-{name}").exists():
    (log.parent / f"kill-{name}").unlink()
    os.kill(os.getpid(), signal.SIGKILL)
Path(out).parent.mkdir(parents=True, exist_ok=True)
Path(out).write_text(" ".join([name, *(Path(p).read_text() for p in sys.argv[4:])]))
note("end")
"""
"""Writes a file that depends on its inputs, after some seconds."""

PIPELINE = """\
stages:
  fingerprint:
    cmd: python cell.py fingerprint fingerprint/all.txt 0
    deps: [stages]
    outs: [fingerprint/all.txt]
  prepare:
    foreach: ${datasets}
    do:
      cmd: python cell.py prepare prepare/${key} 0
      deps: [fingerprint/all.txt]
      outs: ["prepare/${key}"]
  train:
    foreach: ${workloads}
    do:
      cmd: python cell.py train train/${key}/model SECONDS prepare/${item.dataset}
      params: [seeds]
      deps: [fingerprint/all.txt, "prepare/${item.dataset}"]
      outs: ["train/${key}/model"]
  prune:
    foreach: ${variants}
    do:
      cmd: python cell.py prune@${key} prune/${key}/model SECONDS train/${item.workload}/model
      params: ["variants.${key}"]
      deps: [fingerprint/all.txt, "train/${item.workload}/model"]
      outs: ["prune/${key}/model"]
  runtimes:
    cmd: python cell.py runtimes runtimes/here.json 0
    deps: [fingerprint/all.txt]
    outs:
      - runtimes/here.json: {cache: false}
  benchmark:
    foreach: ${variants}
    do:
      cmd: python cell.py benchmark@${key} benchmark/${key} SECONDS runtimes/here.json prune/${key}/model
      deps: [runtimes/here.json, "prune/${key}/model"]
      outs: ["benchmark/${key}"]
  report:
    cmd: python cell.py report report/report.md 0 benchmark/base benchmark/half benchmark/candidate
    deps: [benchmark]
    outs:
      - report/report.md: {cache: false, persist: true}
"""
"""The stages of this project, of cells that take no time."""
SPREAD = ["train", *(f"{stage}@{key}" for stage in ("prune", "benchmark") for key in ("base", "half", "candidate"))]
"""What the nodes run, besides `runtimes`."""


class Toy(Project):
    """A project with those stages."""

    def __init__(self, root, seconds=0):
        super().__init__(root)
        self.log = root.parent / "log"
        (root / "stages").mkdir(parents=True)
        (root / "stages/none.py").touch()
        (root / "cell.py").write_text(CELL.replace("LOG", str(self.log)))
        (root / "dvc.yaml").write_text(PIPELINE.replace("SECONDS", str(seconds)))
        self.params.write_text(TINY)
        (root / ".gitignore").write_text("/fingerprint\n/prepare\n/train\n/prune\n/runtimes\n/benchmark\n")
        self.run("git", "init", "-q")
        self.run("git", "config", "user.name", "Test")
        self.run("git", "config", "user.email", "test@example.org")
        self.run("python", "-m", "dvc", "init", "-q")
        self.run("python", "-m", "dvc", "remote", "add", "-q", "-d", "storage", str(root.parent / "remote"))
        self.commit("start")

    def command(self, address):
        folder = self.root.parent / "node"
        return ["python", "-m", "trimlab.cli", "scale", "--address", address, "--folder", str(folder)]

    def run(self, *command, code=0, **env):
        source = str(Path(__file__).parents[2] / "src")
        return super().run(*command, code=code, **{"PYTHONPATH": source, **env})

    def scale(self, address, code=0, **env):
        return self.run(*self.command(address), code=code, **env)

    def ran(self):
        """How often each cell was started, and forget."""
        counts = Counter(line.split()[1] for line in self.log.read_text().splitlines() if line.startswith("start"))
        self.log.unlink()
        return counts


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2] / "src"))
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
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
    toy = Toy(tmp_path / "toy", seconds=2)
    first = start(toy, cluster)
    wait_for(toy, {"start prune@base", "start prune@half", "start prune@candidate"})
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(4)  # longer than a cell takes
    assert Counter(noted(toy))["end train"] == 1
    assert not any(line.startswith("end prune") for line in noted(toy)), "a cell outlived its head"

    second = start(toy, cluster)
    wait_for(toy, {f"start prune@{key}": 2 for key in ("base", "half", "candidate")})
    (lost, *_) = cluster.worker_nodes
    cluster.remove_node(lost, allow_graceful=False)
    try:
        said = second.communicate()[0]
    finally:
        cluster.add_node(num_cpus=1)
    assert second.returncode == 0, said
    notes = Counter(noted(toy))
    ends = {line.split()[1]: count for line, count in notes.items() if line.startswith("end")}
    assert ends.pop("runtimes") == 2
    assert ends == dict.fromkeys(["fingerprint", "prepare", *SPREAD, "report"], 1)
    assert sum(notes[f"start prune@{key}"] for key in ("base", "half", "candidate")) == 7, "the lost node's one again"


def start(toy, cluster):
    source = str(Path(__file__).parents[2] / "src")
    env = {**os.environ, "PYTHONPATH": source}
    command = [sys.executable, *toy.command(cluster.address)[1:]]
    return subprocess.Popen(command, cwd=toy.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def noted(toy):
    return toy.log.read_text().splitlines() if toy.log.exists() else []


def wait_for(toy, wanted):
    for _ in range(1200):
        if Counter(noted(toy)) >= Counter(wanted):
            return
        time.sleep(0.1)
    raise AssertionError(noted(toy))


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


@pytest.mark.parametrize(
    ("said", "again"),
    [
        ("failed to run: python stages/train.py x, exited with -9", True),
        ("failed to run: python stages/train.py x, exited with 137", True),
        ("failed to run: python stages/train.py x, exited with 1", False),
        ("failed to run: python stages/train.py x, exited with 128", False),
    ],
)
def test_what_a_signal_ended_is_tried_again(said, again):
    assert bool(one_cell._SIGNALLED.search(f"failed to reproduce 'train@x'\n{said}")) is again
