"""What a report opens with, in two screens: which file to deploy, what was found, and how it was measured."""

from collections.abc import Sequence

from trimlab import formats
from trimlab.records import Measurement
from trimlab.report import anatomy, controls, findings, recommendation
from trimlab.report.model import Block, Figure, Finding, Section, bullets, paragraph, strong, text_of
from trimlab.report.results import Identity, Results
from trimlab.report.tables import calls, replicates, where
from trimlab.report.text import pretty

Blocks = list[Block]


def sections(results: Results, drawn: Sequence[str]) -> tuple[Section, ...]:
    """Return the opening; `drawn` names the figures that there are. What has no content has no heading."""
    parts = [
        ("Which file to deploy", _recommended(results)),
        ("What was found", [*_found(results), *_figures(results, drawn)]),
        ("How it was measured", _measured(results)),
    ]
    return tuple(Section(text_of(heading), tuple(blocks)) for heading, blocks in parts if blocks)


def recommended(results: Results, number: int) -> Blocks:
    """Return the recommendation of one device, by its place among those that measured files."""
    device = recommendation.devices(results)[number]
    table = recommendation.table(results, device)
    said = recommendation.sentence(results, device)
    return [*paragraph(said), *([table] if table else [])] if said else []


def _recommended(results: Results) -> Blocks:
    if not recommendation.devices(results):
        return []
    blocks = recommended(results, 0)
    return [*blocks, *paragraph(recommendation.chosen_on(results))] if blocks else []


def _found(results: Results) -> Blocks:
    """Say what matters: candidate against baseline, a smaller model without pruning, INT8, speed, and warnings."""
    bench = results.headline_bench()
    said: list[Finding | None] = [findings.headline(results)]
    if bench is None:
        on = results.on(results.training_device())
        compared = [one for kind in controls.CONTROLS for one in controls.findings(on, controls.pairs(on, kind))]
        return bullets([*map(findings.trained, _trainers(results)), *compared, *said])
    said += [findings.opponents(results), int8(results), anatomy.in_short(results, bench)]
    said += [findings.few_images(results), *findings.inexact(results, results.candidate_file(bench))]
    return bullets([*said, findings.rounded_candidate(results, bench)])


def _trainers(results: Results) -> list[Results]:
    return [results.on(device) for device in results.training_devices()]


def int8(results: Results) -> Finding | None:
    """Say what INT8 costs in each runtime, of the first kind of INT8 that has several files."""
    costs = (findings.precision_cost(results, precision) for precision in formats.QUANTIZED)
    return next((cost for cost in costs if cost), None)


def _figures(results: Results, drawn: Sequence[str]) -> Blocks:
    dataset = results.dataset_of(results.study.report.baseline)
    shown = {
        f"accuracy-by-latency-{dataset}": f"Top-1 over latency at batch 1 on {pretty(dataset)}",
        f"accuracy-by-size-{dataset}": f"Top-1 over file size on {pretty(dataset)}",
    }
    return [Figure(name, alternative) for name, alternative in shown.items() if name in drawn]


def _measured(results: Results) -> Blocks:
    """Say on what, in which runtimes and how often it was measured, how sure that is, and what is missing."""
    said: list[Finding | None] = [*_timed(results)]
    if not said:
        said = [Finding.of(f"{where(results, [*on.trainings, *on.prunings])}.") for on in _trainers(results)]
    said += [findings.time_spread(results, recommendation.devices(results))]
    seeds = results.study.seeds
    listed = ", ".join(map(str, seeds))
    seeded = "One training seed" if len(seeds) == 1 else f"{len(seeds)} training seeds"
    days = sorted({record.moment.date() for record in results.records})
    span = str(days[0]) if len(days) == 1 else f"{days[0]} to {days[-1]}"
    alike = ", ".join(findings.one_training(results))
    same = f" All seeds of {alike} start from the same weights: no interval covers what another training would change."
    said += [
        Finding.of(
            f"{seeded} ({listed}), {span}.{same if alike else ''} Intervals are of 95 % confidence; “How to read the "
            "tables” explains all terms."
        )
    ]
    said += [findings.disturbed(results), controls.absent(results)]
    absent = results.missing()
    missing = [Finding.of(strong("Not measured yet"), f": {'; '.join(absent)}.")] if absent else []
    return bullets([*said, *missing, *(Finding.of(note) for note in results.study.report.notes)])


def _timed(results: Results) -> list[Finding]:
    """Say how files were timed; runtimes of one device in which they were timed alike share a finding."""
    alike: dict[tuple[Identity, str], list[Measurement]] = {}
    for bench in results.benches():
        measured = results.at(bench)
        single, large = calls(r.latency for r in measured), calls(r.batch_latency for r in measured)
        how = f"Times are medians (p50) of {single} and of {large}, copies included. {replicates(measured)}"
        alike.setdefault((bench.device, how), []).extend(measured)
    return [Finding.of(f"{where(results, measured)}. {how}") for (_, how), measured in alike.items()]
