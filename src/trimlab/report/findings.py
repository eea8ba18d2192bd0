"""What the records say, in words and numbers: every sentence is computed, none is written for one study.

Speeds are compared within one process alone (`Measurement.speedups`), sizes within one kind of file alone. No sentence
ranks accuracies that cannot be told apart (`Difference.separable`), or times whose intervals overlap (`Replicated`).
"""

import itertools
import math
from collections.abc import Callable, Sequence

from trimlab import formats
from trimlab.measure.weights import EXACT
from trimlab.records import TRAINING_PASSES, Measurement, Pruning, Record, Training
from trimlab.report import reference
from trimlab.report.intervals import Difference, Replicated, least_separable, unpaired_difference, wilson
from trimlab.report.model import Finding, strong, text_of
from trimlab.report.results import (
    Bench,
    Identity,
    Results,
    batch_latency_ms,
    batch_speedup,
    bench_of,
    exact_difference,
    full_size,
    images_per_second,
    is_inexact,
    is_untouched,
    latency_ms,
    mean,
    of_file,
    speedup,
)
from trimlab.report.tables import (
    CONTENDED,
    TMACS,
    describe,
    least_to_most,
    lost_and_saved,
    milliseconds,
    smaller_opponents,
    top1,
)
from trimlab.report.text import (
    MIB,
    count,
    decimals,
    importance_name,
    mib,
    millions,
    p_value,
    percent,
    plus_minus,
    precision_name,
    pretty,
    ratio_percent,
    rounded_to,
    signed,
    times,
)

TOLERATED_POINTS = 1.0
"""What a pruned model may lose and still count as kept, and the file to deploy at most."""

MOST_LOST = 3.0
"""Points that a file may lose to count among the fastest, or to be recommended at all."""

FLAT = 1.3
"""Latencies within this factor of each other count as flat."""

FEW = 1000
"""A scored split of fewer images shows so little that the report says so at once."""


def headline(results: Results) -> Finding:
    """Compare candidate and baseline: accuracy, size, speed."""
    bench, study = results.headline_bench(), results.study
    if bench is None:
        missing = (
            f"No file of the baseline ({study.report.baseline}) was measured"
            if study.report.candidate == study.report.baseline
            else f"No device measured both the baseline ({study.report.baseline}, FP32) and the candidate "
            f"({study.report.candidate})"
        )
        # As after `dvc pull` of what another machine measured, and an experiment here.
        baselines = of_file(results.measurements, study.report.baseline, "fp32")
        elsewhere = baselines and any(record.variant == study.report.candidate for record in results.measurements)
        remedy = f"; on the candidate's run `dvc repro -f -s benchmark@{study.report.baseline}`" if elsewhere else ""
        return Finding.of(f"{missing}: there is nothing to compare yet{remedy}.")
    base = of_file(results.at(bench), study.report.baseline, "fp32")
    candidate = results.candidate_file(bench)
    if candidate == base:
        return Finding.of(
            f"{describe(results, base)}: {percent(_mean_top1(base))} % top-1 in {mib(_mean_bytes(base))} MiB. The "
            "study proposes no other file.",
            top1_percent=100 * _mean_top1(base),
        )
    size, base_size = _mean_bytes(candidate), _mean_bytes(base)
    gained = results.difference(candidate, base)
    compared = Finding.of(
        strong(
            f"The study's candidate, {describe(results, candidate)} ({candidate[0].variant}): "
            f"{percent(_mean_top1(candidate))} % top-1 in {mib(size)} MiB, against {percent(_mean_top1(base))} % in "
            f"{mib(base_size)} MiB for {describe(results, base)}."
        ),
        f" That is {base_size / size:.1f}× smaller, with {_lost_or_gained(gained)}{_tolerated(gained)}.",
        top1_percent=100 * _mean_top1(candidate),
        baseline_top1_percent=100 * _mean_top1(base),
        size_mib=size / MIB,
        baseline_size_mib=base_size / MIB,
        times_smaller=base_size / size,
        points_lost=100 * (_mean_top1(base) - _mean_top1(candidate)),
    )
    return Finding.joined([compared, _speed(results, candidate, bench)])


def opponents(results: Results) -> Finding | None:
    """Name the unpruned models that are smaller than the candidate, and what it gains over them."""
    bench = results.headline_bench()
    if bench is None or not (found := smaller_opponents(results, bench)):
        return None
    candidate = results.candidate_file(bench)
    said = [
        f"{describe(results, other)}, {percent(_mean_top1(other))} % in {mib(_mean_bytes(other))} MiB (the candidate "
        f"against it: {_told(results.difference(candidate, other))})"
        for other in found
    ]
    beaten = "".join(_beaten(results, bench, other) for other in found)
    return Finding.of(strong("Smaller without pruning:"), f" {'; '.join(said)}.{beaten}", models=len(found))


def _beaten(results: Results, bench: Bench, other: Sequence[Measurement]) -> str:
    """Say up to which size pruned files are larger and less accurate than an unpruned one."""
    pruned = [
        found
        for found in results.by_file(results.at(bench))
        if found[0].variant in results.swept(found[0].workload) and not is_untouched(results.study, found[0].variant)
    ]
    larger = [r for r in pruned if r[0].dataset == other[0].dataset and _mean_bytes(r) > _mean_bytes(other)]

    def worse(found: Sequence[Measurement]) -> bool:
        gained = results.difference(found, other)
        return gained is not None and gained.separable and gained.points < 0

    beaten = list(itertools.takewhile(worse, sorted(larger, key=_mean_bytes)))
    if not beaten:
        return ""
    sizes = list(dict.fromkeys(mib(_mean_bytes(found)) for found in (beaten[0], beaten[-1])))
    files = "The pruned file" if len(beaten) == 1 else f"All {len(beaten)} pruned files"
    are = "is" if len(beaten) == 1 else "are"
    return f" {files} of {' to '.join(sizes)} MiB {are} larger than this and less accurate."


def few_images(results: Results) -> Finding | None:
    """Say how little a small scored split can show; None where it is not small."""
    bench = results.headline_bench()
    record = results.candidate_file(bench)[0] if bench else None
    if record is None or record.num_images >= FEW:
        return None
    n, least = record.num_images, least_separable(record.num_images)
    low, high = (100 * share for share in wilson(round(record.top1_accuracy * n), n))
    return Finding.of(
        strong(f"{n} images show little:"),
        f" the candidate's {percent(record.top1_accuracy)} % has a 95 % interval of ± {(high - low) / 2:.1f} points "
        f"({low:.1f} to {high:.1f} %), and no difference of less than {least:.1f} points can be told from chance.",
        half_width_points=(high - low) / 2,
        least_points=least,
    )


