"""The report's tables: pure functions of results.

A value that is missing says why in a footnote; what holds for a whole table (device, runtime, batch, n,
statistic) stands in the line under it. A published figure is in a row of its own, under our row of the same
model, dataset, ratio and precision.
"""

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from trimlab import formats
from trimlab.config import Target
from trimlab.records import BATCHNORM_IMAGES, Epoch, Latency, Measurement, Pruning, Record, Training
from trimlab.report import budgets, reference
from trimlab.report.intervals import Difference, Replicated, wilson
from trimlab.report.model import Column, Table, Value, words
from trimlab.report.results import (
    Bench,
    Results,
    Scored,
    batch_speedup,
    bench_of,
    full_size,
    is_untouched,
    mean,
    mean_ratio,
    of_file,
    speedup,
)
from trimlab.report.text import (
    MIB,
    allocation_name,
    amount,
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
    rounded_to,
    signed,
    split_name,
    times,
)

NOT_PUBLISHED = Value("—", note="not given by the published study")
GIVEN_WEIGHTS = Value("—", note="the weights were given, not trained here")
TRAINED_BEFORE = "of the training that made the given weights"
NOT_TUNED = Value("—", note="not fine-tuned")
NOT_PRUNED = Value("—", note="nothing was pruned")
FROM_SCRATCH = Value("—", note="trained from scratch: no pruned weights")
NO_BATCHNORM = Value("—", note="the model has no BatchNorm")
CONTENDED = "timed while other processes took more than a tenth of the machine"
DRIFTED = "timed while the unpruned FP32 file beside it was off its usual time by more than a fifth"
DRIFT = 1.2
"""How far the baseline file's median may be from what is usual on that bench, either way."""
RESUMED = "interrupted and resumed, so timed in several processes"
FELL_BACK = "AMP was asked for, but the device does not compute bf16 natively"
UNKNOWN_UNPRUNED = Value("—", note="the records hold no unpruned model of this workload")
NOT_TOLD_APART = Value("—", note="cannot be told apart from the unpruned model")
REFERENCE = Value("reference", style="published")
RATIO = Column("Ratio", "%")
PARAMS = Column("Params M", "M")
SIZE = Column("Size MiB", "MiB")
TOP1 = Column("Top-1 %", "%")
BUDGET = Column("Budget TMACs", "TMACs")
SEEDS = Column("n", usual="1")
TMACS = "TMACs (10^12 multiply-accumulates)"
DELTA = Column("Δ points", "points")
"""Against the study's unpruned FP32 baseline, wherever it stands."""
OWN = Column("Against its FP32, points", "points")
"""What a precision moves: against the FP32 file of the same weights."""
DEPLOYED = (
    words("Variant"), RATIO, PARAMS, words("Precision"), words("File, runtime"), SIZE, TOP1, DELTA, OWN,
    Column("Latency ms", "ms"), Column("Images/s", "1/s"), Column("× batch 1"),
)  # fmt: skip


Values = list[str | Value]
"""A row in the making."""
T = TypeVar("T", bound=Scored)


def devices(results: Results) -> Table:
    """Return the table of devices: what computed, with which packages, and how much of the study."""
    rows = [_device_row(results.on(device)) for device in results.devices()]
    columns = [
        words("Device"), words("System"), Column("Threads"), words("Packages"), Column("Trainings"),
        Column("Prunings"), Column("Measurements"),
    ]  # fmt: skip
    return Table.of("devices", columns, rows)


def baselines(results: Results) -> Table:
    """Return every training of one device, grouped by model and dataset, beside the published ones.

    A workload that asked for AMP but only repeats one in FP32 on this device has no row: a sentence says so.
    """
    keys = list(results.study.workloads)
    groups = [records for key in keys if (records := results.trained(key)) and not results.repeats(key)]
    groups.sort(key=lambda g: (g[0].model, g[0].dataset, keys.index(g[0].workload)))
    rows: list[Values] = []
    recipes: list[str] = []
    for records in groups:
        rows.append(_training_row(results, records))
        made = _made_by(records[0])
        published = results.published(records[0], reference.baseline, made.precision) if made else None
        if made and published:
            rows.append(_published_training(published))
            recipes += _other_epochs(records[0].workload, made, published)
    columns = [
        words("Workload"), words("Model"), words("Dataset"), words("Precision"), Column("Epochs"),
        Column("Batch", "images"), TOP1, Column("Epoch s", "s"), Column("Images/s", "1/s"), BUDGET, SEEDS,
    ]  # fmt: skip
    everything = [record for records in groups for record in records]
    caption = (
        f"{where(results, everything)}. Top-1 of the last epoch. Epoch s and images/s: median over the epochs at full "
        f"image size, evaluation left out. AMP: mixed precision. Budget: in {TMACS}."
    )
    key = results.key("trainings", everything[0].device.identity)
    return Table.of(key, columns, rows, " ".join([caption, *recipes]))


