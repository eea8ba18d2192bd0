"""A table of accuracy besides top-1, over all images."""

from collections.abc import Callable, Sequence

from trimlab.config import Evaluated
from trimlab.records import Measurement
from trimlab.report.budgets import OLDER
from trimlab.report.model import Column, Table, Value, words
from trimlab.report.results import Results, bench_of
from trimlab.report.tables import SEEDS, TOP1, Values, hundredths, spread, top1, where, whole
from trimlab.report.text import precision_name

FEW_CLASSES = Value("—", note="says nothing with five classes or fewer")
COLUMNS: dict[Evaluated, Column] = {"top1": TOP1, "top5": Column("Top-5 %", "%"), "macro_f1": Column("Macro-F1 %", "%")}

_FIGURES: dict[Evaluated, Callable[[Measurement], float | None]] = {
    "top1": lambda record: record.top1_accuracy,
    "top5": lambda record: record.top5_accuracy,
    "macro_f1": lambda record: record.macro_f1,
}


def overall(results: Results, measured: Sequence[Measurement]) -> Table:
    """Return the figures that the study asks for of each file of one bench."""
    asked = results.study.report.evaluate
    rows: list[Values] = [
        [
            found[0].variant,
            precision_name(found[0].precision),
            *(_figure(found, name) for name in asked),
            whole(len(found)),
        ]
        for found in results.by_file(measured)
    ]
    columns = [words("Variant"), words("Precision"), *(COLUMNS[name] for name in asked), SEEDS]
    explained: dict[Evaluated, str] = {
        "top5": "Top-5: the true class is among the five that the file ranks first.",
        "macro_f1": "Macro-F1: mean F1 score of the classes, so that a rare class counts as much as a common one.",
    }
    caption = [f"{where(results, measured)}.", *(explained[name] for name in asked if name in explained)]
    return Table.of(results.key("scores", bench_of(measured[0])), columns, rows, " ".join(caption))


def _figure(found: Sequence[Measurement], name: Evaluated) -> Value:
    """Write a figure's mean over seeds, top-1 with its interval; say why where there is none."""
    values = [value for record in found if (value := _FIGURES[name](record)) is not None]
    if len(values) == len(found):
        return top1(found) if name == "top1" else spread([100 * value for value in values], hundredths)
    return FEW_CLASSES if name == "top5" and found[0].num_classes <= 5 else Value("—", note=OLDER)
