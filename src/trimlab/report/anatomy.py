"""Why a file is as fast as it is: its layers, a GPU's clocks, builds of an engine, and whether runtimes agree.

Tables and sentences, pure functions of results. Layers' times come from profiled runs, which are slower than
timed ones: they are given as shares.
"""

from collections.abc import Sequence

from trimlab.records import Clock, Latency, Layer, Measurement
from trimlab.report.results import (
    Bench,
    Results,
    bench_of,
    cell,
    exact_difference,
    is_inexact,
    is_untouched,
    mean,
    paired_noise,
)
from trimlab.report.tables import Cell, Row, device_and_threads, least_to_most, markdown, milliseconds, where
from trimlab.report.text import escape, mib, percent, precision_name, pretty, signed

MULTIPLE = 16
"""Channels that vector units and tensor cores take at once; other widths are filled up."""
LAUNCH_BOUND = 1.2
"""A GPU's time without a CUDA graph over that with one, from which on launching counts as the bound."""
OVERHEAD = 0.5
"""Share of a CPU's batch 1 that a large batch saves each image, from which on overhead counts as the bound."""
NOT_EXACT = "The exact arithmetic of these INT8 files was not computed: what the runtime's kernels lose is not known."
_NO_ENGINE = Cell("—", "no engine is built")
_NO_WEIGHTS = Cell("—", "has no weights")
_NOT_TOLD = Cell("—", "not given by the runtime")
_NOT_ALONE = Cell("—", "is not there at batch 1")
_NOT_COMPUTED = Cell("—", "not computed")
_NOT_RECORDED = Cell("8", "recorded before there were 7-bit files")
_BEYOND_NOISE = "more than noise"


def agreement(results: Results, measured: Sequence[Measurement]) -> str:
    """Return accuracy in torch, ONNX Runtime and another runtime side by side, and on how many labels they differ."""
    compared = [r for r in measured if r.onnx_top1_accuracy is not None and r.onnx_agreement is not None]
    if not compared:
        return ""
    runtime = pretty(compared[0].runtime)
    headers = [
        "Variant", "Precision", "Seed", "torch %", "ONNX Runtime %", f"{runtime} %",
        "Labels unlike torch %", "Labels unlike ONNX Runtime %",
    ]  # fmt: skip
    rows: list[Row] = [
        [
            r.variant, precision_name(r.precision), str(r.seed), percent(r.torch_top1_accuracy),
            percent(r.onnx_top1_accuracy or 0), percent(r.top1_accuracy), percent(1 - r.torch_agreement),
            percent(1 - (r.onnx_agreement or 0)),
        ]
        for r in compared
    ]  # fmt: skip
    caption = f"{where(results, compared)}. ONNX Runtime: the same file on the CPU. torch: the eager FP32 model."
    return markdown(headers, rows, caption)


def exactness(results: Results, measured: Sequence[Measurement]) -> str:
    """Return an INT8 file's top-1 as the runtime computes it, and by the file's own arithmetic without fused kernels.

    One sentence where that was computed for none of the files.
    """
    files = [r for r in measured if r.precision == "int8"]
    if not files:
        return ""
    if all(exact_difference(r) is None for r in files):
        return NOT_EXACT
    headers = [
        "Variant", "Seed", "Weight bits", f"{pretty(files[0].runtime)} %", "Exact arithmetic %", "Difference",
        "Noise", "Labels unlike exact %",
    ]  # fmt: skip
    caption = (
        f"{where(results, files)}. Exact arithmetic: the same INT8 file without fused kernels. Difference: points of "
        "top-1. Noise: points up to which it could be chance, by McNemar's test at 5 % with the images that get other "
        "labels as its bound."
    )
    return markdown(headers, [_exactness_row(r) for r in files], caption)


def _exactness_row(record: Measurement) -> Row:
    difference, exact, agreement = exact_difference(record), record.exact_top1_accuracy, record.exact_agreement
    row: Row = [
        record.variant,
        str(record.seed),
        _NOT_RECORDED if record.weight_bits is None else str(record.weight_bits),
        percent(record.top1_accuracy),
    ]
    if difference is None or exact is None or agreement is None:
        return [*row, *[_NOT_COMPUTED] * 4]
    gained = signed(100 * difference)
    return [
        *row,
        percent(exact),
        Cell(gained, _BEYOND_NOISE) if is_inexact(record) else gained,
        f"± {percent(paired_noise(1 - agreement, record.num_images))}",
        percent(1 - agreement),
    ]


def clocks(results: Results, measured: Sequence[Measurement]) -> str:
    """Return a GPU's times: its own and end to end, without and with a CUDA graph; sizes of file and engine."""
    timed = [r for r in measured if r.clocks]
    if not timed:
        return ""
    batch = timed[0].batch_latency.batch_size
    headers = [
        "Variant", "Precision", "Seed", "Top-1 %", "ONNX MiB", "Weights MiB", "Engine MiB",
        "GPU ms, batch 1", "GPU ms, batch 1, graph", "Wall ms, batch 1", "Wall ms, batch 1, graph",
        f"GPU images/s, batch {batch}", f"Wall images/s, batch {batch}", "Device memory MiB",
    ]  # fmt: skip
    caption = (
        f"{where(results, timed)}. ms: p50 / p90 / p99 of {timed[0].latency.n} runs at batch 1; images/s at the "
        f"median of {timed[0].batch_latency.n} runs with a CUDA graph. GPU: by events, copies left out; wall: copies "
        "from and to page-locked memory included."
    )
    return markdown(headers, [_clock_row(r) for r in timed], caption)