def pruning(results: Results, workload: str) -> Table:
    """Return one workload's pruning sweep on one device, with all of the study's columns."""
    groups = [records for variant in results.variants_of(workload) if (records := results.pruned(variant))]
    unpruned_params = results.unpruned_params(workload)
    rows: list[Values] = []
    for index, records in enumerate(groups):
        rows.append(_pruning_row(results, records, unpruned_params))
        first = records[0]
        last = index + 1 == len(groups) or not results.alike(first.variant, groups[index + 1][0].variant)
        published = results.published(first, reference.pruning, first.ratio) if last else None
        if published:
            rows.append(_published_pruning(published))
    columns = [
        words("Variant"), RATIO, PARAMS, Column("Removed %", "%"), SIZE, Column("Eager latency ms", "ms"),
        Column("Top-1 before %", "%"), Column("BatchNorm re-estimated %", "%", usual="—"), Column("Top-1 after %", "%"),
        Column("LR"), Column("Epochs"), Column("Epoch s", "s"), BUDGET, SEEDS,
    ]  # fmt: skip
    everything = [record for records in groups for record in records]
    caption = (
        f"{where(results, everything)}. Size: parameters and buffers of the torch model. Eager latency: the torch "
        f"model as it is, in FP32, median (p50) of {calls(record.eager_latency for record in everything)}, copies left "
        f"out. Before, after: before and after fine-tuning. Budget: of the whole training, in {TMACS}. "
        f"{_batchnorm(everything)}"
        f"{_fine_tuning(results, everything)} {_pruning_reference_note(results, rows, everything)}"
    )
    key = results.key(f"pruning-{workload}", everything[0].device.identity)
    return Table.of(key, columns, rows, caption.strip())


def candidate(results: Results, bench: Bench) -> Table:
    """Return baseline, candidate in every precision, and the opponents.

    These are every unpruned model of that dataset, and the candidate's shape trained from scratch. Each stands there in
    FP32 and at its best precision.
    """
    report = results.study.report
    precisions = [p for p in formats.MADE if p in results.study.variants[results.study.report.candidate].precisions]
    own = [(results.study.report.candidate, precision) for precision in precisions]
    opponents = [*_from_scratch(results), *_other_models(results)]
    others = [file for variant in opponents for file in at_best(results, bench, variant)]
    files = [(report.baseline, "fp32"), *at_best(results, bench, report.baseline), *own, *others]
    table = deployed(results, "candidate", files, bench)
    return replace(table, caption=f"{table.caption}{_budgets(results, [variant for variant, _ in files])}")


def _from_scratch(results: Results) -> list[str]:
    """Return the variants that train the candidate's shape from scratch."""
    study, candidate = results.study, results.study.report.candidate
    return [
        variant
        for variant in results.variants_of(study.variants[candidate].workload)
        if variant != candidate and study.point(variant).initial == "scratch" and study.same_shape(candidate, variant)
    ]


def _budgets(results: Results, variants: Iterable[str]) -> str:
    """Say what the models of a table took to train, where their records are there."""
    on = results.on(results.training_device())
    found = {variant: records for variant in variants if (records := on.pruned(variant))}
    values = {variant: budgets.of_pruned(on, records) for variant, records in found.items()}
    said = [f"{variant} {value.text}" for variant, value in values.items() if not value.note]
    return f" Budgets (training + fine-tuning) in {TMACS}: {', '.join(said)}." if said else ""


def precisions(results: Results, workload: str, bench: Bench) -> Table:
    """Return pruning × precision: all of a workload's variants in every precision."""
    measured = {(record.variant, record.precision) for record in results.at(bench)}
    variants = results.variants_of(workload)
    asked = {(key, precision) for key in variants for precision in results.study.variants[key].precisions}
    wanted = asked | measured  # a runtime may compute a precision besides those that were asked for
    files = [(key, p) for key in variants for p in formats.COMPUTED if (key, p) in wanted]
    return deployed(results, f"precisions-{workload}", files, bench)


def overview(studies: Iterable[Results]) -> Table:
    """Return one table for a page about several studies: a row a device and runtime, with a link to the report."""
    columns = [
        words("Study"),
        words("Measured on"),
        words("Candidate"),
        TOP1,
        DELTA,
        SIZE,
        Column("× batch 1"),
        Column("× large batch"),
        Column("Large batch"),
        Column("n"),
    ]
    caption = (
        "Top-1 and size: the study's unpruned FP32 baseline → its candidate; in TensorRT the size is the engine's, "
        "elsewhere the ONNX file's. Δ points: with n = 1 ± the half width of the 95 % interval, both files on the same "
        "images, without what another training seed would change; with more, mean ± standard deviation. ×: how many "
        "times as fast as the unpruned FP32 file of the same model, timed alternately with it in the same process, p50 "
        "with copies; with several processes the geometric mean and its 95 % interval, with one no interval. n: seeds."
    )
    return Table.of("overview", columns, [row for results in studies for row in _overview_rows(results)], caption)


def benches(results: Results) -> Table | None:
    """Return the baseline and the candidate on each device and runtime; None with fewer than two of them."""
    rows = [row for bench in results.benches() if (row := _bench_row(results, bench))]
    if len(rows) < 2:
        return None
    columns = [
        words("Measured on"), words("Candidate"), TOP1, DELTA, SIZE, Column("Baseline's latency ms", "ms"),
        Column("Latency ms", "ms"), Column("× batch 1"), Column("Baseline's images/s", "1/s"),
        Column("Images/s", "1/s"), Column("× large batch"), Column("Large batch"), SEEDS,
    ]  # fmt: skip
    caption = (
        f"Candidate: {results.study.report.candidate}. Baseline: {results.study.report.baseline} in FP32. "
        "Latency and images/s: medians (p50) at batch 1 and at the large batch, copying in and out included. ×: as "
        "fast as the unpruned FP32 file on the same device in the same runtime; no ratio crosses devices or runtimes."
    )
    return Table.of("benches", columns, rows, caption)


