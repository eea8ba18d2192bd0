"""Digests: of values, and of files."""

import hashlib
import json
from pathlib import Path
from typing import Any


def digest_of(*values: Any) -> str:
    """Return the sha256 of values' canonical JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
