"""Errors that the user can fix: one line each, no traceback."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

INTERRUPTED = 130
"""The exit code after Ctrl-C, as shells have it: 128 and the signal's number."""

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class UserError(ValueError):
    """An error that the user can fix. The message has one line per problem: value, bound, remedy.

    What no terminal prints, such as the bytes of a foreign file's name, is escaped.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__("\n".join(map(_printable, message.split("\n"))))


class UsageError(UserError):
    """A command line that is wrong: an unknown command or option, a missing argument, a value out of its range."""

    exit_code = 2


def one_line(text: object, limit: int = 200) -> str:
    """Return foreign text as one printable line of at most `limit` characters, without terminal colours."""
    words = " ".join(_ANSI.sub("", str(text)).split())
    return _cut(_printable(words), limit)


def short(value: object, limit: int = 60) -> str:
    """Return how a message shows a value: its `repr`, cut to `limit` characters."""
    try:
        return _cut(repr(value), limit)
    except (ValueError, RecursionError):  # a whole number of more than 4,300 digits; a list nested too deep
        return f"a huge {type(value).__name__}"


def _printable(line: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


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
    """End the process with a message on standard error for what the user can fix; other errors keep their traceback.

    The exit code is the error's, 1 for a file that the system refuses, or 130 after an interruption.
    """
    try:
        yield
    except UserError as error:
        _end("\n".join(f"error: {line}" for line in str(error).splitlines()), error.exit_code)
    except Exception as error:
        refused = _refused(error)
        if not refused:
            raise
        _end(f"error: {refused}", UserError.exit_code)
    except KeyboardInterrupt:
        _end("interrupted: run the same command again to go on", INTERRUPTED)


def _end(message: str, code: int) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(code) from None
