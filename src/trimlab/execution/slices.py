"""Run a study in slices, on a host without network and git that ends every command after some minutes.

The first slice copies the current source tree to a run directory. Results, DVC's cache and resumable checkpoints stay
there for later slices. Each slice runs `dvc repro` for a limited time, and copies the records of finished cells to its
output folder.

A slice may be killed at any moment. The processes that it started have the run directory in their environment, so that
the next slice can find and end those that still run. They stay in the caller's process group, so that a host that kills
this group ends them too.
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
from trimlab.execution import environment
from trimlab.progress import say
from trimlab.records import archive

UNFINISHED = os.EX_TEMPFAIL
"""Exit code of a slice that ended before the study was finished: call it again."""

ARCHIVE = "records.tar.gz"
LOG = "slice.log"
STATUS = "status.json"
"""The files that a slice writes to its output folder."""

OUTPUT_EVERY_SECONDS = 20.0
STOP_SECONDS = 20.0
"""How long a slice whose time is over waits until DVC is waiting for a stage: then DVC can be ended safely."""
GRACE_SECONDS = 5.0
"""How long a process has between SIGTERM and SIGKILL."""
LOG_BYTES = 1 << 20
PART_BYTES = 12 << 20
"""Size of the records in one archive, before compression."""

_OWN = Path(".slice")
"""Folder for the slices' own files; it marks a run directory."""
_SOURCE = _OWN / "source.json"
"""Commit of the source in a run directory; written last, so that it proves a complete copy."""
_UNDER_WAY = _OWN / "under-way"
"""Exists while DVC runs. If a slice finds it, DVC may have been killed while it wrote dvc.lock."""
_LOCKFILE = Path("dvc.lock")
_MARK = "_TRIMLAB_SLICE_OF"
"""Environment variable of the processes that belong to a run directory. They are ended: no shell may set it."""
_CODE = ("src", "stages", "tests")
"""Folders that are replaced as a whole, because a deleted module must not be imported."""


def run(study: str, run_dir: Path, out: Path, seconds: float, fresh_source: bool = False) -> int:
    """Run a study for a limited time, from the root of a source tree.

    Args:
        study: the name of a file in `studies/`, or the study in params.yaml.
        run_dir: the folder that keeps everything between slices; outside the source tree.
        out: the folder for the records, the status and the end of the log.
        seconds: when the slice starts to end, which takes half a minute at most.
        fresh_source: replace the source in the run directory by the current source tree; results are kept.

    Returns:
        The exit code: 0 if the study is finished, 75 if it needs another call, 1 if a cell failed.

    Raises:
        UserError: a folder is not usable, the commit or the study is unknown, or another slice is running.
    """
    deadline = time.monotonic() + seconds
    root, out = run_dir.resolve(), out.resolve()
    _check_places(root)
    busy = f"another slice is running in {root}: wait for it, or end it"
    with machine.alone(root / _OWN / "lock", busy), _signals_noted() as signals:
        _end_processes(root)
        commit = _settle_source(root, study, fresh_source)
        out.mkdir(parents=True, exist_ok=True)
        with chdir(root):
            described = _switch_to(study)
            output = _Output(described, _cells(described), out, commit)
            returned = _repro(output, signals, deadline)
            code = 0 if returned == 0 else UNFINISHED if signals or returned < 0 else 1
            output.write(code)
            print(output.summary(code), flush=True)
    return code


def _check_places(root: Path) -> None:
    for name in ("dvc.yaml", "src", "stages"):
        if not Path(name).exists():
            raise UserError(f"{Path(name).absolute()} does not exist: run this in the root of the source tree")
    if root.is_relative_to(Path.cwd()):
        raise UserError(f"{root} is in the source tree, which may be replaced: name a folder outside of it")
    if root.exists() and not (root / _OWN).is_dir() and any(root.iterdir()):
        raise UserError(f"{root} is not empty and not a run directory: name a new folder")


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them: the slice then ends as if its time were over."""
    noted: list[int] = []
    former = {number: signal.signal(number, lambda n, _: noted.append(n)) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield noted
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _processes(root: Path) -> list[psutil.Process]:
    """Return a run directory's processes: the marked ones and their children, because macOS hides its shell's mark."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it has ended, or belongs to another user
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
        raise UserError(f"processes of {root} do not end ({pids}): end them, and run the same command again")


def _settle_source(root: Path, study: str, fresh: bool) -> str:
    """Copy the source to the run directory unless it has one; return the commit of the source there."""
    if fresh or not (root / _SOURCE).exists():
        _copy_source(root)
    elif differing := _differing(root, study):
        say(
            f"the source in {root} differs from the current one ({_some(differing)}) and is still used: "
            "--fresh-source replaces it"
        )
    commit: str = json.loads((root / _SOURCE).read_text())["commit"]
    return commit


