"""Which measured file to deploy: the best one of those that lose little enough and fit."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from trimlab.records import Measurement
from trimlab.report.intervals import Difference, Replicated
from trimlab.report.results import (
    Identity,
    Results,
    Spread,
    batch_latency_ms,
    images_per_second,
    latency_ms,
    mean,
    of_file,
)
from trimlab.report.text import MIB

Objective = Literal["size", "latency", "throughput"]


class Limits(NamedTuple):
    """What a file has to keep."""

    max_drop: float
    """Points of top-1 below the baseline that the whole 95 % interval of the difference stays above."""
    max_mib: float | None = None
    """Size of the deployed file, in MiB."""
    max_ms: float | None = None
    """Latency at batch 1, in milliseconds."""


@dataclass(frozen=True, eq=False)
class File:
    """A measured file that could be deployed, in one runtime."""

    records: list[Measurement]
    """One a seed."""
    gained: Difference
    """Top-1 less the baseline's, in points."""
    size_bytes: float
    """Of the ONNX file or the engine; over seeds the mean."""
    latency_ms: Replicated
    """At batch 1."""
    batch_ms: Replicated
    """At the large batch."""

    @property
    def images_per_second(self) -> Replicated:
        """Throughput at the large batch: by the times that it is picked for."""
        return images_per_second(self.records)

    @property
    def surely_lost(self) -> float:
        """The largest loss that the 95 % interval holds, in points."""
        return self.gained.surely_lost


@lru_cache(maxsize=8)  # tables, figures and chart ask for the same
def files(results: Results, device: Identity, runtimes: tuple[str, ...] = ()) -> Sequence[File]:
    """Return what a device measured of the baseline's dataset, in all runtimes or some; nothing without the baseline.

    All are compared with one FP32 file of the baseline, that of the first runtime that measured it.
    """
    benches = [bench for bench in results.benches() if bench.device == device]
    name = results.study.report.baseline
    base = next((found for bench in benches if (found := of_file(results.at(bench), name, "fp32"))), None)
    if base is None:
        return []
    chosen = [bench for bench in benches if not runtimes or bench.runtime in runtimes]
    own = [found for bench in chosen for found in results.by_file(results.at(bench)) if _alike(found, base)]
    return [
        File(found, gained, mean([r.deployed_bytes for r in found]), latency_ms(found), batch_latency_ms(found))
        for found in own
        if (gained := _UNCHANGED if found == base else results.difference(found, base))
    ]


def baseline(found: Iterable[File]) -> File | None:
    """Return the file that all are compared with; None where it is not among them."""
    return next((file for file in found if file.gained is _UNCHANGED), None)


def most_accurate(found: Iterable[File], max_mib: float) -> File | None:
    """Return the file within a size that surely loses least; of equally good ones the smallest."""
    within = [file for file in found if file.size_bytes <= max_mib * MIB]
    return min(within, key=lambda file: (file.surely_lost, file.size_bytes), default=None)


def pick(found: Iterable[File], limits: Limits, objective: Objective) -> File | None:
    """Return the best file within the limits; None where there is none.

    Of equally good ones it is that which surely loses least.
    """
    kept = [file for file in found if within(file, limits)]
    return min(kept, key=lambda file: (cost(file, objective), file.surely_lost), default=None)


def cost(file: File, objective: Objective) -> float:
    """Return what counts of a file, in bytes or milliseconds: less is better."""
    return file.size_bytes if objective == "size" else _TIMES[objective](file).mean


def within(file: File, limits: Limits) -> bool:
    """Say whether a file keeps the limits."""
    return (
        file.surely_lost <= limits.max_drop
        and (limits.max_mib is None or file.size_bytes <= limits.max_mib * MIB)
        and (limits.max_ms is None or file.latency_ms.mean <= limits.max_ms)
    )


def lowest(limits: Limits, lost: Iterable[float], size_bytes: Iterable[float], latency_ms: Iterable[float]) -> str:
    """Return how low each of the limits that were given could be alone, rounded up so that a file is within it.

    Args:
        limits: those of which none was within all.
        lost: points that each file surely loses at most.
        size_bytes: of each file.
        latency_ms: of each file at batch 1.
    """
    least = {"--max-drop": _up(min(lost))}
    if limits.max_mib is not None:
        least["--max-mib"] = _up(min(size_bytes) / MIB)
    if limits.max_ms is not None:
        least["--max-ms"] = _up(min(latency_ms))
    return ", ".join(f"{name} {value:g}" for name, value in least.items())


def _up(value: float) -> float:
    """Round up to thousandths."""
    return math.ceil(1000 * value) / 1000


def as_fast(
    best: File, found: Iterable[File], limits: Limits, objective: Objective, spread: Spread | None
) -> list[File]:
    """Return the other files within the limits that cannot be told apart from the best by their times.

    Their intervals overlap; or, as one process gives no interval, they lie no further apart than times of one and the
    same computation on that device. Sizes are exact.

    Args:
        best: the file that was picked.
        found: all of the device.
        limits: what the others have to keep, too.
        objective: for what the best one was picked.
        spread: of the device (`Results.time_spread`).
    """
    if objective == "size":
        return []
    time = _TIMES[objective]
    others = [file for file in found if file is not best and within(file, limits)]
    factor = 1.0 if spread is None else spread.single if objective == "latency" else spread.batch

    def apart(file: File) -> bool:
        if time(file).low is None or time(best).low is None:
            return time(file).mean > factor * time(best).mean
        return time(best).is_below(time(file))

    return [file for file in others if not apart(file)]


def as_accurate(best: File, found: Iterable[File], results: Results) -> list[File]:
    """Return the files that are smaller and faster at batch 1 and not known to be less accurate, the smallest first.

    A difference in time counts that is larger than times of the same computation lie apart.
    """
    spread = results.time_spread(best.records[0].device.identity)
    factor = 1.0 if spread is None else spread.single
    cheaper = [
        file
        for file in found
        if file.size_bytes < best.size_bytes and file.latency_ms.mean * factor < best.latency_ms.mean
    ]
    compared = [(file, results.difference(file.records, best.records)) for file in cheaper]
    alike = [file for file, gained in compared if gained and not gained.separable]
    return sorted(alike, key=lambda file: (file.size_bytes, file.latency_ms.mean))


def _alike(found: Sequence[Measurement], base: Sequence[Measurement]) -> bool:
    """Say whether two files classify the same images."""
    return {(r.dataset_sha256, r.split) for r in found} == {(r.dataset_sha256, r.split) for r in base}


_UNCHANGED = Difference(0.0, 0.0, "paired", 1.0)
"""Of the baseline's file from itself."""
_TIMES: dict[str, Callable[[File], Replicated]] = {
    "latency": lambda file: file.latency_ms,
    "throughput": lambda file: file.batch_ms,
}
