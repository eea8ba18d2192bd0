"""Every timed call, as a record keeps it: a text of five digits a call, compressed."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

MOST = 1_000_000
"""Calls in one text: what a larger one unpacks to is not looked at."""
TAIL_CALLS = 1000
"""Calls from which on there is a 99th percentile: of fewer, not even ten lie beyond it."""
_CALL_BYTES = 16
"""Most that a call takes: `1.2345e-05` and a space are eleven."""


def encode(seconds: Sequence[float]) -> str:
    """Return base64 of zlib's compression of the calls in microseconds, five digits each, separated by spaces."""
    text = " ".join(f"{1e6 * value:.5g}" for value in seconds)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode()


def decode(text: str) -> np.ndarray[Any, Any]:
    """Return the calls that `encode` wrote, in seconds: (N,) float64.

    Raises:
        ValueError: it is not such a text, or one of more than `MOST` calls.
    """
    try:
        unpacked = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), MOST * _CALL_BYTES)
        found = np.array([float(value) for value in unpacked.split()]) / 1e6
    except (ValueError, zlib.error) as error:
        raise ValueError(f"samples are not compressed calls ({error})") from None
    if not 1 <= len(found) <= MOST or not (np.isfinite(found) & (found > 0)).all():
        raise ValueError(f"samples hold {len(found)} calls, not 1 to {MOST} of finite length")
    return found
