"""What stops a measurement."""


class MeasureError(Exception):
    """Something the user can mend; the message is one line."""
