"""How much each group of coupled layers can lose, and the widths that were chosen from it.

A table, findings and curves, pure functions of results.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from trimlab.records import GroupCurve, Pruning, Sensitivity
from trimlab.report.model import Column, Finding, Span, Table, Value, code, words
from trimlab.report.results import Results, mean
from trimlab.report.tables import Values, where
from trimlab.report.text import count, millions, ratio_percent

COMPARED_AT = 0.5
"""Share of a group's channels at whose loss groups are compared."""
_IMAGES = {
    True: ", on which the model was trained",
    False: ", on which the model was not trained",
    None: "; what the given weights were trained on is not known",
}


class Lost(NamedTuple):
    """What a model loses where one group is pruned alone; means over seeds."""

    ratio: float
    points: float
    """Of top-1, against the unpruned model on the same images."""
    loss: float
    """Increase of the cross-entropy."""


class Extremes(NamedTuple):
    """The groups that lose most and least, near `COMPARED_AT`."""

    most: tuple[str, Lost]
    least: tuple[str, Lost]


def measured(results: Results, workload: str) -> list[Sensitivity]:
    """Return a workload's sensitivity, one a seed where one device is left."""
    found = [record for record in results.sensitivities if record.workload == workload]
    return [r for r in found if (r.importance, r.keep) == (found[0].importance, found[0].keep)]


def curves(found: Sequence[Sensitivity]) -> dict[str, list[Lost]]:
    """Return each group's curve by the group's name, rising in ratio; groups that cannot lose a channel have none."""
    return {
        group.layers[0]: [_lost(found, place, point) for point in range(len(group.points))]
        for place, group in enumerate(found[0].groups)
        if group.points
    }


def _lost(found: Sequence[Sensitivity], group: int, point: int) -> Lost:
    pairs = [(record.unpruned, record.groups[group].points[point]) for record in found]
    return Lost(
        pairs[0][1].ratio,
        100 * mean([unpruned.top1_accuracy - pruned.top1_accuracy for unpruned, pruned in pairs]),
        mean([pruned.loss - unpruned.loss for unpruned, pruned in pairs]),
    )


def extremes(found: Sequence[Sensitivity]) -> Extremes | None:
    """Return the groups that lose most and least; None where there are fewer than two."""
    at = {name: min(lost, key=lambda each: abs(each.ratio - COMPARED_AT)) for name, lost in curves(found).items()}
    if len(at) < 2:
        return None
    ordered = sorted(at.items(), key=lambda item: (item[1].points, item[1].loss))
    return Extremes(ordered[-1], ordered[0])


def points(lost: Lost) -> str:
    """Write the points lost with one decimal."""
    return f"{round(lost.points, 1) + 0.0:.1f}".replace("-", "−")


def finding(results: Results, workload: str) -> Finding | None:
    """Say which group loses most and which least, and on which images that was scored."""
    found = measured(results, workload)
    ends = extremes(found) if found else None
    if ends is None:
        return None
    (dearest, most), (cheapest, least) = ends
    first = found[0]
    return Finding.of(
        "Pruned alone and not fine-tuned, ",
        *_named(first, dearest),
        f" costs most: {points(most)} points of top-1 at {ratio_percent(most.ratio)}; ",
        *_named(first, cheapest),
        f" costs least: {points(least)} points at {ratio_percent(least.ratio)}. BatchNorm's statistics are "
        f"re-estimated each time. Scored on {first.num_images:,} images of the hold-out"
        f"{_IMAGES[first.trained_on_images]}.",
        most_lost_points=most.points,
        least_lost_points=least.points,
    )


def _named(record: Sensitivity, name: str) -> list[str | Span]:
    """Name a group by its first layer, and say how many it couples."""
    layers = next(len(group.layers) for group in record.groups if group.layers[0] == name)
    return [code(name), f" (with the {count(layers - 1, 'layer')} coupled to it)" if layers > 1 else ""]


def chosen(results: Results, workload: str) -> list[list[Pruning]]:
    """Return the variants whose ratios were chosen layer by layer, each a record a seed."""
    found = (results.pruned(variant) for variant in results.variants_of(workload))
    return [records for records in found if records and records[0].layer_ratios]


def widths(results: Results, workload: str) -> Table | None:
    """Return the channels that each group keeps: where they were chosen, and in uniform variants of about that size.

    None without a variant whose ratios were chosen, or without the sensitivity from which they were.
    """
    found, adaptive = measured(results, workload), chosen(results, workload)
    if not found or not adaptive:
        return None
    shown = _beside(results, workload, adaptive)
    columns = [
        words("Layer"), Column("Coupled layers"), Column("Unpruned"), *(Column(each[0].variant) for each in shown),
    ]  # fmt: skip
    rows = [_widths_row(group, shown) for group in found[0].groups]
    sizes = ", ".join(f"{r[0].variant} {millions(mean([each.num_params for each in r]))}" for r in shown)
    caption = (
        f"{where(results, [record for records in shown for record in records])}. Output channels of the first layer of "
        f"each group; several numbers are of several seeds. Parameters in M: {sizes}."
    )
    return Table.of(results.key(f"widths-{workload}", found[0].device.identity), columns, rows, caption)


def _beside(results: Results, workload: str, adaptive: Sequence[Sequence[Pruning]]) -> list[list[Pruning]]:
    """Return the chosen variants, and for each the uniform one whose number of parameters is nearest."""
    found = [records for variant in results.variants_of(workload) if (records := results.pruned(variant))]
    uniform = [r for r in found if r[0].scope == "uniform" and r[0].ratio > 0 and r[0].initial == "pruned"]
    wanted = {records[0].variant for records in adaptive}
    for chosen in adaptive if uniform else ():
        nearest = min(uniform, key=lambda r: abs(math.log(r[0].num_params / chosen[0].num_params)))
        wanted.add(nearest[0].variant)
    return [records for records in found if records[0].variant in wanted]


def _widths_row(group: GroupCurve, shown: Sequence[Sequence[Pruning]]) -> Values:
    kept = [sorted({record.widths[group.layers[0]] for record in records}) for records in shown]
    return [
        Value(group.layers[0], style="code"),
        Value(str(len(group.layers)), len(group.layers)),
        Value(str(group.width), group.width),
        *(Value("–".join(map(str, each)), mean(each)) for each in kept),
    ]
