"""The report's tables as markdown: pure functions of results.

A cell without a figure says why in a footnote; what holds for a whole table (device, runtime, batch, n,
statistic) stands in the line under it. A published figure is an italic row of its own, under our row of the
same model, dataset, ratio and precision.
"""

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from trimlab import formats
from trimlab.records import Latency, Measurement, Pruning, Record, Training
from trimlab.report import reference
from trimlab.report.results import Bench, Results, bench_of, cell, full_size, is_untouched, mean
from trimlab.report.text import (
    MIB,
    escape,
    mib,
    millions,
    name_ratio,
    percent,
    precision_name,
    pretty,
    signed,
    split_name,
)


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, and a footnote to it."""

    text: str
    note: str = ""


NOT_PUBLISHED = Cell("—", "not given by the published study")
GIVEN_WEIGHTS = Cell("—", "the weights were given, not trained here")
NOT_TUNED = Cell("—", "not fine-tuned")
CONTENDED = "timed while other processes took more than a tenth of the machine"
DRIFTED = "timed while the unpruned FP32 file beside it was off its usual time by more than a fifth"
DRIFT = 1.2
"""How far the baseline file's median may be from what is usual on that bench, either way."""
RESUMED = "interrupted and resumed, so timed in several processes"
FELL_BACK = "AMP was asked for, but the device does not compute bf16 natively"
UNKNOWN_FULL = Cell("—", "the records hold no unpruned model of this workload")
REFERENCE = "*reference*"
_DIGITS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_TEXT_COLUMNS = {
    "Variant",
    "Workload",
    "Model",
    "Dataset",
    "Precision",
    "File, runtime",
    "Layer",
    "Kind",
    "Device",
    "Packages",
    "System",
    "Study",
    "Measured on",
    "Candidate",
}

Row = list[str | Cell]


def markdown(headers: Sequence[str], rows: Iterable[Row], caption: str = "") -> str:
    """Return a GitHub table, and under it its caption and footnotes."""
    notes: dict[str, str] = {}

    def text(value: str | Cell) -> str:
        found = value if isinstance(value, Cell) else Cell(value)
        mark = notes.setdefault(found.note, str(len(notes) + 1).translate(_DIGITS)) if found.note else ""
        return re.sub(r"(?<!\\)\|", r"\\|", found.text + mark)

    body = [[text(value) for value in row] for row in rows]
    align = ["left" if header in _TEXT_COLUMNS else "right" for header in headers]
    table = tabulate(body, headers, tablefmt="github", disable_numparse=True, colalign=align)
    legend = " ".join(f"{mark} {note}." for note, mark in notes.items())
    under = " ".join(part for part in (caption, legend) if part)
    return f"{table}\n\n{under}\n" if under else f"{table}\n"


def devices(results: Results) -> str:
    """Return the table of devices: what computed, with which packages, and how much of the study."""
    rows = [_device_row(results.on(device)) for device in results.devices()]
    headers = ["Device", "System", "Threads", "Packages", "Trainings", "Prunings", "Measurements"]
    return markdown(headers, rows)


def baselines(results: Results) -> str:
    """Return every training of one device, grouped by model and dataset, beside the published ones.

    A workload that asked for AMP but only repeats one in FP32 on this device has no row: a sentence says so.
    """
    keys = list(results.study.workloads)
    groups = [records for key in keys if (records := results.trained(key)) and not results.repeats(key)]
    groups.sort(key=lambda g: (g[0].model, g[0].dataset, keys.index(g[0].workload)))
    rows: list[Row] = []
    recipes: list[str] = []
    for records in groups:
        rows.append(_training_row(results, records))
        published = results.published(records[0], reference.baseline, records[0].precision)
        if published:
            rows.append(_published_training(published))
            recipes += _other_epochs(records[0], published)
    headers = [
        "Workload", "Model", "Dataset", "Precision", "Epochs", "Batch", "Top-1 %", "Epoch s", "Images/s", "n",
    ]  # fmt: skip
    everything = [record for records in groups for record in records]
    caption = (
        f"{where(results, everything)}. Top-1 of the last epoch. Epoch s and images/s: median over the epochs at full "
        "image size, evaluation left out."
    )
    return markdown(headers, rows, " ".join([caption, *recipes]))


