"""How much of the saved work becomes speed: layers, a GPU's clocks, builds of an engine; whether runtimes agree.

Tables and findings, pure functions of results. Layers' times come from profiled runs, which are slower than
timed ones: they are given as shares.
"""

from collections.abc import Sequence

import numpy as np

from trimlab import formats
from trimlab.records import Clock, Latency, Layer, Measurement
from trimlab.report.model import Column, Finding, Span, Table, Value, code, strong, words
from trimlab.report.results import (
    Bench,
    Files,
    Results,
    batch_speedup,
    bench_of,
    exact_difference,
    is_inexact,
    is_untouched,
    mean,
    of_file,
    paired_noise,
    speedup,
)
from trimlab.report.tables import (
    Values,
    device_and_threads,
    least_to_most,
    milliseconds,
    no_tail,
    percentiles,
    share,
    where,
    whole,
)
from trimlab.report.text import count, percent, precision_name, pretty, ratio_percent, signed, times

MULTIPLE = 16
"""Channels that vector units and tensor cores take at once; other widths are filled up."""
LAUNCH_BOUND = 1.2
"""A GPU's time without a CUDA graph over that with one, from which on launching counts as the bound."""
QUESTION = "How much of the saved work becomes speed?"
NOT_EXACT = Finding.of(
    "These INT8 files were not computed without fused kernels, so what the runtime's kernels lose is not known."
)
_NO_WEIGHTS = Value("—", note="this layer has no weights")
_NOT_TOLD = Value("—", note="not given by the runtime")
_NOT_ALONE = Value("—", note="this layer is not there at batch 1")
_NOT_COMPUTED = Value("—", note="not computed")
_UNPRUNED = Value("—", note="this is the unpruned model")
_NO_UNPRUNED = Value("—", note="no record of the unpruned model")
_NOT_RECORDED = Value("8", 8, "recorded before there were 7-bit files")
_BEYOND_NOISE = "more than noise"


FILE = (words("Variant"), words("Precision"), Column("Seed"))


def agreement(results: Results, measured: Sequence[Measurement]) -> Table | None:
    """Return accuracy in torch, ONNX Runtime and another runtime side by side, and on how many labels they differ."""
    compared = [r for r in measured if r.onnx_top1_accuracy is not None and r.onnx_agreement is not None]
    if not compared:
        return None
    runtime = pretty(compared[0].runtime)
    columns = [
        *FILE, Column("torch %", "%"), Column("ONNX Runtime %", "%"), Column(f"{runtime} %", "%"),
        Column("Labels that differ from torch %", "%"), Column("Labels that differ from ONNX Runtime %", "%"),
    ]  # fmt: skip
    rows = [
        [
            *_file(r), share(r.torch_top1_accuracy), share(r.onnx_top1_accuracy or 0), share(r.top1_accuracy),
            share(1 - r.torch_agreement), share(1 - (r.onnx_agreement or 0)),
        ]
        for r in compared
    ]  # fmt: skip
    caption = f"{where(results, compared)}. ONNX Runtime: the same file on the CPU. torch: the eager FP32 model."
    return Table.of(results.key("agreement", bench_of(compared[0])), columns, rows, caption)


def exactness(results: Results, measured: Sequence[Measurement]) -> Table | None:
    """Return an INT8 file's top-1 as the runtime computes it, and by the file's own arithmetic without fused kernels.

    None where that was computed for none of the files.
    """
    files = [r for r in measured if r.precision in formats.QUANTIZED]
    several = len({r.precision for r in files}) > 1
    if all(exact_difference(r) is None for r in files):
        return None
    columns = [
        words("Variant"), *([words("Precision")] if several else []), Column("Seed"), Column("Weight bits"),
        Column(f"{pretty(files[0].runtime)} %", "%"), Column("Exact arithmetic %", "%"),
        Column("Difference", "points"), Column("Noise", "points"), Column("Labels that differ from exact %", "%"),
    ]  # fmt: skip
    caption = (
        f"{where(results, files)}. Exact arithmetic: the same INT8 file without fused kernels. Difference: points of "
        "top-1. Noise: points up to which it could be chance, by McNemar's test at 5 % with the images that get other "
        "labels as its bound."
    )
    rows = [_exactness_row(record, several) for record in files]
    return Table.of(results.key("exactness", bench_of(files[0])), columns, rows, caption)


