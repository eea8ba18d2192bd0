"""Disturb a small study again and again, and see that it ends as one that never was disturbed: `make chaos`.

    PYTHONPATH=tests python tests/chaos/chaos.py --kills 200 --seed 0

A round is one project. Its `dvc repro` is disturbed at random moments and started anew, until one ends before its
disturbance comes. Then its records, its report and its runs in MLflow are compared with those of an undisturbed run.
Every choice follows from the seed, though not the machine's speed. The last line is JSON.
"""

import argparse
import contextlib
import json
import random
import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import disturbances
import numpy as np
from disturbances import Run

from pipelines import Project, copy_source
from trimlab import config, dvc_files, paths, records
from trimlab.errors import UserError
from trimlab.records import archive, labels
from trimlab.records.select import select
from trimlab.report import stage as report_stage

STUDY = """\
study: chaos
seeds:
  - 0
data: {split: test, holdout_fraction: 0.1, seed: 0}
datasets:
  noise: {source: npz, path: noise.npz}
training:
  short: {epochs: 4, batch_size: 32, learning_rate: 0.05, flip: false, crop_padding: 0}
workloads:
  noise:
    {model: resnet20, code: data/none, dataset: noise, training: training.short, precision: fp32,
     initial: data/none, weights: data/none}
sweep:
  none: {ratio: 0.0, epochs: 0}
prune: {ratio: 0.5, epochs: 2}
pruning:
  importance: group-l1
variants:
  base: {workload: noise, pruning: sweep.none, precisions: [fp32]}
  candidate: {workload: noise, pruning: prune, precisions: [fp32, int8]}
quantization: {calibration_images: 20}
benchmark: {batch_size: 4, warmup: 1, repeats: 10, batch_repeats: 5, threads: 1}
report: {title: Chaos, baseline: base, candidate: candidate}
"""
NOT_KEPT = {"runtimes", "report"}
"""DVC has no copy of what these stages write: where dvc.lock was lost, they run again."""
_STAGE_OF = re.compile(r"^cmd: python stages/(\w+)\.py ?(\S*)$", re.M)
_DIGEST = re.compile(r"^  md5: (\S+)$", re.M)
_CELL = re.compile(r"^  (\S+):$", re.M)
_RUN = re.compile(r"Running stage '(.*)'")
_NOT_SAVED = re.compile(r"failed to transfer '\w+' - \[Errno [^\]]*\][^']*'([^']+)'")
"""What DVC says of an output that it could not copy into its cache: the cell is not finished."""


@dataclass
class Counts:
    """What is counted; all but the first three must be 0."""

    kills: Counter[str] = field(default_factory=Counter)
    """Those that came before the run had ended, by what was killed."""
    disturbances: Counter[str] = field(default_factory=Counter)
    """What else was done to a run."""
    repaired_by_check: int = 0
    """Files of DVC's own that a kill left half written, and `trimlab check` renamed."""
    finished_cells_run_again: int = 0
    results_computed_again: int = 0
    """Trainings and measurements that were on record, and were made a second time."""
    wrong_records: int = 0
    wrong_reports: int = 0
    wrong_runs: int = 0
    """Records without their one finished run in MLflow, and runs without a record."""
    hand_repairs: int = 0
    """Undisturbed repros that failed."""
    tracebacks: int = 0
    hangs: int = 0
    complaints: list[str] = field(default_factory=list)

    def failures(self) -> int:
        """Return how much went wrong."""
        return sum(value for key, value in vars(self).items() if isinstance(value, int) and key != "repaired_by_check")

    def complain(self, what: str) -> None:
        """Say what went wrong."""
        self.complaints.append(what)
        print(f"WRONG: {what}", flush=True)


def prepare(root: Path) -> Path:
    """Lay a project with the study at a folder; return it."""
    made = Project(copy_source(root))
    shutil.rmtree(root / "released", ignore_errors=True)
    chance = np.random.default_rng(0)
    parts = {"train": 192, "test": 64}
    arrays = {f"{part}_labels": np.arange(count) % 4 for part, count in parts.items()}
    arrays |= {f"{part}_images": chance.integers(0, 255, (n, 16, 16, 3), np.uint8) for part, n in parts.items()}
    np.savez(root / "noise.npz", **arrays)
    made.params.write_text(STUDY)
    made.run("git", "init", "-q", "-b", "main")
    made.run("git", "config", "user.name", "Test")
    made.run("git", "config", "user.email", "test@example.org")
    made.commit("start")
    return root


def undisturbed(project: Path) -> tuple[dict[str, Any], float]:
    """Run a study from beginning to end; return its records without what differs between runs, and the seconds."""
    began = time.monotonic()
    run = disturbances.repro(project)
    assert run.ended() == 0, run.log.read_text()
    return stable(project), time.monotonic() - began


def stable(project: Path) -> dict[str, Any]:
    """Return what all runs of a study have in common of its records."""
    return {name: records.stable(record) for name, record in Project(project).records().items()}


