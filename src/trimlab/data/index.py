"""A dataset in a folder of image files and a table of their classes."""

from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from trimlab.config import Data, DatasetSource
from trimlab.config.checks import INDEX_FILES
from trimlab.data.files import Labelled, parts_of_files
from trimlab.data.parts import Part
from trimlab.errors import UserError, one_line, short

if TYPE_CHECKING:
    import pandas as pd

MOST_PROBLEMS = 10
"""How many rows are named before the rest is counted."""


def read_index(source: DatasetSource, data: Data) -> tuple[Part, Part, list[str]]:
    """Read the images that index.csv or index.parquet names: `path` from the table's folder on, `label`, `split`.

    Without the column `split` the test set is drawn.

    Raises:
        UserError: the table cannot be read, lacks a column, or has rows that do not fit: one line each.
    """
    folder = Path(source.path)
    found = [folder / name for name in INDEX_FILES if (folder / name).is_file()]
    if len(found) != 1:
        raise UserError(f"{folder} holds {len(found) or 'none'} of {' and '.join(INDEX_FILES)}: put one of them there")
    table = _table(found[0])
    if table.empty:
        raise UserError(f"{found[0]} names no images: add rows")
    problems = list(_problems(table, folder))
    if problems:
        lines = [f"{found[0]}: row {row}: {problem}" for row, problem in sorted(problems)[:MOST_PROBLEMS]]
        more = len(problems) - len(lines)
        raise UserError("\n".join(lines + [f"{found[0]}: {more} more rows have such problems"] * bool(more)))
    if "split" not in table:
        return parts_of_files(_labelled(table, folder), None, source, data)
    train, test = (_labelled(table[table["split"] == part], folder) for part in ("train", "test"))
    return parts_of_files(train, test, source, data)


def _labelled(table: "pd.DataFrame", folder: Path) -> list[Labelled]:
    return [(folder / path, label) for path, label in zip(table["path"], table["label"], strict=True)]


def _table(file: Path) -> "pd.DataFrame":
    """Read the table's columns as text, empty where a value is missing; rows are numbered from 1."""
    import pandas as pd

    try:
        if file.suffix == ".csv":
            table = pd.read_csv(file, dtype=str, keep_default_na=False, skipinitialspace=True, encoding="utf-8-sig")
        else:
            table = pd.read_parquet(file)
    except Exception as error:  # pandas and pyarrow raise whatever the bytes provoke
        raise UserError(f"{file} cannot be read as a table ({one_line(error)}): write it anew") from None
    missing = [name for name in ("path", "label") if name not in table]
    if missing:
        columns = ", ".join(str(name) for name in table)
        raise UserError(f"{file} has no column {missing[0]} (its columns: {short(columns)}): add it")
    table = table[[name for name in ("path", "label", "split") if name in table]]
    table = table.astype(object).where(table.notna(), "").astype(str).reset_index(drop=True)
    table = table.apply(lambda column: column.str.strip())
    table.index += 1
    return table


def _problems(table: "pd.DataFrame", folder: Path) -> Iterator[tuple[int, str]]:
    """Yield a row's number, and what is wrong with it."""
    first: dict[PurePath, int] = {}
    for row in table.itertuples():
        path = PurePath(row.path)
        if not row.path:
            yield row.Index, "path is empty: name an image, or remove the row"
        elif path.is_absolute() or ".." in path.parts:
            yield row.Index, f"path {short(row.path)} is not within {folder}, which DVC tracks: copy the image there"
        elif first.setdefault(path, row.Index) != row.Index:
            yield row.Index, f"path {short(row.path)} is that of row {first[path]} too: remove one of them"
        elif not (folder / path).is_file():
            yield row.Index, f"path {short(row.path)} is no file in {folder}: put the image there, or remove the row"
        elif not row.label:
            yield row.Index, f"label of {short(row.path)} is empty: name a class, or remove the row"
        elif getattr(row, "split", "train") not in ("train", "test"):
            yield row.Index, f"split {short(row.split)} is unknown: use train or test"