def _exactness_row(record: Measurement, several: bool) -> Values:
    difference, exact, agreement = exact_difference(record), record.exact_top1_accuracy, record.exact_agreement
    row: Values = [
        record.variant,
        *([precision_name(record.precision)] if several else []),
        whole(record.seed),
        _NOT_RECORDED if record.weight_bits is None else whole(record.weight_bits),
        share(record.top1_accuracy),
    ]
    if difference is None or exact is None or agreement is None:
        return [*row, *[_NOT_COMPUTED] * 4]
    noise = paired_noise(1 - agreement, record.num_images)
    return [
        *row,
        share(exact),
        Value(signed(100 * difference), 100 * difference, _BEYOND_NOISE if is_inexact(record) else ""),
        Value(f"± {percent(noise)}", 100 * noise),
        share(1 - agreement),
    ]


def clocks(results: Results, measured: Sequence[Measurement]) -> Table | None:
    """Return a GPU's times: its own and end to end, without and with a CUDA graph."""
    timed = [r for r in measured if r.clocks]
    if not timed:
        return None
    batch = timed[0].batch_latency.batch_size
    columns = [
        *FILE, Column("GPU ms, batch 1", "ms"), Column("GPU ms, batch 1, graph", "ms"),
        Column("Wall ms, batch 1", "ms"), Column("Wall ms, batch 1, graph", "ms"),
        Column(f"GPU images/s, batch {batch}", "1/s"), Column(f"Wall images/s, batch {batch}", "1/s"),
    ]  # fmt: skip
    first = timed[0].clocks[0]
    caption = (
        f"{where(results, timed)}. ms: p50 / p90 / p99 of {first.latency.n} runs at batch 1; images/s at the "
        f"median of {first.batch_latency.n} runs with a CUDA graph; of one process. GPU: by events, copies left out; "
        f"wall: copies from and to page-locked memory included.{no_tail(r.clocks[0].latency for r in timed)}"
    )
    key = results.key("gpu-times", bench_of(timed[0]))
    return Table.of(key, columns, [_clock_row(r) for r in timed], caption)


def builds(results: Results, measured: Sequence[Measurement]) -> Table | None:
    """Return how far several builds of the same engines lie apart."""
    built = [r for r in measured if len(r.builds) > 1]
    if not built:
        return None
    columns = [
        *FILE, Column("Builds"), Column("Different engines"), Column("Engine MiB", "MiB"), Column("Build s", "s"),
        Column("GPU ms, batch 1", "ms"), Column(f"GPU ms, batch {built[0].batch_latency.batch_size}", "ms"),
    ]  # fmt: skip
    rows = [_build_row(record) for record in built]
    caption = (
        f"{where(results, built)}. Smallest to largest; GPU ms: medians with a CUDA graph. Builds share one timing "
        "cache."
    )
    return Table.of(results.key("builds", bench_of(built[0])), columns, rows, caption)


def layers(results: Results, record: Measurement) -> Table:
    """Return a file's layers as compiled for the large batch, with their share of the time there and at batch 1."""
    batch_size = record.batch_latency.batch_size
    alone, batch = (_shares(found) for found in (record.layers, record.batch_layers))
    columns = [
        words("Layer"), words("Kind"), words("Precision"), Column("Channels"),
        Column(f"% of the time at batch {batch_size}", "%"), Column("at batch 1", "%"),
    ]  # fmt: skip
    rows: list[Values] = [
        [
            Value(layer.name, style="code"),
            layer.kind or _NOT_TOLD,
            layer.precision or _NOT_TOLD,
            _NO_WEIGHTS if layer.channels is None else whole(layer.channels),
            batch[layer.name],
            alone.get(layer.name, _NOT_ALONE),
        ]
        for layer in record.batch_layers
    ]
    caption = (
        f"{record.variant}, {precision_name(record.precision)}, as {pretty(record.runtime)} "
        f"{record.runtime_version} compiled and profiled it on "
        f"{' with '.join(device_and_threads(results, [record]))}; medians of profiled runs. Channels of the "
        "output as the runtime reports them."
    )
    return Table.of(results.key("layers", bench_of(record)), columns, rows, caption)


