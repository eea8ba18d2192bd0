"""The report's figures as SVG: the same results give the same bytes.

Colours are Okabe and Ito's, which colour-blind readers tell apart: precision in all figures of files. The
form of a marker is the model, a hollow one is published.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from trimlab import formats
from trimlab.records import Measurement, Pruning, Training
from trimlab.report import mixed, reference, sensitivity
from trimlab.report.findings import pareto
from trimlab.report.intervals import wilson
from trimlab.report.results import Bench, Results, mean, of_file
from trimlab.report.tables import milliseconds
from trimlab.report.text import MIB, precision_name, pretty, ratio_percent, split_name

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"

_LAYERS = 40
"""Bars of layers, at most."""
_PANELS = 4
"""Panels beside each other."""
_SHARES = np.linspace(0, 1, 201)
"""Of the calls: where a line of latencies has its points."""
_STYLE: Any = {
    "svg.hashsalt": "trimlab",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.titlesize": 10,
}


def draw(results: Results) -> dict[str, Figure]:
    """Return the figures that the results give, by name."""
    with style():
        made = {f"accuracy-by-size-{key}": _accuracy_by_size(results, key) for key in results.study.datasets}
        made |= {f"accuracy-by-speed-{key}": _accuracy_by_speed(results, key) for key in results.study.datasets}
        made |= {f"pruning-{key}": _pruning(results, key) for key in results.study.workloads}
        made |= {f"sensitivity-{key}": _sensitivity(results, key) for key in results.study.workloads}
        made |= {f"speed-{number}": _speed(results, b) for number, b in enumerate(results.benches(), start=1)}
        made |= {f"latency-{number}": _latency(results, b) for number, b in enumerate(results.benches(), start=1)}
        made |= {f"int8-layers-{key}": _int8_layers(results, key) for key in results.study.variants}
        made["training"] = _training(results)
    return {name: figure for name, figure in made.items() if figure is not None}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, without date and version."""
    with style():
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


@contextmanager
def style() -> Iterator[None]:
    """Draw by our settings alone, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _accuracy_by_size(results: Results, dataset: str) -> Figure | None:
    """Draw top-1 over size, with the front of what no other file beats and the published points."""
    bench = results.main_bench()
    measured = [r for r in results.at(bench) if r.dataset == dataset] if bench else []
    found = results.by_file(measured)
    if len(found) < 2 or bench is None:
        return None
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    forms = _forms(found)
    published = [point for model in forms for point in _published_points(results, measured, model)]
    for point in published:
        colour, form = formats.BY_NAME[point.precision].colour, forms[point.model]
        axes.plot(point.size_mib, point.top1_percent, form, color=colour, fillstyle="none", markersize=7, zorder=2)
    _measured_points(axes, results, bench, found, _size)
    _log_axis(axes)
    kinds = sorted({pretty(point.size_of) for point in published})
    others = f"; published: {' or '.join(f'{kind}s' for kind in kinds)}" if published else ""
    axes.set_xlabel(f"Size of the ONNX file or engine in MiB, log scale{others}")
    axes.set_ylabel(_top1_label(found))
    axes.set_title(f"Accuracy against size, {pretty(dataset)}", loc="left")
    axes.margins(x=0.12, y=0.12)
    _accuracy_legend(figure, found, bool(published), results.candidate_file(bench) in found)
    return figure


def _accuracy_by_speed(results: Results, dataset: str) -> Figure | None:
    """Draw top-1 over latency and over throughput, each with the front of what no other file beats."""
    bench = results.main_bench()
    found = results.by_file(r for r in results.at(bench) if r.dataset == dataset) if bench else []
    if len(found) < 2 or bench is None:
        return None
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _measured_points(left, results, bench, found, _latency_ms)
    _measured_points(right, results, bench, found, _images_per_second, more_is_better=True)
    left.set_xlabel("Latency at batch 1 in ms, p50, log scale (less is better)")
    right.set_xlabel(f"Images/s at batch {results.batch_size(bench)}, p50, log scale (more is better)")
    left.set_ylabel(_top1_label(found))
    for axes in (left, right):
        _log_axis(axes)
        axes.margins(x=0.12, y=0.16)
    title = f"Accuracy against speed, {pretty(dataset)}, {results.where(bench)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    _accuracy_legend(figure, found, published=False, ringed=results.candidate_file(bench) in found)
    return figure


def _measured_points(
    axes: Axes,
    results: Results,
    bench: Bench,
    found: list[list[Measurement]],
    place: Callable[[Sequence[Measurement]], float],
    more_is_better: bool = False,
) -> None:
    """Draw a point a file, with how sure its top-1 is, and the front."""
    forms, candidate = _forms(found), results.candidate_file(bench)
    kinds: dict[tuple[str, str], list[list[Measurement]]] = {}
    for records in found:
        kinds.setdefault((records[0].model, records[0].precision), []).append(records)
    for (model, precision), own in kinds.items():  # a call each: thousands of them take minutes
        x, top1, colour = [place(r) for r in own], [_top1(r) for r in own], formats.BY_NAME[precision].colour
        axes.plot(x, top1, forms[model], color=colour, markersize=8, zorder=3)
        reach = np.hstack([uncertainty(records) for records in own])
        axes.errorbar(x, top1, reach, fmt="none", ecolor=colour, capsize=3, linewidth=1, zorder=2)
    if candidate in found:
        axes.plot(place(candidate), _top1(candidate), "o", color="black", fillstyle="none", markersize=15, zorder=4)
    _front(axes, results, found, place, more_is_better)


def _forms(found: list[list[Measurement]]) -> dict[str, str]:
    """Return each model's marker."""
    return dict(zip(dict.fromkeys(records[0].model for records in found), cycle(MARKERS), strict=False))


