"""What stops a measurement."""


class MeasureError(Exception):
    """Something the user can fix; the message is one line."""


class UnavailableError(MeasureError):
    """This machine can't measure that precision: the processor or the library lacks it."""


class NoRuntimeError(UnavailableError):
    """This machine can't measure in that runtime at all: no GPU, or a package that is not installed."""


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