def _bench_row(results: Results, bench: Bench) -> Values:
    base = of_file(results.at(bench), results.study.report.baseline, "fp32")
    found = results.candidate_file(bench)
    if not base or not found:
        return []
    (base_ms, ms), (base_rate, rate) = zip(_times_of(base), _times_of(found), strict=True)
    single, batch = _speedups(results, found)
    return [
        results.where(bench), precision_name(found[0].precision), top1(found), delta(results, found),
        size(mean([record.deployed_bytes for record in found])), base_ms, ms, single, base_rate, rate, batch,
        whole(results.batch_size(bench)), whole(len(found)),
    ]  # fmt: skip


def _times_of(found: Sequence[Measurement]) -> list[Value]:
    """Write a file's latency at batch 1 and its throughput at the large batch."""
    return [
        _timed(spread([record.latency.p50_ms for record in found], milliseconds), found),
        _timed(spread([record.batch_latency.images_per_second for record in found], _thousands), found),
    ]


def _overview_rows(results: Results) -> Iterator[Values]:
    report, study = results.study.report, results.study.study
    for bench in results.benches():
        base, found = of_file(results.at(bench), report.baseline, "fp32"), results.candidate_file(bench)
        if base and found:
            files = (base, found)
            yield [
                Value(report.title, link=f"reports/{study}/report.md"),
                where(results, found),
                describe(results, found),
                " → ".join(spread([100 * r.top1_accuracy for r in distinct(file)], hundredths).text for file in files),
                delta(results, found),
                " → ".join(size(mean([record.deployed_bytes for record in file])).text for file in files),
                *_beside_bf16(results, bench, _speedups(results, found)),
                whole(results.batch_size(bench)),
                whole(len(found)),
            ]


def _beside_bf16(results: Results, bench: Bench, candidates: list[Value]) -> list[Value]:
    """Note at the candidate's speed-ups those of the unpruned model in BF16, where a runtime computes that."""
    unpruned = results.unpruned(results.study.variants[results.study.report.candidate].workload)
    bf16 = of_file(results.at(bench), unpruned or "", "bf16")
    own = [speedup(bf16), batch_speedup(bf16)] if bf16 else []
    noted = [
        value._replace(note=value.note or f"the unpruned model in BF16: {times(low, '×')}")
        for value, low in zip(candidates, own, strict=False)
    ]
    return noted or candidates


def _other_models(results: Results) -> list[str]:
    """Return the other unpruned models on the baseline's dataset."""
    baseline = results.study.report.baseline
    return [
        variant
        for workload, settings in results.study.workloads.items()
        if settings.dataset == results.dataset_of(baseline) and (variant := results.unpruned(workload))
        if variant != baseline
    ]


def smaller_opponents(results: Results, bench: Bench) -> list[list[Measurement]]:
    """Return the unpruned models of the candidate's dataset that are smaller than it, each at its best precision."""
    files = [at_best(results, bench, variant)[-1:] for variant in _other_models(results)]
    found = [of_file(results.at(bench), *file) for file in itertools.chain.from_iterable(files)]
    own = mean([record.deployed_bytes for record in results.candidate_file(bench)])
    return [records for records in found if mean([record.deployed_bytes for record in records]) < own]


def at_best(results: Results, bench: Bench, variant: str) -> list[tuple[str, str]]:
    """Return a variant's FP32 file, and of those that were measured and are not known to be less accurate the smallest.

    Each as (variant, precision); without an FP32 file nothing.
    """
    fp32, *others = (of_file(results.at(bench), variant, precision) for precision in formats.MADE)
    if not fp32:
        return []
    differences = [(found, results.difference(found, fp32)) for found in others if found]
    kept = [found for found, lost in differences if lost and not (lost.separable and lost.points < 0)]
    best = min([fp32, *kept], key=lambda found: mean([record.deployed_bytes for record in found]))
    return [(variant, "fp32"), (variant, best[0].precision)]


def deployed(results: Results, name: str, files: Sequence[tuple[str, str]], bench: Bench) -> Table:
    """Return deployed files, each (variant, precision) of `files`, with the published row under it."""
    measured = results.at(bench)
    files = list(dict.fromkeys(files))
    present = [(variant, precision) for variant, precision in files if of_file(measured, variant, precision)]
    last = {(precision, results.likeness(variant)): variant for variant, precision in present}
    rows: list[Values] = []
    for variant, precision in present:
        found = of_file(measured, variant, precision)
        rows.append(_deployed_row(results, found))
        published = results.published(found[0], reference.deployed, found[0].ratio, precision)
        if published and last[precision, results.likeness(variant)] == variant:
            rows.append(_published_deployed(published))
    chosen = [record for variant, precision in present for record in of_file(measured, variant, precision)]
    columns = [*DEPLOYED, Column(f"× batch {results.batch_size(bench)}"), SEEDS]
    there = set(present)
    absent = [
        f"{variant} {precision_name(precision)}" for variant, precision in files if (variant, precision) not in there
    ]
    return Table.of(results.key(name, bench), columns, rows, _deployed_caption(results, chosen, absent))


