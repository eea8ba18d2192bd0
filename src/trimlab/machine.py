"""This machine: its description, and the locks that keep trainings and timings from disturbing each other."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock, Timeout

from trimlab import paths
from trimlab.errors import UserError
from trimlab.measure import device
from trimlab.progress import say
from trimlab.records import Device

SHARED = Path("/tmp")
"""The folder that all users of a machine share, on Linux and macOS. Not `tempfile.gettempdir()`: on macOS, and where
TMPDIR is set, each user has another folder."""


@contextmanager
def exclusive(what: str, device_name: str | None = None) -> Iterator[device.Watch]:
    """Hold a device's lock, or the whole machine's; wait if another process holds it.

    Two trainings on one device would wait for one another, and no timing is right beside other work: trainings on
    different devices run side by side, a timing runs alone.

    Args:
        what: that waits, for the message.
        device_name: the device of a training, `CPU` or a GPU's name; None takes the whole machine, for timings.

    Raises:
        UserError: a lock file cannot be written.
    """
    file, waiting = _machine_lock(), f"{what}: waiting for another training or timing on this machine"
    locks = {file: device_name is not None}
    if device_name:
        # Before the machine's: what waits for a device must not keep a timing waiting.
        locks = {file.with_name(f"{file.name}.{device_name}"): _shared(device_name), **locks}
    with ExitStack() as held:
        for path, shared in locks.items():
            try:
                held.enter_context(_locked(path, waiting, shared))
            except OSError as error:
                raise UserError(f"{path} cannot be locked ({error}): set TRIMLAB_LOCK to a writable file") from None
        yield held.enter_context(device.watched())


CPU = "cpu"
"""The processor's name among the devices that `exclusive` knows."""


def _shared(device_name: str) -> bool:
    """Whether several trainings may use a GPU at once: who starts them shares it out."""
    return device_name != CPU and os.environ.get("TRIMLAB_SHARE_GPU") == "1"


def _machine_lock() -> Path:
    """Return the machine's lock file, or the file that TRIMLAB_LOCK names; devices have theirs beside it."""
    shared = SHARED if SHARED.is_dir() else Path(tempfile.gettempdir())
    return Path(os.environ.get("TRIMLAB_LOCK") or shared / "trimlab-machine.lock")


@contextmanager
def _locked(file: Path, waiting: str, shared: bool) -> Iterator[None]:
    """Hold a file's lock, shared with others that share it, or alone; say what waits if another process holds it."""
    # Not FileLock: it has no shared mode. Where both lock a file, they see each other's lock.
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    descriptor = _opened(file)
    try:
        try:
            fcntl.flock(descriptor, how | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _opened(file: Path) -> int:
    """Open a lock file that all users may lock, whatever the umask; create it if it is missing."""
    try:
        # Without O_CREAT, which Linux refuses for another user's file in a folder such as /tmp.
        return os.open(file, os.O_RDWR)
    except FileNotFoundError:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        with suppress(PermissionError):  # another user has just created it
            os.fchmod(descriptor, 0o666)
        return descriptor


@contextmanager
def one_at_a_time(cell: str) -> Iterator[None]:
    """Hold a cell's lock; wait if another process holds it.

    After `kill -9` of DVC its stage keeps running, and the next `dvc repro` starts another. What the first one finishes
    is kept for the second.
    """
    # In the working tree, not the project's root: parallel experiments may each compute the cell.
    file = paths.STATE / "locks" / f"{cell.replace('/', '-')}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    with _locked(file, f"{cell}: another process is still computing it, waiting for that to end", shared=False):
        yield


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