def answer(results: Results, bench: Bench) -> Finding | None:
    """Say what the candidate's speed goes with; None where its layers were not timed."""
    found = [record for record in results.candidate_file(bench) if record.batch_layers]
    return explanation(results, found[0]) if found else None


def in_short(results: Results, bench: Bench) -> Finding | None:
    """Set the candidate's speed beside the work that was saved, and its widths; None where nothing was saved."""
    found = results.candidate_file(bench)
    record = next(iter(found), None)
    saved = _times_fewer_macs(results, record) if record else None
    if record is None or saved is None:
        return None
    name, batch = precision_name(record.precision), record.batch_latency.batch_size
    measured = results.at(bench)
    same = of_file(measured, results.unpruned(record.workload) or "", record.precision)
    plain = of_file(measured, record.variant, "fp32") if record.precision != "fp32" else []
    files = [("FP32", plain), (name, found)] if plain else [(name, found)]
    speeds = " and ".join(f"{times(batch_speedup(own), '×')} ({label})" for label, own in files)
    alone = batch_speedup(same) if same else None
    expected = (
        f", where proportional scaling would give {alone.mean * saved:.0f}× (unpruned {name} alone gives "
        f"{times(alone, '×')})"
        if alone
        else ""
    )
    said = Finding.of(
        strong(QUESTION),
        f" Pruned by {ratio_percent(record.ratio)}, {record.variant} takes {saved:.1f} times fewer "
        f"multiply-accumulates (MACs). At batch {batch} it runs {speeds} as fast as unpruned FP32{expected}.",
        times_fewer_macs=saved,
        batch_speedup=batch_speedup(found).mean,
    )
    parts = (said, _widths(results, record), _beside_full_widths(results, record))
    return Finding.joined(part for part in parts if part)


def _beside_full_widths(results: Results, record: Measurement) -> Finding | None:
    """Set a file with padded widths beside the next larger one without: where that does more work at no less speed.

    None where the padded file is as much faster as it has less work.
    """
    measured = results.at(bench_of(record))
    pruned = [v for v in results.swept(record.workload) if not is_untouched(results.study, v)]
    found = [of_file(measured, variant, record.precision) for variant in pruned]
    larger = [r[0] for r in found if r and r[0].macs > record.macs and _padded(results, r[0]) == 0]
    other = min(larger, key=lambda r: r.macs, default=None)
    if other is None or not _padded(results, record):
        return None
    less = other.macs / record.macs
    rates = [r.batch_latency.images_per_second for r in (record, other)]
    if rates[0] / rates[1] >= less:
        return None
    return Finding.of(
        f"{other.variant}, with all widths multiples of {MULTIPLE}, takes {less:.1f} times as many MACs and does "
        f"{rates[1]:,.0f} images/s; {record.variant} does {rates[0]:,.0f}.",
        times_more_macs=less,
    )


def _padded(results: Results, record: Measurement) -> int | None:
    """Count the widths that the hardware fills up; None where they are not known."""
    widths = _all_widths(results, record)
    return sum(width % MULTIPLE > 0 for width in widths) if widths else None


def reduced(results: Results, bench: Bench) -> list[Finding]:
    """Say in what FP16 and BF16 were computed."""
    measured = [r for r in results.at(bench) if r.batch_layers]
    return [said for precision in ("fp16", "bf16") if (said := _computed(measured, precision))]


def explained(results: Results, bench: Bench) -> Table | None:
    """Return for every variant in INT8 how fast it is, and what that goes with; None where no layers were timed."""
    measured = Files(r for r in results.at(bench) if r.batch_layers)
    variants = [variant for workload in results.study.workloads for variant in results.variants_of(workload)]
    found = [of_file(measured, variant, precision) for variant in variants for precision in formats.QUANTIZED]
    files = [records[0] for records in found if records]
    if not files:
        return None
    batch = results.batch_size(bench)
    columns = [
        words("Variant"), words("Precision"), Column("× fewer MACs"), Column("× batch 1"), Column(f"× batch {batch}"),
        Column(f"In proportion, × batch {batch}"), Column("Layers in INT8"), Column("Time in INT8 layers %", "%"),
        Column("Time in other operators %", "%"), Column("Padded widths"),
    ]  # fmt: skip
    caption = (
        f"{where(results, files)}. Seed {files[0].seed}. × fewer MACs: than the unpruned model. ×: as fast as the "
        "unpruned FP32 file. In proportion: what the unpruned file in the same precision gains, times × fewer MACs. "
        f"Layers: convolutions and linear ones. Padded: widths that are not multiples of {MULTIPLE}, which kernels "
        f"that take {MULTIPLE} channels at once fill up with zeros. Shares of time: at batch {batch}."
    )
    rows = [_explained_row(results, record) for record in files]
    return Table.of(results.key("explained", bench), columns, rows, caption)