def measurements(results: Results, measured: Sequence[Measurement]) -> Table:
    """Return every measurement of one bench, a row each, with the figures that no other table has."""
    several = len({record.seed for record in measured}) > 1
    compared = all(record.onnx_agreement is not None for record in measured)
    clocked = all(record.clocks for record in measured)
    known = any(record.digest in results.classified for record in measured)
    shown: list[tuple[Column, Callable[[Measurement], str | Value], bool]] = [
        (words("Variant"), lambda r: r.variant, True),
        (words("Precision"), lambda r: precision_name(r.precision), True),
        (Column("Seed"), lambda r: whole(r.seed), several),
        (TOP1, lambda r: top1([r]), several and not compared),
        (Column("McNemar's p"), lambda r: _p_value(results, r, measured), known),
        (Column("Agrees with torch %", "%"), lambda r: share(r.torch_agreement), not compared),
        (SIZE, lambda r: size(r.deployed_bytes), several),
        (Column("ONNX MiB", "MiB"), lambda r: size(r.file_bytes), any(r.engine for r in measured)),
        (Column("Weights MiB", "MiB"), lambda r: size(r.weight_bytes), True),
        (Column("MACs M", "M"), lambda r: Value(f"{r.macs / 1e6:.1f}", r.macs / 1e6), True),
        (Column("Batch 1 p50 / p90 / p99 ms", "ms"), lambda r: _call_times(r, r.latency), not clocked),
        (Column("Large batch p50 / p90 / p99 ms", "ms"), lambda r: _call_times(r, r.batch_latency), True),
        (Column("Peak memory MiB", "MiB"), lambda r: _whole_mib(r.peak_memory_bytes), True),
        (Column("Weights sha256"), lambda r: Value(r.weights_sha256[:12], style="code"), True),
    ]
    columns = [column for column, _, wanted in shown if wanted]
    rows = [[value(record) for _, value, wanted in shown if wanted] for record in measured]
    single = "" if clocked else f"Batch 1: {calls(r.latency for r in measured)}. "
    caption = (
        f"{where(results, measured)}. {single}Large batch: {calls(r.batch_latency for r in measured)}; copies "
        "included. p50, p90, p99: percentiles of the calls. Peak memory: of a process that ran this file alone, at the "
        "large batch."
    )
    caption += no_tail(latency for r in measured for latency in (*([] if clocked else [r.latency]), r.batch_latency))
    if known:
        caption += " McNemar's p: of the exact test against the FP32 file of the same weights."
    return Table.of(results.key("measurements", bench_of(measured[0])), columns, rows, caption)


def _call_times(record: Measurement, latency: Latency) -> Value:
    return _timed(percentiles(latency, milliseconds), [record])


def _whole_mib(size_bytes: float) -> Value:
    return Value(f"{size_bytes / MIB:.0f}", size_bytes / MIB)


def losses(results: Results, workloads: Sequence[str]) -> Table:
    """Return points lost per MiB saved by pruning, model by model.

    What the published study cites stands beside its own models on its own datasets.
    """
    rows = [row for workload in workloads for row in _loss_rows(results, workload)]
    chosen = [results.study.workloads[workload] for workload in workloads]
    if {(w.model, results.study.datasets[w.dataset].source) for w in chosen} >= reference.compared():
        rows += [_cited_row(row) for row in reference.cited()]
    columns = [
        words("Model"), words("Dataset"), words("Variant"), RATIO, TOP1, Column("Against unpruned, points", "points"),
        Column("MiB saved", "MiB"), Column("Points lost per MiB saved", "points/MiB"),
    ]  # fmt: skip
    caption = (
        f"{where(results, results.prunings)}. Torch models after fine-tuning, FP32, each against the same workload "
        "unpruned, which was not fine-tuned. MiB: parameters and buffers. Points lost per MiB saved compare the ratios "
        "of one model: of a smaller model, every MiB is a larger part."
    )
    key = results.key(f"losses-{chosen[0].dataset}", results.prunings[0].device.identity)
    return Table.of(key, columns, rows, caption)


def describe(results: Results, found: Sequence[Measurement]) -> str:
    """Name a deployed file: model, dataset, ratio, whether it is distilled, precision."""
    first = found[0]
    model = f"{pretty(first.model)} on {pretty(first.dataset)}"
    ratio = results.ratio_name(found)
    shape = f"pruned by {ratio}" if first.ratio else "unpruned"
    point = results.study.point(first.variant)
    if point.initial == "scratch":
        shape = f"trained from scratch at the widths of {ratio} pruning"
    if point.distillation:
        shape += ", distilled"
    return f"{model}, {shape}, {precision_name(first.precision)}"


def where(results: Results, records: Sequence[Record]) -> str:
    """Return the device, threads, runtime and versions of records, as captions give them."""
    measured = {f"{pretty(r.runtime)} {r.runtime_version}" for r in records if isinstance(r, Measurement)}
    trained = {f"torch {r.versions['torch']}" for r in records if "torch" in r.versions}
    runtimes = sorted(measured or trained)
    split = " or ".join(sorted({split_name(record.split) for record in records}))
    images = " or ".join(f"{n:,}" for n in sorted({record.num_images for record in records}))
    parts = [*device_and_threads(results, records), *runtimes]
    return f"{', '.join(parts)}; scored on {images} images of the {split}"


def device_and_threads(results: Results, records: Sequence[Record]) -> list[str]:
    """Return the device of records, and their threads where its label doesn't end with them."""
    device = results.labels[records[0].device.identity]
    threads = " or ".join(str(n) for n in sorted({record.device.threads for record in records}))
    counted = f"{threads} thread{'' if threads == '1' else 's'}"
    return [device] if device.endswith(f", {counted}") else [device, counted]


def spread(values: Sequence[float], write: Callable[[float], str]) -> Value:
    """Write a mean, with the standard deviation (n − 1) to the same decimals where there are several values.

    `write` must not change the unit.
    """
    average = mean(values)
    text = write(average)
    if len(values) == 1:
        return Value(text, average)
    digits = len(text.partition(".")[2])
    return Value(f"{text} ± {statistics.stdev(values):,.{digits}f}", average)


def distinct(records: Sequence[T]) -> list[T]:
    """Return one record for each file of weights: weights that were given to several seeds are one training."""
    return list({record.weights_sha256: record for record in records}.values())


