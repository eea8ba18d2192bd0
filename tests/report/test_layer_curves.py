from typing import Any

import pytest

import factories
from trimlab.records import Record
from trimlab.report import figures, sensitivity
from trimlab.report.results import Results
from trimlab.report.sections import report

SEARCHED = "large-r50-search"
RATIOS = {"conv1": 0.25, "conv2": 0.25, "conv3": 0.75, "conv4": 0.5}
WIDTHS = {"conv1": 48, "conv2": 48, "conv3": 16, "conv4": 32}


def results(seeds: list[int] | None = None, **changes: Any) -> Results:
    """Return the results of a study with a variant whose ratios were searched for."""
    study = factories.allocated_study(seeds=seeds or [0])
    made: list[Record] = [r for r in factories.everything(study) if getattr(r, "variant", "") != SEARCHED]
    halves = dict.fromkeys(WIDTHS, 32)
    for seed in study.seeds:
        made += [factories.sensitivity(study, SEARCHED, seed, **changes)]
        made += [factories.pruning(study, SEARCHED, seed, layer_ratios=RATIOS, widths=WIDTHS)]
    made = [r.model_copy(update={"widths": halves}) if getattr(r, "variant", "") == "large-r50" else r for r in made]
    return Results.of(study, made)


def test_the_groups_that_lose_most_and_least_are_named_with_the_images() -> None:
    found = sensitivity.finding(results(), "large")
    assert found is not None
    assert found.plain == (
        "Pruned alone and not fine-tuned, conv1 (with the 1 layer coupled to it) costs most: 40.0 points of top-1 at "
        "50 %; conv3 costs least: 0.0 points at 50 %. BatchNorm's statistics are re-estimated each time. Scored on "
        "1,000 images of the hold-out, on which the model was trained."
    )
    assert dict(found.values) == pytest.approx({"most_lost_points": 40.0, "least_lost_points": 0.0})


@pytest.mark.parametrize(
    ("trained", "said"), [(False, "on which the model was not trained"), (None, "given weights were trained on is not")]
)
def test_a_reader_is_told_whether_the_model_had_seen_the_images(trained: bool | None, said: str) -> None:
    found = sensitivity.finding(results(trained_on_images=trained), "large")
    assert found is not None
    assert said in found.plain


def test_widths_stand_beside_those_of_the_uniform_variant_of_about_that_size() -> None:
    table = sensitivity.widths(results(), "large")
    assert table is not None
    assert [column.header for column in table.columns] == [
        *("Layer", "Coupled layers", "Unpruned", "large-r50", SEARCHED)
    ]
    assert [[value.text for value in row] for row in table.rows] == [
        ["conv1", "2", "64", "32", "48"],
        ["conv3", "1", "64", "32", "16"],
        ["conv4", "1", "64", "32", "32"],
    ]
    assert "Parameters in M: large-r50 2.79, large-r50-search 2.79." in table.caption


def test_curves_are_means_over_seeds() -> None:
    of = results(seeds=[0, 1])
    curves = sensitivity.curves(sensitivity.measured(of, "large"))
    assert list(curves) == ["conv1", "conv3", "conv4"]
    assert [(lost.ratio, round(lost.points, 6), round(lost.loss, 6)) for lost in curves["conv1"]] == [
        (0.25, 20.0, 0.4),
        (0.5, 40.0, 0.8),
        (0.75, 60.0, 1.2),
    ]


def test_a_panel_a_group_shows_its_curve_and_the_chosen_ratio() -> None:
    figure = figures.draw(results())["sensitivity-large"]
    first, *_ = figure.axes
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == ["conv1 (+1)", "conv3", "conv4"]
    curve, chosen = first.get_lines()
    assert [float(y) for y in curve.get_ydata()] == pytest.approx([0, 20, 40, 60])
    assert (float(chosen.get_xdata()[0]), float(chosen.get_ydata()[0])) == pytest.approx((25, 20))
    assert figure.get_suptitle().startswith("conv1 loses most, 40.0 points of top-1 at 50 %; conv3 least, 0.0 at 50 %")


def test_the_section_is_there_where_something_was_measured() -> None:
    of = results()
    text = factories.document(report(of, list(figures.draw(of))))
    assert "\n# Which layers can lose channels" in text
    assert "figures/sensitivity-large.svg" in text
    assert "Scored on the hold-out: no published figure" not in text
    study = factories.study()
    without = Results.of(study, factories.everything(study))
    assert "Which layers can lose channels" not in factories.document(report(without, list(figures.draw(without))))