def _explained_row(results: Results, record: Measurement) -> Values:
    weighted, own = _in_own_precision(record)
    total = _total(record.batch_layers)
    rest = 100 * _share(_total([layer for layer in record.batch_layers if layer.channels is None]), total)
    in_own = 100 * _share(_total(own), total)
    widths = _all_widths(results, record)
    padded = sum(width % MULTIPLE > 0 for width in widths)
    single, batch = speedup([record]), batch_speedup([record])
    return [
        record.variant,
        precision_name(record.precision),
        *_proportions(results, record, [Value(times(single), single.mean), Value(times(batch), batch.mean)]),
        Value(f"{len(own)} of {len(weighted)}", len(own)),
        Value(f"{in_own:.0f}", in_own),
        Value(f"{rest:.0f}", rest),
        Value(f"{padded} of {len(widths)}", padded) if widths else _NOT_TOLD,
    ]


def _proportions(results: Results, record: Measurement, speeds: Sequence[Value]) -> list[Value]:
    """Write how much less a variant computes, its speeds, and the speed in proportion to that."""
    saved = _times_fewer_macs(results, record)
    same = of_file(results.at(bench_of(record)), results.unpruned(record.workload) or "", record.precision)
    if saved is None:
        absent = _UNPRUNED if is_untouched(results.study, record.variant) else _NO_UNPRUNED
        return [absent, *speeds, absent]
    proportional = batch_speedup(same).mean * saved if same else 0.0
    expected = Value(f"{proportional:.0f}", proportional) if same else _NO_UNPRUNED
    return [Value(f"{saved:.1f}", saved), *speeds, expected]


def _times_fewer_macs(results: Results, record: Measurement) -> float | None:
    """Return how many times fewer multiply-accumulates a variant takes than unpruned; None for the unpruned one."""
    unpruned = results.unpruned(record.workload)
    base = results.pruned(unpruned) if unpruned else []
    if not base or is_untouched(results.study, record.variant):
        return None
    return mean([r.macs for r in base]) / record.macs


def explanation(results: Results, record: Measurement) -> Finding:
    """Say what a file's speed goes with: precision really used, the rest of the work, widths, launches."""
    parts = [_gain(results, record), _precisions(record), _rest(record), _widths(results, record), _batch_one(record)]
    name = strong(f"{record.variant}, {precision_name(record.precision)}.")
    return Finding.joined(part for part in parts if part).led_by(name, " ")


def message(layers: Sequence[Layer]) -> str:
    """Say in a few words how the time is spread over a file's layers."""
    total = _total(layers)
    if not total:
        return f"none of {count(len(layers), 'layer')} took any time"
    values = sorted((layer.ms for layer in layers), reverse=True)
    few = int(np.searchsorted(np.cumsum(values) / total, 0.5)) + 1
    share = 100 * sum(values[:few]) / total
    return f"{few} of {count(len(values), 'layer')} {'takes' if few == 1 else 'take'} {share:.0f} % of the time"


def _computed(measured: Sequence[Measurement], precision: str) -> Finding | None:
    """Say in what the layers with weights of all files of a precision were computed."""
    records = [record for record in measured if record.precision == precision]
    weighted = [layer for record in records for layer in record.batch_layers if layer.channels is not None]
    if not weighted:
        return None
    name = precision_name(precision)
    own = sum(layer.precision == name for layer in weighted)
    others = " and ".join(sorted({layer.precision for layer in weighted} - {name}))
    rest = (
        f", the rest in {others}"
        if own
        else f": all ran in {others}, so the files are smaller and the arithmetic is the same"
    )
    return Finding.of(
        strong(f"{name}."),
        f" {own or 'None'} of the {len(weighted)} convolutions and linear layers in {count(len(records), 'file')} ran "
        f"in {name}{rest if others else ''}.",
        layers=own,
        all_layers=len(weighted),
    )


