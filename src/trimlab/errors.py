"""Errors that the user can mend: one line each, no traceback."""

from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Something the user can mend; the message says value, bound and remedy, a line a problem."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with the error's own lines and exit code 1."""
    try:
        yield
    except UserError as error:
        raise SystemExit("\n".join(f"error: {line}" for line in str(error).splitlines())) from None
    except KeyboardInterrupt:
        raise SystemExit("interrupted: run the same command again to go on") from None
