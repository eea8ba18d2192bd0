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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FormatStrFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from trimlab import formats
from trimlab.records import Measurement, Pruning, Training
from trimlab.report import reference
from trimlab.report.findings import pareto
from trimlab.report.results import Bench, Results, mean
from trimlab.report.tables import milliseconds
from trimlab.report.text import MIB, name_ratio, precision_name, pretty, split_name

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"

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
    with _style():
        made = {f"accuracy-by-size-{key}": _accuracy_by_size(results, key) for key in results.study.datasets}
        made |= {f"pruning-{key}": _pruning(results, key) for key in results.study.workloads}
        made |= {f"speed-{number}": _speed(results, b) for number, b in enumerate(results.benches(), start=1)}
        made["training"] = _training(results)
    return {name: figure for name, figure in made.items() if figure is not None}


def save(figure: Figure, path: Path) -> None:
    """Write a figure as SVG, without date and version."""
    with _style():
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


@contextmanager
def _style() -> Iterator[None]:
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
    forms = dict(zip(dict.fromkeys(records[0].model for records in found), cycle(MARKERS), strict=False))
    published = [point for model in forms for point in _published_points(results, measured, model)]
    for point in published:
        colour, form = formats.BY_NAME[point.precision].colour, forms[point.model]
        axes.plot(point.size_mib, point.top1_percent, form, color=colour, fillstyle="none", markersize=7, zorder=2)
    _measured_points(axes, found, forms, results.candidate_file(bench))
    _front(axes, results, found)
    _size_axis(axes, sorted({pretty(point.size_of) for point in published}))
    axes.set_ylabel("Top-1 in %")
    axes.set_title(f"Accuracy against size, {pretty(dataset)}", loc="left")
    axes.margins(x=0.12, y=0.12)
    ringed = results.candidate_file(bench) in found
    _accuracy_legend(figure, forms, {r.precision for r in measured}, bool(published), ringed)
    return figure


def _measured_points(
    axes: Axes, found: list[list[Measurement]], forms: dict[str, str], candidate: list[Measurement]
) -> None:
    for records in found:
        size, top1, colour = _size(records), _top1(records), formats.BY_NAME[records[0].precision].colour
        axes.plot(size, top1, forms[records[0].model], color=colour, markersize=8, zorder=3)
        if len(records) > 1:
            axes.errorbar(size, top1, _deviation(records), color=colour, capsize=3, zorder=2)
        if records == candidate:
            axes.plot(size, top1, "o", color="black", fillstyle="none", markersize=15, zorder=4)


def _size_axis(axes: Axes, published: Sequence[str]) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    others = f"; published: {' or '.join(f'{kind}s' for kind in published)}" if published else ""
    axes.set_xlabel(f"Size of the ONNX file or engine in MiB, log scale{others}")


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
    plain = [r for r in sweep if r not in rounded and (r[0].variant != candidate or r[0].ratio not in others)]
    curve = [r for index, r in enumerate(plain) if r[0].ratio not in {other[0].ratio for other in plain[:index]}]
    ratios = [100 * records[0].ratio for records in curve]
    before = [100 * mean([r.top1_before for r in records]) for records in curve]
    after = [100 * mean([r.top1_accuracy for r in records]) for records in curve]
    axes.plot(ratios, after, "o-", color=LINES[0], label="after fine-tuning")
    axes.plot(ratios, before, "s--", color=LINES[1], label="before fine-tuning")
    _single_points(axes, rounded, "D", color=LINES[2], label="rounded widths, after")
    _single_points(axes, [r for r in plain if r not in curve], "^", color=LINES[0], label="other fine-tuning, after")
    chosen = [records for records in sweep if records[0].variant == candidate]
    _single_points(axes, chosen, "*", color="black", markersize=13, label="candidate, after")
    _published_sweep(axes, results, curve)
    axes.set_xlabel("Pruning ratio: % of the channels removed")
    axes.set_ylabel("Top-1 in %")
    axes.set_ylim(0, 104)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


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
    """Draw latency at batch 1 and throughput at the large batch, a bar a file."""
    found = results.by_file(results.at(bench))
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
    figure.suptitle(f"{results.labels[bench.device]}, {pretty(bench.runtime)}", x=0.01, ha="left", fontsize=10)
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


def _front(axes: Axes, results: Results, found: list[list[Measurement]]) -> None:
    """Draw the front, each of its files named by ratio; above it nothing of ours lies."""
    pairs = [(_size(records), _top1(records)) for records in found]
    front = pareto(pairs)
    sizes, values = [pairs[i][0] for i in front], [pairs[i][1] for i in front]
    axes.step(sizes, values, where="post", color="black", linewidth=1, alpha=0.6, zorder=1)
    for index, larger in zip(front, [*sizes[1:], float("inf")], strict=True):
        if larger < 1.15 * pairs[index][0]:
            continue  # its label would lie under that of the more accurate neighbour
        first = found[index][0]
        text = name_ratio(first.ratio, first.num_params, results.study.pruning_of(first.variant).round_to)
        label = text if first.ratio else "unpruned"
        axes.annotate(label, pairs[index], (0, 9), textcoords="offset points", rotation=45, fontsize=8)


def _accuracy_legend(
    figure: Figure, forms: dict[str, str], precisions: set[str], published: bool, ringed: bool
) -> None:
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


def _deviation(records: Sequence[Measurement]) -> float:
    return statistics.stdev(100 * record.top1_accuracy for record in records)