def top1(records: Sequence[T], of: Callable[[T], float] = lambda record: record.top1_accuracy) -> Value:
    """Write an accuracy as percent: of one seed with its 95 % interval, of several as mean and standard deviation."""
    records = distinct(records)
    value = spread([100 * of(record) for record in records], hundredths)
    if len(records) > 1:
        return value
    low, high = wilson(round(of(records[0]) * records[0].num_images), records[0].num_images)
    return value._replace(text=f"{value.text} ({100 * low:.1f}–{100 * high:.1f})")


def whole(number: int) -> Value:
    """Write a count, a seed, an epoch."""
    return Value(str(number), number)


def share(of_one: float) -> Value:
    """Write a share of 1 as percent."""
    return Value(percent(of_one), 100 * of_one)


def size(size_bytes: float) -> Value:
    """Write a size in MiB."""
    return Value(mib(size_bytes), size_bytes / MIB)


def least_to_most(values: Sequence[float]) -> str:
    """Write the range of some milliseconds, or seconds, or MiB: like `milliseconds`."""
    return f"{milliseconds(min(values))} – {milliseconds(max(values))}"


def milliseconds(value: float) -> str:
    """Write milliseconds with two decimals, three below 1."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


_TRAINED_IN = {"fp32": "FP32", "tf32": "TF32", "bf16": "AMP, bf16", "fp16": "AMP, fp16"}


def _device_row(results: Results) -> Values:
    device = results.records[0].device
    features = f" ({', '.join(device.features)})" if device.features else ""
    threads = " or ".join(str(n) for n in sorted({record.device.threads for record in results.records}))
    systems = ", ".join(sorted({record.device.system for record in results.records}))
    versions = {(package, v) for record in results.records for package, v in record.versions.items()}
    versions |= {(record.runtime, record.runtime_version) for record in results.measurements}
    return [
        device.name + features,
        systems,
        threads,
        ", ".join(f"{package} {version}" for package, version in sorted(versions)),
        *map(whole, (len(results.trainings), len(results.prunings), len(results.measurements))),
    ]


def _training_row(results: Results, records: Sequence[Training]) -> Values:
    first = records[0]
    timed = [full_size(record.curve) for record in records]
    return [
        first.workload,
        pretty(first.model),
        pretty(first.dataset),
        *_recipe(results, first),
        top1(records),
        *(_epoch_times(timed, records) if all(timed) else [GIVEN_WEIGHTS] * 2),
        budgets.of_training(records),
        whole(len(records)),
    ]


def _made_by(record: Training) -> Training | None:
    """Return the record of the training that made a record's weights; None where nobody knows it."""
    return record if record.origin == "trained" else record.initial_training


def _recipe(results: Results, record: Training) -> list[Value]:
    made = _made_by(record)
    if made is None:
        return [GIVEN_WEIGHTS] * 3
    recipe = [Value(_TRAINED_IN[made.precision]), whole(made.epochs), whole(made.batch_size)]
    if made is not record:
        return [value._replace(note=TRAINED_BEFORE) for value in recipe]
    note = FELL_BACK if results.fell_back(record.workload) else ""
    return [recipe[0]._replace(note=note), *recipe[1:]]


def _epoch_times(timed: Sequence[Sequence[Epoch]], records: Sequence[Training]) -> list[Value]:
    seconds = [statistics.median(epoch.seconds for epoch in epochs) for epochs in timed]
    rates = [statistics.median(epoch.images_per_second for epoch in epochs) for epochs in timed]
    return [
        _epochs_timed(spread(seconds, milliseconds), records),
        _epochs_timed(spread(rates, _thousands), records),
    ]


def _published_training(row: reference.Line) -> Values:
    return [
        REFERENCE, pretty(row["model"]), pretty(row["dataset"]), _printed(row["precision"].upper()),
        _printed_number(row["epochs"]), NOT_PUBLISHED, _printed_number(row["top1_percent"]),
        _printed_number(row["epoch_seconds"]), *[NOT_PUBLISHED] * 3,
    ]  # fmt: skip


def _other_epochs(workload: str, record: Training, published: reference.Line) -> list[str]:
    """Say that the published training took another number of epochs."""
    if record.epochs == int(published["epochs"]):
        return []
    small = len(record.curve) - len(full_size(record.curve))
    sizes = f" ({small} of them on smaller images)" if small else ""
    return [f"{workload}: {record.epochs} epochs here{sizes}, {published['epochs']} published."]


def _pruning_row(results: Results, records: Sequence[Pruning], unpruned_params: float | None) -> Values:
    first = records[0]
    tuned = first.epochs > 0 and all(record.curve for record in records)
    params = mean([record.num_params for record in records])
    seconds = [statistics.median(e.seconds for e in full_size(record.curve)) for record in records] if tuned else []
    removed = None if unpruned_params is None else 100 * (1 - params / unpruned_params)
    return [
        first.variant,
        ratio_of(results, records),
        Value(millions(params), params / 1e6),
        UNKNOWN_UNPRUNED if removed is None else Value(f"{removed:.1f}", removed),
        size(mean([record.size_bytes for record in records])),
        _timed(spread([record.eager_latency.p50_ms for record in records], milliseconds), records),
        FROM_SCRATCH if first.initial == "scratch" else top1(records, lambda record: record.top1_before),
        _reestimated(records),
        top1(records),
        Value(f"{first.learning_rate:g}", first.learning_rate) if tuned else NOT_TUNED,
        whole(first.epochs),
        _epochs_timed(spread(seconds, milliseconds), records) if tuned else NOT_TUNED,
        budgets.of_pruned(results, records),
        whole(len(records)),
    ]


