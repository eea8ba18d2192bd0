"""What the records say, in words and numbers: every sentence is computed, none is written for one study.

Speeds are compared within one process alone (`Measurement.speedup`), sizes within one kind of file alone.
"""

from collections.abc import Sequence

from trimlab import formats
from trimlab.measure.weights import EXACT
from trimlab.records import Measurement, Pruning, Record
from trimlab.report import reference
from trimlab.report.model import Finding, strong, text_of
from trimlab.report.results import Bench, Identity, Results, bench_of, exact_difference, is_inexact, mean, of_file
from trimlab.report.tables import CONTENDED, describe, least_to_most, lost_and_saved, milliseconds
from trimlab.report.text import (
    MIB,
    decimals,
    mib,
    millions,
    percent,
    precision_name,
    pretty,
    ratio_percent,
    signed,
)

TOLERATED_POINTS = 1.0
"""What a pruned model may lose and still count as kept."""

FLAT = 1.3
"""Latencies within this factor of each other count as flat."""


def headline(results: Results) -> Finding:
    """Compare candidate and baseline: accuracy, size, speed."""
    bench = results.headline_bench()
    if bench is None:
        return Finding.of(
            f"No device measured both the baseline ({results.study.report.baseline}, FP32) and the candidate "
            f"({results.study.report.candidate}): there is nothing to compare yet."
        )
    base = of_file(results.at(bench), results.study.report.baseline, "fp32")
    candidate = results.candidate_file(bench)
    size, base_size = _mean_bytes(candidate), _mean_bytes(base)
    lost = 100 * (_mean_top1(base) - _mean_top1(candidate))
    compared = Finding.of(
        strong(
            f"{describe(results, candidate)}: {percent(_mean_top1(candidate))} % top-1 in {mib(size)} MiB, "
            f"against {percent(_mean_top1(base))} % in {mib(base_size)} MiB for {describe(results, base)}."
        ),
        f" That is {base_size / size:.1f}× smaller, with {points(lost)}.",
        top1_percent=100 * _mean_top1(candidate),
        baseline_top1_percent=100 * _mean_top1(base),
        size_mib=size / MIB,
        baseline_size_mib=base_size / MIB,
        times_smaller=base_size / size,
        points_lost=lost,
    )
    return Finding.joined([compared, _speed(results, candidate, bench)])


def ratio_explained(results: Results) -> Finding:
    """Say what a ratio is, with what it removes according to the records."""
    workload = results.study.variants[results.study.report.candidate].workload
    pruned = _sweep(results.on(results.training_device()), workload)
    shares = _removed_shares(pruned)
    scope = "each layer's output channels" if results.study.pruning.scope == "uniform" else "the channels of all layers"
    text = f" is the share of {scope} that is removed; the classifier keeps its outputs."
    if shares:
        listed = ", ".join(
            f"{ratio_percent(ratio)} of the channels is {100 * share:.0f} % of the parameters"
            for ratio, share in shares
        )
        whose = _name(pruned[0][0])
        text += f" A layer loses inputs as well as outputs, so parameters fall faster: {listed} ({whose})."
    if results.study.pruning.round_to:
        text += f" Widths are rounded to multiples of {results.study.pruning.round_to}: go by the parameters."
    removed = {f"removed_percent_at_{ratio_percent(ratio)}": 100 * share for ratio, share in shares}
    return Finding(text_of(strong("Ratio"), text), removed)


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
        f"{_name(a[0])}: after {a[0].epochs} epochs AMP ({a[0].precision}) is at {ours:.2f} %, "
        f"{b[0].precision.upper()} at {theirs:.2f} % ({signed(ours - theirs)} points).",
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
        return f"falls with the ratio: {at[0]}, {at[-1]}"
    return f"follows no trend over the ratios: least {at[least]}, most {at[most]}"


