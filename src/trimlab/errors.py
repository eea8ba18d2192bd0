"""Errors that the user can fix: one line each, no traceback."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class UserError(ValueError):
    """Something the user can fix; the message says value, bound and remedy, a line a problem."""


def one_line(text: object, limit: int = 200) -> str:
    """Return foreign text as one printable line of at most `limit` characters, without terminal colours."""
    words = " ".join(_ANSI.sub("", str(text)).split())
    return _cut("".join(c if c.isprintable() else repr(c)[1:-1] for c in words), limit)


def short(value: object, limit: int = 60) -> str:
    """Return how a message shows a value: its `repr`, cut to `limit` characters."""
    try:
        return _cut(repr(value), limit)
    except (ValueError, RecursionError):  # a whole number of more than 4,300 digits; a list nested too deep
        return f"a huge {type(value).__name__}"


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with the error's own lines and exit code 1."""
    try:
        yield
    except UserError as error:
        raise SystemExit("\n".join(f"error: {line}" for line in str(error).splitlines())) from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted: run the same command again to go on") from None