def _batchnorm(records: Sequence[Pruning]) -> str:
    if all(record.top1_reestimated is None for record in records):
        return ""
    return (
        "BatchNorm re-estimated: before fine-tuning, with the statistics of "
        f"{BATCHNORM_IMAGES:,} training images, or of all where there are fewer. "
    )


def _reestimated(records: Sequence[Pruning]) -> Value:
    """Write the top-1 before fine-tuning with BatchNorm's statistics estimated anew, or why there is none."""
    first = records[0]
    if all(record.top1_reestimated is not None for record in records):
        return top1(records, lambda record: record.top1_reestimated or 0.0)
    if first.initial == "scratch":
        return FROM_SCRATCH
    if first.ratio == 0:
        return NOT_PRUNED
    return NO_BATCHNORM if first.training_macs is not None else Value("—", note=budgets.OLDER)


def ratio_of(results: Results, records: Sequence[Pruning] | Sequence[Measurement]) -> Value:
    """Write a point's ratio, see `Results.ratio_name`."""
    return Value(results.ratio_name(records), 100 * mean_ratio(records))


def _published_pruning(row: reference.Line) -> Values:
    latency, before, after = (
        _printed_number(row[key]) for key in ("latency_ms_per_image", "top1_before_percent", "top1_after_percent")
    )
    return [
        REFERENCE, _printed_ratio(row), _printed_number(row["params_m"]), NOT_PUBLISHED,
        _printed_number(row["size_mb"]), latency, before, NOT_PUBLISHED, after,
        _printed_number(f"{float(row['lr']):g}"), _printed_number(row["epochs"]),
        _printed_number(row["epoch_seconds"]), *[NOT_PUBLISHED] * 2,
    ]  # fmt: skip


def _distilled(record: Pruning) -> str:
    """Say how a model was distilled, as far as its record tells."""
    temperature = f", temperature {record.temperature:g}" if record.temperature else ""
    labels = ", soft labels once an image" if record.soft_labels == "cached" else ""
    return f"weight {record.distillation:g}{temperature}{labels}"


def _fine_tuning(results: Results, records: Sequence[Pruning]) -> str:
    """Say what of the fine-tuning and of controls has no column."""
    tuned = [record for record in records if record.epochs]
    precisions = sorted({record.precision for record in tuned})
    distilled = {record.variant: _distilled(record) for record in tuned if record.distillation}
    chosen = results.study.pruning.importance
    others = {record.variant: record.importance for record in records if record.importance != chosen}
    shared = results.study.pruning.allocation
    allocated = {record.variant: record.scope for record in records if record.scope != shared}
    stepped = {record.variant: record.steps for record in records if record.steps > 1}
    reached = {record.variant: record.reached_ratio for record in records if record.round_to and record.reached_ratio}
    said = [f"Fine-tuned in {' or '.join(_TRAINED_IN[p] for p in precisions)}."] if tuned else []
    said += [f"{variant} is distilled from the unpruned model ({recipe})." for variant, recipe in distilled.items()]
    scratch = dict.fromkeys(record.variant for record in records if record.initial == "scratch")
    said += [f"Trained from scratch in the pruned shape: {', '.join(scratch)}."] if scratch else []
    said += [
        f"Importance of {variant}: {importance_name(name)}."
        for variant, name in others.items()
        if results.study.point(variant).initial == "pruned"
    ]
    said += [f"Allocation of {variant}: {allocation_name(name)}." for variant, name in allocated.items()]
    sparse = {record.variant: record for record in records if record.sparsity}
    said += [_sparsity(record) for record in sparse.values()]
    said += [f"{variant} was pruned in {steps} steps." for variant, steps in stepped.items()]
    targeted = dict.fromkeys(record.variant for record in records if record.target)
    said += [_target(results, results.pruned(variant)) for variant in targeted]
    said += [
        f"{variant}, with rounded widths, lost {100 * ratio:.1f} % of its channels."
        for variant, ratio in reached.items()
    ]
    return " ".join(said)


def _target(results: Results, records: Sequence[Pruning]) -> str:
    """Say what a variant was pruned to, and what it takes."""
    variant = records[0].variant
    target = results.study.point(variant).target
    assert target
    if target.quantity == "latency_ms":
        return _latency_target(target, records)
    taken = {"params": "num_params", "macs": "macs", "size_mib": "size_bytes"}[target.quantity]
    reached = mean([getattr(record, taken) for record in records]) / (MIB if target.quantity == "size_mib" else 1)
    asked = amount(target.quantity, target.value)
    return f"{variant}: the ratio was found for {asked}; it has {amount(target.quantity, reached)}."


def _latency_target(target: Target, records: Sequence[Pruning]) -> str:
    """Say what a variant's file took when it was pruned to a latency."""
    found = [record.target_latency for record in records if record.target_latency]
    first = found[0]
    took, predicted = mean([each.latency.p50_ms for each in found]), mean([each.predicted_ms for each in found])
    where = f"{precision_name(first.precision)} at batch 1 in {pretty(first.runtime)} {first.runtime_version}"
    return (
        f"{records[0].variant}: the ratio was found for {amount('latency_ms', target.value)} of {where} on "
        f"{first.device.name}; its file took {amount('latency_ms', took)} then, and {amount('latency_ms', predicted)} "
        "were predicted."
    )


