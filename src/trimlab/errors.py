"""Errors that the user can fix: one line each, no traceback."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class UserError(ValueError):
    """An error that the user can fix. The message has one line per problem: value, bound, remedy."""


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


_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), ("written", "make room")),
    errno.EROFS: ("written", "make it writable"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), ("opened", "change its permissions")),
}
"""What could not be done with a file, and the remedy, by the system's error number."""
_RUST = re.compile(r"\(os error (\d+)\)")
_NUMPY = re.compile(r"\d+ requested and \d+ written")


def _refused(error: Exception) -> str:
    """Return which file the system refused, why, and the remedy; an empty string for any other error."""
    number, name = (error.errno, error.filename) if isinstance(error, OSError) else (None, None)
    if told := _RUST.search(str(error)):  # safetensors raises no OSError
        number = int(told[1])
    elif isinstance(error, OSError) and number is None and _NUMPY.search(str(error)):
        number = errno.ENOSPC  # numpy reports how much was written, but not why
    if number is None or number not in _REMEDIES:
        return ""
    done, remedy = _REMEDIES[number]
    what = one_line(name) if name else "a file"
    return f"{what} cannot be {done} ({os.strerror(number)}): {remedy}, and run the same command again"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with exit code 1 and a message for errors that the user can fix; others keep their traceback."""
    try:
        yield
    except UserError as error:
        raise SystemExit("\n".join(f"error: {line}" for line in str(error).splitlines())) from None
    except Exception as error:
        refused = _refused(error)
        if not refused:
            raise
        raise SystemExit(f"error: {refused}") from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted: run the same command again to go on") from None
