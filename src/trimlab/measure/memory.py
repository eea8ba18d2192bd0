"""Peak memory of this process."""

import contextlib
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Return the largest resident memory that this process has had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        lines = []
    peaks = [1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return peaks[0] if peaks else _from_rusage()


def forget_peak() -> None:
    """Reset `peak_bytes` where the system can; elsewhere it stays the peak of the process's whole life."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _from_rusage() -> int:
    # Only where /proc does not say: on Linux ru_maxrss starts at the parent's peak.
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