def _file(record: Measurement) -> Values:
    return [record.variant, precision_name(record.precision), whole(record.seed)]


def _clock_row(record: Measurement) -> Values:
    gpu, graph, wall_graph = (_clock(record, name) for name in ("gpu", "gpu_graph", "latency_graph"))
    wall = record.processes[0] if record.processes else record  # of the process of the other clocks
    return [
        *_file(record),
        *(percentiles(one.latency, _tenth_us) for one in (gpu, graph, wall, wall_graph)),
        *(_rate(clock.batch_latency) for clock in (graph, wall_graph)),
    ]


def _rate(latency: Latency) -> Value:
    return Value(f"{latency.images_per_second:,.0f}", latency.images_per_second)


def _clock(record: Measurement, name: str) -> Clock:
    return next(clock for clock in record.clocks if clock.name == name)


def _build_row(record: Measurement) -> Values:
    found = record.builds
    return [
        *_file(record),
        whole(len(found)),
        whole(len({build.sha256 for build in found})),
        least_to_most([build.size_bytes / 2**20 for build in found]),
        least_to_most([build.build_seconds for build in found]),
        least_to_most([build.latency.p50_ms for build in found]),
        least_to_most([build.batch_latency.p50_ms for build in found]),
    ]


def _tenth_us(milliseconds: float) -> str:
    return f"{milliseconds:.4f}"


def _gain(results: Results, record: Measurement) -> Finding | None:
    """Set the speed-up beside the arithmetic that was saved, and beside what the precision gains unpruned."""
    saved = _times_fewer_macs(results, record)
    if saved is None:
        return None
    measured, unpruned = results.at(bench_of(record)), results.unpruned(record.workload) or ""
    same = of_file(measured, unpruned, record.precision)
    plain = [r for r in of_file(measured, record.variant, "fp32") if r.weights_sha256 == record.weights_sha256]
    finding = Finding.of(
        f"{saved:.1f} times fewer multiply-accumulates than unpruned; {times(batch_speedup([record]), ' times')} as "
        f"fast as unpruned FP32 at batch {record.batch_latency.batch_size}, {times(speedup([record]), ' times')} at "
        "batch 1.",
        times_fewer_macs=saved,
        batch_speedup=record.batch_speedup,
        speedup=record.speedup,
    )
    said = [
        finding,
        *([_in_proportion(same, saved)] if same else []),
        *([_plain(plain)] if plain and record.precision != "fp32" else []),
    ]
    return Finding.joined(said)


def _plain(fp32: Sequence[Measurement]) -> Finding:
    """Say how fast the same variant is in FP32, where the precision gains nothing."""
    single, batch = speedup(fp32), batch_speedup(fp32)
    return Finding.of(
        f"Its FP32 file is {times(batch, ' times')} as fast at batch {fp32[0].batch_latency.batch_size}, "
        f"{times(single, ' times')} at batch 1.",
        fp32_batch_speedup=batch.mean,
        fp32_speedup=single.mean,
    )


def _in_proportion(unpruned: Sequence[Measurement], saved: float) -> Finding:
    alone = batch_speedup(unpruned)
    return Finding.of(
        f"Unpruned {precision_name(unpruned[0].precision)} is {times(alone, ' times')} as fast, so "
        f"proportional scaling would give {alone.mean * saved:.0f} times.",
        unpruned_batch_speedup=alone.mean,
        proportional_batch_speedup=alone.mean * saved,
    )


