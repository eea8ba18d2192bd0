"""Which classes lose, and which are confused more often: counted in labels, or in what records count of each class."""

from typing import Any

import numpy as np

import factories
from trimlab.records import ClassCounts, Measurement
from trimlab.records.labels import Classified
from trimlab.report import classes
from trimlab.report.intervals import Difference
from trimlab.report.results import Bench, Results

BENCH = Bench(factories.CPU.identity, "onnxruntime")


def results(wrong: int, seeds: list[int] = [0], **changes: Any) -> Results:  # noqa: B006
    """The candidate's INT8 file takes so many images of class 3 for 5 that the baseline gets right."""
    study = factories.study(seeds=seeds)
    made = [r.model_copy(update=changes) if isinstance(r, Measurement) else r for r in factories.everything(study)]
    true = factories.true_labels()
    known = {r.digest: Classified(true, true.copy()) for r in made if isinstance(r, Measurement)}
    for record in made:
        if isinstance(record, Measurement) and (record.variant, record.precision) == ("candidate", "int8"):
            known[record.digest].predicted[np.flatnonzero(true == 3)[:wrong]] = 5
    return Results.of(study, made, known)


def test_the_class_that_loses_most_stands_first_with_its_paired_interval() -> None:
    table = classes.losses(results(100), BENCH)
    assert table
    first, second, *_ = ([value.text for value in row] for row in table.rows)
    assert first[:4] == ["cat", "1000", "100.00", "90.00"]
    assert first[4].startswith("−10.00 ± ") and first[5] == first[4]  # all of it by INT8
    assert second[2:5] == ["100.00", "100.00", "0.00 ± 0.20"]


def test_a_confusion_that_gained_is_counted_and_others_are_left_out() -> None:
    table = classes.confusions(results(100), BENCH)
    assert table
    assert [[value.text for value in row] for row in table.rows] == [["cat", "dog", "0", "0", "100", "100"]]
    assert classes.confusions(results(0), BENCH) is None


def test_only_a_loss_that_holds_among_all_classes_is_said() -> None:
    said = classes.finding(results(100), BENCH)
    assert said and "1 measurably loses recall: cat (−10.00 ± " in said.plain
    assert "cat mistaken for dog in 100 images, against 0 by the baseline." in said.plain
    few = classes.finding(results(7), BENCH)  # p = 0.016 alone
    assert few and "none loses recall by more than chance would explain" in few.plain


def test_what_the_precision_alone_changed_is_said_against_the_fp32_file() -> None:
    said = classes.finding(results(100), BENCH)
    assert said and said.plain.endswith(
        " INT8 alone, against the candidate's FP32 file, changes the label of 100 of 10,000 images: 100 right ones "
        "become wrong, 0 wrong ones right."
    )


def test_seeds_are_counted_together_and_averaged() -> None:
    table = classes.losses(results(100, [0, 1]), BENCH)
    assert table and table.rows[0][3].text == "90.00"
    pairs = classes.confusions(results(100, [0, 1]), BENCH)
    assert pairs and pairs.rows[0][4].text == "200"


def test_without_labels_the_records_counts_do_and_without_both_there_is_nothing() -> None:
    counts = [ClassCounts(images=1000, correct=900, predicted=1000)] * 10
    study = factories.study()
    made = [
        r.model_copy(update={"per_class": counts, "class_names": [f"part {n}" for n in range(10)]})
        if isinstance(r, Measurement)
        else r
        for r in factories.everything(study)
    ]
    table = classes.losses(Results.of(study, made), BENCH)
    assert table and table.rows[0][0].text == "part 0" and len(table.rows) == 10
    assert classes.confusions(Results.of(study, made), BENCH) is None
    assert classes.finding(Results.of(study, factories.everything(study)), BENCH) is None


def test_among_more_differences_each_has_to_be_surer() -> None:
    paired = Difference(-1.0, 0.8, "paired", 0.01)
    assert paired.separable_among(1) and paired.separable_among(4) and not paired.separable_among(10)
    unpaired = Difference(-1.0, 0.8, "unpaired")
    assert unpaired.separable_among(1) and not unpaired.separable_among(10)
