"""A study in slices, for a host without network and git, on which a command lives for some minutes only.

The first slice copies the source tree it stands in to a run directory; results, DVC's cache and resumable checkpoints
stay there for the later ones. Each runs `dvc repro` for a while and copies the records of finished cells to its output
folder.

Any of it may be killed at any moment. What a killed slice left running has the run directory in its environment, and
the next slice ends it; no process group of its own, so that a host which kills the caller's ends it at once.
"""

import gzip
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from trimlab import config, machine, paths, records
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.progress import say
from trimlab.records import archive

UNFINISHED = os.EX_TEMPFAIL
"""Exit code of a slice after which the study is not finished: call again."""

ARCHIVE = "records.tar.gz"
LOG = "slice.log"
STATUS = "status.json"
"""What a slice leaves in its output folder."""

HOME_EVERY_SECONDS = 20.0
STOP_SECONDS = 20.0
"""How long a slice waits, its time over, until DVC waits for a stage and can be ended."""
GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""
LOG_BYTES = 1 << 20
PART_BYTES = 12 << 20
"""Of records in one archive, before compression."""

_OWN = Path(".slice")
"""The slices' own files in a run directory, which is known by this folder."""
_SOURCE = _OWN / "source.json"
"""Commit of the source there; written last, so that half a copy is never taken for a whole one."""
_UNDER_WAY = _OWN / "under-way"
"""There while DVC runs; still there when it may have been killed while it wrote dvc.lock."""
_LOCKFILE = Path("dvc.lock")
_MARK = "_TRIMLAB_SLICE_OF"
"""Variable by which the processes of a run directory are found; nobody's shell has it, for it would be ended too."""
_CODE = ("src", "stages", "tests")
"""Replaced as a whole: a module that is gone must not be imported."""


def run(study: str, run_dir: Path, out: Path, seconds: float, fresh_source: bool = False) -> int:
    """Go on with a study for a while; to be called in the root of a source tree.

    Args:
        study: a key of `studies/`, or what params.yaml is.
        run_dir: where everything is kept between slices; outside the source tree.
        out: where records, status and the log's end go.
        seconds: after which the slice ends, but for half a minute at most.
        fresh_source: replace the run directory's source by the one here; results are kept.

    Returns:
        The exit code: 0 when the study is finished, 75 when to call again, 1 when a cell failed.

    Raises:
        UserError: a folder is not what it should be, there is no commit or no such study, or another slice is at work.
    """
    deadline = time.monotonic() + seconds
    root, out = run_dir.resolve(), out.resolve()
    _check_places(root)
    at_work = f"another slice is at work in {root}: wait for it, or end it"
    with machine.alone(root / _OWN / "lock", at_work), _signals_noted() as told:
        _end_processes(root)
        commit = _settle_source(root, study, fresh_source)
        out.mkdir(parents=True, exist_ok=True)
        with chdir(root):
            described = _switch_to(study)
            home = _Home(described, _cells(described), out, commit)
            returned = _repro(home, told, deadline)
            code = 0 if returned == 0 else UNFINISHED if told or returned < 0 else 1
            home.bring(code)
            print(home.summary(code), flush=True)
    return code


def _check_places(root: Path) -> None:
    for name in ("dvc.yaml", "src", "stages"):
        if not Path(name).exists():
            raise UserError(f"{Path(name).absolute()} does not exist: call this in the root of the source tree")
    if root.is_relative_to(Path.cwd()):
        raise UserError(f"{root} is in the source tree, which does not last: name a folder outside of it")
    if root.exists() and not (root / _OWN).is_dir() and any(root.iterdir()):
        raise UserError(f"{root} is not a run directory, and not empty: name a new folder")


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Note SIGTERM and SIGINT instead of dying of them: the slice then ends as when its time is over."""
    told: list[int] = []
    former = {number: signal.signal(number, lambda n, _: told.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _processes(root: Path) -> list[psutil.Process]:
    """Return a run directory's processes: those with the mark, and what they started (macOS hides its shell's)."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended, or is another user's
            if process.environ().get(_MARK) == str(root):
                found |= {each.pid: each for each in (process, *process.children(recursive=True))}
    return list(found.values())


def _end_processes(root: Path) -> None:
    for end in (psutil.Process.terminate, psutil.Process.kill):
        processes = _processes(root)
        for process in processes:
            with suppress(psutil.Error):
                end(process)
        psutil.wait_procs(processes, timeout=GRACE_SECONDS)
    if left := _processes(root):
        pids = ", ".join(str(process.pid) for process in left)
        raise UserError(f"processes of {root} do not end ({pids}): end them, then call again")