def builds(results: Results, measured: Sequence[Measurement]) -> str:
    """Return how far several builds of the same engines lie apart."""
    built = [r for r in measured if len(r.builds) > 1]
    if not built:
        return ""
    headers = [
        "Variant", "Precision", "Seed", "Builds", "Different engines", "Engine MiB", "Build s", "GPU ms, batch 1",
        f"GPU ms, batch {built[0].batch_latency.batch_size}",
    ]  # fmt: skip
    rows = [_build_row(record) for record in built]
    caption = (
        f"{where(results, built)}. Smallest to largest; GPU ms: medians with a CUDA graph. Builds share one timing "
        "cache."
    )
    return markdown(headers, rows, caption)


def layers(results: Results, record: Measurement) -> str:
    """Return a file's layers as compiled for the large batch, with their share of the time there and at batch 1."""
    size = record.batch_latency.batch_size
    alone, batch = (_shares(found) for found in (record.layers, record.batch_layers))
    headers = ["Layer", "Kind", "Precision", "Channels", f"% of the time at batch {size}", "at batch 1"]
    rows: list[Row] = [
        [
            escape(layer.name, code=True),
            escape(layer.kind) or _NOT_TOLD,
            escape(layer.precision) or _NOT_TOLD,
            _NO_WEIGHTS if layer.channels is None else str(layer.channels),
            batch[layer.name],
            alone.get(layer.name, _NOT_ALONE),
        ]
        for layer in record.batch_layers
    ]
    caption = (
        f"{record.variant}, {precision_name(record.precision)}, as {pretty(record.runtime)} "
        f"{escape(record.runtime_version)} compiled and profiled it on "
        f"{' with '.join(device_and_threads(results, [record]))}; medians of profiled runs. Channels of the "
        "output as the runtime reports them."
    )
    return markdown(headers, rows, caption)


def explained(results: Results, bench: Bench) -> list[str]:
    """Return what FP16 and BF16 were computed in, and a sentence or some for every variant in INT8."""
    measured = [r for r in results.at(bench) if r.batch_layers]
    variants = [variant for workload in results.study.workloads for variant in results.variants_of(workload)]
    found = [cell(measured, variant, "int8") for variant in variants]
    said = [_computed(measured, precision) for precision in ("fp16", "bf16")]
    return [text for text in said if text] + [explanation(results, records[0]) for records in found if records]


def explanation(results: Results, record: Measurement) -> str:
    """Say what bounds a file's speed: precision really used, the rest of the work, widths, launches."""
    parts = [_gain(results, record), _precisions(record), _rest(record), _widths(results, record), _batch_one(record)]
    return f"**{record.variant}, {precision_name(record.precision)}.** " + " ".join(part for part in parts if part)


def _computed(measured: Sequence[Measurement], precision: str) -> str:
    """Say in what the layers with weights of all files of a precision were computed."""
    records = [record for record in measured if record.precision == precision]
    weighted = [layer for record in records for layer in record.batch_layers if layer.channels is not None]
    if not weighted:
        return ""
    name = precision_name(precision)
    own = sum(layer.precision == name for layer in weighted)
    others = " and ".join(sorted({layer.precision for layer in weighted} - {name}))
    others = escape(others)
    rest = f"; the rest in {others}" if others and own else f"; all in {others}: files are smaller, not faster"
    return (
        f"**{name}.** {own} of the {len(weighted)} convolutions and linear layers of {len(records)} files were "
        f"computed in {name}{rest if others else ''}."
    )


def _clock_row(record: Measurement) -> Row:
    gpu, graph, whole = (_clock(record, name) for name in ("gpu", "gpu_graph", "latency_graph"))
    return [
        record.variant,
        precision_name(record.precision),
        str(record.seed),
        percent(record.top1_accuracy),
        mib(record.file_bytes),
        mib(record.weight_bytes),
        mib(record.engine.size_bytes) if record.engine else _NO_ENGINE,
        *(_percentiles(latency) for latency in (gpu.latency, graph.latency, record.latency, whole.latency)),
        *(f"{clock.batch_latency.images_per_second:,.0f}" for clock in (graph, whole)),
        mib(record.peak_memory_bytes),
    ]


def _clock(record: Measurement, name: str) -> Clock:
    return next(clock for clock in record.clocks if clock.name == name)