class Round:
    """A project that is disturbed until its study is finished."""

    def __init__(self, project: Path, counts: Counts, expected: dict[str, Any]) -> None:
        self.project, self.counts, self.expected = project, counts, expected
        self.finished: set[str] = set()
        self.unsaved: set[str] = set()
        """Cells of which DVC has no copy, because the disk was full."""
        self.results: dict[str, Any] = {}
        self.untracked = False
        """Whether a record may be missing in MLflow's store: it was thrown away, or a stage could not write to it."""

    def disturb(self, name: str, chance: random.Random, span: float) -> bool:
        """Disturb a run; return whether the study is finished all the same."""
        kill = name in disturbances.KILLS
        chosen = (disturbances.KILLS if kill else disturbances.OTHERS)[name]
        try:
            run = chosen(self.project, chance, span)
        except disturbances.HangError as error:
            self.counts.hangs += 1
            self.counts.complain(f"{name}: {error}")
            return True
        done = run.process.returncode == 0
        if run.hit or not kill:
            (self.counts.kills if kill else self.counts.disturbances)[name] += 1
        print(f"  {name}: exit code {run.process.returncode}, {run.log.name}", flush=True)
        self._look_at(run, name)
        self._repair()
        return done

    def finish(self) -> None:
        """Let the study end, and compare what it made. `trimlab check` comes first, as in `make repro`."""
        check = Run(self.project, "trimlab", "check")
        if check.ended():
            self.counts.hand_repairs += 1
            self.counts.complain(f"trimlab check failed: {check.log.read_text()}")
        check.log.unlink()
        for attempt in range(3):
            try:
                run = disturbances.repro(self.project)
                code = run.ended()
            except disturbances.HangError as error:
                self.counts.hangs += 1
                self.counts.complain(str(error))
                continue
            self._look_at(run, "undisturbed")
            if code == 0:
                break
            self.counts.hand_repairs += 1
            self.counts.complain(f"undisturbed run {attempt} failed: {_end(run)}")
            self._repair()
        else:
            return
        disturbances.end_orphans(self.project)
        if self.untracked:  # the report stage adds what is missing whenever it runs
            report = Run(self.project, "dvc", "repro", "--force", "--single-item", "report")
            report.ended()
        self._compare()

    def _repair(self) -> None:
        """Do what `trimlab check`, with which `make repro` begins, does to DVC's files; it takes seconds to start."""
        with contextlib.chdir(self.project):
            said = dvc_files.repair()
        self.counts.repaired_by_check += len(said)
        if any(line.startswith("dvc.lock ended early") for line in said):
            self.finished -= NOT_KEPT

    def _look_at(self, run: Run, name: str) -> None:
        """Count what ran again, and remember what is finished now."""
        printed = run.log.read_text(errors="replace")
        again = set(_RUN.findall(printed)) & self.finished
        if again:
            self.counts.finished_cells_run_again += len(again)
            self.counts.complain(f"{name}: ran again: {sorted(again)}, see {run.log}")
        if "Traceback (most recent call last)" in printed:
            self.counts.tracebacks += 1
            self.counts.complain(f"{name}: traceback, see {run.log}")
        self.untracked |= name == "making of the store" or "not tracked: " in printed
        self.unsaved = (self.unsaved - set(_RUN.findall(printed))) | unsaved_cells(self.project, printed)
        self.finished |= finished_cells(self.project) - self.unsaved
        now = results(self.project)
        self.results = {**now, **self.results}

    def _compare(self) -> None:
        found = stable(self.project)
        wrong = sorted(
            name for name in found.keys() | self.expected.keys() if found.get(name) != self.expected.get(name)
        )
        self.counts.wrong_records += len(wrong)
        if wrong:
            self.counts.complain(f"wrong records: {wrong} in {self.project}")
        now = results(self.project)
        again = sorted(name for name, made in self.results.items() if now.get(name) != made)
        self.counts.results_computed_again += len(again)
        if again:
            self.counts.complain(f"computed again: {again}")
        for complaint in report_problems(self.project):
            self.counts.wrong_reports += 1
            self.counts.complain(complaint)
        for complaint in run_problems(self.project):
            self.counts.wrong_runs += 1
            self.counts.complain(complaint)


def finished_cells(project: Path) -> set[str]:
    """Return the cells that DVC has: in dvc.lock, or in its run cache with all outputs, which it writes after that."""
    found = set()
    with contextlib.suppress(OSError):
        found |= set(_CELL.findall((project / "dvc.lock").read_text()))
    cache = project / ".dvc/cache"
    for path in (cache / "runs").glob("*/*/*"):
        with contextlib.suppress(OSError):
            run = path.read_text()
            outputs = _DIGEST.findall(run.rpartition("\nouts:\n")[2])
            if all((cache / "files/md5" / digest[:2] / digest[2:]).exists() for digest in outputs):
                found |= {f"{stage}@{name}" if name else stage for stage, name in _STAGE_OF.findall(run)}
    return found


def unsaved_cells(project: Path, printed: str) -> set[str]:
    """Return the cells whose outputs did not fit into DVC's cache."""
    outputs = (Path(path).relative_to(project).parts for path in _NOT_SAVED.findall(printed))
    return {"@".join(parts[:2]) for parts in outputs}