def _sparsity(record: Pruning) -> str:
    """Say how a variant was trained before it was pruned."""
    how = record.sparsity
    assert how
    return (
        f"Before {record.variant} was pruned, it was trained for {count(how.epochs, 'epoch')} with the regularizer "
        f"{how.regularizer} of strength {how.strength:g}: top-1 {percent(how.top1_accuracy)} % then."
    )


def _pruning_reference_note(results: Results, rows: list[Values], records: Sequence[Pruning]) -> str:
    if not _has_reference(rows):
        return ""
    section, first = results.study.pruning, records[0]
    ours = [f"importance {importance_name(section.importance)}"] if section.importance != "group-l1" else []
    ours += [allocation_name(first.scope)] if first.scope != "uniform" else []
    ours += [f"widths {rounded_to(section)}"] if section.round_to else []
    other = f" The study pruned by L1, uniformly; ours: {', '.join(ours)}: compare by parameters." if ours else ""
    return f"Reference latency: eager PyTorch on an unnamed GPU, batch size and warm-up not given.{other}"


def _deployed_row(results: Results, found: Sequence[Measurement]) -> Values:
    first = found[0]
    params = mean([record.num_params for record in found])
    return [
        first.variant,
        ratio_of(results, found),
        Value(millions(params), params / 1e6),
        _precision(first),
        f"{'engine' if first.engine else 'ONNX file'}, {pretty(first.runtime)}",
        size(mean([record.deployed_bytes for record in found])),
        top1(found),
        delta(results, found),
        _against_own(results, found),
        *_times_of(found),
        *_speedups(results, found),
        whole(len(found)),
    ]


def _speedups(results: Results, found: Sequence[Measurement]) -> list[Value]:
    """Return how many times as fast as its workload's unpruned FP32 file a file is: at batch 1, at the large batch."""
    single, large = results.baseline_ms[bench_of(found[0]), found[0].workload]
    return [
        _compared(speedup(found), found, single, lambda r: r.baseline_latency),
        _compared(batch_speedup(found), found, large, lambda r: r.baseline_batch_latency),
    ]


def _compared(
    gained: Replicated,
    found: Sequence[Measurement],
    usual: float,
    baseline: Callable[[Measurement], Latency],
) -> Value:
    """Write a speed-up; a note says where the baseline file was not as fast as in the bench's other processes."""
    value = _timed(Value(times(gained), gained.mean), found)
    off = [baseline(record).p50_ms / usual for record in found]
    steady = all(1 / DRIFT <= ratio <= DRIFT for ratio in off)
    return value if steady or value.note else value._replace(note=DRIFTED)


def _precision(record: Measurement) -> Value:
    made = "computed from the FP32 file, so it has that file's size" if formats.derived(record.precision) else ""
    note = "the FP32 file, which TensorRT calibrated itself" if record.precision == "int8-entropy" else made
    return Value(precision_name(record.precision), note=note)


def delta(results: Results, found: Sequence[Measurement]) -> Value:
    """Write the points gained against the study's unpruned FP32 baseline on the same bench, seed by seed.

    Of one seed with the paired 95 % interval, where the answers to each image are known.
    """
    name = results.study.report.baseline
    base = of_file(results.at(bench_of(found[0])), name, "fp32")
    if found == base:
        return Value("0", 0, f"the baseline, {name} in FP32: Δ is measured against it")
    if base and base[0].dataset_sha256 != found[0].dataset_sha256:
        return Value("—", note=f"scored on other images than the baseline, {name}")
    return _points(results, found, base) or Value("—", note=f"no FP32 file of the baseline, {name}, was measured")


def _against_own(results: Results, found: Sequence[Measurement]) -> Value:
    """Write the points gained against the FP32 file of the same weights, as `delta` does."""
    fp32 = of_file(results.at(bench_of(found[0])), found[0].variant, "fp32")
    if found == fp32:
        return Value("—", note="this is the FP32 file")
    own = {record.weights_sha256 for record in found}
    gained = _points(results, found, [record for record in fp32 if record.weights_sha256 in own])
    return gained or Value("—", note="no FP32 file of the same weights was measured")


def _points(results: Results, found: Sequence[Scored], base: Sequence[Scored]) -> Value | None:
    """Write how much higher the top-1 of records is than that of others; None where they have no common seed."""
    points = [100 * (a.top1_accuracy - b.top1_accuracy) for a in found for b in base if a.seed == b.seed]
    difference = results.difference(found, base)
    if difference and difference.kind == "paired":
        return Value(plus_minus(difference), difference.points)
    return spread(points, signed) if points else None


def _p_value(results: Results, record: Measurement, measured: Sequence[Measurement]) -> Value:
    """Write the p of McNemar's exact test between a file and the FP32 file of the same weights."""
    fp32 = [r for r in of_file(measured, record.variant, "fp32") if r.weights_sha256 == record.weights_sha256]
    if record in fp32:
        return Value("—", note="the FP32 file, with which the others of the same weights are compared")
    difference = results.difference([record], fp32)
    if difference is None or difference.p_value is None:
        return Value("—", note="no FP32 file of the same weights, or no true labels")
    return Value(p_value(difference.p_value), difference.p_value)


def _published_deployed(row: reference.Line) -> Values:
    params = row["params_m"]
    return [
        REFERENCE, _printed_ratio(row),
        _printed_number(f"{float(params):.3f}" if float(params) < 1 else params),
        _printed(row["precision"].upper()), _printed(f"{pretty(row['size_of'])}, {pretty(row['runtime'])}"),
        _printed_number(row["size_mb"]), _printed_number(row["top1_percent"]), *[NOT_PUBLISHED] * 2,
        _printed_number(row["latency_ms_per_image"]), *[NOT_PUBLISHED] * 4,
    ]  # fmt: skip