def shrunk(results: Results, bench: Bench) -> str:
    """Return what a figure of sizes shows, in a line: how much smaller the candidate is, and at what loss."""
    return _message(
        results,
        bench,
        lambda base, found: f"{_mean_bytes(base) / _mean_bytes(found):.1f}× smaller than {_file(base)}",
    )


def sped_up(results: Results, bench: Bench) -> str:
    """Return what a figure of latencies shows, in a line: how much faster the candidate is, and at what loss."""
    return _message(
        results, bench, lambda _, found: f"{times(speedup(found), '×')} as fast at batch 1 as unpruned FP32"
    )


def yielded(results: Results, bench: Bench) -> str:
    """Return what a figure of throughputs shows, in a line: how much faster the candidate is, and at what loss."""
    batch = results.batch_size(bench)
    return _message(
        results, bench, lambda _, found: f"{times(batch_speedup(found), '×')} as fast at batch {batch} as unpruned FP32"
    )


def _message(results: Results, bench: Bench, gain: Callable[[list[Measurement], list[Measurement]], str]) -> str:
    """Say what the candidate gains against the baseline, and at what loss; nothing where they are not compared."""
    base, found = _compared_files(results, bench)
    return f"{_file(found)} is {gain(base, found)}: {_moved(results.difference(found, base))}" if found else ""


def _compared_files(results: Results, bench: Bench) -> tuple[list[Measurement], list[Measurement]]:
    base, found = of_file(results.at(bench), results.study.report.baseline, "fp32"), results.candidate_file(bench)
    return (base, found) if base and found and base != found else ([], [])


def _moved(gained: Difference | None) -> str:
    """Write points lost or gained in a few words, or that none can be told apart."""
    if gained is None:
        return "no seed in common"
    if not gained.separable:
        return f"a top-1 that cannot be told apart ({plus_minus(gained)} points)"
    direction = "lost" if gained.points < 0 else "gained"
    return f"{abs(gained.points):.2f} ± {gained.half_width:.2f} points of top-1 {direction}"


def ratio_explained(results: Results) -> Finding:
    """Say what a ratio is, with what it removes according to the records."""
    workload = results.study.variants[results.study.report.candidate].workload
    pruned = _sweep(results.on(results.training_device()), workload)
    shares = _removed_shares(pruned)
    of = (
        "the channels of all layers"
        if results.study.pruning.allocation != "uniform"
        else "each layer's output channels"
    )
    text = f" is the share of {of} that is removed; the classifier keeps its outputs."
    if shares:
        listed = ", ".join(
            f"{ratio_percent(ratio)} of the channels is {100 * share:.0f} % of the parameters"
            for ratio, share in shares
        )
        whose = _name(pruned[0][0])
        text += f" A layer loses inputs as well as outputs, so parameters fall faster: {listed} ({whose})."
    if results.study.pruning.round_to:
        text += f" Widths are {rounded_to(results.study.pruning)}: go by the parameters."
    removed = {f"removed_percent_at_{ratio_percent(ratio)}": 100 * share for ratio, share in shares}
    return Finding(text_of(strong("Ratio"), text), removed)


def importance(results: Results) -> Finding:
    """Say by what the pruned channels were chosen."""
    chosen = results.study.pruning.importance
    why = (
        ": the L1 norm of a channel's weights, averaged over all layers that the channel couples and divided by the "
        "mean of those layers' channels; not the plain L1 norm of one filter"
    )
    others = [
        f"{importance_name(point.importance)} for {variant}"
        for variant in results.study.variants
        if (point := results.study.point(variant)).importance and results.pruned(variant)
    ]
    return Finding.of(
        strong("Importance"),
        f" of channels is {importance_name(chosen)}{why if chosen == 'group-l1' else ''}{'; '.join(['', *others])}.",
    )


def intervals(results: Results) -> list[Finding]:
    """Say how accuracies and their differences are given, and where true labels are missing."""
    said = [
        Finding.of(
            strong("n"),
            " is the number of seeds. For one seed, top-1 is followed by its 95 % interval (Wilson), and Δ points by "
            "the half width of the paired 95 % interval: both files classify the same images, and those that only one "
            "of the two gets right count. Neither covers what another training seed would change. For several "
            "seeds, both are mean ± standard deviation (n − 1).",
        ),
        Finding.of(
            "Two accuracies ",
            strong("can be told apart"),
            " where the 95 % interval of their difference does not contain 0 and McNemar's exact test gives p < 0.05, "
            "p being the probability of so uneven a split of the images that only one file gets right, if both were "
            "equally accurate. No sentence ranks others. Over seeds the interval is Student's, or the images' where "
            "that is wider. An unpaired interval is computed from the two accuracies alone, and is too wide for files "
            "that see the same images.",
        ),
    ]
    unknown = [record for record in results.measurements if record.digest not in results.classified]
    if unknown:
        said.append(
            Finding.of(
                f"The true labels of the scored images are not stored for {len(unknown)} of "
                f"{len(results.measurements)} measurements, so their differences are unpaired."
            )
        )
    return said


def given_weights(results: Results) -> list[Finding]:
    """Say where weights come from that were given in place of a training, a finding a workload."""
    return [_given_weights(records) for records in _given(results)]


def one_training(results: Results) -> list[str]:
    """Return the workloads whose seeds all start from the same given weights."""
    return [records[0].workload for records in _given(results) if _from_one(records)]


def _given(results: Results) -> list[list[Training]]:
    """Return each workload's records of weights that were given in place of a training."""
    given = [[r for r in results.trained(key) if r.origin == "file" and r.initial] for key in results.study.workloads]
    return [records for records in given if records]


def _from_one(records: Sequence[Training]) -> bool:
    return len({record.initial_sha256 for record in records}) < len(records)


