"""The report's figures as SVG: the same results give the same bytes.

Colours are Okabe and Ito's, which colour-blind readers tell apart: precision in all figures of files. The
form of a marker is the model, a hollow one is published.
"""

import itertools
import statistics
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from trimlab import formats
from trimlab.records import Measurement, Pruning, Training
from trimlab.report import anatomy, findings, mixed, reference, sensitivity
from trimlab.report.findings import pareto
from trimlab.report.intervals import wilson
from trimlab.report.recommendation import roles
from trimlab.report.results import Bench, Results, images_per_second, latency_ms, mean, of_file
from trimlab.report.tables import milliseconds
from trimlab.report.text import MIB, precision_name, pretty, ratio_percent, split_name

_DASHES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#777777"
GROUND, INK, GRID = "#ffffff", "#000000", "#dddddd"
"""What the page draws in its own colours."""
Point = tuple[float, float]
"""Across and up, in the units of the axes."""

_WIDTH = 6.4
"""Inches: as wide as a figure stands on the page; on a telephone it scrolls."""
_LAYERS = 20
"""Bars of layers, at most."""
_MANY = 500
"""Points of one kind beyond which they are drawn as a picture and without intervals: so many shapes would make the page
slow, and so many bars would hide the points."""
_BARS = 18
"""Files up to which all have a bar."""
_TITLE_WIDTH = 78
"""Letters in a line of a title."""
_LAYERS_TITLE_WIDTH = 48
"""The same over axes that leave room for layers' names."""
_OFFSETS = (
    ((7, 3), "left", "bottom"), ((-7, 3), "right", "bottom"), ((7, -3), "left", "top"), ((-7, -3), "right", "top"),
    ((0, 12), "center", "bottom"), ((0, -12), "center", "top"), ((14, 14), "left", "bottom"),
    ((-14, 14), "right", "bottom"), ((14, -14), "left", "top"), ((-14, -14), "right", "top"),
    ((9, 0), "left", "center"), ((-9, 0), "right", "center"), ((0, 24), "center", "bottom"),
    ((0, -24), "center", "top"), ((24, -28), "left", "top"), ((-24, 28), "right", "bottom"),
    ((10, 28), "left", "bottom"), ((-10, 28), "right", "bottom"), ((10, -40), "left", "top"),
    ((-10, -40), "right", "top"),
)  # fmt: skip
"""Where a point's name may stand: its distance in points, and the corner that lies there."""
_SHIFTS = {"left": 0.0, "bottom": 0.0, "center": 0.5, "right": 1.0, "top": 1.0}
"""The share of a name's width or height that lies left of its anchor, or under it."""
_NEAR = 9
"""Points within which a name needs no line to its point."""
_RING = 14
"""Points across the ring around a file that figures point out."""
_FRONT_STYLE: Any = {"color": INK, "linewidth": 1, "alpha": 0.6}
_PANELS = 3
"""Panels beside each other."""
_SHARES = np.linspace(0, 1, 201)
"""Of the calls: where a line of latencies has its points."""
_STYLE: Any = {
    "svg.hashsalt": "trimlab",
    "svg.fonttype": "path",
    "font.size": 10,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.titlesize": 10,
}


def draw(results: Results) -> dict[str, Figure]:
    """Return the figures that the results give, by name."""
    with style():
        made = {
            f"accuracy-by-{cost.name}-{key}": _accuracy(results, key, cost)
            for cost in _COSTS
            for key in results.study.datasets
        }
        made |= {f"pruning-{key}": _pruning(results, key) for key in results.study.workloads}
        made |= {f"sensitivity-{key}": _sensitivity(results, key) for key in results.study.workloads}
        made |= {f"speed-{number}": _speed(results, b) for number, b in enumerate(results.benches(), start=1)}
        made |= {f"latency-{number}": _latency(results, b) for number, b in enumerate(results.benches(), start=1)}
        made |= {f"layers-{number}": _layers(results, b) for number, b in enumerate(results.benches(), start=1)}
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


