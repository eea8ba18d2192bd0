"""The page's interactive chart: all measured files, over axes to choose, as a Vega-Lite specification."""

from collections.abc import Sequence
from typing import Any

from trimlab import formats
from trimlab.records import Measurement
from trimlab.report import reference
from trimlab.report.figures import uncertainty
from trimlab.report.results import Bench, Results, batch_latency_ms, latency_ms, mean
from trimlab.report.tables import describe
from trimlab.report.text import MIB, precision_name, pretty

SIZE, LATENCY, RATE = "Size, MiB", "Latency at batch 1, ms", "Images/s at the large batch"
MACS, PARAMS, TOP1 = "MACs, millions", "Parameters, millions", "Top-1, %"
ACROSS = (SIZE, LATENCY, RATE, MACS, PARAMS)
UP = (TOP1, *ACROSS)
PUBLISHED = "published study"


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
    "hollow points are the published study's; the line is the Pareto front. A click on a precision in the legend "
    "sets its files off."
)


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
        "width": "container",
        "height": 420,
        "autosize": {"type": "fit", "contains": "padding"},
        # Two lines, because one is cut off on a telephone.
        "title": {"text": {"expr": "[up + ' over ' + across, place]"}, "anchor": "start", "fontSize": 15},
        "config": {"legend": {"orient": "bottom", "titleOrient": "left"}, "axis": {"labelSeparation": 6}},
        "params": [_select("across", ACROSS, "Across: "), _select("up", UP, "Up: "), _select("place", places, "On: ")],
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
                "scale": {"type": "log", "nice": False, "padding": 16},
                "title": None,
            },
            "color": {"field": "Precision", "type": "nominal", "scale": colours},
            "opacity": {"condition": {"param": "chosen", "value": 1}, "value": 0.15},
        },
        "layer": [
            {
                "transform": _FRONT,
                "mark": {"type": "line", "interpolate": "step-after", "strokeWidth": 1, "color": "#777777"},
                "encoding": {
                    "y": _upwards("y"),
                    "order": {"field": "cost"},
                    "color": {"value": "#777777"},
                    "opacity": {"value": 1},
                },
            },
            {
                "mark": {"type": "rule", "strokeWidth": 1},
                "encoding": {"y": _upwards("low"), "y2": {"field": "high"}},
            },
            {
                "params": [
                    {"name": "chosen", "select": {"type": "point", "fields": ["Precision"]}, "bind": "legend"},
                ],
                "mark": {"type": "point", "size": 90, "strokeWidth": 2},
                "encoding": {
                    "y": _upwards("y"),
                    "shape": {"field": "Model", "type": "nominal"},
                    "fillOpacity": {"condition": {"test": "datum.Published", "value": 0}, "value": 1},
                    "fill": {"field": "Precision", "type": "nominal", "scale": colours},
                    "tooltip": [{"field": name} for name in ("File", "Precision", "Place")]
                    + [{"field": name, "type": "quantitative", "format": ",.4~g"} for name in UP]
                    + [{"field": "Interval"}],
                },
            },
        ],
    }


def _select(name: str, options: Sequence[str], label: str) -> dict[str, Any]:
    return {"name": name, "value": options[0], "bind": {"input": "select", "options": list(options), "name": label}}


def _upwards(field: str) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "scale": {"zero": False}, "title": None}


def _points(results: Results, bench: Bench) -> list[dict[str, Any]]:
    dataset = results.dataset_of(results.study.report.baseline)
    measured = [record for record in results.at(bench) if record.dataset == dataset]
    place = results.where(bench)
    own = [_point(results, found, place) for found in results.by_file(measured)]
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
        SIZE: mean([record.deployed_bytes for record in found]) / MIB,
        LATENCY: latency_ms(found).mean,
        RATE: 1000 * first.batch_latency.batch_size / batch_latency_ms(found).mean,
        MACS: mean([record.macs for record in found]) / 1e6,
        PARAMS: mean([record.num_params for record in found]) / 1e6,
        TOP1: top1,
        "Low": top1 - down,
        "High": top1 + up,
        "Interval": f"{top1 - down:.1f}–{top1 + up:.1f} %",
        "Published": False,
    }


def _published(point: reference.Point, place: str) -> dict[str, Any]:
    """Return a published point: its times cannot be compared, so it has a size alone."""
    return {
        "File": f"{pretty(point.model)}, pruned by {100 * point.ratio:g} %: {PUBLISHED} ({pretty(point.size_of)})",
        "Model": pretty(point.model),
        "Precision": precision_name(point.precision),
        "Place": place,
        SIZE: point.size_mib,
        TOP1: point.top1_percent,
        "Low": point.top1_percent,
        "High": point.top1_percent,
        "Interval": "not given",
        "Published": True,
    }