def _given_weights(records: Sequence[Training]) -> Finding:
    files = {record.initial_sha256: record for record in records}
    listed = "; ".join(_origin(record) for record in files.values())
    said = [f" {listed}."]
    if not all(record.initial_training for record in records):
        said.append("How they were trained is not recorded.")
    if _from_one(records):
        said.append("All seeds start from these weights: their spread says nothing about training.")
    return Finding.of(strong(f"Unpruned weights of {records[0].workload}:"), " ".join(said))


def _origin(record: Training) -> str:
    """Say which file weights were read from and, where its record says so, who trained them and how."""
    made, top1 = record.initial_training, f"{percent(record.top1_accuracy)} %"
    if made is None:
        return f"{record.initial} ({record.initial_dtype}, sha256 {(record.initial_sha256 or '')[:12]}), {top1}"
    small = len(made.curve) - len(full_size(made.curve))
    sizes = f" ({small} of them on smaller images)" if small else ""
    return (
        f"{record.initial}, trained by study {made.study} (seed {made.seed}) at commit {made.commit}: "
        f"{count(made.epochs, 'epoch')}{sizes}, batch {made.batch_size}, {made.precision} on {made.device.name}; "
        f"{percent(made.top1_accuracy)} % there, {top1} here as {record.initial_dtype}"
    )


def budget(results: Results) -> list[Finding]:
    """Say what a budget is, where something was trained."""
    if not any(record.epochs for record in results.trainings) and not any(r.epochs for r in results.prunings):
        return []
    return [
        Finding.of(
            strong("Budget"),
            f" is what training took, in {TMACS}: images × MACs of one forward pass × "
            f"{TRAINING_PASSES}, because the backward pass takes two more; epochs on smaller images count at their "
            "size, and a teacher's forward pass counts once per image. Of a pruned model it is the whole: training + "
            "fine-tuning.",
        )
    ]


def trained(results: Results) -> Finding | None:
    """Say what each training reached, on one device."""
    found = [
        records
        for key in results.study.workloads
        if (records := results.trained(key)) and records[0].origin == "trained" and not results.repeats(key)
    ]
    if not found:
        return None
    said = [
        f"{records[0].workload} reaches {top1(records).text} % top-1 after {count(records[0].epochs, 'epoch')}"
        for records in found
    ]
    values = {
        f"{records[0].workload}_top1_percent": 100 * mean([r.top1_accuracy for r in records]) for records in found
    }
    return Finding(text_of(f"{'; '.join(said)}."), values)


def amp(results: Results) -> list[Finding]:
    """Say what mixed precision did to accuracy, for trainings that differ only in precision, on one device.

    Where the device does not compute in mixed precision, say that.
    """
    said = [_fell_back(results, key) for key in results.study.workloads if results.repeats(key)]
    low = [key for key in results.study.workloads if _precision(results, key) in ("bf16", "fp16")]
    return said + [_amp(results, key, twin) for key in low for twin in results.twins(key, "fp32", "tf32")]


def _amp(results: Results, key: str, twin: str) -> Finding:
    a, b = results.trained(key), results.trained(twin)
    ours, theirs = (100 * mean([r.top1_accuracy for r in records]) for records in (a, b))
    return Finding.of(
        f"{_name(a[0])}: after {count(a[0].epochs, 'epoch')}, AMP (mixed precision, {a[0].precision}) reaches "
        f"{ours:.2f} %, {b[0].precision.upper()} {theirs:.2f} % ({_told(results.difference(a, b))}).",
        about=results.key("trainings", a[0].device.identity),
        amp_top1_percent=ours,
        top1_percent=theirs,
        points_gained=ours - theirs,
    )


def eager_latency(results: Results, workload: str) -> Finding | None:
    """Say whether eager latency is flat over the ratios, falls with them, or else how far it spans, on one device."""
    sweep = _sweep(results, workload)
    if len(sweep) < 2:
        return None
    values = [mean([record.eager_latency.p50_ms for record in records]) for records in sweep]
    contended = any(record.contended for records in sweep for record in records)
    said = _latency_course(values, [ratio_percent(records[0].ratio) for records in sweep])
    return Finding.of(
        f"Eager latency at batch 1 {said}." + (f" Some of it was {CONTENDED}." if contended else ""),
        about=_pruning_key(results, sweep),
        least_ms=min(values),
        most_ms=max(values),
    )


def _pruning_key(results: Results, sweep: Sequence[Sequence[Pruning]]) -> str:
    first = sweep[0][0]
    return results.key(f"pruning-{first.workload}", first.device.identity)


def _latency_course(values: Sequence[float], ratios: Sequence[str]) -> str:
    at = [f"{milliseconds(value)} ms at {ratio}" for value, ratio in zip(values, ratios, strict=True)]
    least, most = values.index(min(values)), values.index(max(values))
    if values[most] <= FLAT * values[least]:
        return (
            f"is flat over the ratios ({milliseconds(values[least])} to {milliseconds(values[most])} ms): here pruning "
            "alone does not speed up single images"
        )
    rises = any(value > FLAT * min(values[:index]) for index, value in enumerate(values) if index)
    if not rises and values[-1] < values[0]:
        steady = all(later <= sooner for sooner, later in itertools.pairwise(values))
        return f"falls{'' if steady else ', though not at every step'}: {at[0]}, {at[-1]}, one process per ratio"
    return f"follows no trend over the ratios: least {at[least]}, most {at[most]}"


def fine_tuning(results: Results, workload: str) -> Finding | None:
    """Say what fine-tuning gave back at most; None where that cannot be told from nothing."""
    gained = [(_gain(records), records) for records in _sweep(results, workload) if records[0].ratio > 0]
    most, records = max(gained, key=lambda pair: pair[0], default=(0.0, []))
    if most <= 0:
        return None
    before, after = (mean([r.top1_before for r in records]), mean([r.top1_accuracy for r in records]))
    num_images = records[0].num_images
    if not unpaired_difference((after, num_images), (before, num_images)).separable:
        return None
    return Finding.of(
        f"Fine-tuning recovers up to {most:.2f} points (at {ratio_percent(records[0].ratio)}).",
        about=_pruning_key(results, [records]),
        points_gained=most,
    )


