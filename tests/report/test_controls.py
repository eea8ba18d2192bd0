"""Pruned models beside their controls, and what trainings cost."""

import os
import re
from pathlib import Path
from typing import Any

import pytest

import factories
from trimlab.report import budgets, controls, findings, tables
from trimlab.report.model import Table
from trimlab.report.results import Results
from trimlab.report.sections import report

GOLDEN = Path(__file__).parent / "golden"
SCRATCH, RANDOM, UNIFORM, UNDISTILLED = controls.CONTROLS


def results(changes: dict[str, dict[str, Any]] | None = None, known: bool = True, **settings: Any) -> Results:
    """Return the controlled study; `changes` are those of a variant's pruning records."""
    study = factories.controlled_study(**settings)
    made = [
        record.model_copy(update=(changes or {}).get(getattr(record, "variant", ""), {}))
        if record.kind == "pruning"
        else record
        for record in factories.everything(study)
    ]
    return Results.of(study, made, factories.classified(made) if known else None)


def made(of: Results, control: controls.Control) -> Table:
    return controls.table(of, control, controls.pairs(of, control))


def said(of: Results, control: controls.Control) -> list[str]:
    return [finding.plain for finding in controls.findings(of, controls.pairs(of, control))]


def column(table: Table, header: str) -> list[tuple[str, str]]:
    index = [column.header for column in table.columns].index(header)
    return [(row[index].text, row[index].note) for row in table.rows]


def test_each_pruned_point_stands_beside_its_controls_alone() -> None:
    of = results()
    found = [
        [(p.pruned[0].variant, p.control[0].variant) for p in controls.pairs(of, kind)] for kind in controls.CONTROLS
    ]
    assert found == [
        [("large-r50", "large-r50-scratch"), ("large-r50", "large-r50-whole")],
        [("large-r50", "large-r50-random")],
        [("large-r50-search", "large-r50")],
        [("candidate", "large-r60-plain")],
    ]


def test_a_study_without_controls_has_no_such_section() -> None:
    study = factories.study()
    text = factories.document(report(Results.of(study, factories.everything(study)), []))
    assert not any(control.heading in text for control in controls.CONTROLS)
    text = factories.document(report(results(), []))
    assert all(f"## {control.heading}" in text for control in controls.CONTROLS)


def limited(target: dict[str, float], **factors: float) -> Results:
    """Return results where chosen ratios meet a target; what they take is that of one ratio times a factor."""
    base = factories.controlled_study().model_dump()
    points = base["sweep"] | {"r50-search": base["sweep"]["r50-search"] | {"ratio": None, "target": target}}
    study = factories.study(sweep=points, variants=base["variants"])
    uniform = factories.pruning(study, "large-r50")
    values = {key: round(factor * getattr(uniform, key)) for key, factor in factors.items()}
    own = factories.pruning(study, "large-r50-search", **values)
    return Results.of(
        study, [own, *(r for r in factories.everything(study) if getattr(r, "variant", "") != own.variant)]
    )


@pytest.mark.parametrize(
    ("target", "key", "factor", "has"),
    [
        ({"macs": 1.4e8}, "macs", 1.019, True),
        ({"macs": 1.4e8}, "macs", 1.03, False),
        ({"params": 2.8e6}, "num_params", 0.985, True),
        ({"params": 2.8e6}, "num_params", 0.97, False),
        ({"size_mib": 10.7}, "num_params", 1.0, True),
        ({"latency_ms": 1.0}, "macs", 1.0, False),
    ],
)
def test_chosen_ratios_stand_beside_one_ratio_that_takes_as_much(
    target: dict[str, float], key: str, factor: float, has: bool
) -> None:
    pairs = controls.pairs(limited(target, **{key: factor}), UNIFORM)
    found = [(pair.pruned[0].variant, pair.control[0].variant) for pair in pairs]
    assert found == [("large-r50-search", "large-r50")] * has


@pytest.mark.parametrize(
    ("target", "named"),
    [({"macs": 1.4e8}, "MACs"), ({"params": 2.8e6}, "parameters"), ({"size_mib": 10.7}, "parameters")],
)
def test_what_the_target_limits_is_named_and_not_the_ratio_of_one_seed(target: dict[str, float], named: str) -> None:
    of = limited(target, macs=1.0, num_params=1.0)
    own = next(record for record in of.prunings if record.variant == "large-r50-search")
    amount = {"MACs": own.macs, "parameters": own.num_params}[named] / 1e6
    (finding,) = said(of, UNIFORM)
    assert re.match(rf"At ([\d.]+) M {named}, large-r50-search ", finding)
    assert float(finding.split()[1]) == pytest.approx(amount, rel=0.01)