def _deployed_caption(results: Results, chosen: Sequence[Measurement], absent: Sequence[str]) -> str:
    if not chosen:
        return f"Not measured here: {', '.join(absent)}."
    parts = [
        f"{where(results, chosen)}.",
        f"Latency and images/s: medians (p50) of {calls(r.latency for r in chosen)} and of "
        f"{calls(r.batch_latency for r in chosen)}, copying in and out included.",
        f"Δ points: against {results.study.report.baseline} in FP32. ×: as fast as the unpruned FP32 file of the same "
        f"model, timed alternately with it, so not the quotient of two rows. {replicates(chosen)}",
    ]
    if learned := budgets.of_quantized(chosen):
        parts.append(f"Budgets of quantization-aware training, besides those of the variants, in TMACs: {learned}.")
    if absent:
        parts.append(f"Not measured here: {', '.join(absent)}.")
    return " ".join(parts)


def replicates(chosen: Iterable[Measurement]) -> str:
    """Say in how many processes files were timed, all seeds together."""
    processes = Counter[tuple[str, str]]()
    for record in chosen:
        processes[record.variant, record.precision] += len(record.speedups)
    counts = sorted(set(processes.values()))
    if counts == [1]:
        return "One process timed each file, so speed-ups have no interval."
    return f"Speed-ups: geometric mean of {' or '.join(map(str, counts))} processes, with its 95 % interval."


def _loss_rows(results: Results, workload: str) -> list[Values]:
    variants = results.swept(workload)
    untouched = next((v for v in variants if is_untouched(results.study, v) and results.pruned(v)), None)
    if untouched is None:
        return []
    base = results.pruned(untouched)
    return [_loss_row(results, records, base) for variant in variants if (records := results.pruned(variant))]


def _loss_row(results: Results, records: Sequence[Pruning], base: Sequence[Pruning]) -> Values:
    first = records[0]
    lost, saved = lost_and_saved(records, base)
    unpruned = Value("—", note="unpruned: what the others are against")
    nothing = Value("—", note="nothing saved at ratio 0")
    compared = [
        _points(results, records, base) or Value(signed(-lost), -lost),
        Value(mib(saved * MIB), saved) if saved > 0 else nothing,
        _per_mib(results.difference(base, records), lost, saved) if saved > 0 else nothing,
    ]
    return [
        pretty(first.model),
        pretty(first.dataset),
        first.variant,
        ratio_of(results, records),
        top1(records),
        *([unpruned] * 3 if first.variant == base[0].variant else compared),
    ]


def _per_mib(difference: Difference | None, lost: float, saved: float) -> Value:
    """Write the points lost a MiB; a gain, or a loss that cannot be told from none, has no price."""
    if difference is None or not difference.separable:
        return NOT_TOLD_APART
    return Value(decimals(lost / saved), lost / saved) if lost > 0 else Value("—", note="nothing lost")


def lost_and_saved(records: Sequence[Pruning], base: Sequence[Pruning]) -> tuple[float, float]:
    """Return top-1 points lost and MiB saved, means over seeds."""
    lost = 100 * (mean([r.top1_accuracy for r in base]) - mean([r.top1_accuracy for r in records]))
    return lost, (mean([r.size_bytes for r in base]) - mean([r.size_bytes for r in records])) / MIB


def _cited_row(row: reference.Line) -> Values:
    absent = Value("—", note="cited top-1 alone: neither the study nor we measured it")
    return [
        pretty(row["model"]), pretty(row["dataset"]), _printed(f"cited: {row['source']}"), absent,
        _printed_number(row["top1_percent"]), absent, absent, absent,
    ]  # fmt: skip


def _has_reference(rows: list[Values]) -> bool:
    return any(row[0] == REFERENCE for row in rows)


def calls(latencies: Iterable[Latency]) -> str:
    """Return the number of timed calls and their batch."""
    found = list(latencies)
    counts = " or ".join(str(n) for n in sorted({latency.n for latency in found}))
    batches = " or ".join(str(n) for n in sorted({latency.batch_size for latency in found}))
    return f"{counts} calls at batch {batches}"


def _timed(value: Value, records: Sequence[Record]) -> Value:
    return value._replace(note=CONTENDED) if any(record.contended for record in records) else value


def _epochs_timed(value: Value, records: Sequence[Training] | Sequence[Pruning]) -> Value:
    return value._replace(note=RESUMED) if any(r.resumptions for r in records) else _timed(value, records)


def percentiles(latency: Latency, write: Callable[[float], str]) -> Value:
    """Write p50, p90 and p99, a dash where p99 is not known."""
    tail = "–" if latency.tail_ms is None else write(latency.tail_ms)
    return Value(f"{write(latency.p50_ms)} / {write(latency.p90_ms)} / {tail}", latency.p50_ms)


def no_tail(latencies: Iterable[Latency]) -> str:
    """Say why `percentiles` writes a dash, where it does."""
    return " p99 is given from 1,000 calls on." if any(one.tail_ms is None for one in latencies) else ""


def _printed(text: str, number: float | None = None) -> Value:
    """Show what the published study printed."""
    return Value(text, number, style="published")


def _printed_number(text: str) -> Value:
    return _printed(text, float(text))


def _printed_ratio(row: reference.Line) -> Value:
    return _printed(row["ratio_percent"] + " %", float(row["ratio_percent"]))


def hundredths(value: float) -> str:
    """Write two decimals."""
    return f"{value:.2f}"


def _thousands(value: float) -> str:
    return f"{value:,.0f}"
