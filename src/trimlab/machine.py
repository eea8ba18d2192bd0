"""The machine that measures: what it is, that nobody else measures on it, whether it was quiet."""

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
TMPDIR is set, that is each user's own."""


@contextmanager
def exclusive(what: str) -> Iterator[device.Watch]:
    """Hold the one machine-wide lock of trainings and timings, waiting for whoever has it.

    Two at once would spoil each other: torch's threads wait for one another, and timings count nothing then.

    Raises:
        UserError: the lock file cannot be written.
    """
    lock = FileLock(file := _machine_lock(), mode=0o666)  # whatever the umask: the next process may be another user's
    try:
        _acquire(lock, what)
    except OSError as error:
        raise UserError(f"{file} cannot be locked ({error}): set TRIMLAB_LOCK to a file that can be written") from None
    try:
        with device.watched() as watch:
            yield watch
    finally:
        lock.release()


def _machine_lock() -> Path:
    """Return the machine's lock file; TRIMLAB_LOCK names another, so as not to wait for it."""
    shared = SHARED if SHARED.is_dir() else Path(tempfile.gettempdir())
    return Path(os.environ.get("TRIMLAB_LOCK") or shared / "trimlab-machine.lock")


def _acquire(lock: BaseFileLock, what: str) -> None:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{what}: waiting for another training or timing on this machine")
        lock.acquire()


@contextmanager
def one_at_a_time(cell: str) -> Iterator[None]:
    """Hold a cell's lock: after `kill -9` of DVC its stage lives on while the next repro starts another.

    Raises:
        UserError: the cell is being computed already.
    """
    # The work tree's own, not the project's: experiments side by side may each compute the cell.
    file = paths.STATE / "locks" / f"{cell.replace('/', '-')}.lock"
    with alone(file, f"{cell} is being computed by another process: wait for it, or end it"):
        yield


@contextmanager
def alone(file: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock file; its folder is made.

    Raises:
        UserError: another process holds it; the message is `otherwise`.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(otherwise) from None
    try:
        yield
    finally:
        lock.release()


def cpu(threads: int) -> Device:
    """Return this machine's processor as a record's device, with the features that torch makes use of.

    Args:
        threads: that computed.
    """
    return Device.model_validate(device.cpu(threads, onednn=True))


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages."""
    return {package: version(package) for package in packages}
