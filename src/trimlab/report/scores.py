"""Tables of accuracy besides top-1: over all images, and of the classes that are found worst."""

from collections.abc import Callable, Sequence

from trimlab.config import Evaluated
from trimlab.records import Measurement
from trimlab.report.model import Column, Table, Value, words
from trimlab.report.results import Bench, Results, bench_of, mean, of_file
from trimlab.report.tables import SEEDS, TOP1, Values, describe, hundredths, share, spread, top1, where, whole
from trimlab.report.text import precision_name

WORST = 5
"""Classes that the table of classes lists."""
OLDER = Value("—", note="not in the record, which an older version wrote")
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


def worst_classes(results: Results, bench: Bench) -> Table | None:
    """Return the classes whose images the candidate finds least, beside the baseline; None where it is not asked."""
    base, found = of_file(results.at(bench), results.study.report.baseline, "fp32"), results.candidate_file(bench)
    counted = base and found and all(record.per_class for record in (*base, *found))
    if not counted or "macro_f1" not in results.study.report.evaluate:
        return None
    recalls = {index: recall for index in range(found[0].num_classes) if (recall := _recall(found, index)) is not None}
    worst = sorted(recalls, key=lambda index: (recalls[index], index))[:WORST]
    rows = [_class_row(base, found, index) for index in worst]
    columns = [
        words("Class"), Column("Images", "images"), Column("Baseline recall %", "%"), Column("Candidate recall %", "%"),
    ]  # fmt: skip
    caption = (
        f"{where(results, found)}. The {len(rows)} of {len(recalls)} classes that the candidate finds least. Recall: "
        f"share of a class's images that get its label. Baseline: {describe(results, base)}. Candidate: "
        f"{describe(results, found)}. n: {len(found)}."
    )
    return Table.of(results.key("worst-classes", bench), columns, rows, caption)


def _figure(found: Sequence[Measurement], name: Evaluated) -> Value:
    """Write a figure's mean over seeds, top-1 with its interval; say why where there is none."""
    values = [value for record in found if (value := _FIGURES[name](record)) is not None]
    if len(values) == len(found):
        return top1(found) if name == "top1" else spread([100 * value for value in values], hundredths)
    return FEW_CLASSES if name == "top5" and found[0].num_classes <= 5 else OLDER


def _class_row(base: Sequence[Measurement], found: Sequence[Measurement], index: int) -> Values:
    first = found[0]
    recalls = [recall for records in (base, found) if (recall := _recall(records, index)) is not None]
    name = first.class_names[index] if first.class_names else str(index)
    return [name, whole(first.per_class[index].images), *map(share, recalls)]


def _recall(found: Sequence[Measurement], index: int) -> float | None:
    """Return the mean over seeds of a class's recall; None for a class without images."""
    recalls = [recall for record in found if (recall := record.per_class[index].recall) is not None]
    return mean(recalls) if recalls else None
