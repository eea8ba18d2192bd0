"""The sha256 of a large file, remembered for as long as the file stays the same."""

import contextlib
import json
import os
import time
from pathlib import Path

from trimlab import paths
from trimlab.digests import sha256_of

SETTLED_NS = 2_000_000_000
"""FAT, the coarsest, stores modification times in steps of 2 s."""


def remembered_sha256(path: Path, memory: Path) -> str:
    """Return the sha256 of a file, hashed only if its size, modification time or inode differ from those remembered.

    Args:
        path: the file.
        memory: a JSON file of this function's own; it is made where it is missing, and replaced where it is damaged.

    Raises:
        OSError: the file is missing, or not a regular one.
    """
    status = paths.regular_status(path)
    identity = [status.st_size, status.st_mtime_ns, status.st_ino]
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(memory.read_text())
        if isinstance(known, dict) and known.get("identity") == identity and isinstance(known.get("sha256"), str):
            return str(known["sha256"])
    sha256 = sha256_of(path)
    # A file that was written just now could change again without a new modification time: clocks of file systems tick.
    if time.time_ns() - status.st_mtime_ns > SETTLED_NS:
        _remember(memory, {"identity": identity, "sha256": sha256})
    return sha256


def _remember(memory: Path, known: dict[str, object]) -> None:
    """Write the memory, whole or not at all; without it the file is hashed again next time, and nothing else."""
    part = memory.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        memory.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(known))
        part.replace(memory)
