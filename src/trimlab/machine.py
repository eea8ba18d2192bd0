"""This machine: its description, and the locks that keep trainings and timings from disturbing each other."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from trimlab import paths
from trimlab.errors import UserError
from trimlab.measure import device
from trimlab.progress import say
from trimlab.records import Device

SHARED = Path("/tmp")
"""The folder that all users of a machine share, on Linux and macOS. Not `tempfile.gettempdir()`: on macOS, and where
TMPDIR is set, each user has another folder."""


@contextmanager
def exclusive(what: str) -> Iterator[device.Watch]:
    """Hold the machine-wide lock for trainings and timings; wait if another process holds it.

    Two at once would disturb each other: torch's threads would wait for one another, and timings would be wrong.

    Raises:
        UserError: the lock file cannot be written.
    """
    lock = FileLock(file := _machine_lock(), mode=0o666)  # whatever the umask: the next process may be another user's
    try:
        _acquire(lock, f"{what}: waiting for another training or timing on this machine")
    except OSError as error:
        raise UserError(f"{file} cannot be locked ({error}): set TRIMLAB_LOCK to a writable file") from None
    try:
        with device.watched() as watch:
            yield watch
    finally:
        lock.release()


def _machine_lock() -> Path:
    """Return the machine's lock file, or the file that TRIMLAB_LOCK names."""
    shared = SHARED if SHARED.is_dir() else Path(tempfile.gettempdir())
    return Path(os.environ.get("TRIMLAB_LOCK") or shared / "trimlab-machine.lock")


def _acquire(lock: BaseFileLock, waiting: str) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(waiting)
        lock.acquire()


@contextmanager
def one_at_a_time(cell: str) -> Iterator[None]:
    """Hold a cell's lock; wait if another process holds it.

    After `kill -9` of DVC its stage keeps running, and the next `dvc repro` starts another. What the first one finishes
    is kept for the second.
    """
    # In the working tree, not the project's root: parallel experiments may each compute the cell.
    file = paths.STATE / "locks" / f"{cell.replace('/', '-')}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    _acquire(lock, f"{cell}: another process is still computing it, waiting for that to end")
    try:
        yield
    finally:
        lock.release()


@contextmanager
def alone(file: Path, message: str) -> Iterator[None]:
    """Hold a lock file, and create its folder.

    Raises:
        UserError: another process holds it; it has this message.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(message) from None
    try:
        yield
    finally:
        lock.release()


def cpu(threads: int) -> Device:
    """Return this machine's processor as a record's device, with the features that torch uses.

    Args:
        threads: how many threads computed.
    """
    return Device.model_validate(device.cpu(threads, onednn=True))


def cores() -> int:
    """Return how many CPU cores this process may use."""
    return device.cores()


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages."""
    return {package: version(package) for package in packages}
