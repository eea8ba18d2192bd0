"""Names that are one of several: what a message says of an unknown one."""

import difflib
from collections.abc import Collection

from trimlab.errors import short


def unresolved(key: str, value: str, known: Collection[str]) -> str | None:
    """Say that a value is none of the known names; None where it is one."""
    if value in known:
        return None
    return f"{key} {short(value)} is unknown: {choice(known)}{guess(value, known)}"


def choice(known: Collection[str]) -> str:
    """Offer names: all of them, or the first few where they are too many for a line."""
    names = ", ".join(known)
    if len(names) > LISTED:
        names = f"{names[:LISTED].rpartition(', ')[0] or next(iter(known))} … ({len(known)} in all)"
    return f"use one of {names}"


LISTED = 160
"""Characters of names in a message."""


def guess(value: str, known: Collection[str]) -> str:
    """Return a hint at the known name that is nearest to an unknown one, or nothing."""
    near = difflib.get_close_matches(value, known, n=1) if len(value) <= LISTED else []
    return f" (did you mean {near[0]}?)" if near else ""
