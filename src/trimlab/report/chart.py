"""The page's interactive chart: all measured files, over axes to choose, as a Vega-Lite specification."""

from collections.abc import Sequence
from typing import Any

from trimlab import formats
from trimlab.records import Measurement
from trimlab.report import reference
from trimlab.report.figures import uncertainty
from trimlab.report.recommendation import roles
from trimlab.report.results import Bench, Results, batch_latency_ms, latency_ms, mean
from trimlab.report.tables import describe
from trimlab.report.text import MIB, precision_name, pretty

SIZE, LATENCY, RATE = "Size, MiB", "Latency at batch 1, ms", "Images/s at the large batch"
MACS, PARAMS, TOP1 = "MACs, millions", "Parameters, millions", "Top-1, %"
ACROSS = (SIZE, LATENCY, RATE, MACS, PARAMS)
UP = (TOP1, *ACROSS)
PUBLISHED = "published study"
INK, FAINT = "currentColor", "#888888"
CONTROLS = "chart-controls"
"""The element of the page that holds the selectors."""

_BY_COST = [{"field": "cost"}, {"field": "y", "order": "descending"}]
_FRONT = [
    {"filter": f"!datum.Published && up === '{TOP1}'"},
    {"calculate": f"across === '{RATE}' ? -datum.x : datum.x", "as": "cost"},
    {"window": [{"op": "max", "field": "y", "as": "best"}], "sort": _BY_COST},
    {"window": [{"op": "lag", "field": "best", "as": "before"}], "sort": _BY_COST},
    {"filter": "!isValid(datum.before) || datum.y > datum.before"},
]
"""The files that no other one beats in both accuracy and what lies across."""
NOTE = (
    "Each point is a file; point at it for its figures. Bars are 95 % intervals, or standard deviations over seeds; "
    "hollow points are the published study's; the line is what no other file beats. Click a precision in the legend to "
    "highlight its files, and click in the chart to see all again."
)
_DESCRIPTION = "A chart of all measured files, over axes to choose. The tables below hold the same figures."


def specification(results: Results) -> dict[str, Any] | None:
    """Return the chart; None with fewer than two files."""
    benches = results.benches()
    points = [point for bench in benches for point in _points(results, bench)]
    if sum(not point["Published"] for point in points) < 2:
        return None
    places = [results.where(bench) for bench in benches]
    precisions = [p for p in formats.COMPUTED if any(point["Precision"] == precision_name(p) for point in points)]
    colours = {
        "domain": [precision_name(p) for p in precisions],
        "range": [formats.BY_NAME[p].colour for p in precisions],
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "description": _DESCRIPTION,
        "width": "container",
        "height": 440,
        "autosize": {"type": "fit", "contains": "padding"},
        "background": "transparent",
        "title": {"text": {"expr": "[up + ' over ' + across, place]"}, "anchor": "start", "fontSize": 14},
        "config": {
            # The page's own colours, which differ in dark mode.
            "axis": {
                "labelColor": INK,
                "domainColor": FAINT,
                "tickColor": FAINT,
                "gridColor": FAINT,
                "gridOpacity": 0.25,
                "labelFontSize": 12,
                "labelSeparation": 6,
            },
            "title": {"color": INK},
            "view": {"stroke": None},
            "legend": {
                "orient": "bottom",
                "columns": 4,
                "labelColor": INK,
                "titleColor": INK,
                "labelFontSize": 12,
                "titleFontSize": 12,
                "layout": {"bottom": {"direction": "vertical", "margin": 6}},
            },
        },
        "params": [_select("across", ACROSS, "Across:"), _select("up", UP, "Up:"), _select("place", places, "On:")],
        "data": {"values": points},
        "transform": [
            {"filter": "datum.Place === place"},
            {"calculate": "datum[across]", "as": "x"},
            {"calculate": "datum[up]", "as": "y"},
            {"filter": "isValid(datum.x) && isValid(datum.y)"},
            {"calculate": f"up === '{TOP1}' ? datum.Low : datum.y", "as": "low"},
            {"calculate": f"up === '{TOP1}' ? datum.High : datum.y", "as": "high"},
        ],
        "encoding": {
            "x": {
                "field": "x",
                "type": "quantitative",
                "scale": {"type": "log", "nice": False, "padding": 40},
                "title": None,
            },
            "y": _upwards("y"),
        },
        "layer": [
            {
                "transform": _FRONT,
                # As far as the next file, which costs more, nothing is better than the last one.
                "mark": {
                    "type": "line",
                    "interpolate": {"expr": f"across === '{RATE}' ? 'step-before' : 'step-after'"},
                    "strokeWidth": 1,
                    "color": FAINT,
                },
            },
            # The legend is that of the first layer with colours: the one that it chooses from.
            {
                "transform": [{"filter": "!datum.Published"}],
                "params": [
                    {"name": "chosen", "select": {"type": "point", "fields": ["Precision"]}, "bind": "legend"},
                ],
                "mark": {"type": "point", "filled": True, "size": 80},
                "encoding": {**_looks(colours, 0.9), "tooltip": _tooltip(*UP)},
            },
            {
                "mark": {"type": "rule", "strokeWidth": 1},
                "encoding": {
                    "y": _upwards("low"),
                    "y2": {"field": "high"},
                    **{name: how for name, how in _looks(colours, 0.9).items() if name != "shape"},
                },
            },
            {
                "transform": [{"filter": "datum.Published"}],
                "mark": {"type": "point", "size": 80, "strokeWidth": 2},
                "encoding": {**_looks(colours, 1), "tooltip": _tooltip(SIZE, TOP1)},
            },
            {
                "transform": [{"filter": "datum.Role"}],
                "mark": {"type": "point", "size": 420, "color": INK, "tooltip": None},
            },
            {
                "transform": [{"filter": "datum.Role"}],
                "mark": {
                    "type": "text",
                    "dy": {"expr": "datum.Role === 'candidate' ? -40 : -20"},
                    "fontSize": 12,
                    "color": INK,
                },
                "encoding": {"text": {"field": "Role"}},
            },
        ],
    }