class Cost(NamedTuple):
    """What lies across a figure of accuracies."""

    name: str
    label: str
    place: Callable[[Sequence[Measurement]], float]
    message: Callable[[Results, Bench], str]
    """What the figure shows, in a line; empty where candidate and baseline are not compared."""
    more_is_better: bool = False
    published: bool = False
    """Whether the published study's points can stand beside ours: their times cannot."""


def _accuracy(results: Results, dataset: str, cost: Cost) -> Figure | None:
    """Draw top-1 over size, latency or throughput, with the front of what no other file beats."""
    bench = results.main_bench()
    measured = [r for r in results.at(bench) if r.dataset == dataset] if bench else []
    found = results.by_file(measured)
    if len(found) < 2 or bench is None:
        return None
    figure = Figure(figsize=(_WIDTH, 5.4), layout="constrained")
    axes = figure.subplots()
    forms = _forms(found)
    published = [p for model in forms for p in _published_points(results, measured, model)] if cost.published else []
    for point in published:
        colour, form = formats.BY_NAME[point.precision].colour, forms[point.model]
        axes.plot(point.size_mib, point.top1_percent, form, color=colour, fillstyle="none", markersize=6, zorder=2)
    front = _front(found, cost)
    kinds: dict[tuple[str, str, bool], list[list[Measurement]]] = {}
    for index, records in enumerate(found):
        kinds.setdefault((records[0].model, records[0].precision, index not in front), []).append(records)
    for (model, precision, faint), own in kinds.items():
        _draw_files(axes, own, cost, forms[model], formats.BY_NAME[precision].colour, faint)
    corners = [_place(found[i], cost) for i in front]
    axes.step(*zip(*corners, strict=True), where="post", **_FRONT_STYLE)
    named = roles(results, bench)
    marked = {named[key]: records for records in found if (key := (records[0].variant, records[0].precision)) in named}
    for records in marked.values():
        axes.plot(*_place(records, cost), "o", color=INK, fillstyle="none", markersize=_RING, zorder=4)
    log_axis(axes)
    sizes = sorted({pretty(point.size_of) for point in published})
    others = f"; published: {' or '.join(f'{size}s' for size in sizes)}" if published else ""
    axes.set_xlabel(_wrapped(cost.label.format(batch=results.batch_size(bench)) + others))
    axes.set_ylabel(_top1_label(found))
    of_baseline = dataset == results.dataset_of(results.study.report.baseline)
    message = cost.message(results, bench) if of_baseline else ""
    where = f"{pretty(dataset)}, {results.where(bench)}, {len(found)} files; line: what no other file beats"
    _title(axes, message, where)
    axes.margins(x=0.08, y=0.14)
    _accuracy_legend(figure, found, bool(published), list(marked))
    baseline = of_file(measured, results.study.report.baseline, "fp32")
    several = len(forms) > 1
    names = {f"{role}: {_point_name(results, r, several)}": _place(r, cost) for role, r in marked.items()}
    for records in [*([baseline] if baseline else []), *(found[i] for i in front)]:
        if records not in marked.values():
            names.setdefault(_point_name(results, records, several), _place(records, cost))
    points = [_place(records, cost) for records in found] + [(p.size_mib, p.top1_percent) for p in published]
    _name_points(figure, axes, names, points, corners, [_place(records, cost) for records in marked.values()])
    return figure


def _place(records: Sequence[Measurement], cost: Cost) -> Point:
    return cost.place(records), _top1(records)


def _draw_files(
    axes: Axes, files: Sequence[Sequence[Measurement]], cost: Cost, form: str, colour: str, faint: bool
) -> None:
    """Draw files in one call, with how sure their top-1 is; what another file beats is faint."""
    x, top1 = zip(*(_place(records, cost) for records in files), strict=True)
    many = len(files) > _MANY
    style: dict[str, Any] = {"color": colour, "alpha": 0.35 if faint else 1.0, "rasterized": many}
    # A pale edge tells points apart that lie on each other.
    axes.plot(x, top1, form, markersize=7, markeredgecolor=GROUND, markeredgewidth=0.6, zorder=3, **style)
    if not many:
        reach = np.hstack([uncertainty(records) for records in files])
        axes.errorbar(x, top1, reach, fmt="none", capsize=2, linewidth=1, zorder=2, **style)


