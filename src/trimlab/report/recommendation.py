"""What the report opens with: which file to deploy, by how much it may lose, how large it may be, and what counts."""

from collections.abc import Sequence

from trimlab.report import pick
from trimlab.report.findings import MOST_LOST, TOLERATED_POINTS, tested
from trimlab.report.model import Column, Finding, Table, Value, strong, words
from trimlab.report.pick import File, Limits, Objective
from trimlab.report.results import Bench, Identity, Results
from trimlab.report.tables import DELTA, SIZE, TOP1, describe, size, top1, where
from trimlab.report.text import MIB, mib, percent, plus_minus, precision_name, pretty, times

DROPS = (0.5, TOLERATED_POINTS, MOST_LOST)
"""Points that a file may lose."""
SIZES_MIB = (0.1, 1.0, 10.0)
"""How large a file may be, where that tells files apart."""
BEST: dict[Objective, str] = {
    "size": "smallest",
    "latency": "fastest at batch 1",
    "throughput": "highest throughput",
}
"""What the best file of each objective is."""
_NAMED = 2
"""Files that a footnote names, at most."""
BASELINE = "the unpruned baseline, to compare with"

Best = dict[Objective, list[float]]
"""By what a file is the best, and within which losses."""


def devices(results: Results) -> list[Identity]:
    """Return the devices that measured files, the one with most of them first."""
    return list(dict.fromkeys(bench.device for bench in results.benches()))


def sentence(results: Results, device: Identity) -> Finding | None:
    """Recommend the smallest file that surely loses little; None without the baseline's file."""
    found = pick.files(results, device)
    base = pick.baseline(found)
    if base is None:
        return None
    best = pick.pick(found, Limits(TOLERATED_POINTS), "size")
    if best is None or best is base:
        return Finding.of(
            strong("Deploy the unpruned FP32 file:"),
            f" no smaller one was shown to lose at most {TOLERATED_POINTS:g} point of top-1.",
        )
    runtime = best.records[0].runtime
    there = next((f for f in found if _is_unpruned(results, f) and f.records[0].runtime == runtime), None)
    instead = f", where the unpruned FP32 file takes {times(there.latency_ms)} ms" if there else ""
    return Finding.of(
        strong(f"Deploy {_name(results, best)} in {pretty(runtime)}."),
        f" It is the smallest file whose entire 95 % interval stays within a {TOLERATED_POINTS:g}-point loss: "
        f"{_mean_top1(best)} % top-1, against {_mean_top1(base)} % for the unpruned FP32 baseline "
        f"({tested(best.gained)}). It takes {mib(best.size_bytes)} MiB instead of {mib(base.size_bytes)} MiB, "
        f"and {times(best.latency_ms)} ms per image in {pretty(runtime)}{instead}.",
        points_gained=best.gained.points,
        size_mib=best.size_bytes / MIB,
        baseline_size_mib=base.size_bytes / MIB,
    )


def _is_unpruned(results: Results, file: File) -> bool:
    """Say whether a file is the baseline's in FP32, in whichever runtime."""
    return (file.records[0].variant, file.records[0].precision) == (results.study.report.baseline, "fp32")


def roles(results: Results, bench: Bench) -> dict[tuple[str, str], str]:
    """Name the files of a bench that figures point out, by variant and precision: the candidate and the recommended."""
    found = pick.files(results, bench.device)
    best = pick.pick(found, Limits(TOLERATED_POINTS), "size")
    candidate = results.candidate_file(bench)[:1]
    named: dict[tuple[str, str], str] = {(record.variant, record.precision): "candidate" for record in candidate}
    if best and best is not pick.baseline(found) and best.records[0].runtime == bench.runtime:
        key = (best.records[0].variant, best.records[0].precision)
        named[key] = "recommended candidate" if key in named else "recommended"
    return named


def table(results: Results, device: Identity) -> Table | None:
    """Return the best files of a device, a row each; None where none is within any loss."""
    found = pick.files(results, device)
    base = pick.baseline(found)
    best = _best(found)
    if base is None or not best:
        return None
    under = _most_accurate(results, found, base)
    order = list(dict.fromkeys([*best, *under]))
    rows = [_row(results, found, found[at], best.get(at, {}), under.get(at, [])) for at in order]
    if found.index(base) not in order:
        rows.append([BASELINE, *_figures(results, found, base, {}, [])])
    batch = found[0].records[0].batch_latency.batch_size
    columns = [
        words("Best for"), words("File"), words("Runtime"), TOP1, DELTA, SIZE, Column("Latency ms", "ms"),
        Column(f"Images/s at batch {batch}", "1/s"),
    ]  # fmt: skip
    base_in = pretty(base.records[0].runtime)
    several = f", as {base_in} computes it" if len({file.records[0].runtime for file in found}) > 1 else ""
    caption = (
        f"{where(results, [record for file in found for record in file.records])}. Δ points: top-1 less that of the "
        f"unpruned FP32 baseline{several}, with the half width of the 95 % interval; a file is within a loss if its "
        f"entire interval is. Most accurate: the highest lower bound of that interval, or a smaller and faster file "
        f"too close to tell apart. Latency: at batch 1, median (p50).{_apart(results, device, found)}"
    )
    number = devices(results).index(device) + 1
    return Table.of("recommended" if number == 1 else f"recommended-{number}", columns, rows, caption)