def pruning(results: Results, workload: str) -> str:
    """Return one workload's pruning sweep on one device, with all of the study's columns."""
    groups = [records for variant in results.variants_of(workload) if (records := results.pruned(variant))]
    full = results.unpruned_params(workload)
    rows: list[Row] = []
    for index, records in enumerate(groups):
        rows.append(_pruning_row(records, full))
        first = records[0]
        last = index + 1 == len(groups) or not results.alike(first.variant, groups[index + 1][0].variant)
        published = results.published(first, reference.pruning, first.ratio) if last else None
        if published:
            rows.append(_published_pruning(published))
    headers = [
        "Variant", "Ratio", "Params M", "Removed %", "Size MiB", "Eager latency ms", "Top-1 before %",
        "Top-1 after %", "LR", "Epochs", "Epoch s", "n",
    ]  # fmt: skip
    everything = [record for records in groups for record in records]
    caption = (
        f"{where(results, everything)}. Size: parameters and buffers of the torch model. Eager latency: torch, FP32, "
        f"{timing(record.eager_latency for record in everything)}, copies left out. Before and after: fine-tuning. "
        f"{_fine_tuning(everything)} {_pruning_reference_note(rows, everything)}"
    )
    return markdown(headers, rows, caption.strip())


def quantization(results: Results, workload: str, bench: Bench) -> str:
    """Return FP32, FP16 and INT8 of a workload's unpruned variants."""
    variants = [key for key in results.variants_of(workload) if results.study.point(key).ratio == 0]
    return deployed(results, _grid(results, variants, bench), bench)


def combined(results: Results, workload: str, bench: Bench) -> str:
    """Return pruning × precision: a workload's pruned variants in every precision."""
    variants = [key for key in results.variants_of(workload) if results.study.point(key).ratio > 0]
    return deployed(results, _grid(results, variants, bench), bench)


def final(results: Results, bench: Bench) -> str:
    """Return the closing comparison: baseline, candidate, and the other unpruned models of that dataset."""
    report = results.study.report
    dataset = results.dataset_of(report.baseline)
    chosen = [(report.baseline, "fp32"), (report.candidate, _precision_of(results.candidate_cell(bench)))]
    for workload, settings in results.study.workloads.items():
        variant = results.unpruned(workload)
        if settings.dataset == dataset and variant and cell(results.at(bench), variant, "fp32"):
            chosen.append((variant, "fp32"))
    return deployed(results, list(dict.fromkeys(chosen)), bench, reference.final, against=report.baseline)


Lookup = Callable[[str, str, float, str], reference.Row | None]


def deployed(
    results: Results,
    cells: Sequence[tuple[str, str]],
    bench: Bench,
    lookup: Lookup = reference.deployed,
    against: str = "",
) -> str:
    """Return deployed files, each (variant, precision) of `cells`, with the published row under it.

    Points are gained against the FP32 file of the same weights, or against that of the variant `against`.
    """
    measured = results.at(bench)
    present = [(variant, precision) for variant, precision in cells if cell(measured, variant, precision)]
    rows: list[Row] = []
    for variant, precision in present:
        found = cell(measured, variant, precision)
        rows.append(_deployed_row(results, found, _delta(found, cell(measured, against or variant, "fp32"), against)))
        published = results.published(found[0], lookup, found[0].ratio, precision)
        last = not any(
            other_precision == precision and results.alike(variant, other)
            for other, other_precision in present[present.index((variant, precision)) + 1 :]
        )
        if published and last:
            rows.append(_published_deployed(published))
    chosen = [record for variant, precision in present for record in cell(measured, variant, precision)]
    headers = [
        "Variant", "Ratio", "Params M", "Precision", "File, runtime", "Size MiB", "Top-1 %", "Δ points",
        "Latency ms", "Images/s", "× batch 1", f"× batch {results.batch_size(bench)}", "n",
    ]  # fmt: skip
    absent = [
        f"{variant} {precision_name(precision)}" for variant, precision in cells if (variant, precision) not in present
    ]
    return markdown(headers, rows, _deployed_caption(results, chosen, absent))