def against_published_ratios(results: Results, workload: str) -> Finding | None:
    """Compare top-1 after fine-tuning with what was published, ratio by ratio; None with fewer than two such ratios."""
    gains: dict[float, Difference] = {}
    sweep = _sweep(results, workload)
    for records in sweep:
        ratio, num_images = records[0].ratio, records[0].num_images
        row = results.published(records[0], reference.pruning, ratio) if ratio > 0 else None
        if row:
            ours = (mean([r.top1_accuracy for r in records]), num_images)
            gains[ratio] = unpaired_difference(ours, (float(row["top1_after_percent"]) / 100, num_images))
    if len(gains) < 2:
        return None
    apart = [gain for gain in gains.values() if gain.separable_among(len(gains))]
    higher = sum(gain.points > 0 for gain in apart)
    least, most = (choose(gains, key=lambda ratio: gains[ratio].points) for choose in (min, max))
    ends = (f"{plus_minus(gains[ratio])} points ({ratio_percent(ratio)})" for ratio in (least, most))
    return Finding.of(
        f"Of {len(gains)} published ratios, top-1 after fine-tuning is higher than published at {higher}, lower at "
        f"{len(apart) - higher}, and cannot be told apart at {len(gains) - len(apart)}. The differences lie between "
        f"{' and '.join(ends)}. Recipes differ.",
        about=_pruning_key(results, sweep),
        higher=higher,
        lower=len(apart) - higher,
    )


def headroom(results: Results, workload: str) -> Finding | None:
    """Say up to which ratio a workload stays within a point of its unpruned model, with all of the loss's interval."""
    sweep = [records for records in _sweep(results, workload) if records[0].ratio > 0]
    losses = [(records, _lost(results, records)) for records in sweep]
    kept = [(records, lost) for records, lost in losses if lost.points + lost.half_width <= TOLERATED_POINTS]
    if not losses:
        return None
    if not kept:
        return _no_headroom(results, losses)
    far, lost = kept[-1]
    params = mean([r.num_params for r in far])
    return Finding.of(
        f"{_name(far[0])} lost {ratio_percent(far[0].ratio)} of its channels and stayed within {TOLERATED_POINTS:g} "
        f"point of its unpruned model ({_told(lost.reversed)}); {millions(params)} M parameters are left.",
        about=_pruning_key(results, sweep),
        points_lost=lost.points,
        num_params=params,
    )


def _no_headroom(results: Results, losses: Sequence[tuple[list[Pruning], Difference]]) -> Finding:
    """Say that a workload lost more than a point at every ratio, or that the images do not show otherwise."""
    best, lost = min(losses, key=lambda pair: pair[1].points)
    more = all(lost.points - lost.half_width > TOLERATED_POINTS for _, lost in losses)
    claim = (
        f"lost more than {TOLERATED_POINTS:g} point at every ratio tried"
        if more
        else f"was not shown to stay within {TOLERATED_POINTS:g} point of its unpruned model at any ratio tried"
    )
    return Finding.of(
        f"{_name(best[0])} {claim}; the least loss, at {ratio_percent(best[0].ratio)}, is {lost.points:.2f} ± "
        f"{lost.half_width:.2f} points.",
        about=_pruning_key(results, [records for records, _ in losses]),
        points_lost=lost.points,
    )


def precision_costs(results: Results) -> list[Finding]:
    """Say what each precision below FP32 costs, and what training for it gains over INT8 without it."""
    pairs = [(low, "fp32") for low in formats.COMPUTED[1:]] + [(low, "int8") for low in formats.TRAINED]
    return [said for pair in pairs if (said := precision_cost(results, *pair))]


def precision_cost(results: Results, precision: str, other: str = "fp32") -> Finding | None:
    """Say how a precision changes top-1 against the files of another with the same weights, in each runtime.

    The change of a single file is in its row.
    """
    moved = [(bench, own) for bench in results.benches() if len(own := _moves(results, bench, precision, other)) > 1]
    if not moved:
        return None
    said = " and ".join(_cost(results, bench, own, other) for bench, own in moved)
    points = [difference.points for _, own in moved for _, difference in own]
    values = {"least_points": min(points), "most_points": max(points)}
    against = f" changes top-1 against the {precision_name(other)} file of the same weights {said}."
    return Finding(text_of(strong(precision_name(precision)), against), values)


def _moves(results: Results, bench: Bench, precision: str, other: str) -> list[tuple[Measurement, Difference]]:
    """Return the files of a precision with what they gain over those of another."""
    measured = results.at(bench)
    base = {(r.variant, r.seed, r.weights_sha256): r for r in measured if r.precision == other}
    pairs = [(r, base.get((r.variant, r.seed, r.weights_sha256))) for r in measured if r.precision == precision]
    compared = [(record, results.difference([record], [own])) for record, own in pairs if own]
    return [(record, difference) for record, difference in compared if difference]


def _cost(results: Results, bench: Bench, moved: Sequence[tuple[Measurement, Difference]], against: str) -> str:
    """Say how far files of one bench move, and which of them can be told apart from those of another precision."""
    moves = [difference.points for _, difference in moved]
    low, high = signed(min(moves)), signed(max(moves))
    span = low if low == high else f"{low} to {high}"
    several = len(results.study.seeds) > 1
    apart = [
        f"{record.variant}{f', seed {record.seed}' if several else ''} ({plus_minus(difference)})"
        for record, difference in moved
        if difference.separable
    ]
    rest = f" and {len(apart) - 4} more" if len(apart) > 4 else ""
    told = (
        f"; told apart from {precision_name(against)}: {', '.join(apart[:4])}{rest}"
        if apart
        else f", none of which can be told apart from {precision_name(against)}"
    )
    files = f"{len(moved)} files" if low == high else f"mean {signed(mean(moves))} over {len(moved)} files"
    return f"by {span} points in {results.runtime_name(bench)} ({files}{told})"


def fastest(results: Results) -> Finding | None:
    """Name in each runtime the file that gains most throughput over its workload's unpruned FP32 file there.

    Only files count that surely lose few points against it: others are fast and of no use. No gain is ranked across
    runtimes: each has a baseline of its own.
    """
    found = [(bench, gains) for bench in results.benches() if (gains := _gains(results, bench))]
    if not found:
        return None
    said = "; ".join(_fastest(results, bench, gains) for bench, gains in found)
    once = any(of.processes == 1 for _, gains in found for _, of in gains)
    close = " One process timed each file, so close gains may change places." if once else ""
    values = {results.key("batch_speedup", bench): gains[0][1].mean for bench, gains in found}
    text = (
        f"Largest gain in throughput over the unpruned FP32 file in the same runtime, at a loss of at most "
        f"{MOST_LOST:g} points: {said}.{close}"
    )
    return Finding(text_of(text), values)