def _apart(results: Results, device: Identity, found: Sequence[File]) -> str:
    """Say what ranks the times of files that one process timed."""
    spread = results.time_spread(device)
    if spread is None or all(file.latency_ms.low is not None for file in found):
        return ""
    return (
        f" One process timed each file. Medians within {spread.single:.2f}× at batch 1 or {spread.batch:.2f}× at the "
        "large batch cannot be told apart: times of equal work differ as much."
    )


def chosen_on(results: Results) -> Finding:
    """Say on which images the files were chosen, and what that and the number of seeds mean for their accuracies."""
    split = results.study.data.split
    images = {"test": "test", "holdout": "hold-out"}[split]
    said = f"These files were selected on the {images} images that they are scored on, so their accuracies are"
    said += " optimistic."
    if split == "holdout":
        said += " The test set was not used."
    if len({record.seed for record in results.measurements}) == 1:
        said += " There is one training seed: no interval here covers what another one would change."
    return Finding.of(said)


def _best(found: Sequence[File]) -> dict[int, Best]:
    """Return the files that are the best within some loss, by their places."""
    best: dict[int, Best] = {}
    for drop in DROPS:
        for objective in BEST:
            file = pick.pick(found, Limits(drop), objective)
            if file is not None:
                best.setdefault(found.index(file), {}).setdefault(objective, []).append(drop)
    return best


def _most_accurate(results: Results, found: Sequence[File], base: File) -> dict[int, list[float]]:
    """Return the files to take where a size below the baseline's is given, by their places.

    That is the file that surely loses least, or the smallest of those that are smaller and faster and cannot be told
    apart from it.
    """
    chosen: dict[int, list[float]] = {}
    for limit in SIZES_MIB:
        best = pick.most_accurate(found, limit)
        if best and base.size_bytes > limit * MIB:
            cheapest = next(iter(pick.as_accurate(best, found, results)), best)
            chosen.setdefault(found.index(cheapest), []).append(limit)
    return chosen


def _row(results: Results, found: Sequence[File], file: File, best: Best, sizes: Sequence[float]) -> list[str | Value]:
    """Return a file's row: what it is the best for, and its figures."""
    together: dict[tuple[float, ...], list[Objective]] = {}
    for objective, drops in best.items():
        together.setdefault(tuple(drops), []).append(objective)
    said = [
        f"{', '.join(BEST[o] for o in own)} within {_either(drops)} {_points(drops)}" for drops, own in together.items()
    ]
    said += [f"most accurate up to {_either(sizes)} MiB"] if sizes else []
    return ["; ".join(said), *_figures(results, found, file, best, sizes)]


def _points(drops: Sequence[float]) -> str:
    return "point" if tuple(drops) == (1.0,) else "points"


def _either(values: Sequence[float]) -> str:
    return " or ".join(f"{value:g}" for value in values)


def _figures(
    results: Results, found: Sequence[File], file: File, best: Best, sizes: Sequence[float]
) -> list[str | Value]:
    """Return a file's figures, with a note where they do not tell it apart from another file that could be named."""
    latency, rate = (Value(times(found), found.mean) for found in (file.latency_ms, file.images_per_second))
    timed: dict[Objective, Value] = {"latency": latency, "throughput": rate}
    for objective, drops in best.items():
        apart = results.time_spread(file.records[0].device.identity)
        rivals = pick.as_fast(file, found, Limits(max(drops)), objective, apart)
        if rivals:
            named = ", ".join(map(_short, rivals[:_NAMED]))
            more = f" and {len(rivals) - _NAMED} more" if len(rivals) > _NAMED else ""
            timed[objective] = timed[objective]._replace(note=f"too close to tell apart from {named}{more}")
    accuracy = top1(file.records)
    top = pick.most_accurate(found, max(sizes)) if sizes else None
    if top and top is not file:
        larger = f"{_short(top)}, {_mean_top1(top)} % in {mib(top.size_bytes)} MiB"
        accuracy = accuracy._replace(note=f"too close to tell apart from a larger and slower file: {larger}")
    gained = "0" if file is pick.baseline(found) else plus_minus(file.gained)
    return [
        _name(results, file),
        pretty(file.records[0].runtime),
        accuracy,
        Value(gained, file.gained.points),
        size(file.size_bytes),
        *timed.values(),
    ]


def _name(results: Results, file: File) -> str:
    """Name a file by what it is and by its variant."""
    return f"{describe(results, file.records)} ({file.records[0].variant})"


def _short(file: File) -> str:
    """Name a file by its variant, precision and runtime."""
    first = file.records[0]
    return f"{first.variant} {precision_name(first.precision)} in {pretty(first.runtime)}"


def _mean_top1(file: File) -> str:
    tops = [record.top1_accuracy for record in file.records]
    return percent(sum(tops) / len(tops))