def _front(found: Sequence[Sequence[Measurement]], cost: Cost) -> list[int]:
    """Return the places of the files that no other one beats, by rising cost."""
    pairs = [_place(records, cost) for records in found]
    return pareto([(1 / x if cost.more_is_better else x, top1) for x, top1 in pairs])


def _title(axes: Axes, message: str, where: str, width: int = _TITLE_WIDTH) -> None:
    """Write what the figure shows, and under it of what; titles wrap before they leave the figure."""
    axes.set_title(_wrapped(message, where, width=width), loc="left")


def _wrapped(*lines: str, width: int = _TITLE_WIDTH) -> str:
    """Break lines that are too long for a figure, but not at a ±."""
    held = (line.replace(" ± ", "\u00a0±\u00a0") for line in lines)
    return "\n".join(part for line in held for part in textwrap.wrap(line, width))


def _name_points(
    figure: Figure,
    axes: Axes,
    names: Mapping[str, Point],
    points: Sequence[Point],
    front: Sequence[Point],
    ringed: Sequence[Point],
) -> None:
    """Write names beside their points; one that would lie on another, on a point or on the front is left out."""
    layout = figure.get_layout_engine()
    assert layout is not None
    layout.execute(figure)  # settles where the axes lie
    figure.set_layout_engine("none")
    axes.autoscale(enable=False)
    boxes = []  # left, bottom, right, top
    for places, size in ((points, 8), (ringed, _RING)):
        half = size / 2 * figure.dpi / 72
        boxes += [(x - half, y - half, x + half, y + half) for x, y in map(axes.transData.transform, places)]
    corners = [tuple(axes.transData.transform(point)) for point in front]
    for (x, y), (next_x, next_y) in itertools.pairwise(corners):
        boxes += [(min(x, next_x), y - 1, max(x, next_x), y + 1)]
        boxes += [(next_x - 1, min(y, next_y), next_x + 1, max(y, next_y))]
    taken = np.asarray(boxes)
    for name, at in names.items():
        label = axes.annotate(name, at, (0, 0), textcoords="offset points", fontsize=9, ha="left", va="bottom")
        own = label.get_window_extent()
        for offset, across, up in _OFFSETS:
            x, y = (distance / 72 * figure.dpi for distance in offset)
            box = own.translated(x - _SHIFTS[across] * own.width, y - _SHIFTS[up] * own.height)
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and axes.bbox.y0 <= box.y0
            if inside and box.y1 <= axes.bbox.y1 + 4 and not _overlaps(box.extents, taken):
                label.set(position=offset, ha=across, va=up)
                taken = np.vstack([taken, box.extents])
                if max(map(abs, offset)) > _NEAR:
                    _lead(axes, box, at)
                break
        else:
            label.remove()


def _overlaps(box: Sequence[float], others: NDArray[np.float64]) -> bool:
    """Say whether a box lies on one of others (N, 4), each left, bottom, right, top."""
    left, bottom, right, top = box
    apart = (others[:, 2] < left) | (others[:, 0] > right) | (others[:, 3] < bottom) | (others[:, 1] > top)
    return not bool(apart.all())


def _lead(axes: Axes, box: Bbox, at: Point) -> None:
    """Draw a line from a point to its name, which stands a little away."""
    x, y = axes.transData.transform(at)
    end = axes.transData.inverted().transform((np.clip(x, box.x0, box.x1), np.clip(y, box.y0, box.y1)))
    axes.plot(*zip(at, end, strict=True), color=GREY, linewidth=0.7, zorder=2.5)


def _point_name(results: Results, records: Sequence[Measurement], several: bool) -> str:
    first = records[0]
    model = f"{pretty(first.model)} " if several else ""
    if (first.variant, first.precision) == (results.study.report.baseline, "fp32"):
        return f"{model}unpruned FP32"
    if not first.ratio:
        return f"{model}unpruned"
    scratch = ", scratch" if results.study.point(first.variant).initial == "scratch" else ""
    return f"{model}{results.ratio_name(records)}{scratch}"


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