def _gains(results: Results, bench: Bench) -> list[tuple[list[Measurement], Replicated]]:
    """Return the files of a bench with their gains in throughput, the largest first."""
    # By name first: the order of records is that of their digests.
    files = sorted(results.by_file(results.at(bench)), key=lambda found: (found[0].variant, found[0].precision))
    kept = [found for found in files if _loses_little(results, found)]
    return sorted(((found, batch_speedup(found)) for found in kept), key=lambda pair: -pair[1].mean)


def _loses_little(results: Results, found: list[Measurement]) -> bool:
    """Say whether the whole interval of a file's loss stays within `MOST_LOST` points."""
    first = found[0]
    base = of_file(results.at(bench_of(first)), results.unpruned(first.workload) or "", "fp32")
    gained = results.difference(found, base)
    return found == base or (gained is not None and gained.surely_lost <= MOST_LOST)


def _fastest(results: Results, bench: Bench, gains: Sequence[tuple[list[Measurement], Replicated]]) -> str:
    (best, most), *others = gains
    near = [_file(found) for found, gained in others if most.processes > 1 and not gained.is_below(most)]
    beside = f"; not told apart from it: {', '.join(near)}" if near else ""
    return (
        f"in {results.runtime_name(bench)} {_file(best)}, {_speeds(best)} ({percent(_mean_top1(best))} % top-1{beside})"
    )


def beside_bf16(results: Results, bench: Bench) -> Finding | None:
    """Set the candidate's speed beside the unpruned model's in BF16, which some runtimes compute faster than FP32."""
    unpruned = results.unpruned(results.study.variants[results.study.report.candidate].workload)
    found, bf16 = results.candidate_file(bench), of_file(results.at(bench), unpruned or "", "bf16")
    if not found or not bf16:
        return None
    return Finding.of(
        f"Against unpruned FP32, the unpruned model in BF16 is {_speeds(bf16)} as fast; the candidate in "
        f"{precision_name(found[0].precision)} is {_speeds(found)} as fast.",
        unpruned_batch_speedup=batch_speedup(bf16).mean,
        batch_speedup=batch_speedup(found).mean,
    )


def rounding(results: Results, bench: Bench, workload: str) -> list[Finding]:
    """Say what rounded widths change against the same ratio with widths as they fall, in the smallest precision."""
    found = (_rounded(results, bench, variant) for variant in results.variants_of(workload))
    return [_rounding(results, *pair) for pair in found if pair]


def rounded_candidate(results: Results, bench: Bench) -> Finding | None:
    """Say what the candidate with rounded widths changes, where the study has it as another variant."""
    candidate = results.study.report.candidate
    workload = results.study.variants[candidate].workload
    twins = (v for v in results.variants_of(workload) if _unrounded(results, v) == candidate)
    return next((_rounding(results, *pair) for twin in twins if (pair := _rounded(results, bench, twin))), None)


def _rounded(results: Results, bench: Bench, variant: str) -> tuple[list[Measurement], list[Measurement]] | None:
    """Return a variant's file with rounded widths and that without, in the smallest precision of both."""
    measured, twin = results.at(bench), _unrounded(results, variant)
    for precision in reversed(formats.MADE) if twin else ():
        rounded, plain = of_file(measured, variant, precision), of_file(measured, twin or "", precision)
        if rounded and plain:
            return rounded, plain
    return None


def _rounding(results: Results, rounded: Sequence[Measurement], plain: Sequence[Measurement]) -> Finding:
    first, other = rounded[0], plain[0]
    batch = first.batch_latency.batch_size
    single, large = ([of(found) for found in (rounded, plain)] for of in (speedup, batch_speedup))
    widths = rounded_to(results.study.pruning_of(first.variant))
    spread = results.time_spread(first.device.identity)
    by_one, by_batch = (spread.single, spread.batch) if spread else (1.0, 1.0)
    return Finding.of(
        strong(f"Widths {widths}:"),
        f" {_name(first)}, {ratio_percent(first.ratio)}, {precision_name(first.precision)} ({first.variant}), against "
        f"the same without rounding ({other.variant}): speed-up over unpruned FP32 {_instead(large, by_batch)} at "
        f"batch {batch} and {_instead(single, by_one)} at batch 1, {first.macs / 1e6:.1f} M multiply-accumulates "
        f"instead of {other.macs / 1e6:.1f} M, top-1 {percent(_mean_top1(rounded))} % against "
        f"{percent(_mean_top1(plain))} % ({_told(results.difference(rounded, plain))}).",
        batch_speedup=large[0].mean,
        unrounded_batch_speedup=large[1].mean,
        macs=first.macs,
        unrounded_macs=other.macs,
    )


def _instead(speedups: Sequence[Replicated], factor: float) -> str:
    """Write two speed-ups: "22× instead of 11×", "unchanged at 14×".

    Those without intervals that lie within the factor cannot be told apart.
    """
    gained, other = speedups
    new, old = times(gained, "×"), times(other, "×")
    if new == old:
        return f"unchanged at {new}"
    if gained.low is None or other.low is None:
        apart = max(gained.mean, other.mean) > factor * min(gained.mean, other.mean)
    else:
        apart = gained.is_below(other) or other.is_below(gained)
    return f"{new} instead of {old}{'' if apart else ' (cannot be told apart)'}"


def baseline_times(measured: Sequence[Measurement]) -> Finding | None:
    """Say how far the times of a workload's unpruned FP32 file lie apart: it is timed again beside every file."""
    single = [ms for record in measured for ms in record.medians_ms("baseline_latency")]
    batch = [ms for record in measured for ms in record.medians_ms("baseline_batch_latency")]
    if len(single) < 2:
        return None
    return Finding.of(
        f"The unpruned FP32 file, timed again in each of these {len(single)} processes: p50 {least_to_most(single)} "
        f"ms at batch 1, {least_to_most(batch)} ms at batch {measured[0].batch_latency.batch_size}. That is how much "
        "the time of one file varies between processes.",
        least_ms=min(single),
        most_ms=max(single),
        least_batch_ms=min(batch),
        most_batch_ms=max(batch),
    )