def measurements(results: Results, measured: Sequence[Measurement]) -> str:
    """Return every measurement of one bench, a row each, with all percentiles."""
    headers = [
        "Variant", "Precision", "Seed", "Top-1 %", "Agrees with torch %", "ONNX MiB", "Weights MiB", "MACs M",
        "Batch 1 p50 / p90 / p99 ms", "Large batch p50 / p90 / p99 ms", "Peak memory MiB", "Weights sha256",
    ]  # fmt: skip
    rows = [_measurement_row(record) for record in measured]
    caption = (
        f"{where(results, measured)}. Batch 1: {_calls(r.latency for r in measured)}; large batch: "
        f"{_calls(r.batch_latency for r in measured)}; copies included. Peak memory: of a process that ran this "
        "file alone, at the large batch."
    )
    return markdown(headers, rows, caption)


def losses(results: Results, workloads: Sequence[str]) -> str:
    """Return points lost per MiB saved by pruning, model by model.

    What the published study cites stands beside its own models on its own datasets.
    """
    rows = [row for workload in workloads for row in _loss_rows(results, workload)]
    chosen = [results.study.workloads[workload] for workload in workloads]
    if {(w.model, results.study.datasets[w.dataset].source) for w in chosen} >= reference.compared():
        rows += [_cited_row(row) for row in reference.cited()]
    headers = [
        "Model",
        "Dataset",
        "Variant",
        "Ratio",
        "Size MiB",
        "Top-1 %",
        "Points lost",
        "MiB saved",
        "Points per MiB",
    ]
    caption = (
        f"{where(results, results.prunings)}. Torch models after fine-tuning, FP32, each against the same workload "
        "unpruned. Size: parameters and buffers. Points per MiB: points lost / MiB saved; less is better."
    )
    return markdown(headers, rows, caption)


def where(results: Results, records: Sequence[Record]) -> str:
    """Return the device, threads, runtime and versions of records, as captions give them."""
    measured = {f"{pretty(r.runtime)} {r.runtime_version}" for r in records if isinstance(r, Measurement)}
    trained = {f"torch {r.versions['torch']}" for r in records if "torch" in r.versions}
    runtimes = [escape(name) for name in sorted(measured or trained)]
    split = " or ".join(sorted({split_name(record.split) for record in records}))
    images = " or ".join(f"{n:,}" for n in sorted({record.num_images for record in records}))
    parts = [*device_and_threads(results, records), *runtimes]
    return f"{', '.join(parts)}; scored on {images} images of the {split}"


def device_and_threads(results: Results, records: Sequence[Record]) -> list[str]:
    """Return the device of records, and their threads where its label doesn't end with them."""
    device = results.label(records[0].device.identity)
    threads = " or ".join(str(n) for n in sorted({record.device.threads for record in records}))
    counted = f"{threads} thread{'' if threads == '1' else 's'}"
    return [device] if device.endswith(f", {counted}") else [device, counted]


def timing(latencies: Iterable[Latency]) -> str:
    """Return batch, statistic and number of timed calls."""
    return "p50 of " + _calls(latencies)


def spread(values: Sequence[float], write: Callable[[float], str]) -> str:
    """Write a mean, with the standard deviation (n − 1) to the same decimals where there are several values.

    `write` must not change the unit.
    """
    text = write(mean(values))
    if len(values) == 1:
        return text
    digits = len(text.partition(".")[2])
    return f"{text} ± {statistics.stdev(values):,.{digits}f}"


def spread_percent(shares: Sequence[float]) -> str:
    """Write shares of 1 as percent: mean and standard deviation."""
    return spread([100 * share for share in shares], _hundredths)


def least_to_most(values: Sequence[float]) -> str:
    """Write the range of some milliseconds, or seconds, or MiB: like `milliseconds`."""
    return f"{milliseconds(min(values))} – {milliseconds(max(values))}"