def log_axis(axes: Axes) -> None:
    """Make the axis across logarithmic, with plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _pruning(results: Results, workload: str) -> Figure | None:
    """Draw top-1 before and after fine-tuning over the ratio, one panel a device."""
    panels = [(d, sweep) for d in results.devices() if len(sweep := _points(results.on(d), workload)) > 1]
    if not panels:
        return None
    figure = Figure(figsize=(_WIDTH, 4 * len(panels)), layout="constrained")
    for axes, (device, sweep) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        _pruning_panel(axes, results, sweep)
        first = sweep[0][0]
        of = f"{pretty(first.model)} on {pretty(first.dataset)}, pruned on {results.labels[device]}"
        _title(axes, "Top-1 before and after fine-tuning, by how much was pruned", of)
    _legend_below(figure)
    return figure


def _legend_below(figure: Figure, columns: int = 2) -> None:
    """Name what is drawn, each once, under the axes."""
    drawn = {
        label: handle for axes in figure.axes for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(drawn.values()), list(drawn), loc="outside lower left", ncols=columns)


def _pruning_panel(axes: Axes, results: Results, sweep: Sequence[Sequence[Pruning]]) -> None:
    candidate = results.study.report.candidate
    others = {records[0].ratio for records in sweep if records[0].variant != candidate}
    rounded = [r for r in sweep if results.study.point(r[0].variant).round_to and r[0].variant != candidate]
    allocated = [r for r in sweep if results.study.point(r[0].variant).allocation and r[0].variant != candidate]
    apart = {r[0].variant for r in (*rounded, *allocated)}
    plain = [r for r in sweep if r[0].variant not in apart | ({candidate} if r[0].ratio in others else set())]
    first: dict[float, Sequence[Pruning]] = {}
    for r in plain:
        first.setdefault(r[0].ratio, r)
    curve = list(first.values())
    ratios = [100 * records[0].ratio for records in curve]
    before = [100 * mean([r.top1_before for r in records]) for records in curve]
    after = [100 * mean([r.top1_accuracy for r in records]) for records in curve]
    axes.plot(ratios, after, "o-", color=LINES[0], label="after fine-tuning")
    axes.plot(ratios, before, "s--", color=LINES[1], label="before fine-tuning")
    _single_points(axes, rounded, "D", color=LINES[2], label="rounded widths, after")
    _single_points(axes, allocated, "v", color=LINES[2], label="other allocation, after")
    _single_points(
        axes, [r for r in plain if first[r[0].ratio] is not r], "^", color=LINES[0], label="other fine-tuning, after"
    )
    chosen = [records for records in sweep if records[0].variant == candidate]
    _single_points(axes, chosen, "*", color=INK, fillstyle="none", markersize=15, label="candidate, after")
    _published_sweep(axes, results, curve)
    axes.set_xlabel("Pruning ratio: % of the channels removed")
    axes.set_ylabel("Top-1 in %")
    axes.set_ylim(0, 104)


def _sensitivity(results: Results, workload: str) -> Figure | None:
    """Draw the top-1 lost over the ratio of each group pruned alone, a panel a group, with the ratios chosen."""
    on = results.on(results.training_device())
    found, chosen = sensitivity.measured(on, workload), sensitivity.chosen(on, workload)
    ends = sensitivity.extremes(found) if found else None
    if ends is None:
        return None
    curves = sensitivity.curves(found)
    rows = -(-len(curves) // _PANELS)
    figure = Figure(figsize=(_WIDTH, 1.4 + 1.4 * rows), layout="constrained")
    panels = list(figure.subplots(rows, _PANELS, sharex=True, sharey=True, squeeze=False).flat)
    for axes, (name, lost) in zip(panels, curves.items(), strict=False):
        ratios, points = ([0.0, *values] for values in zip(*((100 * p.ratio, p.points) for p in lost), strict=True))
        axes.plot(ratios, points, "-", color=LINES[0], linewidth=1.5)
        for number, records in enumerate(chosen):
            at = 100 * mean([record.layer_ratios.get(name, 0.0) for record in records])
            style: dict[str, Any] = {"color": LINES[1 + number % (len(LINES) - 1)], "label": records[0].variant}
            axes.plot(at, np.interp(at, ratios, points), MARKERS[number % len(MARKERS)], linestyle="", **style)
        layers = next(len(group.layers) for group in found[0].groups if group.layers[0] == name)
        axes.set_title(f"{name} (+{layers - 1})" if layers > 1 else name, loc="left", fontsize=9)
    for axes in panels[len(curves) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(curves) - _PANELS) : len(curves)]:
        axes.set_xlabel("% removed", fontsize=9)
        axes.tick_params(labelbottom=True)
    for axes in panels[::_PANELS]:
        axes.set_ylabel("Points lost", fontsize=9)
    if chosen:
        _legend_below(figure)
    (dearest, most), (cheapest, least) = ends
    title = (
        f"{dearest} loses most, {sensitivity.points(most)} points of top-1 at {ratio_percent(most.ratio)}; "
        f"{cheapest} least, {sensitivity.points(least)} at {ratio_percent(least.ratio)}\n"
        f"{pretty(found[0].model)} on {pretty(found[0].dataset)}, one group of coupled layers pruned at a time, not "
        "fine-tuned; (+n): layers coupled to it"
    )
    figure.suptitle(_wrapped(*title.splitlines()), x=0.01, ha="left", fontsize=10)
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
    """Draw latency at batch 1 and throughput at the large batch, a bar a file: those of the message and the fronts."""
    found = _chosen_files(results, bench)
    figure = Figure(figsize=(_WIDTH, 1.9 + 0.24 * len(found)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _bars(left, found, lambda r: r.latency.p50_ms, milliseconds)
    _bars(right, found, lambda r: r.batch_latency.images_per_second, "{:,.0f}".format)
    labels = [f"{records[0].variant}  {precision_name(records[0].precision)}" for records in found]
    left.set_yticks(range(len(found)), labels, fontsize=9)
    left.invert_yaxis()
    batches = sorted({r.batch_latency.batch_size for records in found for r in records})
    left.set_xlabel("Latency at batch 1 in ms, p50\n(less is better)", fontsize=9)
    right.set_xlabel(f"Images/s at batch {' or '.join(map(str, batches))}, p50\n(more is better)", fontsize=9)
    everything = len(results.by_file(results.at(bench)))
    shown = (
        f"{len(found)} of {everything} files, the fastest first: the candidate, the unpruned models, and all that no "
        "other file beats in both accuracy and speed"
    )
    message = findings.sped_up(results, bench)
    where = (
        f"{results.where(bench)}; {shown if len(found) < everything else f'all {everything} files, the fastest first'}"
    )
    figure.suptitle(_wrapped(message, where), x=0.01, ha="left", fontsize=10)
    return figure


def _chosen_files(results: Results, bench: Bench) -> list[list[Measurement]]:
    """Return the files that bars are drawn of, the fastest at batch 1 first.

    Without room for all they are the candidate, the unpruned models, and what no other file beats, so also the fastest.
    """
    found = results.by_file(results.at(bench))
    study = results.study
    chosen = found
    if len(found) > _BARS:
        kept = {study.report.candidate, study.report.baseline, *map(results.unpruned, study.workloads)}
        alike = [[records for records in found if records[0].dataset == key] for key in study.datasets]
        fronts = {id(own[i]) for own in alike for cost in _COSTS if not cost.published for i in _front(own, cost)}
        chosen = [records for records in found if records[0].variant in kept or id(records) in fronts]
    return sorted(chosen, key=_latency_ms)


def _latency(results: Results, bench: Bench) -> Figure | None:
    """Draw which share of the calls at batch 1 took at most so long, a line a process: candidate and unpruned FP32."""
    candidate, measured = results.study.report.candidate, results.at(bench)
    unpruned = results.unpruned(results.study.variants[candidate].workload)
    files = dict.fromkeys([(unpruned or "", "fp32"), *((candidate, precision) for precision in formats.COMPUTED)])
    found = [records for file in files if (records := of_file(measured, *file)) and records[0].processes]
    if not found:
        return None
    figure = Figure(figsize=(_WIDTH, 4), layout="constrained")
    axes = figure.subplots()
    for records in found:
        first = records[0]
        colour, style = formats.BY_NAME[first.precision].colour, "--" if first.variant == unpruned else "-"
        label = f"{first.variant} {precision_name(first.precision)}"
        for process in (process for record in records for process in record.processes):
            line = np.quantile(process.latency.calls_ms, _SHARES)
            axes.plot(line, 100 * _SHARES, style, color=colour, linewidth=1, label=label)
            label = ""
    log_axis(axes)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.set_xlabel("Latency of a call at batch 1 in ms, log scale")
    axes.set_ylabel("Calls that took at most as long, in %")
    _title(axes, _tail(results, bench), f"{results.where(bench)}, one line per process")
    _legend_below(figure)
    return figure


def _tail(results: Results, bench: Bench) -> str:
    """Say how far the candidate's calls spread."""
    found = next((r for r in results.candidate_file(bench) if r.processes), None)
    if found is None:
        return ""
    half, most = milliseconds(found.latency.p50_ms), milliseconds(found.latency.p90_ms)
    name = f"{found.variant} {precision_name(found.precision)}"
    return f"Half of the calls of {name} take at most {half} ms, nine of ten at most {most} ms"


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
    axes.bar_label(bars, [write(value) for value in values], padding=3, fontsize=9)
    axes.margins(x=0.36, y=0.01)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.10g}"))


