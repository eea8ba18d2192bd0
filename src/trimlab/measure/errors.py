"""What stops a measurement."""


class MeasureError(Exception):
    """Something the user can mend; the message is one line."""


class UnavailableError(MeasureError):
    """This machine can't measure that: no GPU, a package not installed, a feature that the library lacks."""