def _settle_source(root: Path, study: str, fresh: bool) -> str:
    """Bring the source to the run directory, unless it is there; return its commit."""
    if fresh or not (root / _SOURCE).exists():
        _copy_source(root)
    elif differing := _differing(root, study):
        say(
            f"the source here differs from {root}'s ({_some(differing)}): "
            f"going on with {root}'s; --fresh-source takes this one"
        )
    commit: str = json.loads((root / _SOURCE).read_text())["commit"]
    return commit


def _copy_source(root: Path) -> None:
    commit = records.commit()
    if commit == "unknown":
        raise UserError("no git here says the commit, which every record carries: set TRIMLAB_COMMIT to it")
    (root / _SOURCE).unlink(missing_ok=True)
    for folder in _CODE:
        shutil.rmtree(root / folder, ignore_errors=True)
    shutil.copytree(".", root, ignore=_not_source, symlinks=True, dirs_exist_ok=True)
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    (root / _LOCKFILE).unlink(missing_ok=True)
    for kept in paths.kept_measurements(root=root):
        kept.unlink()  # of another source
    _write_whole(root / _SOURCE, json.dumps({"commit": commit}).encode())


_DERIVED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "mlflow.db*")


def _not_source(folder: str, names: list[str]) -> set[str]:
    """Return what of a folder is not copied: results, caches, environments."""
    left = {
        Path(): {".git", ".venv", ".gpu", "build", "mlartifacts", _LOCKFILE.name, *_stages()},
        Path(".dvc"): {"cache", "tmp", "config.local"},
    }.get(Path(folder), set())
    return _DERIVED(folder, names) | (left & set(names))


def _differing(root: Path, study: str) -> list[str]:
    here, there = _digests(Path(), study), _digests(root, study)
    return sorted(name for name in here | there if here.get(name) != there.get(name))


def _digests(top: Path, study: str) -> dict[str, str]:
    files = [
        *top.glob("src/trimlab/**/*"),
        *top.glob("stages/*"),
        top / "dvc.yaml",
        top / paths.STUDIES / f"{study}.yaml",
    ]
    return {
        str(path.relative_to(top)): sha256_of(path)
        for path in files
        if path.is_file() and "__pycache__" not in path.parts
    }


def _switch_to(study: str) -> config.Params:
    described = archive.load_study(study)
    kept = paths.STUDIES / f"{study}.yaml"
    if kept.exists() and kept.read_bytes() != paths.PARAMS.read_bytes():
        _LOCKFILE.unlink(missing_ok=True)  # it speaks of other params; what is the same comes from the run cache
        _write_whole(paths.PARAMS, kept.read_bytes())
    return described


def _repro(home: "_Home", told: list[int], deadline: float) -> int:
    """Run `dvc repro` until it ends, time is over or a signal came; return its exit code, negative if it was ended."""
    if _UNDER_WAY.exists():
        _LOCKFILE.unlink(missing_ok=True)  # half written, maybe; the run cache has every cell
    Path(".dvc/tmp/rwlock").unlink(missing_ok=True)  # the process numbers in it may be others' by now
    _UNDER_WAY.touch()
    with (_OWN / LOG).open("wb") as log, (_OWN / LOG).open("rb") as printed:
        dvc = _start(home.commit, log)
        try:
            _attend(dvc, home, printed, told, deadline)
        finally:
            if _stop(dvc):
                _UNDER_WAY.unlink()
            _end_processes(Path.cwd())
            _stream(printed)
    return dvc.returncode


def _start(commit: str, log: BinaryIO) -> "subprocess.Popen[bytes]":
    # Stages call `python`. A script, because a link to an environment's interpreter is outside of the environment.
    python = _OWN / "bin" / "python"
    python.parent.mkdir(exist_ok=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    root = Path.cwd()
    env = os.environ | {
        "PATH": os.pathsep.join([str(root / python.parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root / "src"), os.environ.get("PYTHONPATH")])),
        "TRIMLAB_COMMIT": commit,
        _MARK: str(root),
    }
    # One broken cell must not cost the others their turn: nobody is there to fix it between two slices.
    command = [sys.executable, "-m", "dvc", "repro", "--keep-going"]
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _attend(dvc: "subprocess.Popen[bytes]", home: "_Home", printed: BinaryIO, told: list[int], deadline: float) -> None:
    due = 0.0
    while dvc.poll() is None and not told and time.monotonic() < deadline:
        _stream(printed)
        if time.monotonic() >= due:
            home.bring()
            due = time.monotonic() + HOME_EVERY_SECONDS
        time.sleep(0.2)