def fine_tuning(results: Results, workload: str) -> Finding | None:
    """Say what fine-tuning gave back at most."""
    gained = [(_gain(records), records) for records in _sweep(results, workload) if records[0].ratio > 0]
    most, records = max(gained, key=lambda pair: pair[0], default=(0.0, []))
    if most <= 0:
        return None
    return Finding.of(
        f"Fine-tuning recovers up to {most:.2f} points (at {ratio_percent(records[0].ratio)}).",
        about=_pruning_key(results, [records]),
        points_gained=most,
    )


def headroom(results: Results, workload: str) -> Finding | None:
    """Say up to which ratio a workload stays within a point of its unpruned model."""
    sweep = [records for records in _sweep(results, workload) if records[0].ratio > 0]
    kept = [records for records in sweep if _lost(records) <= TOLERATED_POINTS]
    if not sweep:
        return None
    about = _pruning_key(results, sweep)
    if not kept:
        best = min(sweep, key=_lost)
        return Finding.of(
            f"{_name(best[0])} loses more than {TOLERATED_POINTS:g} point at every ratio tried; the least, "
            f"{_lost(best):.2f}, at {ratio_percent(best[0].ratio)}.",
            about=about,
            points_lost=_lost(best),
        )
    far = kept[-1]
    params = mean([r.num_params for r in far])
    return Finding.of(
        f"{_name(far[0])} can lose {ratio_percent(far[0].ratio)} of its channels and stay within {TOLERATED_POINTS:g} "
        f"point of its unpruned model ({points(_lost(far))}); {millions(params)} M parameters are left.",
        about=about,
        points_lost=_lost(far),
        num_params=params,
    )


def precision_cost(measured: Sequence[Measurement], precision: str) -> Finding | None:
    """Say how INT8 or FP16 moves top-1 against the FP32 files of the same weights; one file's move is in its row."""
    fp32 = {(r.variant, r.seed, r.weights_sha256): r.top1_accuracy for r in measured if r.precision == "fp32"}
    low = [r for r in measured if r.precision == precision and (r.variant, r.seed, r.weights_sha256) in fp32]
    moves = [100 * (r.top1_accuracy - fp32[r.variant, r.seed, r.weights_sha256]) for r in low]
    if len(moves) < 2:
        return None
    values = {"least_points": min(moves), "most_points": max(moves), "mean_points": mean(moves)}
    low_end, high_end = signed(min(moves)), signed(max(moves))
    span = low_end if low_end == high_end else f"{low_end} to {high_end} (mean {signed(mean(moves))})"
    text = f"{precision.upper()} moves top-1 by {span} points against FP32, over {len(moves)} files."
    return Finding(text_of(text), values)


def fastest(measured: Sequence[Measurement]) -> Finding | None:
    """Name the file that gains most throughput over its workload's unpruned FP32 file."""
    files: dict[tuple[str, str], list[Measurement]] = {}
    for record in measured:
        files.setdefault((record.variant, record.precision), []).append(record)
    if not files:
        return None
    (variant, precision), best = max(files.items(), key=lambda item: mean([r.batch_speedup for r in item[1]]))
    speedup, batch_speedup = mean([r.speedup for r in best]), mean([r.batch_speedup for r in best])
    return Finding.of(
        f"Largest gain in throughput over its unpruned FP32 file: {variant} {precision_name(precision)}, "
        f"{batch_speedup:.1f}× at batch {best[0].batch_latency.batch_size} and "
        f"{speedup:.1f}× at batch 1, with {percent(_mean_top1(best))} % top-1.",
        batch_speedup=batch_speedup,
        speedup=speedup,
        top1_percent=100 * _mean_top1(best),
    )


def rounding(results: Results, bench: Bench, workload: str) -> list[Finding]:
    """Say what rounded widths change against the same ratio with widths as they fall, in the smallest precision."""
    measured, said = results.at(bench), []
    for variant in results.variants_of(workload):
        twin = _unrounded(results, variant)
        pairs = (
            [(of_file(measured, variant, p), of_file(measured, twin, p)) for p in reversed(formats.MADE)]
            if twin
            else []
        )
        rounded, plain = next((pair for pair in pairs if all(pair)), ([], []))
        if rounded:
            said.append(_rounding(results, rounded, plain))
    return said


