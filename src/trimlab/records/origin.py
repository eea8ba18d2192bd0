"""When a record is made, and from which commit."""

import os
import subprocess
from datetime import UTC, datetime


def now() -> str:
    """Return the time for a record's `created`."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def commit() -> str:
    """Return the project's commit; TRIMLAB_COMMIT names it where there is no git."""
    given = os.environ.get("TRIMLAB_COMMIT")
    if given:
        return given
    head, changed = _git("rev-parse", "--short=12", "HEAD"), _git("status", "--porcelain", "--", *_DECISIVE)
    if not head:
        return "unknown"
    return f"{head}-dirty" if changed else head


_DECISIVE = ("src", "stages", "dvc.yaml")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return ""
    return done.stdout.strip()