def results(project: Path) -> dict[str, Any]:
    """Return what tells two makings of a record apart: a training by its seconds, a measurement by its moment."""
    found: dict[str, Any] = {}
    for stage in ("train", "prune"):
        for path in project.glob(f"{stage}/*/record/seed*.json"):
            with contextlib.suppress(UserError):
                found[str(path.relative_to(project))] = [epoch.seconds for epoch in records.read(path).curve]
    kept = [*(project / paths.STATE).glob("measured/*/*.json"), *(project / paths.STATE).glob("answered/*/*.json")]
    for path in kept:
        with contextlib.suppress(UserError):
            found[f"{path.parent.name} {path.name}"] = records.read(path).created
    return found


def report_problems(project: Path) -> Iterator[str]:
    """Yield where the report is not what its records give."""
    with contextlib.chdir(project), tempfile.TemporaryDirectory() as scratch:
        study = config.load()
        chosen = select(study, archive.stage_records(study))
        report_stage.render(study, chosen, Path(scratch) / "report", labels.of_stages(chosen))
        expected, found = (_contents(folder / "report") for folder in (Path(scratch), Path()))
    yield from (f"report/{name} is not what its records give" for name in _differing(expected, found))


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _differing(expected: dict[str, bytes], found: dict[str, bytes]) -> list[str]:
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


_TAGGED = "SELECT r.status, t.value FROM runs r LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = ?"


def run_problems(project: Path) -> Iterator[str]:
    """Yield the records without their one finished run in MLflow, and runs that are left unfinished."""
    made = {record.digest for record in Project(project).records().values()}
    if not (project / "mlflow.db").exists():
        yield "MLflow has no store"
        return
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as store:
        runs = store.execute(f"{_TAGGED} WHERE r.lifecycle_stage = 'active'", ("trimlab.record",)).fetchall()
    logged = Counter(digest for _, digest in runs if digest)
    yield from (f"{logged[digest]} runs of a record" for digest in made if logged[digest] != 1)
    yield from (f"a run is left {status}" for status, _ in runs if status != "FINISHED")


def _end(run: Run) -> str:
    return " / ".join(run.log.read_text(errors="replace").splitlines()[-4:])


def plan(kinds: Iterable[str], chance: random.Random) -> Iterator[str]:
    """Yield disturbances without end, in random order, each kind as often as it is given."""
    while True:
        order = list(kinds)
        chance.shuffle(order)
        yield from order


def torment(scratch: Path, kinds: list[str], kills: int, seed: int, counts: Counts, at_most: int = 20) -> None:
    """Disturb rounds until there were enough kills.

    Args:
        scratch: a folder, which may be a small disk.
        kinds: of disturbances.
        kills: how many.
        seed: of every choice.
        counts: are added to.
        at_most: disturbances of one round.
    """
    chance = random.Random(seed)
    pristine = prepare(scratch / "pristine" / "project")
    shutil.copytree(pristine, scratch / "undisturbed" / "project", symlinks=True)
    expected, span = undisturbed(scratch / "undisturbed" / "project")
    shutil.rmtree(scratch / "undisturbed")
    print(f"an undisturbed repro takes {span:.0f} s here and makes {len(expected)} records", flush=True)
    wanted = plan(kinds, chance)
    number = 0
    while counts.kills.total() < kills:
        number += 1
        folder = scratch / f"round-{number}"
        shutil.copytree(pristine, folder / "project", symlinks=True)
        round_, wrong, began = Round(folder / "project", counts, expected), counts.failures(), time.monotonic()
        for _ in range(at_most):
            name = next(wanted)
            if round_.disturb(name, chance, span) or counts.kills.total() >= kills:
                break
        round_.finish()
        took = time.monotonic() - began
        print(
            f"round {number}: {counts.kills.total()} of {kills} kills, {took:.0f} s, {counts.failures()} wrong",
            flush=True,
        )
        if counts.failures() == wrong:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Print progress, and what was counted as JSON; return 1 where anything went wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="kinds of disturbances", default=None)
    given = parser.parse_args()
    mountable = disturbances.may_mount()
    # A round ends with its first kill of a measurement, which only the last cells make and then repeat.
    often = sorted(disturbances.KILLS.keys() - {"measurement"})
    kinds = given.only or [*2 * often, *disturbances.KILLS, *disturbances.OTHERS]
    if not mountable:
        print("full disk: left out, this user may not mount a small one; limited files take its place")
        kinds = [kind for kind in kinds if kind != "full disk"]
    counts, began = Counts(), time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="chaos-"))
    with disturbances.small_disk(scratch, mib=1500) if mountable else contextlib.nullcontext():
        torment(scratch, kinds, given.kills, given.seed, counts)
        if counts.failures():
            kept = Path(tempfile.mkdtemp(prefix="chaos-kept-"))
            shutil.copytree(scratch, kept, symlinks=True, dirs_exist_ok=True)
            print(f"kept for a look: {kept}")
    shutil.rmtree(scratch, ignore_errors=True)
    print(json.dumps({"seed": given.seed, "seconds": round(time.monotonic() - began), **vars(counts)}))
    return 1 if counts.failures() else 0


if __name__ == "__main__":
    sys.exit(main())