def _rounding(results: Results, rounded: Sequence[Measurement], plain: Sequence[Measurement]) -> Finding:
    first, other = rounded[0], plain[0]
    return Finding.of(
        f"{first.variant} ({_name(first)}, {ratio_percent(first.ratio)}, widths rounded to multiples of "
        f"{results.study.point(first.variant).round_to}), {precision_name(first.precision)}: {_speeds(rounded)}, "
        f"{millions(first.num_params)} M parameters, {first.macs / 1e6:.1f} M multiply-accumulates, "
        f"{percent(_mean_top1(rounded))} % top-1; without rounding ({other.variant}): {_speeds(plain)}, "
        f"{millions(other.num_params)} M, {other.macs / 1e6:.1f} M, {percent(_mean_top1(plain))} %.",
        batch_speedup=mean([r.batch_speedup for r in rounded]),
        unrounded_batch_speedup=mean([r.batch_speedup for r in plain]),
        macs=first.macs,
        unrounded_macs=other.macs,
    )


def baseline_times(measured: Sequence[Measurement]) -> Finding | None:
    """Say how far the times of a workload's unpruned FP32 file lie apart: it is timed again beside every file."""
    if len(measured) < 2:
        return None
    single = [record.baseline_latency.p50_ms for record in measured]
    batch = [record.baseline_batch_latency.p50_ms for record in measured]
    return Finding.of(
        f"The unpruned FP32 file, timed again in each of these {len(measured)} processes: p50 {least_to_most(single)} "
        f"ms at batch 1, {least_to_most(batch)} ms at batch {measured[0].batch_latency.batch_size}. That is the "
        "machine's own variation.",
        least_ms=min(single),
        most_ms=max(single),
        least_batch_ms=min(batch),
        most_batch_ms=max(batch),
    )


def large_against_small(results: Results, workloads: Sequence[str]) -> Finding | None:
    """Compare how many points each model pays per MiB, at the highest ratio that all pruned by the same recipe.

    Distillation is the recipe: a distilled model is compared with distilled ones of the same weight alone.
    """
    sweeps = {key: _recipes(results, key) for key in workloads}
    bases = {key: _sweep(results, key)[:1] for key in workloads}
    shared = set.intersection(*(set(sweep) for sweep in sweeps.values())) if sweeps else set()
    if len(workloads) < 2 or not shared or any(not base or base[0][0].ratio > 0 for base in bases.values()):
        return None
    ratio, distillation = max(shared, key=lambda recipe: (recipe[0], -recipe[1]))
    costs, said = {}, []
    for key in workloads:
        pruned = sweeps[key][ratio, distillation]
        lost, saved = lost_and_saved(pruned, bases[key][0])
        if saved <= 0:  # rounded widths may remove nothing
            return None
        costs[key] = lost / saved
        said.append(f"{pretty(pruned[0].model)} {_pays(lost)} for {decimals(saved)} MiB ({signed(costs[key])} per MiB)")
    recipe = f"distilled with weight {distillation:g}" if distillation else "without distillation"
    text = f"At {ratio_percent(ratio)}, the highest ratio they share {recipe}: {'; '.join(said)}."
    dear, cheap = max(costs, key=lambda key: costs[key]), min(costs, key=lambda key: costs[key])
    if costs[cheap] > 0:
        names = [pretty(results.study.workloads[key].model) for key in (dear, cheap)]
        text += f" {names[0]} pays {costs[dear] / costs[cheap]:.1f} times as much for a MiB as {names[1]}."
    about = results.key(f"losses-{results.study.workloads[workloads[0]].dataset}", results.prunings[0].device.identity)
    return Finding(text_of(text), {f"{key}_points_per_mib": cost for key, cost in costs.items()}, about)