def test_a_ratio_is_the_mean_over_seeds_which_may_each_take_another_with_a_target() -> None:
    of = limited({"macs": 1.4e8})
    own = next(record for record in of.prunings if record.variant == "large-r50-search")
    seeds = [own.model_copy(update={"ratio": ratio, "seed": seed}) for seed, ratio in enumerate((0.545, 0.524, 0.475))]
    assert of.ratio_name(seeds).startswith("51.47 % (")
    assert tables.ratio_of(of, seeds).number == pytest.approx(51.4667, abs=1e-3)


def test_a_control_of_other_widths_is_none() -> None:
    base = factories.controlled_study().model_dump()
    points = base["sweep"] | {"r50-whole": base["sweep"]["r50-whole"] | {"round_to": 16}}
    study = factories.study(sweep=points, variants=base["variants"])
    of = Results.of(study, factories.everything(study))
    assert [pair.control[0].variant for pair in controls.pairs(of, SCRATCH)] == ["large-r50-scratch"]


def test_budgets_of_a_control_say_what_they_equal() -> None:
    of = results()
    assert column(made(of, SCRATCH), "Budget TMACs") == [("293 (251 + 41.9)", "")] * 2
    assert column(made(of, SCRATCH), "Control's budget TMACs") == [
        ("41.9", "as much as the fine-tuning alone"),
        ("293", "as much as training and fine-tuning together"),
    ]
    assert column(made(of, RANDOM), "Control's budget TMACs") == [("293 (251 + 41.9)", "")]
    assert column(made(of, UNDISTILLED), "Control's budget TMACs") == [("292 (251 + 40.2)", "unequal budgets")]
    longer = results({"large-r50-scratch": {"training_macs": 1e14}})
    assert column(made(longer, SCRATCH), "Control's budget TMACs")[0] == ("100", "unequal budgets")


def test_a_pair_has_its_paired_difference_and_mcnemars_p() -> None:
    (row,) = made(results(), RANDOM).rows
    assert [value.text for value in row[3:7]] == ["90.75 (90.2–91.3)", "90.45 (89.9–91.0)", "+0.30 ± 0.13", "< 0.001"]


def test_over_seeds_a_pair_has_the_interval_of_its_mean_difference() -> None:
    (row,) = made(results(seeds=[0, 1, 2]), RANDOM).rows
    assert [value.text for value in row[3:7]] == ["90.95 ± 0.20", "90.65 ± 0.20", "+0.30 ± 0.15", "—"]
    assert (row[6].note, row[9].text) == ("a test of one seed, on the same images", "3")


def test_a_difference_without_known_answers_says_so() -> None:
    (row,) = made(results(known=False), RANDOM).rows
    assert (row[5].text, row[5].note) == ("+0.30 ± 0.81", "unpaired: which images both get right is not known")
    assert row[6].text == "—"


@pytest.mark.parametrize(("known", "ranked"), [(True, True), (False, False)])
def test_no_sentence_ranks_what_cannot_be_told_apart(known: bool, ranked: bool) -> None:
    (text,) = said(results(known=known), RANDOM)
    assert ("is more accurate than" in text) == ranked
    assert ("cannot be told apart" in text) != ranked


def test_a_control_that_is_better_is_said_to_be_so() -> None:
    better = results({"large-r50-whole": {"top1_accuracy": 0.95}}, known=False)
    assert said(better, SCRATCH)[1] == (
        "At 50 %, large-r50 is less accurate than large-r50-whole (−4.25 ± 0.71 points, unpaired); the control "
        "took as much as training and fine-tuning together."
    )


def test_controls_are_no_part_of_the_sweep() -> None:
    alone = results({"large-r50-scratch": {"top1_accuracy": 0.99}, "large-r50-random": {"top1_accuracy": 0.99}})
    assert [key for key in alone.swept("large") if "scratch" in key or "random" in key or "whole" in key] == []
    kept = findings.headroom(alone, "large")
    assert kept and kept.values["points_lost"] == pytest.approx(1.25)


