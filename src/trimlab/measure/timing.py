"""Times of two functions in turn, so that both see the same machine."""

import gc
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from . import samples
from .session import Stopwatch

ROUNDS = 20
"""Turns that the timed runs are spread over."""
SETTLE_SECONDS = 0.01
"""Untimed at the start of a turn: the other one's data fills the caches."""

Timer = Callable[[], float]
"""Returns seconds since some moment."""


def wall(call: Callable[[], object], timer: Timer = time.perf_counter) -> Stopwatch:
    """Return what times a function by a timer."""

    def stopwatch() -> float:
        start = timer()
        call()
        return timer() - start

    return stopwatch


def interleaved(
    stopwatches: Sequence[Stopwatch], repeats: int, warmup: int, timer: Timer = time.perf_counter
) -> list[list[float]]:
    """Time each function `repeats` times, in turns.

    Args:
        stopwatches: each runs one of the functions and returns its seconds.
        repeats: timed runs of each.
        warmup: untimed runs of each, before the first turn.
        timer: tells for how long a turn has settled.

    Returns:
        Seconds of every timed run, a list a function.
    """
    seconds: list[list[float]] = [[] for _ in stopwatches]
    for stopwatch in stopwatches:
        for _ in range(warmup):
            stopwatch()
    pairs = list(zip(seconds, stopwatches, strict=True))
    gc.collect()
    gc.disable()
    try:
        for share in shares(repeats):
            for series, stopwatch in pairs:
                settle(stopwatch, timer)
                series.extend(stopwatch() for _ in range(share))
    finally:
        gc.enable()
    return seconds


def shares(repeats: int) -> list[int]:
    """Return how many of the runs each turn takes: even, none of them empty."""
    turns = min(ROUNDS, repeats)
    return [repeats // turns + (turn < repeats % turns) for turn in range(turns)]


def settle(stopwatch: Stopwatch, timer: Timer) -> None:
    """Run at least once, and for `SETTLE_SECONDS`."""
    until = timer() + SETTLE_SECONDS
    stopwatch()
    while timer() < until:
        stopwatch()


def latency(seconds: Sequence[float], batch_size: int) -> dict[str, int | float | None]:
    """Return percentiles of runs with `batch_size` images each, in milliseconds; p99 of many runs alone."""
    p50, p90, p99 = (round(1000 * float(value), 6) for value in np.percentile(seconds, [50, 90, 99]))
    tail = p99 if len(seconds) >= samples.TAIL_CALLS else None
    return {"p50_ms": p50, "p90_ms": p90, "p99_ms": tail, "n": len(seconds), "batch_size": batch_size}


def series(seconds: Sequence[float], batch_size: int) -> dict[str, Any]:
    """Return what a record keeps of one process's runs: the runs, and the percentiles that follow from them."""
    kept = samples.encode(seconds)
    return {**latency(samples.decode(kept).tolist(), batch_size), "samples": kept}


def pooled(processes: Sequence[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Return the percentiles over all runs of several processes, for each of their series."""
    first = processes[0]
    seconds = {
        name: [run for process in processes for run in samples.decode(process[name]["samples"])] for name in first
    }
    return {name: latency(seconds[name], first[name]["batch_size"]) for name in first}
