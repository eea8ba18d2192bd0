"""Messages about unknown names: which names are known, and which of them was probably meant."""

import difflib
from collections.abc import Collection

from trimlab.errors import short


def unresolved(key: str, value: str, known: Collection[str]) -> str | None:
    """Return a message if a value is not one of the known names, else None."""
    if value in known:
        return None
    return f"{key} {short(value)} is unknown: {choice(known)}{guess(value, known)}"


def choice(known: Collection[str]) -> str:
    """List the known names, or the first few if they are too many for one line."""
    names = ", ".join(known)
    if len(names) > LISTED:
        names = f"{names[:LISTED].rpartition(', ')[0] or next(iter(known))} … ({len(known)} in all)"
    return f"use one of {names}"


LISTED = 160
"""How many characters a message spends on names."""


def guess(value: str, known: Collection[str]) -> str:
    """Return a hint at the known name that is most similar to an unknown one, or an empty string."""
    near = difflib.get_close_matches(value, known, n=1) if len(value) <= LISTED else []
    return f" (did you mean {near[0]}?)" if near else ""
