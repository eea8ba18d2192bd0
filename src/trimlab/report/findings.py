"""What the records say, in words: every sentence is computed, none is written for one study.

Speeds are compared within one process alone (`Measurement.speedup`), sizes within one kind of file alone.
"""

from collections.abc import Sequence

from trimlab import formats
from trimlab.measure.weights import EXACT
from trimlab.records import Measurement, Pruning, Record
from trimlab.report import reference
from trimlab.report.results import Bench, Results, cell, exact_difference, is_inexact, mean
from trimlab.report.tables import CONTENDED, least_to_most, lost_and_saved, milliseconds
from trimlab.report.text import (
    MIB,
    decimals,
    escape,
    mib,
    millions,
    name_ratio,
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


def headline(results: Results) -> str:
    """Compare candidate and baseline: accuracy, size, speed."""
    bench = results.headline_bench()
    if bench is None:
        return (
            f"No device measured both the baseline ({results.study.report.baseline}, FP32) and the candidate "
            f"({results.study.report.candidate}): there is nothing to compare yet."
        )
    base = cell(results.at(bench), results.study.report.baseline, "fp32")
    candidate = results.candidate_cell(bench)
    size, base_size = _mean_bytes(candidate), _mean_bytes(base)
    lost = 100 * (_mean_top1(base) - _mean_top1(candidate))
    return (
        f"**{describe(results, candidate)}: {percent(_mean_top1(candidate))} % top-1 in {mib(size)} MiB, "
        f"against {percent(_mean_top1(base))} % in {mib(base_size)} MiB for {describe(results, base)}.** "
        f"That is {base_size / size:.1f}× smaller, with {points(lost)}. {_speed(results, candidate, bench)}"
    )


def describe(results: Results, found: Sequence[Measurement]) -> str:
    """Name a deployed file: model, dataset, ratio, precision."""
    first = found[0]
    model = f"{pretty(first.model)} on {pretty(first.dataset)}"
    ratio = name_ratio(first.ratio, first.num_params, results.study.pruning_of(first.variant).round_to)
    shape = f"pruned by {ratio}" if first.ratio else "unpruned"
    return f"{model}, {shape}, {precision_name(first.precision)}"


def ratio_explained(results: Results) -> str:
    """Say what a ratio is, with what it removes according to the records."""
    workload = results.study.variants[results.study.report.candidate].workload
    pruned = _sweep(results.on(results.training_device()), workload)
    shares = _removed_shares(pruned)
    scope = "each layer's output channels" if results.study.pruning.scope == "uniform" else "the channels of all layers"
    text = f"**Ratio** is the share of {scope} that is removed; the classifier keeps its outputs."
    if shares:
        listed = ", ".join(
            f"{ratio_percent(ratio)} of the channels is {100 * share:.0f} % of the parameters"
            for ratio, share in shares
        )
        whose = _name(pruned[0][0])
        text += f" A layer loses inputs as well as outputs, so parameters fall faster: {listed} ({whose})."
    if results.study.pruning.round_to:
        text += f" Widths are rounded to multiples of {results.study.pruning.round_to}: go by the parameters."
    return text


def amp(results: Results) -> str:
    """Say what mixed precision did to accuracy, for trainings that differ only in precision, on one device.

    Where the device does not compute in mixed precision, say that.
    """
    said = [_fell_back(results, key) for key in results.study.workloads if results.repeats(key)]
    low = [key for key in results.study.workloads if _precision(results, key) in ("bf16", "fp16")]
    for key in low:
        for twin in results.twins(key, "fp32", "tf32"):
            a, b = results.trained(key), results.trained(twin)
            ours, theirs = mean([r.top1_accuracy for r in a]), mean([r.top1_accuracy for r in b])
            said.append(
                f"{_name(a[0])}: after {a[0].epochs} epochs AMP ({a[0].precision}) is at {percent(ours)} %, "
                f"{b[0].precision.upper()} at {percent(theirs)} % ({signed(100 * (ours - theirs))} points)."
            )
    return " ".join(said)


def eager_latency(results: Results, workload: str) -> str:
    """Say whether eager latency is flat over the ratios, falls with them, or else how far it spans, on one device."""
    sweep = _sweep(results, workload)
    if len(sweep) < 2:
        return ""
    values = [mean([record.eager_latency.p50_ms for record in records]) for records in sweep]
    contended = any(record.contended for records in sweep for record in records)
    said = _latency_course(values, [ratio_percent(records[0].ratio) for records in sweep])
    return f"Eager latency at batch 1 {said}." + (f" Some of it was {CONTENDED}." if contended else "")


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


def fine_tuning(results: Results, workload: str) -> str:
    """Say what fine-tuning gave back, and how far pruning keeps the accuracy."""
    sweep = [records for records in _sweep(results, workload) if records[0].ratio > 0]
    if not sweep:
        return ""
    gained = [(_gain(records), records) for records in sweep]
    most, records = max(gained, key=lambda pair: pair[0])
    text = (
        f"Fine-tuning gives back up to {most:.2f} points (at {ratio_percent(records[0].ratio)}). " if most > 0 else ""
    )
    return text + headroom(results, workload)


def headroom(results: Results, workload: str) -> str:
    """Say up to which ratio a workload stays within a point of its unpruned model."""
    sweep = [records for records in _sweep(results, workload) if records[0].ratio > 0]
    kept = [records for records in sweep if _lost(records) <= TOLERATED_POINTS]
    if not sweep:
        return ""
    if not kept:
        best = min(sweep, key=_lost)
        return (
            f"{_name(best[0])} loses more than {TOLERATED_POINTS:g} point at every ratio tried; the least, "
            f"{_lost(best):.2f}, at {ratio_percent(best[0].ratio)}."
        )
    far = kept[-1]
    return (
        f"{_name(far[0])} can lose {ratio_percent(far[0].ratio)} of its channels and stay within {TOLERATED_POINTS:g} "
        f"point of its unpruned model ({points(_lost(far))}); {millions(mean([r.num_params for r in far]))} "
        "M parameters are left."
    )


def precision_cost(measured: Sequence[Measurement], precision: str) -> str:
    """Say how INT8 or FP16 moves top-1 against the FP32 file of the same weights."""
    fp32 = {(r.variant, r.seed, r.weights_sha256): r.top1_accuracy for r in measured if r.precision == "fp32"}
    low = [r for r in measured if r.precision == precision and (r.variant, r.seed, r.weights_sha256) in fp32]
    moves = [100 * (r.top1_accuracy - fp32[r.variant, r.seed, r.weights_sha256]) for r in low]
    if not moves:
        return ""
    if len(moves) == 1:
        return f"{precision.upper()} against FP32: {points(-moves[0])}."
    low_end, high_end = signed(min(moves)), signed(max(moves))
    span = low_end if low_end == high_end else f"{low_end} to {high_end} (mean {signed(mean(moves))})"
    return f"{precision.upper()} moves top-1 by {span} points against FP32, over {len(moves)} files."


def fastest(measured: Sequence[Measurement]) -> str:
    """Name the file that gains most throughput over its workload's unpruned FP32 file."""
    cells: dict[tuple[str, str], list[Measurement]] = {}
    for record in measured:
        cells.setdefault((record.variant, record.precision), []).append(record)
    if not cells:
        return ""
    (variant, precision), best = max(cells.items(), key=lambda item: mean([r.batch_speedup for r in item[1]]))
    return (
        f"Largest gain in throughput over its unpruned FP32 file: {variant} {precision_name(precision)}, "
        f"{mean([r.batch_speedup for r in best]):.1f}× at batch {best[0].batch_latency.batch_size} and "
        f"{mean([r.speedup for r in best]):.1f}× at batch 1, with {percent(_mean_top1(best))} % top-1."
    )


def rounding(results: Results, bench: Bench, workload: str) -> str:
    """Say what rounded widths change against the same ratio with widths as they fall, in the smallest precision."""
    measured, said = results.at(bench), []
    for variant in results.variants_of(workload):
        twin = _unrounded(results, variant)
        pairs = [(cell(measured, variant, p), cell(measured, twin, p)) for p in reversed(formats.MADE)] if twin else []
        rounded, plain = next((pair for pair in pairs if all(pair)), ([], []))
        if rounded:
            first = rounded[0]
            said.append(
                f"{variant} ({_name(first)}, {ratio_percent(first.ratio)}, widths rounded to multiples of "
                f"{results.study.point(variant).round_to}), {precision_name(first.precision)}: {_speeds(rounded)}, "
                f"{millions(first.num_params)} M parameters, {first.macs / 1e6:.1f} M multiply-accumulates, "
                f"{percent(_mean_top1(rounded))} % top-1; without rounding ({plain[0].variant}): {_speeds(plain)}, "
                f"{millions(plain[0].num_params)} M, {plain[0].macs / 1e6:.1f} M, {percent(_mean_top1(plain))} %."
            )
    return " ".join(said)


def baseline_times(measured: Sequence[Measurement]) -> str:
    """Say how far the times of a workload's unpruned FP32 file lie apart: it is timed again beside every file."""
    if len(measured) < 2:
        return ""
    single = least_to_most([record.baseline_latency.p50_ms for record in measured])
    batch = least_to_most([record.baseline_batch_latency.p50_ms for record in measured])
    return (
        f"The unpruned FP32 file, timed anew in each of these {len(measured)} processes: p50 {single} ms at batch 1, "
        f"{batch} ms at batch {measured[0].batch_latency.batch_size}. That is the machine's own variation."
    )


def large_against_small(results: Results, workloads: Sequence[str]) -> str:
    """Compare how many points each model pays per MiB, at the highest ratio that all pruned by the same recipe.

    Distillation is the recipe: a distilled model is compared with distilled ones of the same weight alone.
    """
    sweeps = {key: _recipes(results, key) for key in workloads}
    bases = {key: _sweep(results, key)[:1] for key in workloads}
    shared = set.intersection(*(set(sweep) for sweep in sweeps.values())) if sweeps else set()
    if len(workloads) < 2 or not shared or any(not base or base[0][0].ratio > 0 for base in bases.values()):
        return ""
    ratio, distillation = max(shared, key=lambda recipe: (recipe[0], -recipe[1]))
    costs, said = {}, []
    for key in workloads:
        pruned = sweeps[key][ratio, distillation]
        lost, saved = lost_and_saved(pruned, bases[key][0])
        if saved <= 0:  # rounded widths may remove nothing
            return ""
        costs[key] = lost / saved
        said.append(f"{pretty(pruned[0].model)} {_pays(lost)} for {decimals(saved)} MiB ({signed(costs[key])} per MiB)")
    recipe = f"distilled with weight {distillation:g}" if distillation else "without distillation"
    text = f"At {ratio_percent(ratio)}, the highest ratio they share {recipe}: {'; '.join(said)}."
    dear, cheap = max(costs, key=lambda key: costs[key]), min(costs, key=lambda key: costs[key])
    if costs[cheap] > 0:
        names = [pretty(results.study.workloads[key].model) for key in (dear, cheap)]
        text += f" {names[0]} pays {costs[dear] / costs[cheap]:.1f} times as much for a MiB as {names[1]}."
    return text


def front(results: Results, bench: Bench, dataset: str) -> str:
    """List the files that no other one beats in both size and accuracy, smallest first."""
    found = results.cells(record for record in results.at(bench) if record.dataset == dataset)
    if len(found) < 2:
        return ""
    best = pareto([(_mean_bytes(records) / MIB, _mean_top1(records)) for records in found])
    listed = ", ".join(
        f"{found[i][0].variant} {precision_name(found[i][0].precision)} "
        f"({mib(_mean_bytes(found[i]))} MiB, {percent(_mean_top1(found[i]))} %)"
        for i in best
    )
    return f"Pareto-optimal files on {pretty(dataset)} (size, top-1), smallest first: {listed}."


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of (size, accuracy) pairs that no other pair beats, by rising size."""
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def against_reference(results: Results, bench: Bench) -> str:
    """Compare the candidate's top-1 with the published one, where the study has that very point."""
    found = results.candidate_cell(bench)
    if not found:
        return ""
    first = found[0]
    published = results.published(first, reference.deployed, first.ratio, first.precision)
    if published is None:
        return ""
    gain = 100 * _mean_top1(found) - float(published["top1_percent"])
    distilled = any(record.distillation for record in results.pruned(first.variant))
    own = "; ours is distilled from the unpruned model, which the published one is not" if distilled else ""
    return (
        f"The candidate reaches {percent(_mean_top1(found))} %; the published study "
        f"{published['top1_percent']} % with the same model, dataset, ratio and precision ({signed(gain)} "
        f"points{own})."
    )


def inexact(results: Results, measured: Sequence[Measurement]) -> list[str]:
    """Warn of the INT8 files whose top-1 a runtime's kernels change by more than noise, a sentence each."""
    return [_inexact(results, record) for record in measured if is_inexact(record)]


def _inexact(results: Results, record: Measurement) -> str:
    difference = exact_difference(record) or 0.0
    moved = f"{'lose' if difference < 0 else 'gain'} {abs(100 * difference):.2f} points"
    seed = f", seed {record.seed}" if len(results.study.seeds) > 1 else ""
    return (
        f"**In {pretty(record.runtime)} on {results.label(record.device.identity)}, {record.variant} "
        f"{precision_name(record.precision)}{seed} scores {percent(record.top1_accuracy)} %, its exact arithmetic "
        f"{percent(record.exact_top1_accuracy or 0.0)} %**: the runtime's kernels {moved}, more than noise "
        f"({_circumstances(record)})."
    )


def _circumstances(record: Measurement) -> str:
    """Say what a record holds of a possible cause: bits of the weights, and what the processor can do."""
    bits = f"{record.weight_bits or 8}-bit weights"
    features = record.device.features
    x86 = record.device.kind == "cpu" and any(name in record.device.system for name in ("x86_64", "AMD64"))
    if record.weight_bits == 7 or not x86 or not features or EXACT & set(features):
        return bits
    listed = escape(", ".join(features))
    return f"{bits}; the processor's features, {listed}, hold no VNNI, without which sums of products can saturate"


def closing(results: Results) -> list[str]:
    """Return the report's conclusions, one sentence or two each."""
    bench = results.main_bench()
    device = results.on(results.training_device())
    workloads = [key for key in results.study.workloads if _sweep(device, key)]
    said = [headroom(device, key) for key in workloads]
    said += [large_against_small(device, group) for group in rivals(device)]
    if bench is not None:
        said += [front(results, bench, dataset) for dataset in results.study.datasets]
        said.append(against_reference(results, bench))
    said += [_named(results, each, sentence) for each in results.benches() for sentence in _of_bench(results, each)]
    said += [sentence for each in results.benches() for sentence in inexact(results, results.at(each))]
    said += [runtimes(results), amp(device)]
    return [sentence for sentence in said if sentence]


def _of_bench(results: Results, bench: Bench) -> list[str]:
    measured = results.at(bench)
    said = [precision_cost(measured, "fp16"), precision_cost(measured, "int8"), fastest(measured)]
    said += [rounding(results, bench, key) for key in results.study.workloads]
    return [sentence for sentence in said if sentence]


def _named(results: Results, bench: Bench, sentence: str) -> str:
    return f"{results.where(bench)}: {sentence}" if len(results.benches()) > 1 else sentence


def runtimes(results: Results) -> str:
    """Set the candidate's own times in each runtime beside each other: no ratio crosses runtimes."""
    found = [(bench, results.candidate_cell(bench)) for bench in results.benches()]
    said = [
        f"{_own_times(records)} in {pretty(b.runtime)} on {results.label(b.device)}" for b, records in found if records
    ]
    return f"The candidate takes {'; '.join(said)}." if len(said) > 1 else ""


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


def _speed(results: Results, candidate: Sequence[Measurement], bench: Bench) -> str:
    batch = candidate[0].batch_latency.batch_size
    return (
        f"On {results.label(bench.device)} ({pretty(bench.runtime)}) it is "
        f"{mean([r.speedup for r in candidate]):.1f}× as fast at batch 1 and "
        f"{mean([r.batch_speedup for r in candidate]):.1f}× at batch {batch} as the unpruned "
        "FP32 file, timed alternately with it in the same process."
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


def _fell_back(results: Results, workload: str) -> str:
    """Say that a workload asks for AMP, which the device does not compute."""
    record, twin = results.trained(workload)[0], results.repeats(workload)
    return (
        f"{workload} asks for AMP; {results.label(record.device.identity)} does not compute bf16 natively, so it was "
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