def _stream(printed: BinaryIO) -> None:
    shutil.copyfileobj(printed, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _stop(dvc: "subprocess.Popen[bytes]") -> bool:
    """End DVC while it waits for a stage, when it writes nothing; return whether dvc.lock can be trusted."""
    deadline, waits = time.monotonic() + STOP_SECONDS, False
    while dvc.poll() is None and not waits and time.monotonic() < deadline:
        time.sleep(0.02)
        with suppress(psutil.Error):  # it has just ended
            waits = bool(psutil.Process(dvc.pid).children())
    if dvc.returncode is not None:
        return dvc.returncode >= 0
    dvc.kill()
    dvc.wait()
    return waits


@dataclass
class _Home:
    """What a slice takes home."""

    study: config.Params
    cells: list[str]
    out: Path
    commit: str
    began: float = field(default_factory=time.monotonic)
    done: set[str] = field(default_factory=set)
    """DVC's cells that are finished; only grows within a slice, so that reading half a dvc.lock loses none."""
    packed: list[Path] | None = None

    def bring(self, code: int | None = None) -> None:
        """Write the records if there are new ones, the log's end, and the status."""
        self.done |= _finished_cells()
        with suppress(FileNotFoundError):  # a cell has just finished, and its records lie elsewhere now
            if self.packed != (found := self._records()):
                _pack(found, self.out)
                self.packed = found
        _write_whole(self.out / LOG, _end_of(_OWN / LOG))
        status = {
            "study": self.study.study,
            "commit": self.commit,
            "exit_code": code,
            "seconds": round(time.monotonic() - self.began, 1),
            "cells": len(self.cells),
            "done": [cell for cell in self.cells if cell in self.done],
            "left": self.left(),
        }
        _write_whole(self.out / STATUS, (json.dumps(status, indent=1) + "\n").encode())

    def left(self) -> list[str]:
        """Return the cells that are not finished."""
        return [cell for cell in self.cells if cell not in self.done]

    def summary(self, code: int) -> str:
        """Return how far the study is, in a line."""
        left = self.left()
        said = f"study {self.study.study}: {len(self.cells) - len(left)} of {len(self.cells)} cells are done"
        if code == 0:
            return said
        then = "call again" if code == UNFINISHED else f"some failed, and {LOG} says why"
        return f"{said}, not {_some(left)}: {then}"

    def _records(self) -> list[Path]:
        """Return the records of finished cells, and of unfinished ones what they have measured."""
        finished = [path for cell, path in archive.stage_files(self.study) if cell in self.done and path.exists()]
        return finished + paths.kept_measurements(root=Path())


def _pack(files: list[Path], out: Path) -> None:
    parts = _parts(files)
    for number, part in enumerate(parts, 1):
        name = ARCHIVE if number == 1 else ARCHIVE.replace(".", f"-{number}.", 1)
        _write_whole(out / name, tar(part))
    if len(parts) > 1:
        say(f"the records are more than {PART_BYTES >> 20} MiB: import all {len(parts)} archives in one call")


def tar(files: list[Path]) -> bytes:
    """Return a .tar.gz of files; the same for the same files, whenever and by whomever it is made."""
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w") as made,
    ):
        for path in files:
            content = path.read_bytes()
            member = tarfile.TarInfo(str(path))
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _parts(files: list[Path]) -> list[list[Path]]:
    """Split records into archives, each with its predicted labels beside it."""
    parts: list[list[Path]] = [[]]
    size = 0
    # Backwards: train, prune, benchmark, so that what an archive measured is never before its weights' record.
    for record in sorted(files, reverse=True):
        group = [path for path in (record, record.with_suffix(".npy")) if path.exists()]
        size += (more := sum(path.stat().st_size for path in group))
        if size > PART_BYTES and parts[-1]:
            parts.append([])
            size = more
        parts[-1] += group
    return parts


def _load_yaml(path: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(path) or {}
    return loaded


def _stages() -> dict[str, Any]:
    stages: dict[str, Any] = _load_yaml(Path("dvc.yaml"))["stages"]
    return stages


def _cells(study: config.Params) -> list[str]:
    """Return DVC's names of all cells, fanned out as dvc.yaml says."""
    found = []
    for name, stage in _stages().items():
        over = stage.get("foreach")
        found += [f"{name}@{key}" for key in getattr(study, over.strip("${}"))] if over else [name]
    return found


def _finished_cells() -> set[str]:
    """Return the cells that DVC has, outputs and all; a record may lie there before."""
    try:
        return set(_load_yaml(_LOCKFILE).get("stages") or {})
    except (FileNotFoundError, YAMLError):  # none yet, or DVC is writing it
        return set()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read()


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