def _precisions(record: Measurement) -> Finding:
    """Say in which precision the layers with weights were computed, and name those that were not in the file's."""
    weighted, own = _in_own_precision(record)
    wanted = record.precision.split("-")[0].upper()
    other = [layer for layer in weighted if layer not in own]
    in_time = 100 * _share(_total(own), _total(record.batch_layers))
    kinds = " and ".join(sorted({layer.precision for layer in other}))
    stayed = ["; ", *_listed([layer.name for layer in other]), f" stayed in {kinds}"] if other else []
    return Finding.of(
        f"{len(own)} of {len(weighted)} convolutions and linear layers ran in {wanted}, in {in_time:.0f} % of the time",
        *stayed,
        ".",
        layers=len(own),
        all_layers=len(weighted),
        time_percent=in_time,
    )


def _in_own_precision(record: Measurement) -> tuple[list[Layer], list[Layer]]:
    """Return the layers with weights, and those of them that were computed in the file's precision."""
    weighted = [layer for layer in record.batch_layers if layer.channels is not None]
    wanted = record.precision.split("-")[0].upper()
    return weighted, [layer for layer in weighted if layer.precision == wanted]


def _rest(record: Measurement) -> Finding | None:
    """Say what else took time."""
    rest = [layer for layer in record.batch_layers if layer.channels is None]
    total = _total(record.batch_layers)
    kinds = {layer.kind: 0.0 for layer in rest}
    for layer in rest:
        kinds[layer.kind] += _share(layer.ms, total)
    largest = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:3]
    named = ", ".join(f"{kind} {100 * part:.0f} %" for kind, part in largest if part >= 0.005)
    others = 100 * _share(_total(rest), total)
    if not named:
        return None
    return Finding.of(f"{others:.0f} % of the time went into other operators ({named}).", other_time_percent=others)


def _widths(results: Results, record: Measurement) -> Finding | None:
    """Say which widths the hardware fills up."""
    widths = _all_widths(results, record)
    odd = sorted({width for width in widths if width % MULTIPLE})
    if not widths:
        return None
    padded = sum(width % MULTIPLE > 0 for width in widths)
    if not odd:
        return Finding.of(f"All widths are multiples of {MULTIPLE}.", odd_widths=0, all_widths=len(widths))
    filled = ", ".join(str(-(-width // MULTIPLE) * MULTIPLE) for width in odd)
    return Finding.of(
        f"{padded} of {len(widths)} widths ({', '.join(map(str, odd))}) are not multiples of {MULTIPLE}: kernels that "
        f"take {MULTIPLE} channels at once pad them to {filled}. What that alone costs was not measured.",
        odd_widths=padded,
        all_widths=len(widths),
    )


def _all_widths(results: Results, record: Measurement) -> list[int]:
    pruned = results.pruned(record.variant)
    return list(pruned[0].widths.values())[:-1] if pruned else []  # the last are the classes


def _batch_one(record: Measurement) -> Finding:
    if record.clocks:
        plain, graph = (_clock(record, name).latency.p50_ms for name in ("gpu", "gpu_graph"))
        bound = "launch-bound" if plain > LAUNCH_BOUND * graph else "not launch-bound"
        return Finding.of(
            f"Batch 1 is {bound}: {plain:.4f} ms on the GPU, {graph:.4f} ms as a CUDA graph.",
            gpu_ms=plain,
            gpu_graph_ms=graph,
        )
    batch_size = record.batch_latency.batch_size
    alone, shared = record.latency.p50_ms, record.batch_latency.p50_ms / batch_size
    saved = max(0.0, 1 - shared / alone)
    return Finding.of(
        f"An image takes {100 * saved:.0f} % less time in a batch of {batch_size} than alone "
        f"({milliseconds(alone)} ms).",
        saved_percent=100 * saved,
        latency_ms=alone,
    )


def _shares(found: Sequence[Layer]) -> dict[str, Value]:
    total = _total(found)
    shares = {layer.name: 100 * _share(layer.ms, total) for layer in found}
    return {name: Value(f"{of_time:.1f}", of_time) for name, of_time in shares.items()}


def _total(found: Sequence[Layer]) -> float:
    return sum(layer.ms for layer in found)


def _share(part: float, total: float) -> float:
    """Divide; layers too short to be timed have no share."""
    return part / total if total else 0.0


def _listed(names: Sequence[str]) -> list[str | Span]:
    shown: list[str | Span] = []
    for name in names[:4]:
        shown += [", ", code(name)]
    return [*shown[1:], f" and {len(names) - 4} more"] if len(names) > 4 else shown[1:]
