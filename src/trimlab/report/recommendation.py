"""What the report opens with: which file to deploy, by how much it may lose and by what counts."""

from collections.abc import Sequence

from trimlab.report import pick
from trimlab.report.model import Column, Finding, Table, Value, words
from trimlab.report.pick import File, Limits, Objective
from trimlab.report.results import Identity, Results
from trimlab.report.tables import describe, size, spread, top1, where
from trimlab.report.text import plus_minus, pretty, split_name, times

DROPS = (0.5, 1.0, 3.0)
"""Points that a file may lose."""
BEST: dict[Objective, str] = {
    "size": "smallest",
    "latency": "fastest at batch 1",
    "throughput": "highest throughput",
}
"""What the best file of each objective is."""


def devices(results: Results) -> list[Identity]:
    """Return the devices that measured files, the one with most of them first."""
    return list(dict.fromkeys(bench.device for bench in results.benches()))


def table(results: Results, device: Identity) -> Table | None:
    """Return the best files of a device, within each loss and by each objective; None where none is within any."""
    found = pick.files(results, device)
    rows = [row for drop in DROPS for row in _rows(results, found, drop)]
    if not rows:
        return None
    batch = found[0].records[0].batch_latency.batch_size
    columns = [
        Column("May lose", "points"), words("Best"), words("File"), words("Runtime"), Column("Top-1 %", "%"),
        Column("Δ points", "points"), Column("Size MiB", "MiB"), Column("Latency ms", "ms"),
        Column(f"Images/s at batch {batch}", "1/s"),
    ]  # fmt: skip
    caption = (
        f"{where(results, [record for file in found for record in file.records])}. A file is within a loss if the "
        "whole 95 % interval of its difference from the baseline is. Latency: at batch 1, p50."
    )
    number = devices(results).index(device) + 1
    return Table.of("recommended" if number == 1 else f"recommended-{number}", columns, rows, caption)


def chosen_on(split: str) -> Finding:
    """Say on which images the files were chosen, and what that means."""
    meaning = (
        "The best of many files is a little lucky on the images that it was chosen on: choose on the hold-out "
        "(data.split: holdout), and show the chosen file on the test set."
    )
    text = f"Chosen on the {split_name(split)}."
    return Finding.of(f"{text} {meaning}" if split == "test" else text)


def _rows(results: Results, found: Sequence[File], drop: float) -> list[list[str | Value]]:
    """Return a row for each file that is the best by some objective."""
    limits = Limits(drop)
    best: dict[int, list[Objective]] = {}
    for objective in BEST:
        file = pick.pick(found, limits, objective)
        if file is not None:
            best.setdefault(found.index(file), []).append(objective)
    return [_row(results, found, found[index], limits, objectives) for index, objectives in best.items()]


def _row(
    results: Results, found: Sequence[File], file: File, limits: Limits, objectives: Sequence[Objective]
) -> list[str | Value]:
    rates = [record.batch_latency.images_per_second for record in file.records]
    latency, rate = Value(times(file.latency_ms), file.latency_ms.mean), spread(rates, lambda value: f"{value:,.0f}")
    timed: dict[Objective, Value] = {"latency": latency, "throughput": rate}
    for objective in objectives:
        rivals = pick.as_fast(file, found, limits, objective)
        if rivals:
            names = "; ".join(f"{describe(results, r.records)}, {pretty(r.records[0].runtime)}" for r in rivals)
            timed[objective] = timed[objective]._replace(note=f"cannot be told apart in this from {names}")
    return [
        Value(f"{limits.max_drop:g}", limits.max_drop),
        ", ".join(BEST[objective] for objective in objectives),
        describe(results, file.records),
        pretty(file.records[0].runtime),
        top1(file.records),
        Value(plus_minus(file.gained), file.gained.points),
        size(file.size_bytes),
        *timed.values(),
    ]