def _copy_source(root: Path) -> None:
    commit = records.commit()
    if commit == "unknown":
        raise UserError(
            "every record needs the source's commit, which is unknown without git: set TRIMLAB_COMMIT to it"
        )
    (root / _SOURCE).unlink(missing_ok=True)
    for folder in _CODE:
        shutil.rmtree(root / folder, ignore_errors=True)
    shutil.copytree(".", root, ignore=_not_source, symlinks=True, dirs_exist_ok=True)
    (root / ".dvc" / "config.local").write_text("[core]\n    no_scm = true\n")
    (root / _LOCKFILE).unlink(missing_ok=True)
    for kept in paths.kept_measurements(root=root):
        kept.unlink()  # another source made it
    _write_whole(root / _SOURCE, json.dumps({"commit": commit}).encode())


_DERIVED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*_cache", ".hypothesis", "mlflow.db*")


def _not_source(folder: str, names: list[str]) -> set[str]:
    """Return the names in a folder that are not copied: results, caches, environments."""
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
        _LOCKFILE.unlink(missing_ok=True)  # it belongs to other params; unchanged cells come from the run cache
        _write_whole(paths.PARAMS, kept.read_bytes())
    return described


def _repro(output: "_Output", signals: list[int], deadline: float) -> int:
    """Run `dvc repro` until it ends, time is over or a signal comes; return its exit code, negative if killed."""
    if _UNDER_WAY.exists():
        _LOCKFILE.unlink(missing_ok=True)  # it may be incomplete; the run cache has every cell
    Path(".dvc/tmp/rwlock").unlink(missing_ok=True)  # its process ids may belong to other processes now
    _UNDER_WAY.touch()
    with (_OWN / LOG).open("wb") as log, (_OWN / LOG).open("rb") as printed:
        dvc = _start(output.commit, log)
        try:
            _attend(dvc, output, printed, signals, deadline)
        finally:
            if _stop(dvc):
                _UNDER_WAY.unlink()
            _end_processes(Path.cwd())
            _stream(printed)
    return dvc.returncode


def _start(commit: str, log: BinaryIO) -> "subprocess.Popen[bytes]":
    root = Path.cwd()
    env = environment.of_stages(root, _OWN, commit) | {_MARK: str(root)}
    # A failed cell must not stop the others: nobody can fix it between two slices.
    command = [sys.executable, "-m", "dvc", "repro", "--keep-going"]
    return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _attend(
    dvc: "subprocess.Popen[bytes]", output: "_Output", printed: BinaryIO, signals: list[int], deadline: float
) -> None:
    due = 0.0
    while dvc.poll() is None and not signals and time.monotonic() < deadline:
        _stream(printed)
        if time.monotonic() >= due:
            output.write()
            due = time.monotonic() + OUTPUT_EVERY_SECONDS
        time.sleep(0.2)


def _stream(printed: BinaryIO) -> None:
    shutil.copyfileobj(printed, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def _stop(dvc: "subprocess.Popen[bytes]") -> bool:
    """End DVC while it waits for a stage and writes nothing; return whether dvc.lock is surely complete."""
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
class _Output:
    """What a slice writes to its output folder."""

    study: config.Params
    cells: list[str]
    out: Path
    commit: str
    began: float = field(default_factory=time.monotonic)
    done: set[str] = field(default_factory=set)
    """The finished cells. It only grows within a slice, so that an incomplete dvc.lock loses none."""
    packed: list[Path] | None = None

    def write(self, code: int | None = None) -> None:
        """Write new records, the end of the log, and the status."""
        self.done |= _finished_cells()
        with suppress(FileNotFoundError):  # a cell has just finished, and its records have moved
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
        """Return one line that says how far the study is."""
        left = self.left()
        progress = f"study {self.study.study}: {len(self.cells) - len(left)} of {len(self.cells)} cells are done"
        if code == 0:
            return progress
        remedy = "call again" if code == UNFINISHED else f"some of them failed, see {LOG}"
        return f"{progress}, without {_some(left)}: {remedy}"

    def _records(self) -> list[Path]:
        """Return the records of finished cells, and those that unfinished cells have kept."""
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
    """Return a .tar.gz of files. It depends on their names and contents alone, not on time and user."""
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
    # Reversed: train, prune, benchmark. No measurement is in an earlier archive than the record of its weights.
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
    """Return DVC's names of all cells: a stage with `foreach` has one for each key of a section."""
    found = []
    for name, stage in _stages().items():
        over = stage.get("foreach")
        found += [f"{name}@{key}" for key in getattr(study, over.strip("${}"))] if over else [name]
    return found


def _finished_cells() -> set[str]:
    """Return the cells whose outputs DVC has; a record may exist before its cell is finished."""
    try:
        return set(_load_yaml(_LOCKFILE).get("stages") or {})
    except (FileNotFoundError, YAMLError):  # it does not exist yet, or DVC is writing it
        return set()


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_BYTES))
        return file.read()


def _write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically: it is complete or does not appear."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
