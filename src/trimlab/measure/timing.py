"""Wall-clock times of two functions in turn, so that both see the same machine."""

from __future__ import annotations

import gc
import time
from typing import Callable, Dict, List, Sequence, Union

import numpy as np

ROUNDS = 20
"""Turns that the timed calls are spread over."""
SETTLE_SECONDS = 0.01
"""Untimed at the start of a turn: the other one's data fills the caches."""

Clock = Callable[[], float]
Call = Callable[[], object]


def interleaved(
    calls: Sequence[Call], repeats: int, warmup: int, clock: Clock = time.perf_counter
) -> List[List[float]]:
    """Time each function `repeats` times, in turns.

    Args:
        calls: what to time.
        repeats: timed calls of each.
        warmup: untimed calls of each, before the first turn.
        clock: seconds.

    Returns:
        Seconds of every timed call, a list a function.
    """
    seconds: List[List[float]] = [[] for _ in calls]
    for call in calls:
        for _ in range(warmup):
            call()
    pairs = [(seconds[index], call) for index, call in enumerate(calls)]
    gc.collect()
    gc.disable()
    try:
        for share in shares(repeats):
            for series, call in pairs:
                settle(call, clock)
                series.extend(timed(call, clock) for _ in range(share))
    finally:
        gc.enable()
    return seconds


def shares(repeats: int) -> List[int]:
    """Return how many of the calls each turn takes: even, none of them empty."""
    turns = min(ROUNDS, repeats)
    return [repeats // turns + (turn < repeats % turns) for turn in range(turns)]


def settle(call: Call, clock: Clock) -> None:
    """Call at least once, and for `SETTLE_SECONDS`."""
    until = clock() + SETTLE_SECONDS
    call()
    while clock() < until:
        call()


def timed(call: Call, clock: Clock) -> float:
    """Return the seconds of one call."""
    start = clock()
    call()
    return clock() - start


def latency(seconds: Sequence[float], batch_size: int) -> Dict[str, Union[int, float]]:
    """Return percentiles of calls with `batch_size` images each, in milliseconds."""
    p50, p90, p99 = (round(1000 * float(value), 6) for value in np.percentile(seconds, [50, 90, 99]))
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": p99, "n": len(seconds), "batch_size": batch_size}