def milliseconds(value: float) -> str:
    """Write milliseconds with two decimals, three below 1."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3f}"


_TRAINED_IN = {"fp32": "FP32", "tf32": "TF32", "bf16": "AMP, bf16", "fp16": "AMP, fp16"}


def _device_row(results: Results) -> Row:
    device = results.records[0].device
    features = f" ({', '.join(device.features)})" if device.features else ""
    threads = " or ".join(str(n) for n in sorted({record.device.threads for record in results.records}))
    systems = ", ".join(sorted({record.device.system for record in results.records}))
    versions = {(package, v) for record in results.records for package, v in record.versions.items()}
    versions |= {(record.runtime, record.runtime_version) for record in results.measurements}
    counts = (len(results.trainings), len(results.prunings), len(results.measurements))
    return [
        escape(device.name + features),
        escape(systems),
        threads,
        escape(", ".join(f"{package} {version}" for package, version in sorted(versions))),
        *map(str, counts),
    ]


def _training_row(results: Results, records: Sequence[Training]) -> Row:
    first = records[0]
    timed = [full_size(record.curve) for record in records]
    known = all(timed)
    seconds = spread([statistics.median(e.seconds for e in epochs) for epochs in timed], milliseconds) if known else ""
    rate = spread([statistics.median(e.images_per_second for e in epochs) for epochs in timed], _whole) if known else ""
    return [
        first.workload,
        pretty(first.model),
        pretty(first.dataset),
        _trained_in(results, first) if known else GIVEN_WEIGHTS,
        str(first.epochs) if known else GIVEN_WEIGHTS,
        str(first.batch_size) if known else GIVEN_WEIGHTS,
        spread_percent([record.top1_accuracy for record in records]),
        _epochs_timed(seconds, records) if known else GIVEN_WEIGHTS,
        _epochs_timed(rate, records) if known else GIVEN_WEIGHTS,
        str(len(records)),
    ]


def _trained_in(results: Results, record: Training) -> str | Cell:
    name = _TRAINED_IN[record.precision]
    return Cell(name, FELL_BACK) if results.fell_back(record.workload) else name


def _published_training(row: reference.Row) -> Row:
    return [
        REFERENCE, pretty(row["model"]), pretty(row["dataset"]), _italic(row["precision"].upper()),
        _italic(row["epochs"]), NOT_PUBLISHED, _italic(row["top1_percent"]), _italic(row["epoch_seconds"]),
        NOT_PUBLISHED, NOT_PUBLISHED,
    ]  # fmt: skip


def _other_epochs(record: Training, published: reference.Row) -> list[str]:
    """Say that the published training took another number of epochs; given weights have none of ours."""
    if record.origin != "trained" or record.epochs == int(published["epochs"]):
        return []
    small = len(record.curve) - len(full_size(record.curve))
    sizes = f" ({small} of them on smaller images)" if small else ""
    return [f"{record.workload}: {record.epochs} epochs here{sizes}, {published['epochs']} published."]


def _pruning_row(records: Sequence[Pruning], full: float | None) -> Row:
    first = records[0]
    tuned = first.epochs > 0 and all(record.curve for record in records)
    params = mean([record.num_params for record in records])
    seconds = [statistics.median(e.seconds for e in full_size(record.curve)) for record in records] if tuned else []
    return [
        first.variant,
        name_ratio(first.ratio, params, first.round_to),
        millions(params),
        UNKNOWN_FULL if full is None else _tenths(100 * (1 - params / full)),
        mib(mean([record.size_bytes for record in records])),
        _timed(spread([record.eager_latency.p50_ms for record in records], milliseconds), records),
        spread_percent([record.top1_before for record in records]),
        spread_percent([record.top1_accuracy for record in records]),
        f"{first.learning_rate:g}" if tuned else NOT_TUNED,
        str(first.epochs),
        _epochs_timed(spread(seconds, milliseconds), records) if tuned else NOT_TUNED,
        str(len(records)),
    ]


def _published_pruning(row: reference.Row) -> Row:
    keys = ("latency_ms_per_image", "top1_before_percent", "top1_after_percent")
    return [
        REFERENCE, _italic(row["ratio_percent"] + " %"), _italic(row["params_m"]), NOT_PUBLISHED,
        _italic(row["size_mb"]), *(_italic(row[key]) for key in keys), _italic(f"{float(row['lr']):g}"),
        _italic(row["epochs"]), _italic(row["epoch_seconds"]), NOT_PUBLISHED,
    ]  # fmt: skip


def _fine_tuning(records: Sequence[Pruning]) -> str:
    """Say what of the fine-tuning has no column."""
    tuned = [record for record in records if record.epochs]
    precisions = sorted({record.precision for record in tuned})
    distilled = {record.variant: record.distillation for record in tuned if record.distillation}
    said = [f"Fine-tuned in {' or '.join(_TRAINED_IN[p] for p in precisions)}."] if tuned else []
    said += [
        f"{variant} is distilled from the unpruned model (weight {weight:g})." for variant, weight in distilled.items()
    ]
    return " ".join(said)


def _pruning_reference_note(rows: list[Row], records: Sequence[Pruning]) -> str:
    if not _has_reference(rows):
        return ""
    first = records[0]
    ours = [f"importance {first.importance}"] if first.importance != "l1" else []
    ours += ["one ranking over all layers"] if first.scope != "uniform" else []
    ours += [f"widths rounded to {first.round_to}"] if first.round_to else []
    other = f" The study pruned by L1, uniformly; ours: {', '.join(ours)}: compare by parameters." if ours else ""
    return f"Reference latency: eager PyTorch on an unnamed GPU, batch size and warm-up not given.{other}"


def _grid(results: Results, variants: Sequence[str], bench: Bench) -> list[tuple[str, str]]:
    """Return what was asked for, and what a runtime computed besides."""
    measured = {(record.variant, record.precision) for record in results.at(bench)}
    asked = {(key, p) for key in variants for p in results.study.variants[key].precisions}
    return [(key, p) for key in variants for p in formats.COMPUTED if (key, p) in asked | measured]


def _deployed_row(results: Results, found: Sequence[Measurement], delta: str | Cell) -> Row:
    first = found[0]
    return [
        first.variant,
        name_ratio(first.ratio, first.num_params, results.study.pruning_of(first.variant).round_to),
        millions(mean([record.num_params for record in found])),
        _precision(first),
        f"{'engine' if first.engine else 'ONNX file'}, {pretty(first.runtime)}",
        mib(mean([record.deployed_bytes for record in found])),
        spread_percent([record.top1_accuracy for record in found]),
        delta,
        _timed(spread([record.latency.p50_ms for record in found], milliseconds), found),
        _timed(spread([record.batch_latency.images_per_second for record in found], _whole), found),
        *speedups(results, found),
        str(len(found)),
    ]


def speedups(results: Results, found: Sequence[Measurement]) -> Row:
    """Return how many times as fast as its workload's unpruned FP32 file a file is: at batch 1, at the large batch."""
    beside = [r for r in results.at(bench_of(found[0])) if r.workload == found[0].workload]
    return [
        _compared(found, beside, lambda r: r.speedup, lambda r: r.yardstick_latency),
        _compared(found, beside, lambda r: r.batch_speedup, lambda r: r.yardstick_batch_latency),
    ]