def uncertainty(records: Sequence[Measurement]) -> list[list[float]]:
    """Return how far a top-1 reaches down and up: Wilson's interval of one seed, the deviation of several."""
    if len(records) > 1:
        deviation = statistics.stdev(100 * record.top1_accuracy for record in records)
        return [[deviation], [deviation]]
    top1, num_images = records[0].top1_accuracy, records[0].num_images
    low, high = wilson(round(top1 * num_images), num_images)
    return [[100 * max(0.0, top1 - low)], [100 * max(0.0, high - top1)]]


def _top1_label(found: Sequence[Sequence[Measurement]]) -> str:
    return f"Top-1 in %, with {'standard deviation' if len(found[0]) > 1 else '95 % interval'}"


def _log_axis(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _pruning(results: Results, workload: str) -> Figure | None:
    """Draw top-1 before and after fine-tuning over the ratio, one panel a device."""
    panels = [(d, sweep) for d in results.devices() if len(sweep := _points(results.on(d), workload)) > 1]
    if not panels:
        return None
    figure = Figure(figsize=(8, 4 * len(panels)), layout="constrained")
    for axes, (device, sweep) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        _pruning_panel(axes, results, sweep)
        first = sweep[0][0]
        axes.set_title(
            f"{pretty(first.model)} on {pretty(first.dataset)}, pruned on {results.labels[device]}", loc="left"
        )
    return figure


def _pruning_panel(axes: Axes, results: Results, sweep: Sequence[Sequence[Pruning]]) -> None:
    candidate = results.study.report.candidate
    others = {records[0].ratio for records in sweep if records[0].variant != candidate}
    rounded = [r for r in sweep if results.study.point(r[0].variant).round_to and r[0].variant != candidate]
    allocated = [r for r in sweep if results.study.point(r[0].variant).allocation and r[0].variant != candidate]
    plain = [
        r for r in sweep if r not in [*rounded, *allocated] and (r[0].variant != candidate or r[0].ratio not in others)
    ]
    curve = [r for index, r in enumerate(plain) if r[0].ratio not in {other[0].ratio for other in plain[:index]}]
    ratios = [100 * records[0].ratio for records in curve]
    before = [100 * mean([r.top1_before for r in records]) for records in curve]
    after = [100 * mean([r.top1_accuracy for r in records]) for records in curve]
    axes.plot(ratios, after, "o-", color=LINES[0], label="after fine-tuning")
    axes.plot(ratios, before, "s--", color=LINES[1], label="before fine-tuning")
    _single_points(axes, rounded, "D", color=LINES[2], label="rounded widths, after")
    _single_points(axes, allocated, "v", color=LINES[2], label="other allocation, after")
    _single_points(axes, [r for r in plain if r not in curve], "^", color=LINES[0], label="other fine-tuning, after")
    chosen = [records for records in sweep if records[0].variant == candidate]
    _single_points(axes, chosen, "*", color="black", markersize=13, label="candidate, after")
    _published_sweep(axes, results, curve)
    axes.set_xlabel("Pruning ratio: % of the channels removed")
    axes.set_ylabel("Top-1 in %")
    axes.set_ylim(0, 104)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _sensitivity(results: Results, workload: str) -> Figure | None:
    """Draw the top-1 lost over the ratio of each group pruned alone, a panel a group, with the ratios chosen."""
    on = results.on(results.training_device())
    found, chosen = sensitivity.measured(on, workload), sensitivity.chosen(on, workload)
    ends = sensitivity.extremes(found) if found else None
    if ends is None:
        return None
    curves = sensitivity.curves(found)
    rows = -(-len(curves) // _PANELS)
    figure = Figure(figsize=(10, 1.2 + 1.5 * rows), layout="constrained")
    panels = list(figure.subplots(rows, _PANELS, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (name, lost) in zip(panels, curves.items(), strict=False):
        ratios, points = ([0.0, *values] for values in zip(*((100 * p.ratio, p.points) for p in lost), strict=True))
        axes.plot(ratios, points, "-", color=LINES[0], linewidth=1.5)
        for number, records in enumerate(chosen):
            at = 100 * mean([record.layer_ratios.get(name, 0.0) for record in records])
            style: dict[str, Any] = {"color": LINES[1 + number % (len(LINES) - 1)], "label": records[0].variant}
            axes.plot(at, np.interp(at, ratios, points), MARKERS[number % len(MARKERS)], linestyle="", **style)
        layers = next(len(group.layers) for group in found[0].groups if group.layers[0] == name)
        axes.set_title(f"{name} (+{layers - 1})" if layers > 1 else name, loc="left", fontsize=8)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(curves) - _PANELS) : len(curves)]:
        axes.set_xlabel("% removed", fontsize=8)
        axes.tick_params(labelbottom=True)
    for axes in panels[::_PANELS]:
        axes.set_ylabel("Points lost", fontsize=8)
    if chosen:
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower left", ncols=3)
    (dearest, most), (cheapest, least) = ends
    title = (
        f"{dearest} loses most of top-1, {sensitivity.points(most)} points at {ratio_percent(most.ratio)}; "
        f"{cheapest} least, {sensitivity.points(least)} at {ratio_percent(least.ratio)}\n"
        f"{pretty(found[0].model)} on {pretty(found[0].dataset)}, one group of coupled layers pruned at a time, not "
        "fine-tuned; (+n): layers coupled to it"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=10)
    return figure


def _single_points(axes: Axes, points: Sequence[Sequence[Pruning]], marker: str, **style: Any) -> None:
    ratios = [100 * records[0].ratio for records in points]
    after = [100 * mean([r.top1_accuracy for r in records]) for records in points]
    if points:
        axes.plot(ratios, after, marker, linestyle="", zorder=4, **style)


def _published_sweep(axes: Axes, results: Results, curve: Sequence[Sequence[Pruning]]) -> None:
    found = (results.published(records[0], reference.pruning, records[0].ratio) for records in curve)
    rows = [row for row in found if row]
    if not rows:
        return
    ratios = [float(row["ratio_percent"]) for row in rows]
    for label, key, marker in (
        ("published, after", "top1_after_percent", "o"),
        ("published, before", "top1_before_percent", "s"),
    ):
        values = [float(row[key]) for row in rows]
        axes.plot(ratios, values, marker, color="black", fillstyle="none", markersize=10, label=label, zorder=5)


def _speed(results: Results, bench: Bench) -> Figure | None:
    """Draw latency at batch 1 and throughput at the large batch, a bar a file; of many files those on a front."""
    everything = results.by_file(results.at(bench))
    found = everything if len(everything) <= _BARS else _on_a_front(everything)
    some = (
        f", {len(found)} of {len(everything)} files: those that none beats in accuracy and speed"
        if found != everything
        else ""
    )
    figure = Figure(figsize=(9, 1.6 + 0.24 * len(found)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, found, lambda r: r.latency.p50_ms, milliseconds)
    _bars(right, found, lambda r: r.batch_latency.images_per_second, "{:,.0f}".format)
    labels = [f"{records[0].variant}  {precision_name(records[0].precision)}" for records in found]
    left.set_yticks(range(len(found)), labels)
    left.invert_yaxis()
    batches = sorted({r.batch_latency.batch_size for records in found for r in records})
    left.set_xlabel("Latency at batch 1 in ms, p50 (less is better)")
    right.set_xlabel(f"Images/s at batch {' or '.join(map(str, batches))}, p50 (more is better)")
    figure.suptitle(f"{results.labels[bench.device]}, {pretty(bench.runtime)}{some}", x=0.01, ha="left", fontsize=10)
    return figure


_BARS = 150
"""Most bars that a page can show."""


def _on_a_front(found: list[list[Measurement]]) -> list[list[Measurement]]:
    """Return the files than which none is as accurate and as fast, at batch 1 or at the large batch."""
    top1 = [_top1(records) for records in found]
    fronts = [
        pareto(list(zip([cost(records) for records in found], top1, strict=True)))
        for cost in (_latency_ms, lambda records: 1 / _images_per_second(records))
    ]
    return [found[index] for index in sorted(set().union(*fronts))]


def _latency(results: Results, bench: Bench) -> Figure | None:
    """Draw which share of the calls at batch 1 took at most so long, a line a process: candidate and unpruned FP32."""
    candidate, measured = results.study.report.candidate, results.at(bench)
    unpruned = results.unpruned(results.study.variants[candidate].workload)
    files = dict.fromkeys([(unpruned or "", "fp32"), *((candidate, precision) for precision in formats.COMPUTED)])
    found = [records for file in files if (records := of_file(measured, *file)) and records[0].processes]
    if not found:
        return None
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for records in found:
        first = records[0]
        colour, style = formats.BY_NAME[first.precision].colour, "--" if first.variant == unpruned else "-"
        label = f"{first.variant} {precision_name(first.precision)}"
        for process in (process for record in records for process in record.processes):
            line = np.quantile(process.latency.calls_ms, _SHARES)
            axes.plot(line, 100 * _SHARES, style, color=colour, linewidth=1, label=label)
            label = ""
    _log_axis(axes)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.set_xlabel("Latency of a call at batch 1 in ms, log scale")
    axes.set_ylabel("Calls that took at most as long, in %")
    axes.set_title(f"{results.where(bench)}, one line per process", loc="left")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _bars(
    axes: Axes,
    found: list[list[Measurement]],
    value: Callable[[Measurement], float],
    write: Callable[[float], str],
) -> None:
    values = [mean([value(record) for record in records]) for records in found]
    bars = axes.barh(
        range(len(found)),
        values,
        color=[formats.BY_NAME[records[0].precision].colour for records in found],
        height=0.72,
    )
    axes.bar_label(bars, [write(value) for value in values], padding=3, fontsize=8)
    axes.margins(x=0.16, y=0.01)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))


def _training(results: Results) -> Figure | None:
    """Draw loss and top-1 over the epochs, a line a workload and seed."""
    on = {device: results.on(device) for device in results.devices()}
    curved = [r for r in results.trainings if r.curve and not on[r.device.identity].repeats(r.workload)]
    if not curved:
        return None
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    keys = [key for key in results.study.workloads if any(record.workload == key for record in curved)]
    styles = ("-", "--", ":", "-.")
    for number, key in enumerate(keys):
        colour, style = LINES[number % len(LINES)], styles[number % len(styles)]
        _curves(loss, top1, [record for record in curved if record.workload == key], colour, style)
    for axes, label in ((loss, "Training loss"), (top1, f"Top-1 in %, {split_name(curved[0].split)}")):
        axes.set_xlabel("Epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*top1.get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


def _curves(loss: Axes, top1: Axes, records: Sequence[Training], colour: str, style: str) -> None:
    for index, record in enumerate(records):
        label = f"{record.workload} ({record.precision.upper()})" if index == 0 else None
        scored = [(e.epoch, 100 * e.top1_accuracy) for e in record.curve if e.top1_accuracy is not None]
        loss.plot([e.epoch for e in record.curve], [e.train_loss for e in record.curve], style, color=colour)
        dot = "o" if len(scored) == 1 else ""  # one point makes no line
        top1.plot([x for x, _ in scored], [y for _, y in scored], style, marker=dot, color=colour, label=label)


def _int8_layers(results: Results, variant: str) -> Figure | None:
    """Draw what each layer loses in INT8 alone, in the order of the loss, and which layers stay in float."""
    found = mixed.of_variant(results, variant)
    if found is None:
        return None
    _, chosen = found
    shown = chosen.sensitivity[:_LAYERS]
    total = sum(layer.divergence for layer in chosen.sensitivity) or 1.0
    colours = {True: formats.BY_NAME["fp32"].colour, False: formats.BY_NAME["int8"].colour}
    in_float = [layer.layer in chosen.float_layers for layer in shown]
    figure = Figure(figsize=(8, 1.5 + 0.22 * len(shown)), layout="constrained")
    axes = figure.subplots()
    shares = [100 * layer.divergence / total for layer in shown]
    bars = axes.barh(range(len(shown)), shares, color=[colours[kept] for kept in in_float], height=0.72)
    axes.bar_label(bars, [f"{share:.1f}" for share in shares], padding=3, fontsize=8)
    axes.set_yticks(range(len(shown)), [layer.layer for layer in shown])
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    rest = f"; the {len(shown)} layers that lose most" if len(shown) < len(chosen.sensitivity) else ""
    axes.set_xlabel(f"Divergence from FP32 with this layer alone in INT8, in % of all layers' sum{rest}")
    axes.set_title(f"{variant} in INT8: {mixed.message(chosen)}", loc="left")
    names = {True: "left in float", False: "in INT8"}
    handles = [Patch(color=colours[kept], label=names[kept]) for kept in sorted(set(in_float), reverse=True)]
    axes.legend(handles=handles, loc="lower right")
    return figure


def _front(
    axes: Axes,
    results: Results,
    found: list[list[Measurement]],
    place: Callable[[Sequence[Measurement]], float],
    more_is_better: bool,
) -> None:
    """Draw the front, each of its files named by ratio; above it nothing of ours lies."""
    pairs = [(place(records), _top1(records)) for records in found]
    costs = [1 / x if more_is_better else x for x, _ in pairs]
    front = pareto([(cost, top1) for cost, (_, top1) in zip(costs, pairs, strict=True)])
    axes.step(*zip(*(pairs[i] for i in front), strict=True), where="post", color="black", linewidth=1, alpha=0.6)
    for index, dearer in zip(front, [*(costs[i] for i in front[1:]), float("inf")], strict=True):
        if dearer < 1.15 * costs[index]:
            continue  # its label would lie under that of the more accurate neighbour
        first = found[index][0]
        text = results.ratio_name(first)
        scratch = ", scratch" if results.study.point(first.variant).initial == "scratch" else ""
        label = text + scratch if first.ratio else "unpruned"
        axes.annotate(label, pairs[index], (0, 9), textcoords="offset points", rotation=45, fontsize=8)


def _accuracy_legend(figure: Figure, found: list[list[Measurement]], published: bool, ringed: bool) -> None:
    forms, precisions = _forms(found), {records[0].precision for records in found}

    def dot(label: str, colour: str, form: str = "o", **style: Any) -> Line2D:
        return Line2D([], [], marker=form, linestyle="", color=colour, label=label, **style)

    handles = [dot(precision_name(p), formats.BY_NAME[p].colour) for p in formats.COMPUTED if p in precisions]
    handles += [dot(pretty(model), GREY, form) for model, form in forms.items()]
    if published:
        handles.append(dot("hollow: published study", GREY, fillstyle="none"))
    if ringed:
        handles.append(dot("candidate", "black", fillstyle="none", markersize=12))
    label = "Pareto front, ours (% of channels removed)"
    handles.append(Line2D([], [], color="black", linewidth=1, alpha=0.6, label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=4)


def _published_points(results: Results, measured: Sequence[Measurement], model: str) -> list[reference.Point]:
    own = next(record for record in measured if record.model == model)
    return results.published(own, reference.points) or []


def _points(results: Results, workload: str) -> list[list[Pruning]]:
    return [records for variant in results.swept(workload) if (records := results.pruned(variant))]


def _size(records: Sequence[Measurement]) -> float:
    return mean([record.deployed_bytes for record in records]) / MIB


def _top1(records: Sequence[Measurement]) -> float:
    return 100 * mean([record.top1_accuracy for record in records])


def _latency_ms(records: Sequence[Measurement]) -> float:
    return mean([record.latency.p50_ms for record in records])


def _images_per_second(records: Sequence[Measurement]) -> float:
    return mean([record.batch_latency.images_per_second for record in records])
