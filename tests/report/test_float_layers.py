"""INT8 with some layers in float, in the report: which layers, why, and what the test says of the choice."""

import numpy as np
import pytest

import factories
from trimlab.records import Mixed
from trimlab.records.labels import Classified
from trimlab.report import figures, mixed
from trimlab.report.results import Results
from trimlab.report.sections import report

PRECISIONS = ["fp32", "int8", "int8-mixed"]


def results(seeds=(0,), **changes):
    """A study whose candidate has a file in mixed precision, with changes to how its layers were chosen."""
    base = factories.study().model_dump()["variants"]
    chosen = {"candidate": base["candidate"] | {"precisions": PRECISIONS}}
    study = factories.study(variants=base | chosen, seeds=list(seeds))
    about = factories.mixed(**changes)
    made = [
        factories.measurement(study, r.variant, r.precision, seed=r.seed, mixed=about)
        if getattr(r, "precision", "") == "int8-mixed"
        else r
        for r in factories.everything(study)
    ]
    return Results.of(study, made, factories.classified(made))


def rows(table):
    return [[value.text for value in row] for row in table.rows]


def test_a_row_sets_the_drop_on_the_hold_out_beside_the_one_that_was_scored():
    of = results()
    table = mixed.files(of, of.benches()[0])
    ((variant, seed, bits, layers, which, allowed, held_out, scored),) = rows(table)
    assert (variant, seed, bits, layers, which, allowed) == ("candidate", "0", "8", "1 of 3", "conv2", "0.5")
    assert held_out.startswith("−0.20 ± ")  # 12 lost and 2 gained of 5,000
    assert "±" in scored
    assert "5,000 hold-out images, on which the model was trained as well" in table.caption


def test_a_study_without_mixed_files_has_no_section():
    of = Results.of(factories.study(), factories.everything(factories.study()))
    assert mixed.files(of, of.benches()[0]) is None
    assert "INT8, mixed" not in factories.document(report(of, []))
    assert not [name for name in figures.draw(of) if name.startswith("sensitivity")]


def test_the_section_shows_files_layers_and_their_figure():
    text = factories.document(report(results(), ["int8-layers-candidate"]))
    (section,) = [part for part in text.split("\n## ") if part.startswith("INT8, mixed")]
    assert "int8-layers-candidate.svg" in section
    assert "| conv2 | 0.6 | 60 | float |" in " ".join(section.split())


def test_a_figures_title_says_how_few_layers_lose_most():
    axes = figures.draw(results())["int8-layers-candidate"].axes[0]
    assert axes.get_title(loc="left") == "candidate in INT8: 1 of 3 layers makes 60 % of the loss"
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv2", "conv1", "fc"]


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ([0.5, 0.4, 0.3], "2 of 3 layers make 75 % of the loss"),
        ([0.0, 0.0], "none of 2 layers loses anything in INT8"),
    ],
)
def test_the_spread_of_the_loss_in_words(losses, said):
    layers = [{"layer": f"conv{index}", "divergence": value} for index, value in enumerate(losses)]
    assert mixed.message(Mixed.model_validate(factories.mixed(sensitivity=layers))) == said


def test_a_file_that_loses_more_where_it_is_scored_than_it_may_is_said():
    of = results()
    (record,) = [r for r in of.measurements if r.precision == "int8-mixed"]
    worse = record.model_copy(update={"top1_accuracy": record.top1_accuracy - 0.03})
    others = [r for r in of.records if r is not record]
    own = of.classified[record.digest]
    fewer = np.where(np.roll(own.correct, 1), own.predicted, own.true + 1)
    found = {**of.classified, worse.digest: Classified(own.true, fewer)}
    again = Results.of(of.study, [*others, worse], found)
    (said,) = mixed.predictions(again, again.benches()[0])
    assert "more than the 0.5 that it may lose on the hold-out" in said.plain
    assert not mixed.predictions(of, of.benches()[0])


def test_a_file_that_is_all_float_is_said():
    of = results(float_layers=["conv2", "conv1", "fc"])
    (said,) = mixed.predictions(of, of.benches()[0])
    assert said.plain == "candidate: no layer can be computed in INT8 within 0.5 points, so the file is all float."


def test_the_candidate_is_its_mixed_file_where_it_has_one():
    of = results(seeds=(0, 1))
    assert {record.precision for record in of.candidate_file(of.benches()[0])} == {"int8-mixed"}


def test_points_lost_on_the_hold_out_follow_from_its_images():
    assert Mixed.model_validate(factories.mixed()).drop_points == pytest.approx(0.2)
