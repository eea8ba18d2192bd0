"""The report's section on accuracy besides top-1: only where the study asks and records know."""

from typing import Any

import pytest

import factories
from trimlab.records import ClassCounts, Measurement, Record
from trimlab.report import scores, sections
from trimlab.report.markdown import table as shown
from trimlab.report.model import Table
from trimlab.report.results import Bench, Results

BENCH = Bench(factories.CPU.identity, "onnxruntime")
COUNTS = [ClassCounts(images=100, correct=90 - 5 * label, predicted=100) for label in range(9)]
FIGURES = {
    "top5_accuracy": 0.99,
    "macro_f1": 0.7,
    "class_names": [f"part {label}" for label in range(10)],
    "per_class": [*COUNTS, ClassCounts(images=0, correct=0, predicted=0)],
}


def scored(evaluate: list[str], seeds: list[int] = [0], **figures: Any) -> Results:  # noqa: B006
    report = {"title": "Parts", "baseline": "large", "candidate": "candidate", "evaluate": evaluate}
    study = factories.study(report=report, seeds=seeds)
    made: list[Record] = [
        record.model_copy(update=figures) if isinstance(record, Measurement) else record
        for record in factories.everything(study)
    ]
    return Results.of(study, made)


def rows(table: Table) -> list[list[str]]:
    return [[value.text for value in row] for row in table.rows]


def test_a_report_shows_what_is_asked() -> None:
    of = scored(["top1", "top5", "macro_f1"], **FIGURES)
    table = scores.overall(of, of.at(BENCH))
    assert [column.header for column in table.columns[2:]] == ["Top-1 %", "Top-5 %", "Macro-F1 %"]
    assert rows(table)[0] == ["large", "FP32", "92.00 (91.5–92.5)", "99.00", "70.00"]
    assert [column.header for column in scores.overall(scored(["top5"], **FIGURES), of.at(BENCH)).columns[2:]] == [
        "Top-5 %"
    ]


@pytest.mark.parametrize(("evaluate", "figures"), [(["top1"], FIGURES), (["top1", "top5", "macro_f1"], {})])
def test_a_report_has_no_such_section_unless_it_is_asked_and_known(evaluate: list[str], figures: Any) -> None:
    assert "Accuracy beyond top-1" not in factories.document(sections.report(scored(evaluate, **figures), []))


def test_a_missing_figure_says_why() -> None:
    of = scored(["top5", "macro_f1"], **FIGURES | {"top5_accuracy": None})
    assert "by the older version" in shown(scores.overall(of, of.at(BENCH)))
    few = [record.model_copy(update={"num_classes": 5}) for record in of.at(BENCH)]
    assert "five classes or fewer" in shown(scores.overall(of, few))
