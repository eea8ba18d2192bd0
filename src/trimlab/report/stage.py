"""A study's report in a folder: written whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from trimlab.config import Params
from trimlab.errors import UserError
from trimlab.records import Record
from trimlab.records.labels import Classified
from trimlab.records.loaded import without_collector
from trimlab.report import figures
from trimlab.report.chart import specification
from trimlab.report.html import page
from trimlab.report.markdown import documents
from trimlab.report.results import Results
from trimlab.report.sections import report
from trimlab.report.series import metrics, plot_data


@without_collector()
def render(
    study: Params, records: list[Record], folder: Path, classified: Mapping[str, Classified] | None = None
) -> None:
    """Write a report into a folder, all of it or nothing.

    That is report.md, tables/*.md, report.html, metrics.json, figures/*.svg and plots/*.csv.

    The same params, records and labels give the same bytes, in whatever order the records come. Tables, figures and
    plot data that the study no longer has are removed.

    Args:
        study: the params.
        records: those that the study's params select.
        folder: the report's.
        classified: what each measured file took the images for (`records.labels`). Without it, files are compared by
            their accuracies alone, and the report says so.

    Raises:
        UserError: the folder cannot be written; a report that was there stays as it was.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            made = Path(scratch) / "made"
            _write(Results.of(study, records, classified), made)
            _take_the_place(made, folder, Path(scratch))
    except OSError as error:
        why = error.strerror or error
        raise UserError(f"{folder} cannot be written ({why}): make room, or make it writable, and call again") from None


def _write(results: Results, folder: Path) -> None:
    for part in ("figures", "plots", "tables"):
        (folder / part).mkdir(parents=True)
    drawn = figures.draw(results)
    for name, figure in drawn.items():
        figures.save(figure, folder / "figures" / f"{name}.svg")
    for name, text in plot_data(results).items():
        (folder / "plots" / f"{name}.csv").write_text(text, encoding="utf-8")
    values = json.dumps(metrics(results), indent=2, allow_nan=False)
    (folder / "metrics.json").write_text(values + "\n", encoding="utf-8")
    made = report(results, list(drawn))
    for path, text in documents(made).items():
        (folder / path).write_text(text, encoding="utf-8")
    drawings = {name: (folder / "figures" / f"{name}.svg").read_text(encoding="utf-8") for name in drawn}
    (folder / "report.html").write_text(page(made, drawings, specification(results)), encoding="utf-8")


def _take_the_place(made: Path, folder: Path, scratch: Path) -> None:
    """Move each part of a finished report to its place, or none of them; other files in the folder stay."""
    folder.mkdir(exist_ok=True)
    undo = []
    try:
        for part in sorted(made.iterdir()):
            place, former = folder / part.name, scratch / f"former-{part.name}"
            if place.exists():
                place.rename(former)
                undo.append((former, place))
            part.rename(place)
            undo.append((place, part))
    except OSError:
        for there, back in reversed(undo):
            there.rename(back)
        raise
