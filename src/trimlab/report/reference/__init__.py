"""The published ResNet-18 compression study, figure by figure: what reports set beside ours.

Each CSV is one of the study's tables, as printed there; `cited.csv` holds what it cites without measuring. A
figure is handed out only for the same model, dataset, ratio and precision, as the text the study printed.

Traps:
- `mb` means 2^20 bytes.
- `runtime` and `size_of` are inferred. FP32 sizes (but ResNet-20's) are PyTorch state dicts, FP16 and INT8
  sizes are TensorRT engines, which hold more than weights; `pruning.csv` and the FP32 rows of `combined.csv`
  were timed in eager PyTorch, the rest in TensorRT. No ratio may cross these.
- The study names neither its GPU, nor the batch size behind ms/image, nor its warm-up, nor if copies count.
- Its pruning is L1, uniform, every layer but the classifier; all its accuracies are of the test set.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

Line = Mapping[str, str]
"""One line of a published table: column name to text, as printed."""

_FINAL = re.compile(r"^(?P<model>\w+)( pruned (?P<ratio_percent>\d+) %)? (?P<precision>\w+)$")


@dataclass(frozen=True)
class Point:
    """One published model for a figure of accuracy against size."""

    model: str
    ratio: float
    precision: str
    size_mib: float
    size_of: str
    """`state_dict` or `engine`."""
    top1_percent: float


def baseline(model: str, dataset: str, precision: str) -> Line | None:
    """Return the published training; bf16 and fp16 are the study's "amp"."""
    wanted = {"bf16": "amp", "fp16": "amp"}.get(precision, precision)
    return _find("baseline", model=model, dataset=dataset, precision=wanted)


def pruning(model: str, dataset: str, ratio: float) -> Line | None:
    """Return the published pruning point; `ratio` in [0, 1)."""
    return _find("pruning", model=model, dataset=dataset, ratio_percent=_percent(ratio))


def deployed(model: str, dataset: str, ratio: float, precision: str) -> Line | None:
    """Return the published row of a deployed model: quantization's at ratio 0, else pruning × format."""
    where = {"model": model, "dataset": dataset, "ratio_percent": _percent(ratio), "precision": precision}
    return _find("quantization", **where) or _find("combined", **where)


def cited() -> list[Line]:
    """Return what the study cites from others for comparison."""
    return _table("cited")


def compared() -> set[tuple[str, str]]:
    """Return the models and datasets that the study sets beside each other, and beside what it cites."""
    return {(row["model"], row["dataset"]) for row in _table("final")}


def points(model: str, dataset: str) -> list[Point]:
    """Return every deployed model that the study published for this model and dataset."""
    rows = [row for name in ("quantization", "combined") for row in _table(name)]
    return [_point(row) for row in rows if (row["model"], row["dataset"]) == (model, dataset)]


def _point(row: Line) -> Point:
    return Point(
        model=row["model"],
        ratio=float(row["ratio_percent"]) / 100,
        precision=row["precision"],
        size_mib=float(row["size_mb"]),
        size_of=row["size_of"],
        top1_percent=float(row["top1_percent"]),
    )


def _percent(ratio: float) -> str:
    return f"{round(100 * ratio, 6):g}"


@cache
def _find(table: str, **where: str) -> Line | None:
    return next((row for row in _table(table) if all(row[key] == value for key, value in where.items())), None)


@cache
def _table(name: str) -> list[Line]:
    text = resources.files(__name__).joinpath(f"{name}.csv").read_text(encoding="utf-8")
    return [_complete(name, row) for row in csv.DictReader(text.splitlines())]


def _complete(table: str, row: dict[str, str]) -> Line:
    """Write out what a table leaves to its heading: model, dataset, ratio, precision."""
    implied = {"model": "resnet18", "dataset": "cifar10", "ratio_percent": "0"}
    full = implied | row | {"precision": row.get("precision") or row.get("format") or "fp32"}
    if table == "final":
        match = _FINAL.match(row["model"])
        assert match, row
        full |= {key: value for key, value in match.groupdict().items() if value}
    return full
