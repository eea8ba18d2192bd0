"""Where a study's records lie: the stages' own, and those committed in `records/`."""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from trimlab import config, paths
from trimlab.config import Params
from trimlab.errors import UserError
from trimlab.records.files import AnyRecord, read
from trimlab.records.select import cell_of
from trimlab.records.types import Record

_NO_RECORDS = {"index.json", "manifest.json", "dataset.json"}
"""What else the stages write into their folders."""

_SAFE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")


def load_study(name: str) -> Params:
    """Return a study's params: `studies/NAME.yaml`, or params.yaml where that is the study.

    Raises:
        UserError: there is no such study, or the file is another one's.
    """
    kept = paths.STUDIES / f"{name}.yaml"
    path = kept if _SAFE.match(name) and kept.exists() else paths.PARAMS
    study = config.load(path)
    if study.study != name:
        known = ", ".join(study_names())
        raise UserError(f"study {name!r} is not in {path} (it says {study.study!r}): use one of {known}")
    return study


def study_names() -> list[str]:
    """Return the studies of this project: the files in `studies/`, and params.yaml's study where that file is valid."""
    names = {file.stem for file in paths.STUDIES.glob("*.yaml")}
    with suppress(UserError):
        names.add(config.load().study)
    return sorted(names)


def stage_files(study: Params) -> Iterator[tuple[str, Path]]:
    """Yield the DVC cell and the path of every record that the stages write.

    What a machine could measure stands in the cell's index; where that is missing, or half written, it is what is
    yielded.
    """
    for seed in study.seeds:
        for workload in study.workloads:
            yield f"train@{workload}", paths.record_file(paths.trained(workload), seed)
        for name in study.variants:
            yield f"prune@{name}", paths.record_file(paths.pruned(name), seed)
            if study.measures_sensitivity(name):
                yield f"prune@{name}", paths.sensitivity_file(name, seed)
    for name in study.variants:
        for path in _indexed(name):
            yield f"benchmark@{name}", path


def _indexed(variant: str) -> list[Path]:
    index = paths.index_file(variant)
    try:
        names = json.loads(index.read_text())["records"]
    except (FileNotFoundError, ValueError):
        return [index]
    return [index.with_name(name) for name in names]


def stage_records(study: Params) -> list[Record]:
    """Read what the stages wrote.

    Raises:
        UserError: a cell has not written its record.
    """
    return [read(path) for path in present(study)]


def committed_records(study_name: str) -> list[Record]:
    """Read `records/STUDY`.

    Raises:
        UserError: there is none, or a record was edited.
    """
    folder = paths.RECORDS / study_name
    found = records_in(folder)
    if not found:
        raise UserError(f"{folder} holds no records: run `dvc repro`, then `trimlab import`")
    return [_unedited(path) for path in found]


def present(study: Params) -> list[Path]:
    """Return the files of a study's stage records.

    Raises:
        UserError: one is missing.
    """
    files = list(stage_files(study))
    for cell, path in files:
        if not path.exists():
            raise UserError(f"{cell} has not written {path}: run `dvc repro {cell}`")
    return [path for _, path in files]


def stored_file(record: AnyRecord, study_name: str) -> Path:
    """Return where a record of a study is stored in `records/`; predicted labels lie beside it as `.npy`."""
    name, *rest = cell_of(record)
    parts = [name, f"seed{record.seed}", *rest, record.digest[:12]]
    return paths.RECORDS / study_name / record.kind / ("-".join(parts) + ".json")


def _unedited(path: Path) -> Record:
    record = read(path)
    if not path.stem.endswith(record.digest[:12]):
        raise UserError(f"{path} was edited (its digest is {record.digest[:12]}): `git checkout` it, or import it")
    return record


def records_in(folder: Path) -> list[Path]:
    """Return the record files below a folder, sorted."""
    found = [path for path in sorted(folder.rglob("*.json")) if path.parent.name != paths.MODEL]
    return [path for path in found if path.is_file() and path.name not in _NO_RECORDS]
