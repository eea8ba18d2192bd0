"""A pipeline with this project's stages, of cells that take no time."""

from collections import Counter
from pathlib import Path

from pipelines import TINY, Project

SOURCE = Path(__file__).parent.parent / "src"

CELL = """\
import json, os, signal, sys, time
from pathlib import Path
name, out, seconds = sys.argv[1:4]
log = Path("LOG")
def note(what):
    with log.open("a") as file:
        file.write(f"{what} {name}\\n")
note("start")
if os.environ.get("TRIMLAB_TRACKING") != "off":
    note("tracked")
time.sleep(float(seconds))
while (log.parent / f"hold-{name}").exists():
    time.sleep(0.05)
if (log.parent / f"fail-{name}").exists():
    sys.exit(f"error: {name} fails")
if (log.parent / f"kill-{name}").exists():
    (log.parent / f"kill-{name}").unlink()
    os.kill(os.getpid(), signal.SIGKILL)
Path(out).parent.mkdir(parents=True, exist_ok=True)
Path(out).write_text(" ".join([name, *(Path(p).read_text() for p in sys.argv[4:])]))
note("end")
"""
"""Writes a file that depends on its inputs, after some seconds, and not before what holds it is gone."""

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
"""`cell.py` for every cell of this project."""
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
        return super().run(*command, code=code, **{"PYTHONPATH": str(SOURCE), **env})

    def scale(self, address, code=0, **env):
        return self.run(*self.command(address), code=code, **env)

    def noted(self):
        """What cells noted, a line each: that they started, and ended."""
        return self.log.read_text().splitlines() if self.log.exists() else []

    def ran(self):
        """How often each cell was started, and forget."""
        counts = Counter(line.split()[1] for line in self.noted() if line.startswith("start"))
        self.log.unlink(missing_ok=True)
        return counts