def _training(results: Results) -> Figure | None:
    """Draw loss and top-1 over the epochs, a line a workload and seed."""
    on = {device: results.on(device) for device in results.devices()}
    curved = [r for r in results.trainings if r.curve and not on[r.device.identity].repeats(r.workload)]
    if not curved:
        return None
    figure = Figure(figsize=(_WIDTH, 4), layout="constrained")
    loss, top1 = figure.subplots(1, 2)
    keys = [key for key in results.study.workloads if any(record.workload == key for record in curved)]
    for number, key in enumerate(keys):
        _curves(loss, top1, [record for record in curved if record.workload == key], number)
    for axes, label in ((loss, "Training loss"), (top1, f"Top-1 in %, {split_name(curved[0].split)}")):
        axes.set_xlabel("Epoch")
        axes.set_ylabel(label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend_below(figure)
    where = " and ".join(dict.fromkeys(results.labels[record.device.identity] for record in curved))
    figure.suptitle(_wrapped(f"Loss and top-1 over the epochs, trained on {where}"), x=0.01, ha="left", fontsize=10)
    return figure


def _curves(loss: Axes, top1: Axes, records: Sequence[Training], number: int) -> None:
    """Draw the trainings of a workload; `number` is its place among the others."""
    colour, style = LINES[number % len(LINES)], _DASHES[number % len(_DASHES)]
    wide = max(1.0, 2.5 - number / 2)  # so that a line which lies under another one shows
    for index, record in enumerate(records):
        label = f"{record.workload} ({record.precision.upper()})" if index == 0 else None
        scored = [(e.epoch, 100 * e.top1_accuracy) for e in record.curve if e.top1_accuracy is not None]
        losses = [e.train_loss for e in record.curve]
        loss.plot([e.epoch for e in record.curve], losses, style, color=colour, linewidth=wide)
        # One point makes no line; hollow ones of their own form show those of other workloads that lie under them.
        dot = MARKERS[number % len(MARKERS)] if len(scored) == 1 else ""
        at, scores = [x for x, _ in scored], [y for _, y in scored]
        top1.plot(
            at, scores, style, marker=dot, markersize=9, fillstyle="none", color=colour, linewidth=wide, label=label
        )


def _layers(results: Results, bench: Bench) -> Figure | None:
    """Draw which share of the time each layer of the candidate's file takes at the large batch, the longest first."""
    record = next((r for r in results.candidate_file(bench) if r.batch_layers), None)
    total = sum(layer.ms for layer in record.batch_layers) if record else 0.0
    if record is None or not total:
        return None
    shown = sorted(record.batch_layers, key=lambda layer: (-layer.ms, layer.name))[:_LAYERS]
    weighted = [layer.channels is not None for layer in shown]
    colours = {True: formats.BY_NAME[record.precision].colour, False: GREY}
    figure = Figure(figsize=(_WIDTH, 1.6 + 0.22 * len(shown)), layout="constrained")
    axes = figure.subplots()
    shares = [100 * layer.ms / total for layer in shown]
    bars = axes.barh(range(len(shown)), shares, color=[colours[own] for own in weighted], height=0.72)
    axes.bar_label(bars, [f"{share:.1f}" for share in shares], padding=3, fontsize=9)
    _layer_names(axes, [f"{layer.name}  {layer.channels or ''}".rstrip() for layer in shown])
    rest = f"; the {len(shown)} longest" if len(shown) < len(record.batch_layers) else ""
    axes.set_xlabel(f"% of the time at batch {record.batch_latency.batch_size}{rest}")
    name = f"{record.variant}, {precision_name(record.precision)}"
    about = f"{results.where(bench)}; beside a name: channels"
    _title(axes, f"{name}: {anatomy.message(record.batch_layers)}", about, _LAYERS_TITLE_WIDTH)
    names = {True: "convolution or linear layer", False: "other operator"}
    handles = [Patch(color=colours[own], label=names[own]) for own in sorted(set(weighted), reverse=True)]
    axes.legend(handles=handles, loc="lower right")
    return figure


def _layer_names(axes: Axes, names: Sequence[str]) -> None:
    """Write names of layers at the bars, the end of those that are long, and tidy the axes."""
    axes.set_yticks(range(len(names)), [name if len(name) <= 34 else f"…{name[-33:]}" for name in names], fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.01)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)


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
    figure = Figure(figsize=(_WIDTH, 1.5 + 0.22 * len(shown)), layout="constrained")
    axes = figure.subplots()
    shares = [100 * layer.divergence / total for layer in shown]
    bars = axes.barh(range(len(shown)), shares, color=[colours[kept] for kept in in_float], height=0.72)
    axes.bar_label(bars, [f"{share:.1f}" for share in shares], padding=3, fontsize=9)
    _layer_names(axes, [layer.layer for layer in shown])
    rest = f"; the {len(shown)} layers that lose most" if len(shown) < len(chosen.sensitivity) else ""
    axes.set_xlabel(f"Divergence from FP32 with this layer alone in INT8,\nin % of all layers' sum{rest}")
    axes.set_title(f"{variant} in INT8: {mixed.message(chosen)}", loc="left")
    names = {True: "left in float", False: "in INT8"}
    handles = [Patch(color=colours[kept], label=names[kept]) for kept in sorted(set(in_float), reverse=True)]
    axes.legend(handles=handles, loc="lower right")
    return figure