def time_spread(results: Results, devices: Sequence[Identity]) -> Finding | None:
    """Say how far times of the same computation lie apart on each device: what differences in time can mean."""
    spreads = {results.labels[device]: spread for device in devices if (spread := results.time_spread(device))}
    if not spreads:
        return None
    said: list[str] = []
    for label, spread in spreads.items():
        on = f" on {label}" if len(devices) > 1 else ""
        single, batch = ("", "") if said else (" at batch 1", " at the large batch")
        usual = f"median of {spread.groups} groups: {spread.usual_single:.2f}× and {spread.usual_batch:.2f}×"
        median = f" ({usual})" if spread.groups > 1 else ""
        said.append(f"{spread.single:.2f}×{single} and {spread.batch:.2f}×{batch}{on}{median}")
    return Finding.of(
        strong("Equal work, unequal times:"),
        " files of equal shape and arithmetic, or the unpruned FP32 file timed again beside each, differ by up to "
        f"{', by up to '.join(said)}.",
        most_times=max(spread.single for spread in spreads.values()),
        most_batch_times=max(spread.batch for spread in spreads.values()),
    )


def disturbed(results: Results) -> Finding:
    """Say how many records were timed while other processes took part of the machine, and from which code all are."""
    records = results.records
    contended = [record for record in records if record.contended]
    which = f"{len(contended) or 'None'} of {len(records)} records"
    if len(contended) == len(records):
        which = f"All {len(records)} records" if len(records) > 1 else "The only record"
    number = f"{which} {'were' if len(contended) > 1 else 'was'}"
    marked = ": a footnote marks their times" if contended else ""
    said = f"{number} timed while other processes took more than a tenth of the processor{marked}."
    commits = len({record.commit for record in records})
    code = f" The records come from {commits} commits of the code, all with the same params." if commits > 1 else ""
    return Finding.of(f"{said}{code}", contended=len(contended), commits=commits)


def large_against_small(results: Results, workloads: Sequence[str]) -> Finding | None:
    """Compare how many points each model pays, at the highest ratio that all pruned by the same recipe.

    Distillation is the recipe: a distilled model is compared with distilled ones of the same weight alone.
    """
    sweeps = {key: _recipes(results, key) for key in workloads}
    bases = {key: _sweep(results, key)[:1] for key in workloads}
    shared = set.intersection(*(set(sweep) for sweep in sweeps.values())) if sweeps else set()
    if len(workloads) < 2 or not shared or any(not base or base[0][0].ratio > 0 for base in bases.values()):
        return None
    ratio, distillation = max(shared, key=lambda recipe: (recipe[0], -recipe[1]))
    losses: dict[str, Difference] = {}
    said = []
    for key in workloads:
        pruned = sweeps[key][ratio, distillation]
        lost, (_, saved) = results.difference(bases[key][0], pruned), lost_and_saved(pruned, bases[key][0])
        if lost is None or saved <= 0:  # rounded widths may remove nothing
            return None
        losses[key] = lost
        said.append(f"{pretty(pruned[0].model)} {_pays(lost)} to save {decimals(saved)} MiB")
    recipe = f"distilled with weight {distillation:g}" if distillation else "without distillation"
    text = f"At {ratio_percent(ratio)}, the highest shared ratio {recipe}: {'; '.join(said)}."
    about = results.key(f"losses-{results.study.workloads[workloads[0]].dataset}", results.prunings[0].device.identity)
    values = {f"{key}_points_lost": lost.points for key, lost in losses.items()}
    return Finding(text_of(f"{text} {_dearest(results, losses)}"), values, about)


def _dearest(results: Results, losses: dict[str, Difference]) -> str:
    """Name the model that loses most points and the one that loses least, where their losses can be told apart."""
    (cheap, least), *_, (dear, most) = sorted(losses.items(), key=lambda item: item[1].points)
    apart, half_width = most.points - least.points, math.hypot(most.half_width, least.half_width)
    names = [pretty(results.study.workloads[key].model) for key in (dear, cheap)]
    if apart <= half_width:
        between = f"{names[0]} and {names[1]}"
        return f"The losses of {between} cannot be told apart ({signed(apart)} ± {half_width:.2f} points)."
    return f"{names[0]} loses {apart:.2f} ± {half_width:.2f} points more than {names[1]}."


def fronts(results: Results, device: Identity, dataset: str) -> list[Finding]:
    """List a device's files that no other one beats in accuracy and in size, in latency, or in throughput.

    Files of all runtimes compete: on one device their times can be compared.
    """
    benches = [bench for bench in results.benches() if bench.device == device]
    measured = [[r for r in results.at(bench) if r.dataset == dataset] for bench in benches]
    found = [records for own in measured for records in results.by_file(own)]
    if len(found) < 2:
        return []
    named = _in_runtime if sum(map(bool, measured)) > 1 else _file
    batch = results.batch_size(benches[0])
    on = f" on {pretty(dataset)}" if len(results.study.datasets) > 1 else ""
    size = _front(results, f"By size{on}, smallest first", found, _mean_bytes, _in_mib, named)
    latency = _front(results, f"By latency at batch 1{on}, fastest first", found, _mean_latency, _in_ms, named)
    by_batch = f"By throughput at batch {batch}{on}, highest first"
    throughput = _front(results, by_batch, found, _image_seconds, _per_second, named)
    return [
        size,
        Finding.joined([latency, *_close_times(found, _mean_latency, latency_ms, named)]),
        Finding.joined([throughput, *_close_times(found, _image_seconds, batch_latency_ms, named)]),
    ]


def _close_times(
    found: Sequence[Sequence[Measurement]],
    cost: Callable[[Sequence[Measurement]], float],
    over: Callable[[Sequence[Measurement]], Replicated],
    named: Callable[[Sequence[Measurement]], str],
) -> list[Finding]:
    """Name the neighbours on a front of times that cannot be ranked by them; nothing where all can."""
    best = [found[i] for i in pareto([(cost(records), _mean_top1(records)) for records in found])]
    pairs = list(itertools.pairwise(best))
    if any(over(records).low is None for pair in pairs for records in pair):
        return [Finding.of("Close times may change places: one process timed each file.")]
    close = [f"{named(a)} and {named(b)}" for a, b in pairs if not over(a).is_below(over(b))]
    return [Finding.of(f"Cannot be told apart by these times: {'; '.join(close)}.")] if close else []


def _file(found: Sequence[Measurement]) -> str:
    return f"{found[0].variant} {precision_name(found[0].precision)}"


