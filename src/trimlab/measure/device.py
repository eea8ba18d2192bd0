"""What machine this is, and whether it was quiet."""

from __future__ import annotations

import functools
import os
import platform
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, FrozenSet, Iterator, List

CONTENDED_SHARE = 0.1
"""Share of the machine's processor time that others may take before a timing counts as contended."""

DECISIVE_FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2", "asimddp")


class Watch:
    """What others did to the machine while something ran."""

    contended = False


@functools.lru_cache(maxsize=None)
def processor_flags() -> FrozenSet[str]:
    """Return the processor's flags as Linux spells them; empty where it does not say."""
    lines = [line for line in _processor_lines() if line.startswith(("flags", "Features"))]
    return frozenset(lines[0].split(":", 1)[1].split()) if lines else frozenset()


@functools.lru_cache(maxsize=None)
def processor_name() -> str:
    """Return the processor's model name."""
    names = [line.split(":", 1)[1].strip() for line in _processor_lines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def has_native_bf16() -> bool:
    """Whether the processor multiplies bf16: elsewhere it would be emulated and slow."""
    return bool(processor_flags() & {"amx_bf16", "avx512_bf16"})


def cpu(threads: int) -> Dict[str, Any]:
    """Return this machine's processor as a record's device.

    Args:
        threads: that computed.
    """
    features = [flag for flag in DECISIVE_FLAGS if flag in processor_flags()]
    return {"kind": "cpu", "name": processor_name(), "features": features, "threads": threads, "system": system()}


def system() -> str:
    """Return operating system, architecture and Python version."""
    return "{} {}, Python {}".format(platform.system(), platform.machine(), platform.python_version())


@contextmanager
def watched() -> Iterator[Watch]:
    """Note whether other processes took more than `CONTENDED_SHARE` of the machine meanwhile.

    Only Linux tells; elsewhere a machine counts as quiet.
    """
    watch = Watch()
    own, busy, started = _own_seconds(), _busy_seconds(), time.perf_counter()
    try:
        yield watch
    finally:
        elapsed = time.perf_counter() - started
        others = (_busy_seconds() - busy) - (_own_seconds() - own)
        watch.contended = elapsed > 1 and others / (elapsed * (os.cpu_count() or 1)) > CONTENDED_SHARE


def _own_seconds() -> float:
    """Processor seconds of this process and of the children it has waited for."""
    return sum(os.times()[:4])


def _busy_seconds() -> float:
    """Processor seconds of everybody: user, nice and system time."""
    try:
        first = Path("/proc/stat").read_text().splitlines()[0]
    except OSError:
        return _own_seconds()
    return sum(map(int, first.split()[1:4])) / float(os.sysconf("SC_CLK_TCK"))


def _processor_lines() -> List[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