def front(results: Results, bench: Bench, dataset: str) -> Finding | None:
    """List the files that no other one beats in both size and accuracy, smallest first."""
    found = results.by_file(record for record in results.at(bench) if record.dataset == dataset)
    if len(found) < 2:
        return None
    best = pareto([(_mean_bytes(records) / MIB, _mean_top1(records)) for records in found])
    listed = ", ".join(
        f"{found[i][0].variant} {precision_name(found[i][0].precision)} "
        f"({mib(_mean_bytes(found[i]))} MiB, {percent(_mean_top1(found[i]))} %)"
        for i in best
    )
    return Finding.of(
        f"Pareto-optimal files on {pretty(dataset)} (size, top-1), smallest first: {listed}.", files=len(best)
    )


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of (size, accuracy) pairs that no other pair beats, by rising size."""
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
    gain = 100 * _mean_top1(found) - float(published["top1_percent"])
    distilled = any(record.distillation for record in results.pruned(first.variant))
    own = "; ours is distilled from the unpruned model, which the published one is not" if distilled else ""
    return Finding.of(
        f"The candidate reaches {percent(_mean_top1(found))} %; the published study "
        f"{published['top1_percent']} % with the same model, dataset, ratio and precision ({signed(gain)} "
        f"points{own}).",
        top1_percent=100 * _mean_top1(found),
        published_top1_percent=float(published["top1_percent"]),
        points_gained=gain,
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


def closing(results: Results) -> list[Finding]:
    """Return the report's conclusions: what no section says of its own table."""
    bench = results.main_bench()
    said: list[Finding | None] = []
    for device in results.training_devices():
        said += [_named(results, device, finding) for finding in _of_device(results.on(device))]
    if bench is not None:
        said += [front(results, bench, dataset) for dataset in results.study.datasets]
    said += [_named(results, each, finding) for each in results.benches() for finding in _of_bench(results, each)]
    said.append(runtimes(results))
    return [finding for finding in said if finding]


def _of_device(results: Results) -> list[Finding]:
    said = [headroom(results, key) for key in results.study.workloads]
    said += [large_against_small(results, group) for group in rivals(results)]
    return [finding for finding in said if finding]


def _of_bench(results: Results, bench: Bench) -> list[Finding]:
    measured = results.at(bench)
    said = [against_baseline(results, bench)]
    if len({record.workload for record in measured}) > 1:
        said += [precision_cost(measured, precision) for precision in ("fp16", "int8")]
    said.append(fastest(measured))
    rounded = [found for key in results.study.workloads if (found := rounding(results, bench, key))]
    return [finding for finding in said if finding] + [Finding.joined(found) for found in rounded]


def against_baseline(results: Results, bench: Bench) -> Finding | None:
    """Compare the candidate's top-1 with the baseline's on a bench that the first table does not show."""
    base = of_file(results.at(bench), results.study.report.baseline, "fp32")
    found = results.candidate_file(bench)
    if bench == results.headline_bench() or not base or not found:
        return None
    gained = 100 * (_mean_top1(found) - _mean_top1(base))
    name = f"{found[0].variant} {precision_name(found[0].precision)}"
    return Finding.of(
        f"{name} is at {percent(_mean_top1(found))} %, {base[0].variant} FP32 at {percent(_mean_top1(base))} % "
        f"({signed(gained)} points).",
        top1_percent=100 * _mean_top1(found),
        baseline_top1_percent=100 * _mean_top1(base),
        points_gained=gained,
    )


def _named(results: Results, where: Bench | Identity, finding: Finding) -> Finding:
    """Put the bench or training device in front, where there are several."""
    if isinstance(where, Bench):
        return finding.led_by(f"{results.where(where)}: ") if len(results.benches()) > 1 else finding
    return finding.led_by(f"{results.labels[where]}: ") if len(results.training_devices()) > 1 else finding