def _in_runtime(found: Sequence[Measurement]) -> str:
    return f"{_file(found)} in {pretty(found[0].runtime)}"


def _front(
    results: Results,
    name: str,
    found: Sequence[Sequence[Measurement]],
    cost: Callable[[Sequence[Measurement]], float],
    write: Callable[[float], str],
    named: Callable[[Sequence[Measurement]], str],
) -> Finding:
    """List one front, and mark a file whose top-1 cannot be told apart from that of the cheaper one before it."""
    best = [found[i] for i in pareto([(cost(records), _mean_top1(records)) for records in found])]
    listed = []
    for records, cheaper in zip(best, [None, *best], strict=False):
        gained = results.difference(records, cheaper) if cheaper else None
        own = f"{write(cost(records))}, {percent(_mean_top1(records))} %"
        mark = "" if gained is None or gained.separable else "≈ "
        listed.append(f"{mark}{named(records)} ({own})")
    legend = " ≈: its top-1 cannot be told apart from that of the file before it." if "≈" in "".join(listed) else ""
    return Finding.of(strong(f"{name}:"), f" {', '.join(listed)}.{legend}", files=len(best))


def _in_mib(size_bytes: float) -> str:
    return f"{mib(size_bytes)} MiB"


def _in_ms(latency_ms: float) -> str:
    return f"{milliseconds(latency_ms)} ms"


def _per_second(seconds: float) -> str:
    return f"{1 / seconds:,.0f} images/s"


def _mean_latency(found: Sequence[Measurement]) -> float:
    return latency_ms(found).mean


def _image_seconds(found: Sequence[Measurement]) -> float:
    return 1 / images_per_second(found).mean


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of (cost, accuracy) pairs that no other pair beats, by rising cost."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def against_reference(results: Results, bench: Bench) -> Finding | None:
    """Compare the candidate's top-1 with the published one, where the study has that very point."""
    found = results.candidate_file(bench)
    if not found:
        return None
    first = found[0]
    published = results.published(first, reference.deployed, first.ratio, first.precision)
    if published is None:
        return None
    printed = float(published["top1_percent"])
    gain = unpaired_difference((_mean_top1(found), first.num_images), (printed / 100, first.num_images))
    distilled = any(record.distillation for record in results.pruned(first.variant))
    own = ": ours is distilled from the unpruned model, which the published one is not" if distilled else ""
    return Finding.of(
        f"The candidate reaches {percent(_mean_top1(found))} %; the published study "
        f"{published['top1_percent']} % with the same model, dataset, ratio and precision ({_told(gain)}; recipes "
        f"differ{own}).",
        top1_percent=100 * _mean_top1(found),
        published_top1_percent=printed,
        points_gained=gain.points,
    )


def inexact(results: Results, measured: Sequence[Measurement]) -> list[Finding]:
    """Warn of the INT8 files whose top-1 a runtime's kernels change by more than noise, a finding each."""
    return [_inexact(results, record) for record in measured if is_inexact(record)]


def _inexact(results: Results, record: Measurement) -> Finding:
    difference, exact = exact_difference(record) or 0.0, record.exact_top1_accuracy or 0.0
    moved = f"{'lose' if difference < 0 else 'gain'} {abs(100 * difference):.2f} points"
    seed = f", seed {record.seed}" if len(results.study.seeds) > 1 else ""
    return Finding.of(
        strong(
            f"In {pretty(record.runtime)} on {results.labels[record.device.identity]}, {record.variant} "
            f"{precision_name(record.precision)}{seed} scores {percent(record.top1_accuracy)} %, its exact arithmetic "
            f"{percent(exact)} %"
        ),
        f": the runtime's kernels {moved}, more than noise ({_circumstances(record)}).",
        about=results.key("exactness", bench_of(record)),
        top1_percent=100 * record.top1_accuracy,
        exact_top1_percent=100 * exact,
        points_gained=100 * difference,
    )


def _circumstances(record: Measurement) -> str:
    """Say what a record holds of a possible cause: bits of the weights, and what the processor can do."""
    bits = f"{record.weight_bits or 8}-bit weights"
    features = record.device.features
    x86 = record.device.kind == "cpu" and any(name in record.device.system for name in ("x86_64", "AMD64"))
    if record.weight_bits == 7 or not x86 or not features or EXACT & set(features):
        return bits
    listed = ", ".join(features)
    return f"{bits}; the processor's features, {listed}, hold no VNNI, without which sums of products can saturate"


def against_baseline(results: Results, bench: Bench) -> Finding | None:
    """Compare the candidate's top-1 with the baseline's on a bench that the first table does not show."""
    base = of_file(results.at(bench), results.study.report.baseline, "fp32")
    found = results.candidate_file(bench)
    if bench == results.headline_bench() or not base or not found:
        return None
    name = f"{found[0].variant} {precision_name(found[0].precision)}"
    return Finding.of(
        f"{name} is at {percent(_mean_top1(found))} %, {base[0].variant} FP32 at {percent(_mean_top1(base))} % "
        f"({_told(results.difference(found, base))}).",
        top1_percent=100 * _mean_top1(found),
        baseline_top1_percent=100 * _mean_top1(base),
        points_gained=100 * (_mean_top1(found) - _mean_top1(base)),
    )


def runtimes(results: Results) -> Finding | None:
    """Set the candidate's own times in each runtime beside each other: no ratio crosses runtimes."""
    found = [(bench, records) for bench in results.benches() if (records := results.candidate_file(bench))]
    if len(found) < 2:
        return None
    said = [f"{_own_times(records)} in {pretty(b.runtime)} on {results.labels[b.device]}" for b, records in found]
    values = {results.key("latency_ms", b): _mean_latency(records) for b, records in found}
    return Finding(text_of(f"The candidate takes {'; '.join(said)}."), values)


def _own_times(found: Sequence[Measurement]) -> str:
    batch = found[0].batch_latency
    return (
        f"{milliseconds(_mean_latency(found))} ms at batch 1 and "
        f"{batch_latency_ms(found).mean:.2f} ms at batch {batch.batch_size} "
        f"({precision_name(found[0].precision)})"
    )


