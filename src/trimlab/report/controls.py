"""Pruned models beside their controls: the shape from fresh weights, random channels, one ratio, no distillation."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from trimlab.config import Params
from trimlab.records import Pruning
from trimlab.report import budgets
from trimlab.report.findings import tested
from trimlab.report.intervals import Difference
from trimlab.report.model import Column, Finding, Table, Value, strong, words
from trimlab.report.results import Results, mean, mean_ratio
from trimlab.report.tables import RATIO, SEEDS, TOP1, Values, ratio_of, top1, where, whole
from trimlab.report.text import count, millions, p_value, plus_minus, ratio_percent

UNEQUAL = "unequal budgets"
SAME_AMOUNT = 0.02
"""Up to which relative difference of parameters or multiply-accumulates two models take as much, as with a target."""


class Control(NamedTuple):
    """A kind of control."""

    key: str
    heading: str
    explained: str
    may_have: Callable[[Params, str], bool]
    """Says whether a variant may have such a control."""
    may_be: Callable[[Params, str], bool]
    """Says whether a variant may be such a control: of thousands of variants few may, and only those are compared."""
    is_one: Callable[[Params, str, str], bool]
    """Says of a study whether the second variant, which may be one, is the control of the first."""
    as_large: bool = False
    """Whether the two must also be of equal size, which the records tell."""


class Pair(NamedTuple):
    """A pruned variant and a control, each a record a seed."""

    pruned: list[Pruning]
    control: list[Pruning]


def _from_scratch(study: Params, variant: str, control: str) -> bool:
    return study.same_shape(variant, control)


def _random(study: Params, variant: str, control: str) -> bool:
    return _equal_but_for(study, variant, control, importance=None)


def _uniform(study: Params, variant: str, control: str) -> bool:
    return _equal_but_for(study, variant, control, allocation=None, ratio=None, target=None)


def _undistilled(study: Params, variant: str, control: str) -> bool:
    return _equal_but_for(study, variant, control, distillation=0.0, temperature=1.0, soft_labels="fresh")


def _equal_but_for(study: Params, variant: str, control: str, **values: float | str | None) -> bool:
    ours, theirs = (study.point(key).model_copy(update=values) for key in (variant, control))
    return ours == theirs


CONTROLS = (
    Control(
        "scratch",
        "Pruned against the same shape trained from scratch",
        "From scratch: the pruned widths with fresh weights, trained with the recipe of the control's own point.",
        lambda study, variant: study.pruning_of(variant).importance != "random",
        lambda study, control: study.point(control).initial == "scratch",
        _from_scratch,
    ),
    Control(
        "random",
        "Chosen channels against random ones",
        "The control keeps random channels; everything else is equal.",
        lambda study, variant: study.pruning_of(variant).importance != "random",
        lambda study, control: study.pruning_of(control).importance == "random",
        _random,
    ),
    Control(
        "uniform",
        "Ratios chosen layer by layer against one ratio",
        "The control removes an equal share of every layer's channels. Where a target limits multiply-accumulates or "
        "parameters, the control has as many within 2 %, otherwise the same ratio; everything else is equal.",
        lambda study, variant: study.pruning_of(variant).allocation != "uniform",
        lambda study, control: study.pruning_of(control).allocation == "uniform" and study.point(control).prunes,
        _uniform,
        as_large=True,
    ),
    Control(
        "undistilled",
        "Distilled against true labels alone",
        "The control is fine-tuned without the unpruned model's soft labels; everything else is equal.",
        lambda study, variant: study.point(variant).distillation > 0,
        lambda study, control: study.point(control).distillation == 0,
        _undistilled,
    ),
)


def pairs(results: Results, control: Control) -> list[Pair]:
    """Return each pruned variant with each of its controls of a kind, where one device recorded both."""
    study = results.study
    others = {
        workload: [key for key in results.variants_of(workload) if control.may_be(study, key)]
        for workload in study.workloads
    }
    return [
        Pair(ours, theirs)
        for workload in study.workloads
        for variant in results.variants_of(workload)
        if study.point(variant).prunes and study.point(variant).initial == "pruned" and control.may_have(study, variant)
        for other in others[workload]
        if control.is_one(study, variant, other)
        if (ours := results.pruned(variant)) and (theirs := results.pruned(other))
        if {record.seed for record in ours} & {record.seed for record in theirs}
        if not control.as_large or _as_large(ours, theirs)
    ]


def _as_large(ours: Sequence[Pruning], theirs: Sequence[Pruning]) -> bool:
    """Say whether two variants are equal in what the first one's target limits, or in their ratio without a target.

    A latency is not compared: the control was not timed when it was pruned.
    """
    target = ours[0].target
    if target is None:
        return ours[0].ratio == theirs[0].ratio
    if target.latency_ms is not None:
        return False
    first, second = (mean([r.macs if target.macs else r.num_params for r in records]) for records in (ours, theirs))
    return abs(first / second - 1) <= SAME_AMOUNT


def table(results: Results, control: Control, found: Sequence[Pair]) -> Table:
    """Return a row for each pruned variant and control: accuracies, paired difference, budgets."""
    rows: list[Values] = [_row(results, pair) for pair in found]
    columns = [
        words("Pruned"), words("Control"), RATIO, TOP1, Column("Control's top-1 %", "%"),
        Column("Pruned less control, points", "points"), Column("McNemar's p"), Column("Budget TMACs", "TMACs"),
        Column("Control's budget TMACs", "TMACs"), SEEDS,
    ]  # fmt: skip
    everything = [record for pair in found for records in pair for record in records]
    caption = (
        f"{where(results, everything)}. Torch models in FP32. {control.explained} Pruned less control: of top-1, with "
        "the half width of its 95 % interval; with several seeds the mean of their differences."
    )
    key = results.key(f"controls-{control.key}", everything[0].device.identity)
    return Table.of(key, columns, rows, caption)


def absent(results: Results) -> Finding | None:
    """Say where a study prunes, but trains no pruned shape from scratch: that leaves pruning itself untested."""
    points = [results.study.point(variant) for variant in results.study.variants]
    if not any(point.prunes for point in points) or any(point.initial == "scratch" for point in points):
        return None
    return Finding.of(
        strong("No control:"),
        " the study trains no pruned shape from scratch, so it does not show what pruning gains over that.",
    )


def findings(results: Results, found: Sequence[Pair]) -> list[Finding]:
    """Say of each pair which of the two is more accurate, where that can be told."""
    differences = [(pair, results.difference(*pair)) for pair in found]
    return [_finding(results, pair, difference) for pair, difference in differences if difference]


def answer(results: Results) -> Finding | None:
    """Count in how many pairs the pruned model is more accurate than its control; None without pairs."""
    found = [pair for control in CONTROLS for pair in pairs(results, control)]
    differences = [difference for pair in found if (difference := results.difference(*pair))]
    if not differences:
        return None
    apart = [difference for difference in differences if difference.separable]
    more = sum(difference.points > 0 for difference in apart)
    less, alike = len(apart) - more, len(differences) - len(apart)
    return Finding.of(
        f"Of {count(len(differences), 'pruned model')} with a control, {more} {_are(more)} measurably more accurate "
        f"than it, {less} {_are(less)} measurably less accurate, and {alike} cannot be told apart from it.",
        pairs=len(differences),
        more_accurate=more,
        less_accurate=less,
    )


def _are(number: int) -> str:
    return "is" if number == 1 else "are"


def _finding(results: Results, pair: Pair, difference: Difference) -> Finding:
    ours, theirs = (records[0].variant for records in pair)
    where_equal = _equal_at(pair.pruned)
    if difference.separable:
        compared = f"is {'more' if difference.points > 0 else 'less'} accurate than {theirs}"
        said = f"At {where_equal}, {ours} {compared} ({tested(difference)})"
    else:
        said = f"At {where_equal}, {ours} and {theirs} cannot be told apart ({tested(difference)})"
    equals = _equals(results, pair)
    if equals:
        said += "; their budgets are unequal" if equals == UNEQUAL else f"; the control took {equals}"
    return Finding.of(f"{said}.", points_gained=difference.points)


def _equal_at(pruned: Sequence[Pruning]) -> str:
    """Name what a pruned variant and its control have in common: what a target limits, or the ratio."""
    target = pruned[0].target
    if target and target.macs:
        return f"{mean([record.macs for record in pruned]) / 1e6:.1f} M MACs"
    if target and (target.params or target.size_mib):
        return f"{millions(mean([record.num_params for record in pruned]))} M parameters"
    return ratio_percent(mean_ratio(pruned))


def _row(results: Results, pair: Pair) -> Values:
    first, control = pair.pruned[0], pair.control[0]
    difference = results.difference(*pair)
    assert difference  # they have a seed in common
    return [
        first.variant,
        control.variant,
        ratio_of(results, pair.pruned),
        top1(pair.pruned),
        top1(pair.control),
        _gained(difference),
        _p(difference),
        budgets.of_pruned(results, pair.pruned),
        _control_budget(results, pair),
        whole(len(pair.pruned)),
    ]


def _gained(difference: Difference) -> Value:
    note = "unpaired: which images both get right is not known" if difference.kind == "unpaired" else ""
    return Value(plus_minus(difference), difference.points, note)


def _p(difference: Difference) -> Value:
    if difference.p_value is None:
        return Value("—", note="a test of one seed, on the same images")
    return Value(p_value(difference.p_value), difference.p_value)


def _control_budget(results: Results, pair: Pair) -> Value:
    """Write a control's budget; a note says what it equals, or that it equals nothing."""
    value = budgets.of_pruned(results, pair.control)
    return value if value.note else value._replace(note=_equals(results, pair))


def _equals(results: Results, pair: Pair) -> str:
    """Say what a control's budget equals; nothing where all budgets are equal, or one is not known."""
    own, other = (budgets.spent(results, records) for records in pair)
    if own.tuning is None or other.tuning is None:
        return ""
    equal = budgets.same(own.tuning, other.tuning)
    if pair.control[0].initial == "pruned":
        return "" if equal else UNEQUAL
    if equal:
        return "as much as the fine-tuning alone"
    if own.total is None:
        return _by_recipe(results, pair)
    return "as much as training and fine-tuning together" if budgets.same(own.total, other.total) else UNEQUAL


def _by_recipe(results: Results, pair: Pair) -> str:
    """Say what a control's budget equals where the unpruned weights were given: a training by the recipe."""
    ours, theirs = (results.study.point(records[0].variant) for records in pair)
    recipe = results.study.workloads[pair.control[0].workload].training
    whole = theirs.budget == "whole" and (ours.epochs, ours.distillation) == (theirs.epochs, theirs.distillation)
    return f"as much as training by {recipe} and fine-tuning together" if whole else UNEQUAL