def _compared(
    found: Sequence[Measurement],
    beside: Sequence[Measurement],
    speedup: Callable[[Measurement], float],
    yardstick: Callable[[Measurement], Latency],
) -> str | Cell:
    """Write a speed-up; a note says where the baseline file was not as fast as in the bench's other processes."""
    text = _timed(spread([speedup(record) for record in found], _hundredths), found)
    usual = statistics.median(yardstick(record).p50_ms for record in beside)
    off = [yardstick(record).p50_ms / usual for record in found]
    steady = all(1 / DRIFT <= ratio <= DRIFT for ratio in off)
    return text if steady or isinstance(text, Cell) else Cell(text, DRIFTED)


def _precision(record: Measurement) -> str | Cell:
    name = precision_name(record.precision)
    calibrated = record.precision == "int8-entropy"
    return Cell(name, "the FP32 file, which TensorRT calibrated itself") if calibrated else name


def _delta(found: Sequence[Measurement], fp32: Sequence[Measurement], against: str) -> str | Cell:
    """Write the points gained against an FP32 file, seed by seed: of the same weights, or of the variant `against`."""
    if found == fp32:
        return Cell("0", f"{f'{against} in FP32' if against else 'FP32'} is what Δ is against")
    pairs = [
        (a, b) for a in found for b in fp32 if a.seed == b.seed and (against or a.weights_sha256 == b.weights_sha256)
    ]
    if not pairs:
        return Cell("—", f"no FP32 file of {against or 'the same weights'} was measured")
    return spread([100 * (a.top1_accuracy - b.top1_accuracy) for a, b in pairs], signed)


def _published_deployed(row: reference.Row) -> Row:
    params = row.get("params_m")
    return [
        REFERENCE, _italic(row["ratio_percent"] + " %"),
        _italic(f"{float(params):.3f}" if float(params) < 1 else params) if params else NOT_PUBLISHED,
        _italic(row["precision"].upper()), _italic(f"{pretty(row['size_of'])}, {pretty(row['runtime'])}"),
        _italic(row["size_mb"]), _italic(row["top1_percent"]), NOT_PUBLISHED,
        _italic(row["latency_ms_per_image"]), NOT_PUBLISHED, NOT_PUBLISHED, NOT_PUBLISHED, NOT_PUBLISHED,
    ]  # fmt: skip