def _select(name: str, options: Sequence[str], label: str) -> dict[str, Any]:
    """Return a selector, which stands above the chart, where no tooltip covers it."""
    bound = {"input": "select", "options": list(options), "name": label, "element": f"#{CONTROLS}"}
    return {"name": name, "value": options[0], "bind": bound}


def _looks(colours: dict[str, Any], opacity: float) -> dict[str, Any]:
    """Return how a file's mark looks; a point that lies under another one shows through."""
    return {
        "color": {"field": "Precision", "type": "nominal", "scale": colours},
        "shape": {
            "field": "Model",
            "type": "nominal",
            "legend": {"symbolFillColor": FAINT, "symbolStrokeColor": FAINT},
        },
        "opacity": {"condition": {"param": "chosen", "value": opacity}, "value": 0.1},
    }


def _tooltip(*figures: str) -> list[dict[str, Any]]:
    numbers = [{"field": name, "type": "quantitative", "format": ",.4~g"} for name in figures]
    return [{"field": name} for name in ("File", "Precision", "Measured on")] + numbers + [{"field": "Top-1 interval"}]


def _upwards(field: str) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "scale": {"zero": False, "nice": False, "padding": 40},
        "title": None,
    }


def _points(results: Results, bench: Bench) -> list[dict[str, Any]]:
    dataset = results.dataset_of(results.study.report.baseline)
    measured = [record for record in results.at(bench) if record.dataset == dataset]
    place = results.where(bench)
    named = roles(results, bench)
    own = [
        _point(results, found, place) | {"Role": named.get((found[0].variant, found[0].precision), "")}
        for found in results.by_file(measured)
    ]
    models = {record.model: record for record in measured}
    published = [p for record in models.values() for p in results.published(record, reference.points) or []]
    return [*own, *(_published(point, place) for point in published)]


def _point(results: Results, found: Sequence[Measurement], place: str) -> dict[str, Any]:
    first, top1 = found[0], 100 * mean([record.top1_accuracy for record in found])
    ((down,), (up,)) = uncertainty(found)
    return {
        "File": f"{describe(results, found)} ({first.variant})",
        "Model": pretty(first.model),
        "Precision": precision_name(first.precision),
        "Place": place,
        "Measured on": place,
        SIZE: mean([record.deployed_bytes for record in found]) / MIB,
        LATENCY: latency_ms(found).mean,
        RATE: 1000 * first.batch_latency.batch_size / batch_latency_ms(found).mean,
        MACS: mean([record.macs for record in found]) / 1e6,
        PARAMS: mean([record.num_params for record in found]) / 1e6,
        TOP1: top1,
        "Low": top1 - down,
        "High": top1 + up,
        "Top-1 interval": f"{top1 - down:.1f}–{top1 + up:.1f} %",
        "Published": False,
    }


def _published(point: reference.Point, place: str) -> dict[str, Any]:
    """Return a published point: its times cannot be compared, so it has a size alone."""
    return {
        "File": f"{pretty(point.model)}, pruned by {100 * point.ratio:g} %: {PUBLISHED} ({pretty(point.size_of)})",
        "Model": pretty(point.model),
        "Precision": precision_name(point.precision),
        "Place": place,
        "Measured on": "not on this device: as published",
        SIZE: point.size_mib,
        TOP1: point.top1_percent,
        "Low": point.top1_percent,
        "High": point.top1_percent,
        "Top-1 interval": "not given",
        "Published": True,
        "Role": "",
    }
