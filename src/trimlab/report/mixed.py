"""INT8 with some layers in float: which layers, what decided it, and whether the test bears it out."""

from collections.abc import Sequence

import numpy as np

from trimlab.records import LayerDivergence, Measurement, Mixed
from trimlab.report.intervals import Difference, paired_difference
from trimlab.report.model import Column, Finding, Table, Value, words
from trimlab.report.results import Bench, Results, bench_of, of_file
from trimlab.report.tables import Values, where, whole
from trimlab.report.text import count, plus_minus, signed

SHOWN = 8
"""Rows of a table of layers, at most."""
_HELD_OUT = {
    "test": "hold-out images, on which the model was trained as well unless its weights were given: unseen images may "
    "lose more",
    "holdout": "hold-out images, the same that this study scores",
}


def files(results: Results, bench: Bench) -> Table | None:
    """Return the files in mixed precision of a bench: layers in float, points lost on the hold-out and as scored."""
    found = [(record, record.mixed) for record in results.at(bench) if record.mixed]
    if not found:
        return None
    columns = [
        words("Variant"), Column("Seed"), Column("Weight bits"), Column("Layers in float"), words("Which"),
        Column("Allowed drop", "points"), Column("Against its FP32 on the hold-out, points", "points"),
        Column("Against its FP32 as scored, points", "points"),
    ]  # fmt: skip
    record, decided = found[0]
    caption = (
        f"{where(results, [record for record, _ in found])}. Against its FP32: points of top-1 gained over the FP32 "
        f"file of the same weights. The layers were chosen on {decided.num_images:,} {_HELD_OUT[record.split]}."
    )
    rows = [_row(results, record, mixed) for record, mixed in found]
    return Table.of(results.key("mixed", bench), columns, rows, caption)


def predictions(results: Results, bench: Bench) -> list[Finding]:
    """Say of each file that lost more than it may where it was scored, and of each that needs all layers in float."""
    said = []
    for record in results.at(bench):
        if record.mixed is None:
            continue
        name = f"{record.variant}{f', seed {record.seed}' if len(results.study.seeds) > 1 else ''}"
        if _in_float(record.mixed) == len(record.mixed.sensitivity) > 0:
            said.append(
                Finding.of(
                    f"{name}: no layer can be computed in INT8 within {record.mixed.max_drop:g} points, so the file is "
                    "all float."
                )
            )
        scored = _scored(results, record)
        if scored and scored.separable and -scored.points > record.mixed.max_drop:
            said.append(
                Finding.of(
                    f"{name} loses {-scored.points:.2f} ± {scored.half_width:.2f} points where it is scored, more than "
                    f"the {record.mixed.max_drop:g} that it may lose on the hold-out.",
                    about=results.key("mixed", bench),
                    points_lost=-scored.points,
                )
            )
    return said


def of_variant(results: Results, variant: str) -> tuple[Measurement, Mixed] | None:
    """Return a variant's first file in mixed precision: its first seed, where files were measured first."""
    for bench in results.benches():
        for record in sorted(of_file(results.at(bench), variant, "int8-mixed"), key=lambda record: record.seed):
            if record.mixed and record.mixed.sensitivity:
                return record, record.mixed
    return None


def message(mixed: Mixed) -> str:
    """Say in a few words how the loss is spread over the layers."""
    values = [layer.divergence for layer in mixed.sensitivity]
    total = sum(values)
    if not total:
        return f"none of {count(len(values), 'layer')} loses anything in INT8"
    few = int(np.searchsorted(np.cumsum(values) / total, 0.5)) + 1
    share = 100 * sum(values[:few]) / total
    return f"{few} of {count(len(values), 'layer')} {'makes' if few == 1 else 'make'} {share:.0f} % of the loss"


def layers(results: Results, variant: str) -> Table | None:
    """Return the layers of a variant that lose most in INT8, each alone."""
    found = of_variant(results, variant)
    if found is None:
        return None
    record, mixed = found
    shown, kept = mixed.sensitivity[:SHOWN], set(mixed.float_layers)
    total = sum(layer.divergence for layer in mixed.sensitivity) or 1.0
    rows = [_layer_row(layer, total, kept) for layer in shown]
    columns = [
        words("Layer"),
        Column("Divergence", "nats"),
        Column("Share of all layers' %", "%"),
        words("Computed in"),
    ]
    rest = len(mixed.sensitivity) - len(shown)
    more = f" The other {rest} layers lose less." if rest else ""
    caption = (
        f"{variant}, seed {record.seed}: each layer alone in INT8, all others in float. Divergence: mean "
        "Kullback-Leibler divergence of the classes' probabilities from FP32's on calibration images, in exact "
        f"arithmetic with 8-bit weights. Computed in: in the file with {record.weight_bits or 8}-bit weights.{more}"
    )
    return Table.of(f"int8-layers-{variant}", columns, rows, caption)


def _layer_row(layer: LayerDivergence, total: float, kept: set[str]) -> Values:
    share = 100 * layer.divergence / total
    return [
        layer.layer,
        Value(f"{layer.divergence:.2g}", layer.divergence),
        Value(f"{share:.0f}", share),
        "float" if layer.layer in kept else "INT8",
    ]


def _in_float(mixed: Mixed) -> int:
    return len(mixed.float_layers)


def _row(results: Results, record: Measurement, mixed: Mixed) -> Values:
    scored = _scored(results, record)
    return [
        record.variant,
        whole(record.seed),
        whole(record.weight_bits or 8),
        Value(f"{_in_float(mixed)} of {len(mixed.sensitivity)}", _in_float(mixed)),
        _listed(mixed.float_layers),
        Value(f"{mixed.max_drop:g}", mixed.max_drop),
        _points(_predicted(mixed)),
        _points(scored) if scored else Value("—", note="no FP32 file of the same weights was measured"),
    ]


def _points(difference: Difference) -> Value:
    text = plus_minus(difference) if difference.kind == "paired" else signed(difference.points)
    return Value(text, difference.points)


def _predicted(mixed: Mixed) -> Difference:
    """Return what a file gains on the hold-out; the order of the images does not matter."""
    same = mixed.num_images - mixed.lost - mixed.gained
    fp32, file = np.ones(mixed.num_images, bool), np.ones(mixed.num_images, bool)
    file[same : same + mixed.lost] = False
    fp32[same + mixed.lost :] = False
    return paired_difference(file, fp32)


def _scored(results: Results, record: Measurement) -> Difference | None:
    measured = results.at(bench_of(record))
    fp32 = [r for r in of_file(measured, record.variant, "fp32") if r.weights_sha256 == record.weights_sha256]
    return results.difference([record], fp32)


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