def _build_row(record: Measurement) -> Row:
    found = record.builds
    return [
        record.variant,
        precision_name(record.precision),
        str(record.seed),
        str(len(found)),
        str(len({build.sha256 for build in found})),
        least_to_most([build.size_bytes / 2**20 for build in found]),
        least_to_most([build.build_seconds for build in found]),
        least_to_most([build.latency.p50_ms for build in found]),
        least_to_most([build.batch_latency.p50_ms for build in found]),
    ]


def _percentiles(latency: Latency) -> str:
    return " / ".join(f"{value:.4f}" for value in (latency.p50_ms, latency.p90_ms, latency.p99_ms))


def _gain(results: Results, record: Measurement) -> str:
    """Set the speed-up beside the arithmetic that was saved, and beside what the precision gains unpruned."""
    if is_untouched(results.study, record.variant):
        return ""
    unpruned = results.unpruned(record.workload)
    base = results.pruned(unpruned) if unpruned else []
    if not base:
        return ""
    saved = mean([r.macs for r in base]) / record.macs
    same = cell(results.at(bench_of(record)), unpruned or "", record.precision)
    alone = mean([r.batch_speedup for r in same]) if same else 0.0
    expected = (
        f" Unpruned {precision_name(record.precision)} is {alone:.1f} times as fast, so {alone * saved:.0f} times "
        "would be in proportion."
    )
    return (
        f"{saved:.1f} times fewer multiply-accumulates than unpruned; {record.batch_speedup:.1f} times as fast as "
        f"unpruned FP32 at batch {record.batch_latency.batch_size}, {record.speedup:.1f} times at batch 1."
        f"{expected if same else ''}"
    )


def _precisions(record: Measurement) -> str:
    """Say in which precision the layers with weights were computed, and name those that were not in the file's."""
    weighted = [layer for layer in record.batch_layers if layer.channels is not None]
    wanted = record.precision.split("-")[0].upper()
    other = [layer for layer in weighted if layer.precision != wanted]
    share = 100 * _share(_total([layer for layer in weighted if layer not in other]), _total(record.batch_layers))
    text = (
        f"{len(weighted) - len(other)} of {len(weighted)} convolutions and linear layers ran in {wanted}, "
        f"in {share:.0f} % of the time"
    )
    if not other:
        return f"{text}."
    kinds = sorted({layer.precision for layer in other})
    return f"{text}; {_listed([layer.name for layer in other])} stayed in {escape(' and '.join(kinds))}."


def _rest(record: Measurement) -> str:
    """Say what else took time."""
    rest = [layer for layer in record.batch_layers if layer.channels is None]
    total = _total(record.batch_layers)
    kinds = {layer.kind: 0.0 for layer in rest}
    for layer in rest:
        kinds[layer.kind] += _share(layer.ms, total)
    largest = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))[:3]
    named = ", ".join(f"{escape(kind)} {100 * share:.0f} %" for kind, share in largest if share >= 0.005)
    return (
        f"{100 * _share(_total(rest), total):.0f} % of the time went into other operators ({named})." if named else ""
    )


def _widths(results: Results, record: Measurement) -> str:
    """Say which widths the hardware fills up."""
    pruned = results.pruned(record.variant)
    widths = list(pruned[0].widths.values())[:-1] if pruned else []  # the last are the classes
    odd = sorted({width for width in widths if width % MULTIPLE})
    if not widths:
        return ""
    if not odd:
        return f"All widths are multiples of {MULTIPLE}."
    count = sum(width % MULTIPLE > 0 for width in widths)
    filled = ", ".join(str(-(-width // MULTIPLE) * MULTIPLE) for width in odd)
    return (
        f"{count} of {len(widths)} widths ({', '.join(map(str, odd))}) are not multiples of {MULTIPLE}: kernels that "
        f"take {MULTIPLE} channels at once pad them to {filled}."
    )


def _batch_one(record: Measurement) -> str:
    if record.clocks:
        plain, graph = (_clock(record, name).latency.p50_ms for name in ("gpu", "gpu_graph"))
        bound = "launch-bound" if plain > LAUNCH_BOUND * graph else "not launch-bound"
        return f"Batch 1 is {bound}: {plain:.4f} ms on the GPU, {graph:.4f} ms as a CUDA graph."
    size = record.batch_latency.batch_size
    alone, shared = record.latency.p50_ms, record.batch_latency.p50_ms / size
    overhead = max(0.0, 1 - shared / alone)
    bound = "Batch 1 is bound by overhead: " if overhead > OVERHEAD else ""
    return (
        f"{bound}{100 * overhead:.0f} % of the {milliseconds(alone)} ms at batch 1 are saved for each image of a batch "
        f"of {size}."
    )


def _shares(found: Sequence[Layer]) -> dict[str, str]:
    total = _total(found)
    return {layer.name: f"{100 * _share(layer.ms, total):.1f}" for layer in found}


def _total(found: Sequence[Layer]) -> float:
    return sum(layer.ms for layer in found)


def _share(part: float, whole: float) -> float:
    """Divide; layers too short to be timed have no share."""
    return part / whole if whole else 0.0


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(escape(name, code=True) for name in names[:4])
    return f"{shown} and {len(names) - 4} more" if len(names) > 4 else shown
