"""Records on disk: the stages' own, those committed in `records/`, and which of them a report may use."""

import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from trimlab import params, paths, records
from trimlab.errors import UserError
from trimlab.params import Params
from trimlab.records import MADE_FROM, Measurement, Pruning, Record, Training

_NO_RECORDS = {"index.json", "manifest.json", "dataset.json"}
"""What else the stages write into their folders."""

ARCHIVE_BYTES = 256 << 20
"""Most that an archive may unpack to."""

_SAFE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
R = TypeVar("R", Training, Pruning, Measurement)


def load_study(name: str) -> Params:
    """Return a study's params: `studies/NAME.yaml`, or params.yaml where that is the study.

    Raises:
        UserError: there is no such study, or the file is another one's.
    """
    kept = paths.STUDIES / f"{name}.yaml"
    path = kept if _SAFE.match(name) and kept.exists() else paths.PARAMS
    study = params.load(path)
    if study.study != name:
        known = sorted({study.study, *(file.stem for file in paths.STUDIES.glob("*.yaml"))})
        raise UserError(f"study {name!r} is not in {path} (it says {study.study!r}): use one of {', '.join(known)}")
    return study


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
    return [records.read(path) for path in _present(study)]


def committed_records(study_name: str) -> list[Record]:
    """Read `records/STUDY`.

    Raises:
        UserError: there is none, or a record was edited.
    """
    folder = paths.RECORDS / study_name
    found = _records_in(folder)
    if not found:
        raise UserError(f"{folder} holds no records: run `dvc repro`, then `trimlab import`")
    return [_unedited(path) for path in found]


def select(study: Params, found: Iterable[Record]) -> list[Record]:
    """Return the records that a study's report speaks of, in the order of its params.

    A record must fit the params that decide it and one of the seeds; a pruned model must come from a chosen
    training, a measured file from a chosen pruned model. Of several for one cell, seed, device and runtime
    the newest is taken.

    Raises:
        UserError: nothing fits.
    """
    fitting = [record for record in found if record.seed in study.seeds and _fits(study, record)]
    trainings = _newest([record for record in fitting if isinstance(record, Training)])
    baselines = {(record.workload, record.seed, record.weights_sha256) for record in trainings}
    prunings = _newest(
        [r for r in fitting if isinstance(r, Pruning) and (r.workload, r.seed, r.baseline_sha256) in baselines]
    )
    weights = {(record.variant, record.seed, record.weights_sha256) for record in prunings}
    measurements = _newest(
        [r for r in fitting if isinstance(r, Measurement) and (r.variant, r.seed, r.weights_sha256) in weights]
    )
    chosen: list[Record] = [*trainings, *prunings, *measurements]
    if not chosen:
        raise UserError(f"no record fits the params of study {study.study!r}: run `dvc repro`, then `trimlab import`")
    return sorted(chosen, key=_order(study))


def import_records(sources: Sequence[Path] = ()) -> int:
    """Put records, and measurements' predicted labels, into `records/`, each once by digest.

    Args:
        sources: files, folders, or `.tar.gz` archives of folders; without any, what the stages of params.yaml's
            study wrote.

    Returns:
        How many were new.

    Raises:
        UserError: a file does not exist or is no record; or, a line each, its predictions are not its own, or it
            measured weights of which the study knows nothing. Nothing is written then.
    """
    if sources:
        with TemporaryDirectory() as scratch:
            unpacked = [_unpacked(source, Path(scratch) / str(number)) for number, source in enumerate(sources)]
            given = [(path, records.read(path)) for path in _json_files(unpacked)]
            return _import([(path, record, record.study) for path, record in given])
    study = params.load()
    # A cell shared by two studies is restored from the run cache with the first one's name.
    return _import([(path, records.read(path), study.study) for path in _present(study)])


Homed = tuple[Path, Training | Pruning | Measurement, str]
"""Where a record was found, the record, and the study to which it goes."""


def _import(homes: list[Homed]) -> int:
    problems = [*_unsafe(homes), *_wrong_predictions(homes)] or _unknown_weights(homes)
    if problems:
        raise UserError("\n".join(problems))
    return sum(_store(path, record, home) for path, record, home in homes)


def _unpacked(source: Path, folder: Path) -> Path:
    """Unpack an archive of records into a folder below `folder` and return that; return any other source as it is."""
    if not (source.name.endswith(".tar.gz") and source.is_file()):
        return source
    target, left = folder / source.name, ARCHIVE_BYTES
    target.mkdir(parents=True)
    try:
        with tarfile.open(source, "r:gz") as packed:
            for member in packed:
                left -= member.size + tarfile.BLOCKSIZE
                if left < 0:
                    raise UserError(f"{source} unpacks to more than {ARCHIVE_BYTES >> 20} MiB: import a folder")
                packed.extract(member, target, filter="data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{source} is no archive of records ({error}): copy it again") from None
    return target


