"""Copies of this project, with a study that takes a minute."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from trimlab import records

TINY = """\
study: tiny
seeds:
  - 0
data:
  split: test
  holdout_fraction: 0.1
  seed: 0
datasets:
  digits: {source: digits, path: data/none}
training:
  short: {epochs: 3, batch_size: 64, learning_rate: 0.05, flip: false, crop_padding: 0}
workloads:
  digits:
    {model: resnet20, code: data/none, dataset: digits, training: training.short, precision: fp32,
     initial: data/none, weights: data/none}
sweep:
  none: {ratio: 0.0, epochs: 0}
  half: {ratio: 0.5, epochs: 1}
prune: {ratio: 0.3, epochs: 0}
pruning:
  importance: group-l1
variants:
  base: {workload: digits, pruning: sweep.none}
  half:
    workload: digits
    pruning: sweep.half
    precisions: []
  candidate: {workload: digits, pruning: prune}
quantization:
  calibration_images: 20
benchmark: {batch_size: 8, warmup: 1, repeats: 10, batch_repeats: 5}
report:
  title: Tiny
  baseline: base
  candidate: candidate
"""


class Project:
    """A clone of this project somewhere else."""

    def __init__(self, root):
        self.root = root
        self.params = root / "params.yaml"
        self.printed = ""  # by the `dvc repro` that made its outputs

    def run(self, *command, code=0, **env):
        """Run a command of the environment in the clone; return what it printed."""
        folder = Path(sys.executable).parent
        found = str(folder / command[0])
        done = subprocess.run(
            [found, *command[1:]] if (folder / command[0]).exists() else command,
            cwd=self.root,
            env={
                **{k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "PYTHONDONTWRITE"))},
                "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(self.root / "src"),
                **env,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        printed = done.stdout + done.stderr
        assert (done.returncode == 0) == (code == 0), printed
        return printed

    def repro(self, *arguments):
        """Run `dvc repro`; return the cells that ran."""
        return ran(self.run("dvc", "repro", *arguments))

    def edit(self, old, new, file="params.yaml"):
        """Replace a text in a file."""
        path = self.root / file
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def records(self):
        """Read all records of the stages, by path."""
        found = [path for stage in ("train", "prune") for path in (self.root / stage).glob("*/record/seed*.json")]
        found += (self.root / "benchmark").glob("*/seed*.json")
        return {str(path.relative_to(self.root)): records.read(path) for path in sorted(found)}

    def commit(self, message):
        """Commit everything."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)


def ran(printed):
    return re.findall(r"Running stage '(.*)'", printed)


def tracked_files(project):
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=project, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [Path(name) for name in listed.stdout.split("\0") if name and (project / name).is_file()]


def copy_source(root):
    """Copy what git would track to `root`, less what a pipeline makes, and tests."""
    source = Path(__file__).parent.parent
    for file in tracked_files(source):
        if file.parts[0] not in ("records", "report", "reports", "tests") and file.name != "dvc.lock":
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / file, root / file)
    return root
