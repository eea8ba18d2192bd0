"""Messages about unknown names: which names are known, and which of them was probably meant."""

import difflib
import fnmatch
from collections.abc import Collection, Sequence

from trimlab.errors import UserError, short


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


def matching(key: str, patterns: Sequence[str], layers: Sequence[str]) -> list[str]:
    """Return the layers whose names match one of a key's patterns.

    Raises:
        UserError: a pattern matches none.
    """
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(layer, pattern) for layer in layers):
            raise UserError(
                f"{key} {short(pattern)} matches no convolution or linear layer of the model: {choice(layers)}"
                f"{guess(pattern, layers)}"
            )
    return [layer for layer in layers if any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)]


LISTED = 160
"""How many characters a message spends on names."""


def guess(value: str, known: Collection[str]) -> str:
    """Return a hint at the known name that is most similar to an unknown one, or an empty string."""
    near = difflib.get_close_matches(value, known, n=1) if len(value) <= LISTED else []
    return f" (did you mean {near[0]}?)" if near else ""
