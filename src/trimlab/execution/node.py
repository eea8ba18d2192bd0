"""A cell on a node of a cluster: in a copy of the source tree that is kept for the next.

This module travels to the node as it is: the node needs the dependencies, but trimlab need not be installed there.
"""

import hashlib
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trimlab.execution.environment import of_stages

_KILLED = 3
"""`cell.KILLED`."""
_LOG_BYTES = 1 << 16
_STATE = Path(".dvc/tmp/trimlab")
"""`paths.STATE`."""


class CellError(RuntimeError):
    """A cell that failed."""

    def __init__(self, cell: str, node: str, log: str) -> None:
        super().__init__(cell, node, log)
        self.cell, self.node, self.log = cell, node, log


class KilledError(CellError):
    """A cell that a signal ended: it may succeed elsewhere, or later."""


@dataclass(frozen=True)
class Job:
    """What all cells of a run share."""

    source: bytes
    """The source tree at a commit, a tar."""
    commit: str
    config: str
    """DVC's config on the nodes, without the cache's folder."""
    folder: str
    """The folder on a node for copies of the source tree and DVC's cache; `~` is the node's own."""
    env: dict[str, str] = field(default_factory=dict)


def run(job: Job, cell: str, upstream: dict[str, dict[str, Any]], env: dict[str, str]) -> dict[str, Any]:
    """Run a cell on this node, in a copy of the source tree that no other cell uses; return its answer.

    Args:
        job: what all cells share.
        cell: DVC's name of it.
        upstream: the answers of the cells that it depends on, by name.
        env: variables for this cell alone.

    Raises:
        KilledError: a signal ended it.
        CellError: it failed.
    """
    folder = Path(job.folder).expanduser()
    with _copy_of_source(job, folder) as root, tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.json"
        order = {
            "cell": cell,
            "upstream": {name: each["entry"] for name, each in upstream.items()},
            "files": {path: text for each in upstream.values() for path, text in each["files"].items()},
            "answer": str(answer),
        }
        log = root / ".scale" / "cell.log"
        code = _finished(root, job, env, json.dumps(order), log)
        if code:
            kind = KilledError if code < 0 or code == _KILLED else CellError
            raise kind(cell, socket.gethostname(), _end_of(log))
        answered: dict[str, Any] = json.loads(answer.read_text())
        return answered


def look(job: Job, _: str, upstream: dict[str, dict[str, Any]], env: dict[str, str]) -> dict[str, Any]:
    """Return which runtimes this node has: the answer of the cell `runtimes`."""
    return run(job, "runtimes", upstream, env)


@contextmanager
def _copy_of_source(job: Job, folder: Path) -> Iterator[Path]:
    """Yield a copy of the source tree and hold its lock; those that are kept are used again."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)  # DVC's config may hold the remote's keys
    for number in itertools.count():
        root = folder / f"copy-{number}"
        lock = FileLock(f"{root}.lock")
        with suppress(Timeout):
            lock.acquire(timeout=0)
            break
    try:
        _settle(job, folder, root)
        yield root
    finally:
        lock.release()


def _settle(job: Job, folder: Path, root: Path) -> None:
    """Unpack the source, unless it is there; all copies share DVC's cache and what unfinished cells keep."""
    mark, digest = root / ".scale" / "source", hashlib.sha256(job.source).hexdigest()
    if not mark.exists() or mark.read_text() != digest:
        shutil.rmtree(root, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(job.source)) as source:
            source.extractall(root, filter="data")
        state, shared = root / _STATE, folder / "state"
        shared.mkdir(exist_ok=True)
        state.parent.mkdir(parents=True, exist_ok=True)
        state.symlink_to(shared.resolve())
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(digest)
    cache = f"[cache]\n    dir = {(folder / 'cache').resolve()}\n"
    (root / ".dvc" / "config.local").write_text(job.config + cache)


def _finished(root: Path, job: Job, env: dict[str, str], order: str, log: Path) -> int:
    """Run the order in processes of its own, a group; return the exit code once all have ended."""
    command = [sys.executable, "-m", "trimlab.execution.cell", str(os.getpid())]
    env = of_stages(root, root / ".scale", job.commit) | job.env | env
    with log.open("wb") as printed:
        process = subprocess.Popen(
            command, cwd=root, env=env, stdin=subprocess.PIPE, stdout=printed, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            process.communicate(order.encode())
        finally:
            with suppress(ProcessLookupError):  # all have ended
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode


def _end_of(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _LOG_BYTES))
        return file.read().decode(errors="replace")