def _deployed_caption(results: Results, chosen: Sequence[Measurement], absent: Sequence[str]) -> str:
    if not chosen:
        return f"Not measured here: {', '.join(absent)}."
    parts = [
        f"{where(results, chosen)}.",
        f"Latency: {timing(r.latency for r in chosen)}. Images/s: {timing(r.batch_latency for r in chosen)}.",
        "Copies are included.",
    ]
    if absent:
        parts.append(f"Not measured here: {', '.join(absent)}.")
    return " ".join(parts)


def _measurement_row(record: Measurement) -> Row:
    return [
        record.variant,
        precision_name(record.precision),
        str(record.seed),
        percent(record.top1_accuracy),
        percent(record.torch_agreement),
        mib(record.file_bytes),
        mib(record.weight_bytes),
        f"{record.macs / 1e6:.1f}",
        _timed(_percentiles(record.latency), [record]),
        _timed(_percentiles(record.batch_latency), [record]),
        f"{record.peak_memory_bytes / MIB:.0f}",
        f"`{record.weights_sha256[:12]}`",
    ]


def _loss_rows(results: Results, workload: str) -> list[Row]:
    variants = results.variants_of(workload)
    untouched = next((v for v in variants if is_untouched(results.study, v) and results.pruned(v)), None)
    if untouched is None:
        return []
    base = results.pruned(untouched)
    return [_loss_row(records, base) for variant in variants if (records := results.pruned(variant))]


def _loss_row(records: Sequence[Pruning], base: Sequence[Pruning]) -> Row:
    first = records[0]
    lost, saved = lost_and_saved(records, base)
    unpruned = Cell("—", "unpruned: what the others are against")
    nothing = Cell("—", "nothing saved at ratio 0")
    is_base = first.variant == base[0].variant
    return [
        pretty(first.model),
        pretty(first.dataset),
        first.variant,
        name_ratio(first.ratio, first.num_params, first.round_to),
        mib(mean([record.size_bytes for record in records])),
        spread_percent([record.top1_accuracy for record in records]),
        unpruned if is_base else signed(lost),
        unpruned if is_base else (mib(saved * MIB) if saved > 0 else nothing),
        unpruned if is_base else (signed(lost / saved) if saved > 0 else nothing),
    ]


def lost_and_saved(records: Sequence[Pruning], base: Sequence[Pruning]) -> tuple[float, float]:
    """Return top-1 points lost and MiB saved, means over seeds."""
    lost = 100 * (mean([r.top1_accuracy for r in base]) - mean([r.top1_accuracy for r in records]))
    return lost, (mean([r.size_bytes for r in base]) - mean([r.size_bytes for r in records])) / MIB


def _cited_row(row: reference.Row) -> Row:
    absent = Cell("—", "cited top-1 alone: neither the study nor we measured it")
    return [
        pretty(row["model"]), pretty(row["dataset"]), f"*cited: {row['source']}*", absent, absent,
        _italic(row["top1_percent"]), absent, absent, absent,
    ]  # fmt: skip


def _has_reference(rows: list[Row]) -> bool:
    return any(row[0] == REFERENCE for row in rows)


def _precision_of(found: Sequence[Measurement]) -> str:
    return found[0].precision if found else "int8"


def _calls(latencies: Iterable[Latency]) -> str:
    found = list(latencies)
    counts = " or ".join(str(n) for n in sorted({latency.n for latency in found}))
    batches = " or ".join(str(n) for n in sorted({latency.batch_size for latency in found}))
    return f"{counts} calls at batch {batches}"


def _timed(text: str, records: Sequence[Record]) -> str | Cell:
    return Cell(text, CONTENDED) if any(record.contended for record in records) else text


def _epochs_timed(text: str, records: Sequence[Training] | Sequence[Pruning]) -> str | Cell:
    return Cell(text, RESUMED) if any(record.resumptions for record in records) else _timed(text, records)


def _percentiles(latency: Latency) -> str:
    return " / ".join(milliseconds(value) for value in (latency.p50_ms, latency.p90_ms, latency.p99_ms))


def _italic(text: str) -> str:
    return f"*{text}*"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _hundredths(value: float) -> str:
    return f"{value:.2f}"


def _tenths(value: float) -> str:
    return f"{value:.1f}"