def test_the_candidates_shape_from_scratch_is_an_opponent_in_the_first_table() -> None:
    base = factories.controlled_study().model_dump()
    points = base["sweep"] | {"r60-plain": base["sweep"]["r60-plain"] | {"initial": "scratch"}}
    study = factories.study(sweep=points, variants=base["variants"])
    of = Results.of(study, factories.everything(study))
    table = tables.candidate(of, of.benches()[0])
    assert [row[3].text for row in table.rows if row[0].text == "large-r60-plain"] == ["FP32", "INT8"]
    assert not [row for row in table.rows if row[0].text == "large-r50-scratch"]


def test_published_rows_stand_under_pruned_rows_and_not_under_controls() -> None:
    rows = [row[0].text for row in tables.pruning(results(), "large").rows]
    assert rows[rows.index("large-r50") + 1] == "reference"
    assert rows[rows.index("large-r50-whole") + 1] != "reference"


def test_the_pruning_table_says_what_is_trained_from_scratch() -> None:
    table = tables.pruning(results(), "large")
    rows = {row[0].text: row for row in table.rows}
    assert rows["large-r50-scratch"][6].note == "trained from scratch: no pruned weights"
    assert "Trained from scratch in the pruned shape: large-r50-scratch, large-r50-whole." in table.caption
    assert "Importance of large-r50-random: random." in table.caption
    assert rows["large-r50"][7].text == "60.00 (59.0–61.0)"


def older(of: Results) -> Results:
    """Return results whose records are older: without budgets and without BatchNorm's second figure."""
    left: dict[str, Any] = {"training_macs": None, "top1_reestimated": None}
    records = [
        record.model_copy(update={key: value for key, value in left.items() if key in type(record).model_fields})
        for record in of.records
    ]
    return Results.of(of.study, records)


def test_a_budget_of_older_records_follows_from_their_curves() -> None:
    for control in controls.CONTROLS:
        assert column(made(older(results()), control), "Budget TMACs") == column(
            made(results(), control), "Budget TMACs"
        )


def test_batchnorm_re_estimated_stands_where_a_record_holds_it() -> None:
    header, old = "BatchNorm re-estimated %", older(results())
    assert header not in [column.header for column in tables.pruning(old, "large").columns]
    newer = [r for r in results().prunings if r.variant == "large-r50-random"]
    mixed = Results.of(old.study, [*newer, *old.trainings, *(r for r in old.prunings if r.variant != newer[0].variant)])
    table = tables.pruning(mixed, "large")
    row = next(row for row in table.rows if row[0].text == "large-r50")
    assert (row[7].text, row[7].note) == ("—", "not recorded by the older version that made it")


def test_epochs_on_smaller_images_count_at_their_size() -> None:
    record = factories.training(factories.study(), "large", training_macs=None)
    small = record.curve[0].model_copy(update={"image_size": 16})
    value = budgets.of_training([record.model_copy(update={"curve": [small, *record.curve[1:]]})])
    assert value.number == pytest.approx(2.25 / 3 * factories.training(factories.study(), "large").training_macs / 1e12)  # type: ignore[operator]


def test_what_given_weights_took_is_not_known() -> None:
    study = factories.controlled_study()
    given = {"origin": "file", "epochs": 0, "curve": [], "training_macs": None}
    made_ = [r.model_copy(update=given) if r.kind == "training" else r for r in factories.everything(study)]
    of = Results.of(study, made_)
    (first, _) = column(made(of, SCRATCH), "Budget TMACs")
    assert first == ("— + 41.9", budgets.GIVEN)
    assert column(made(of, SCRATCH), "Control's budget TMACs") == [
        ("41.9", "as much as the fine-tuning alone"),
        ("293", "as much as training by training.short and fine-tuning together"),
    ]
    assert budgets.of_training(of.trained("large")).note == budgets.GIVEN


def test_a_control_that_is_deployed_is_called_what_it_is() -> None:
    of = results()
    found = [r for r in of.measurements if (r.variant, r.precision) == ("large-r50-scratch", "int8")]
    assert tables.describe(of, found) == (
        "ResNet-18 on CIFAR-10, trained from scratch at the widths of 50 % pruning, INT8"
    )


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_the_sections_of_controls_equal_their_golden_file(seeds: list[int]) -> None:
    text = factories.document(report(results(seeds=seeds), []))
    own = [part for part in text.split("\n## ") if part.splitlines()[0] in {kind.heading for kind in controls.CONTROLS}]
    assert len(own) == 4
    found, golden = "\n## ".join(["", *own]).lstrip(), GOLDEN / f"controls-{len(seeds)}-seeds.md"
    if os.environ.get("TRIMLAB_GOLDEN") == "write":
        golden.write_text(found)
    assert found == golden.read_text()
