"""Another user of the machine, for tests of permissions."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def another_user() -> Iterator[None]:
    """Become nobody, where this is root: nothing is forbidden to root."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)