def _present(study: Params) -> list[Path]:
    files = list(stage_files(study))
    for cell, path in files:
        if not path.exists():
            raise UserError(f"{cell} has not written {path}: run `dvc repro {cell}`")
    return [path for _, path in files]


def _unedited(path: Path) -> Record:
    record = records.read(path)
    if not path.stem.endswith(record.digest[:12]):
        raise UserError(f"{path} was edited (its digest is {record.digest[:12]}): `git checkout` it, or import it anew")
    return record


def _json_files(sources: Sequence[Path]) -> list[Path]:
    for source in sources:
        if not source.exists():
            raise UserError(f"{source} does not exist: name an existing file or folder")
    found = [path for source in sources for path in (_records_in(source) if source.is_dir() else [source])]
    if not found:
        raise UserError(f"no record in {', '.join(map(str, sources))}: name records, or folders that hold them")
    return found


def _records_in(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.json"))
    return [path for path in found if path.is_file() and path.name not in _NO_RECORDS]


def _fits(study: Params, record: Record) -> bool:
    if isinstance(record, Training):
        return record.workload in study.workloads and record.params_digest == study.training_digest(record.workload)
    assert isinstance(record, Pruning | Measurement)
    variant = study.variants.get(record.variant)
    if variant is None or variant.workload != record.workload:
        return False
    if isinstance(record, Pruning):
        return record.params_digest == study.pruning_digest(record.variant)
    wanted = study.measurement_digest(record.variant)
    asked = MADE_FROM.get(record.precision, record.precision)
    return asked in variant.precisions and record.params_digest == wanted


def _cell(record: Record) -> tuple[str, ...]:
    if isinstance(record, Measurement):
        return (record.variant, record.precision, record.runtime)
    return (record.variant,) if isinstance(record, Pruning) else (record.workload,)


def _newest(found: list[R]) -> list[R]:
    newest: dict[Hashable, R] = {}
    for record in sorted(found, key=lambda record: (record.created, record.digest)):
        newest[_cell(record), record.seed, record.device.name] = record
    return list(newest.values())


def _order(study: Params) -> Callable[[Record], tuple[object, ...]]:
    kinds = (Training, Pruning, Measurement)
    workloads, variants = list(study.workloads), list(study.variants)

    def place(record: Record) -> tuple[object, ...]:
        variant = variants.index(record.variant) if isinstance(record, Pruning | Measurement) else -1
        cell = _cell(record)[1:]
        kind = next(index for index, kind in enumerate(kinds) if isinstance(record, kind))
        return (kind, workloads.index(record.workload), variant, cell, record.device.name, record.seed)

    return place


def _unsafe(homes: list[Homed]) -> list[str]:
    """Refuse names that would lead a file out of its folder."""
    return [
        f"{path} names {part!r}: use letters, digits, dots and dashes"
        for path, record, home in homes
        for part in (home, *_cell(record))
        if not _SAFE.match(part)
    ]


def _wrong_predictions(homes: list[Homed]) -> list[str]:
    problems = []
    for path, record, _ in homes:
        if not isinstance(record, Measurement):
            continue
        labels = path.with_suffix(".npy")
        if not labels.exists():
            problems.append(f"{labels} is missing: copy the predicted labels that lie beside {path.name}")
        elif records.sha256_of(labels) != record.predictions_sha256:
            problems.append(f"{labels} is not what {path.name} predicted (sha256 differs): copy both again")
    return problems


def _unknown_weights(homes: list[Homed]) -> list[str]:
    known = {(home, record.weights_sha256) for _, record, home in homes if not isinstance(record, Measurement)}
    for home in {home for *_, home in homes}:
        if (paths.RECORDS / home).is_dir():
            there = committed_records(home) if _records_in(paths.RECORDS / home) else []
            known |= {(home, record.weights_sha256) for record in there if not isinstance(record, Measurement)}
    return [
        f"{path} measured weights {record.weights_sha256[:12]}, which no training or pruning record of study "
        f"{home!r} has: import those records with it"
        for path, record, home in homes
        if isinstance(record, Measurement) and (home, record.weights_sha256) not in known
    ]


def _store(path: Path, record: Training | Pruning | Measurement, home: str) -> bool:
    name, *rest = _cell(record)
    parts = [name, f"seed{record.seed}", *rest, record.digest[:12]]
    target = paths.RECORDS / home / record.kind / ("-".join(parts) + ".json")
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(record, Measurement):
        shutil.copyfile(path.with_suffix(".npy"), target.with_suffix(".npy"))
    records.write(record, target)
    return True
