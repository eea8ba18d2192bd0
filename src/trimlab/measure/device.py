"""What machine this is, and whether it was quiet."""

import functools
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CONTENDED_SHARE = 0.1
"""Share of the machine's processor time that others may take before a timing counts as contended."""

DECISIVE_FLAGS = (
    *("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx_vnni", "avx512f", "avx2"),
    *("sme", "sve2", "sve", "i8mm", "bf16", "asimddp", "asimdhp", "asimd", "neon"),
)
"""Of x86 and of Arm, as Linux spells them: what decides how fast a processor multiplies."""

_PROCESSOR_FILE = Path("/proc/cpuinfo")
_BOARD_FILE = Path("/proc/device-tree/model")
_DRIVER_FILE = Path("/proc/driver/nvidia/version")

_MACOS_FLAGS = {
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512vnni": "avx512_vnni",
    "hw.optional.neon": "asimd",
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_SME": "sme",
}
"""What macOS's `sysctl` calls the flags."""

_ONEDNN_LIMITS = {
    "SSE41": (),
    "AVX": (),
    "AVX2": ("avx2",),
    "AVX2_VNNI": ("avx2", "avx_vnni"),
    "AVX2_VNNI_2": ("avx2", "avx_vnni"),
    "AVX512_CORE": ("avx2", "avx512f"),
    "AVX512_CORE_VNNI": ("avx2", "avx512f", "avx512_vnni"),
    "AVX512_CORE_BF16": ("avx2", "avx512f", "avx512_vnni", "avx512_bf16"),
    "AVX512_CORE_FP16": ("avx2", "avx512f", "avx512_vnni", "avx512_bf16"),
}
"""What a limit of oneDNN (ONEDNN_MAX_CPU_ISA) leaves of an x86 processor's flags; other limits leave all."""


class Watch:
    """What others did to the machine while something ran."""

    contended = False


@functools.cache
def processor_flags() -> frozenset[str]:
    """Return the processor's flags as Linux spells them; empty where the system does not tell."""
    if platform.system() == "Darwin":
        known = dict(line.split(":", 1) for line in _sysctl("hw.optional") if ":" in line)
        return frozenset(flag for name, flag in _MACOS_FLAGS.items() if known.get(name, "").strip() == "1")
    return frozenset(" ".join(_processor_values("flags")[:1] or _processor_values("Features")[:1]).split())


def onednn_flags() -> frozenset[str]:
    """Return the flags that oneDNN, in torch and OpenVINO, makes use of: ONEDNN_MAX_CPU_ISA can limit them."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or ""
    return processor_flags() & frozenset(_ONEDNN_LIMITS.get(limit.upper(), processor_flags()))


@functools.cache
def processor_name() -> str:
    """Return what tells this machine's processor apart: its model's name, or the board's where it has none."""
    names = [*_sysctl("-n", "machdep.cpu.brand_string"), _board(), *_processor_values("model name"), _arm_core()]
    return next(filter(None, names), "") or platform.processor() or platform.machine() or "unknown processor"


def is_arm() -> bool:
    """Whether the processor is one of Arm's architecture."""
    return platform.machine().lower().startswith(("arm", "aarch64"))


def has_native_bf16() -> bool:
    """Whether torch and OpenVINO multiply bf16 in hardware here: elsewhere it is emulated, and slow.

    Arm's own `bf16` flag does not count: whether torch uses those instructions depends on how its wheel was built (on
    macOS it does not), and training in emulated bf16 can take ten times as long, which FP32 in its place never does.
    """
    return bool(onednn_flags() & {"amx_bf16", "avx512_bf16"})


def has_fast_bf16() -> bool:
    """Whether training in bf16 is faster here than in FP32: with AMX, or with AVX-512's bf16 on a processor of AMD.

    Intel's AVX-512 has fewer multiplications in bf16 than that: without AMX, ResNets trained faster in FP32 there.
    """
    flags = onednn_flags()
    return "amx_bf16" in flags or ("avx512_bf16" in flags and _processor_values("vendor_id")[:1] == ["AuthenticAMD"])


def cpu(threads: int, onednn: bool = False) -> dict[str, Any]:
    """Return this machine's processor as a record's device.

    Args:
        threads: that computed.
        onednn: whether oneDNN computed, so that features it may not use are left out.
    """
    flags = onednn_flags() if onednn else processor_flags()
    features = [flag for flag in DECISIVE_FLAGS if flag in flags]
    return {"kind": "cpu", "name": processor_name(), "features": features, "threads": threads, "system": system()}


def gpu(name: str, compute_capability: str, total_bytes: int, threads: int) -> dict[str, Any]:
    """Return a GPU as a record's device; driver and CUDA are versions, which change on one and the same device.

    Args:
        name: as CUDA gives it.
        compute_capability: such as "9.0".
        total_bytes: of its memory.
        threads: of the host.
    """
    features = [f"compute capability {compute_capability}", f"{total_bytes / 2**30:.0f} GiB"]
    return {"kind": "cuda", "name": name, "features": features, "threads": threads, "system": system()}


def nvidia_driver() -> str | None:
    """Return the version of NVIDIA's driver; None where the system does not tell."""
    try:
        found = re.search(r"\s(\d+\.\d+(?:\.\d+)?)\s", _DRIVER_FILE.read_text(encoding="utf-8"))
    except OSError:
        return None
    return found.group(1) if found else None


def identity(device: dict[str, Any]) -> list[Any]:
    """Return what tells a record's device from others: kind, name and features, and a processor's threads."""
    threads = [device["threads"]] if device["kind"] == "cpu" else []
    return [device["kind"], device["name"], *sorted(set(device["features"])), *threads]


def cores() -> int:
    """Return how many CPU cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def system() -> str:
    """Return operating system, architecture and Python version."""
    return f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"


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


def _processor_values(key: str) -> list[str]:
    """Return what Linux says of each core under a key."""
    try:
        lines = _PROCESSOR_FILE.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() == key]


def _board() -> str:
    """Return the board's name, which small Arm devices have: their processors share one name."""
    try:
        return _BOARD_FILE.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return "".join(_processor_values("Model")[:1])


def _arm_core() -> str:
    """Return the numbers by which Arm's cores are known, of each kind of core; empty elsewhere."""
    cores = zip(_processor_values("CPU implementer"), _processor_values("CPU part"), strict=False)
    kinds = sorted({f"implementer {implementer} part {part}" for implementer, part in cores})
    return "Arm " + ", ".join(kinds) if kinds else ""


def _sysctl(*arguments: str) -> list[str]:
    """Return what macOS says of its hardware; nothing elsewhere."""
    if platform.system() != "Darwin":
        return []
    try:
        command = ["sysctl", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    except OSError:
        return []
    return done.stdout.splitlines()
