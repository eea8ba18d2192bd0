"""The machine that measures: what it is, that nobody else measures on it, whether it was quiet."""

import functools
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from trimlab import paths
from trimlab.errors import UserError
from trimlab.progress import say
from trimlab.records import Device

MACHINE_LOCK = "/tmp/trimlab-machine.lock"
"""One place for all users of a machine; TRIMLAB_LOCK names another, where this is not to be waited for."""

CONTENDED_SHARE = 0.1
"""Share of the machine's processor time that others may take before a timing counts as contended."""

DECISIVE_FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "asimddp")


@dataclass
class Watch:
    """What others did to the machine while something ran."""

    contended: bool = False


@contextmanager
def exclusive(what: str) -> Iterator[Watch]:
    """Hold the one machine-wide lock of trainings and timings, waiting for whoever has it.

    Two at once would spoil each other: torch's threads wait for one another, and timings count nothing then.
    """
    lock = FileLock(os.environ.get("TRIMLAB_LOCK", MACHINE_LOCK), mode=0o666)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"{what}: waiting for another training or timing on this machine")
        lock.acquire()
    try:
        with _watched() as watch:
            yield watch
    finally:
        lock.release()


@contextmanager
def one_at_a_time(cell: str) -> Iterator[None]:
    """Hold a cell's lock: after `kill -9` of DVC its stage lives on while the next repro starts another.

    Raises:
        UserError: the cell is being computed already.
    """
    # The work tree's own, not the project's: experiments side by side may each compute the cell.
    folder = paths.SCRATCH / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{cell.replace('/', '-')}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{cell} is being computed by another process: wait for it, or end it") from None
    try:
        yield
    finally:
        lock.release()


@functools.cache
def processor_flags() -> frozenset[str]:
    """Return the processor's flags as Linux spells them; empty where it does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].split(":", 1)[1].split()) if lines else frozenset()


@functools.cache
def processor_name() -> str:
    """Return the processor's model name."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def processor_features() -> list[str]:
    """Return the flags that decide the speed of low precisions."""
    return [flag for flag in DECISIVE_FLAGS if flag in processor_flags()]


def has_native_bf16() -> bool:
    """Whether the processor multiplies bf16: elsewhere AMP would be emulated and slow."""
    return bool(processor_flags() & {"amx_bf16", "avx512_bf16"})


def cpu(threads: int, python: str = platform.python_version()) -> Device:
    """Return this machine's processor as a record's device.

    Args:
        threads: that computed.
        python: version of the interpreter that computed.
    """
    return Device(
        kind="cpu", name=processor_name(), features=processor_features(), threads=threads, system=system(python)
    )


def system(python: str = platform.python_version()) -> str:
    """Return operating system, architecture and Python version."""
    return f"{platform.system()} {platform.machine()}, Python {python}"


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages."""
    return {package: version(package) for package in packages}


@contextmanager
def _watched() -> Iterator[Watch]:
    watch = Watch()
    own, busy, started = _own_seconds(), _busy_seconds(), time.perf_counter()
    try:
        yield watch
    finally:
        elapsed = time.perf_counter() - started
        others = (_busy_seconds() - busy) - (_own_seconds() - own)
        cores = psutil.cpu_count() or 1
        watch.contended = elapsed > 1 and others / (elapsed * cores) > CONTENDED_SHARE


def _own_seconds() -> float:
    """Processor seconds of this process and of the children it has waited for."""
    times = psutil.Process().cpu_times()
    return float(times.user + times.system + times.children_user + times.children_system)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return float(times.user + times.system + getattr(times, "nice", 0.0))