def runtimes(results: Results) -> Finding | None:
    """Set the candidate's own times in each runtime beside each other: no ratio crosses runtimes."""
    found = [(bench, records) for bench in results.benches() if (records := results.candidate_file(bench))]
    if len(found) < 2:
        return None
    said = [f"{_own_times(records)} in {pretty(b.runtime)} on {results.labels[b.device]}" for b, records in found]
    times = {results.key("latency_ms", b): mean([r.latency.p50_ms for r in records]) for b, records in found}
    return Finding(text_of(f"The candidate takes {'; '.join(said)}."), times)


def _own_times(found: Sequence[Measurement]) -> str:
    batch = found[0].batch_latency
    return (
        f"{milliseconds(mean([r.latency.p50_ms for r in found]))} ms at batch 1 and "
        f"{mean([r.batch_latency.p50_ms for r in found]):.2f} ms at batch {batch.batch_size} "
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


def points(lost: float) -> str:
    """Write lost points: "1.20 points lost", "0.30 points gained"."""
    if abs(lost) < 0.005:
        return "no points lost"
    return f"{abs(lost):.2f} points {'lost' if lost > 0 else 'gained'}"


def _unrounded(results: Results, variant: str) -> str | None:
    """Return the variant that differs in rounded widths alone."""
    own = results.study.point(variant)
    plain = own.model_copy(update={"round_to": None})
    keys = results.variants_of(results.study.variants[variant].workload)
    return next((key for key in keys if own.round_to and results.study.point(key) == plain), None)


def _speeds(found: Sequence[Measurement]) -> str:
    batch = found[0].batch_latency.batch_size
    return (
        f"{mean([r.speedup for r in found]):.1f}× at batch 1, "
        f"{mean([r.batch_speedup for r in found]):.1f}× at batch {batch}"
    )


def _speed(results: Results, candidate: Sequence[Measurement], bench: Bench) -> Finding:
    batch = candidate[0].batch_latency.batch_size
    speedup, batch_speedup = mean([r.speedup for r in candidate]), mean([r.batch_speedup for r in candidate])
    return Finding.of(
        f"On {results.labels[bench.device]} ({pretty(bench.runtime)}) it is {speedup:.1f}× as fast at batch 1 and "
        f"{batch_speedup:.1f}× at batch {batch} as the unpruned FP32 file, timed alternately with it in the same "
        "process.",
        speedup=speedup,
        batch_speedup=batch_speedup,
    )


def _sweep(results: Results, workload: str) -> list[list[Pruning]]:
    """Return a workload's points by rising ratio, one a ratio: plain before distilled, of fewest epochs."""
    by_ratio: dict[float, list[Pruning]] = {}
    for variant in results.variants_of(workload):
        records = results.pruned(variant)
        if records:
            by_ratio.setdefault(records[0].ratio, records)
    return list(by_ratio.values())


def _recipes(results: Results, workload: str) -> dict[tuple[float, float], list[Pruning]]:
    """Return a workload's pruned points by ratio and distillation, of several the one of fewest epochs."""
    found: dict[tuple[float, float], list[Pruning]] = {}
    for variant in results.variants_of(workload):
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


def _pays(lost: float) -> str:
    return f"pays {lost:.2f} points" if lost > 0 else f"gains {-lost:.2f} points"


def _gain(records: Sequence[Pruning]) -> float:
    return 100 * mean([record.top1_accuracy - record.top1_before for record in records])


def _lost(records: Sequence[Pruning]) -> float:
    return 100 * mean([record.top1_unpruned - record.top1_accuracy for record in records])


def _mean_top1(found: Sequence[Measurement]) -> float:
    return mean([record.top1_accuracy for record in found])


def _mean_bytes(found: Sequence[Measurement]) -> float:
    return mean([record.deployed_bytes for record in found])