def rivals(results: Results) -> list[list[str]]:
    """Return, for each dataset with several models, the first unpruned workload of each."""
    groups: dict[str, dict[str, str]] = {}
    for key, workload in results.study.workloads.items():
        variant = results.unpruned(key)
        if variant and results.pruned(variant):
            groups.setdefault(workload.dataset, {}).setdefault(workload.model, key)
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _lost_or_gained(gained: Difference | None) -> str:
    """Write lost points: "1.20 ± 0.41 points lost (McNemar's p < 0.001)"; or that there is nothing to tell apart."""
    if gained is None:
        return "no seed in common, so that points are not compared"
    if not gained.separable:
        return f"a top-1 that cannot be told apart ({tested(gained)})"
    direction = "lost" if gained.points < 0 else "gained"
    return f"{abs(gained.points):.2f} ± {gained.half_width:.2f} points {direction} ({_known_by(gained)})"


def _tolerated(gained: Difference | None) -> str:
    """Say whether a loss keeps the limit of the file to deploy, with all of its interval."""
    if gained is None:
        return ""
    kept = gained.surely_lost <= TOLERATED_POINTS
    return f"; its interval {'stays within' if kept else 'goes beyond'} a {TOLERATED_POINTS:g}-point loss"


def _told(gained: Difference | None) -> str:
    """Write points gained with their interval, and whether it tells the two apart."""
    if gained is None:
        return "no seed in common"
    return tested(gained) if gained.separable else f"{tested(gained)}: cannot be told apart"


def tested(gained: Difference) -> str:
    """Write points gained with their interval and what it is: "+1.00 ± 0.53 points, McNemar's p < 0.001"."""
    return f"{plus_minus(gained)} points, {_known_by(gained)}"


def _known_by(gained: Difference) -> str:
    """Say what kind of interval it is; for a paired one give the p of McNemar's test."""
    if gained.p_value is None:
        return "unpaired" if gained.kind == "unpaired" else "over the seeds"
    p = p_value(gained.p_value)
    return f"McNemar's p {p if p.startswith('<') else f'= {p}'}"


def _unrounded(results: Results, variant: str) -> str | None:
    """Return the variant that differs in rounded widths alone."""
    own = results.study.point(variant)
    if not own.round_to:
        return None
    plain = own.model_copy(update={"round_to": None, "rounding": None})
    keys = results.variants_of(results.study.variants[variant].workload)
    return next((key for key in keys if results.study.point(key) == plain), None)


def _speeds(found: Sequence[Measurement]) -> str:
    batch = found[0].batch_latency.batch_size
    return f"{times(speedup(found), '×')} at batch 1 and {times(batch_speedup(found), '×')} at batch {batch}"


def _speed(results: Results, candidate: Sequence[Measurement], bench: Bench) -> Finding:
    batch = candidate[0].batch_latency.batch_size
    gained, batch_gained = speedup(candidate), batch_speedup(candidate)
    count = gained.processes
    how = f"each of {count} processes (geometric mean and 95 % interval)" if count > 1 else "one process"
    return Finding.of(
        f"On {results.labels[bench.device]} ({pretty(bench.runtime)}) it is {times(gained, '×')} as fast at batch 1 "
        f"and {times(batch_gained, '×')} at batch {batch} as the unpruned FP32 file, timed alternately with it in "
        f"{how}.",
        speedup=gained.mean,
        batch_speedup=batch_gained.mean,
    )


def _sweep(results: Results, workload: str) -> list[list[Pruning]]:
    """Return a workload's points by rising ratio, one a ratio: plain before distilled, of fewest epochs."""
    by_ratio: dict[float, list[Pruning]] = {}
    for variant in results.swept(workload):
        records = results.pruned(variant)
        if records:
            by_ratio.setdefault(records[0].ratio, records)
    return list(by_ratio.values())


def _recipes(results: Results, workload: str) -> dict[tuple[float, float], list[Pruning]]:
    """Return a workload's pruned points by ratio and distillation, of several the one of fewest epochs."""
    found: dict[tuple[float, float], list[Pruning]] = {}
    for variant in results.swept(workload):
        records = results.pruned(variant)
        if records and records[0].ratio > 0:
            found.setdefault((records[0].ratio, records[0].distillation), records)
    return found


def _removed_shares(sweep: Sequence[Sequence[Pruning]]) -> list[tuple[float, float]]:
    """Return (ratio, share of parameters removed) of the least, middle and most pruned point."""
    if not sweep or sweep[0][0].ratio > 0:
        return []
    full = sweep[0][0].num_params
    shares = [(records[0].ratio, 1 - records[0].num_params / full) for records in sweep if records[0].ratio > 0]
    chosen = sorted({0, len(shares) // 2, len(shares) - 1}) if shares else []
    return [shares[index] for index in chosen]


def _precision(results: Results, workload: str) -> str:
    found = results.trained(workload)
    return found[0].precision if found and found[0].origin == "trained" else ""


def _fell_back(results: Results, workload: str) -> Finding:
    """Say that a workload asks for AMP, which the device does not compute."""
    record, twin = results.trained(workload)[0], results.repeats(workload)
    return Finding.of(
        f"{workload} asks for AMP; {results.labels[record.device.identity]} does not compute bf16 natively, so it was "
        f"trained in {record.precision.upper()}, as {twin} was, and has no row of its own."
    )


def _name(record: Record) -> str:
    return f"{pretty(record.model)} on {pretty(record.dataset)}"


def _pays(lost: Difference) -> str:
    if not lost.separable:
        return f"loses no points that can be told from chance ({plus_minus(lost.reversed)})"
    return f"{'loses' if lost.points > 0 else 'gains'} {abs(lost.points):.2f} ± {lost.half_width:.2f} points"


def _gain(records: Sequence[Pruning]) -> float:
    return 100 * mean([record.top1_accuracy - record.top1_before for record in records])


def _lost(results: Results, records: Sequence[Pruning]) -> Difference:
    """Return the points that pruned models lost against their unpruned ones."""
    unpruned, num_images = results.unpruned(records[0].workload), records[0].num_images
    lost = results.difference(results.pruned(unpruned) if unpruned else [], records)
    base, own = mean([r.top1_unpruned for r in records]), mean([r.top1_accuracy for r in records])
    return lost or unpaired_difference((base, num_images), (own, num_images))


def _mean_top1(found: Sequence[Measurement]) -> float:
    return mean([record.top1_accuracy for record in found])


def _mean_bytes(found: Sequence[Measurement]) -> float:
    return mean([record.deployed_bytes for record in found])