def _accuracy_legend(figure: Figure, found: list[list[Measurement]], published: bool, ringed: Sequence[str]) -> None:
    forms, precisions = _forms(found), {records[0].precision for records in found}

    def dot(label: str, colour: str, form: str = "o", **style: Any) -> Line2D:
        return Line2D([], [], marker=form, linestyle="", color=colour, label=label, **style)

    handles = [dot(precision_name(p), formats.BY_NAME[p].colour) for p in formats.COMPUTED if p in precisions]
    handles += [dot(pretty(model), GREY, form) for model, form in forms.items()]
    if published:
        handles.append(dot("hollow: published study", GREY, fillstyle="none"))
    if ringed:
        handles.append(dot(" or ".join(ringed), INK, fillstyle="none", markersize=12))
    handles.append(Line2D([], [], label="Pareto front, ours", **_FRONT_STYLE))
    figure.legend(handles=handles, loc="outside lower left", ncols=3)


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
    return latency_ms(records).mean


def _images_per_second(records: Sequence[Measurement]) -> float:
    return images_per_second(records).mean


_COSTS = (
    Cost("size", "Size of the ONNX file or engine in MiB, log scale (less is better)", _size, findings.shrunk,
         published=True),
    Cost("latency", "Latency at batch 1 in ms, p50, log scale (less is better)", _latency_ms, findings.sped_up),
    Cost("throughput", "Images/s at batch {batch}, p50, log scale (more is better)", _images_per_second,
         findings.yielded, more_is_better=True),
)  # fmt: skip
