"""Records on disk: the stages' own, those committed in `records/`, and which of them a report may use."""

import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import numpy as np

from trimlab import params, paths, records
from trimlab.errors import UserError, one_line
from trimlab.params import Params
from trimlab.records import MADE_FROM, Measurement, Pruning, Record, Training

_NO_RECORDS = {"index.json", "manifest.json", "dataset.json"}
"""What else the stages write into their folders."""

ARCHIVE_BYTES = 256 << 20
"""Most that an archive may unpack to."""

_SAFE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
_KINDS = ("training", "pruning", "measurement")
_STORED = re.compile(r"-[0-9a-f]{12}\.json$")
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


class Imported(NamedTuple):
    """How many of the records given to an import were new, and how many `records/` held before."""

    new: int
    known: int


def import_records(sources: Sequence[Path] = ()) -> Imported:
    """Put records, and measurements' predicted labels, into `records/`, each once by digest.

    Where a bundle measured weights that only the stages here know, those weights' own records are imported with it.

    Args:
        sources: files, folders, or `.tar.gz` archives of folders; without any, what the stages of params.yaml's
            study wrote. `records/` itself may be given, because a bundle may have written there: what is already in a
            study's folder is left alone.

    Returns:
        How many were new, and how many were already there.

    Raises:
        UserError: a file does not exist; or, a line each, it is not a valid record, its predictions belong to another
            record, or it measured weights that the study does not know; or `records/` cannot be written. Nothing is
            imported then.
    """
    if sources:
        with TemporaryDirectory() as scratch:
            unpacked = [_unpacked(source, Path(scratch) / str(number)) for number, source in enumerate(sources)]
            files = _json_files(unpacked)
            stored = {path.resolve() for path in files if _is_stored(path)}
            loose = [path for path in files if path.resolve() not in stored]
            return _import([(path, record, record.study) for path, record in _read_all(loose)], stored)
    study = params.load()
    # A cell shared by two studies is restored from the run cache with the first one's name.
    return _import([(path, record, study.study) for path, record in _read_all(_present(study))], set())


Homed = tuple[Path, Training | Pruning | Measurement, str]
"""Where a record was found, the record, and the study to which it goes."""


def _read_all(files: Iterable[Path]) -> list[tuple[Path, Training | Pruning | Measurement]]:
    """Read records; report every file that is not one, a line each."""
    found, problems = [], []
    for path in files:
        try:
            found.append((path, records.read(path)))
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))
    return found


def _is_stored(path: Path) -> bool:
    """Say whether a file is one that an import put into `records/`."""
    home = paths.RECORDS.resolve()
    inside = path.resolve().relative_to(home).parts if path.resolve().is_relative_to(home) else ()
    return len(inside) == 3 and inside[1] in _KINDS and _STORED.search(inside[2]) is not None


def _import(homes: list[Homed], stored: set[Path]) -> Imported:
    lineage = _lineage(homes, unknown := _unknown_weights(homes))
    found = {(home, record.weights_sha256) for _, record, home in lineage}
    problems = _wrong_predictions(homes) or [_say_unknown(*homed) for homed in unknown if _weights(homed) not in found]
    if problems:
        raise UserError("\n".join(problems))
    targets = {_target(record, home): (path, record) for path, record, home in [*homes, *lineage]}
    new = {target: pair for target, pair in targets.items() if not target.exists()}
    known = stored | {target.resolve() for target in targets if target not in new}
    try:
        _store(new)
    except OSError as error:
        why = error.strerror or error
        raise UserError(
            f"{paths.RECORDS} cannot be written ({why}), and nothing was imported: make room, or make it writable, and "
            "import again"
        ) from None
    return Imported(len(new), len(known))


def _unpacked(source: Path, folder: Path) -> Path:
    """Unpack an archive of records into a folder below `folder` and return that; return any other source as it is."""
    if not (source.name.endswith(".tar.gz") and _exists(source) and source.is_file()):
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
    except (tarfile.TarError, OSError, EOFError, KeyError, zlib.error) as error:  # KeyError: a link to no member
        raise UserError(f"{source} is not an archive of records ({one_line(error)}): copy it again") from None
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
        if not _exists(source):
            raise UserError(f"{source} does not exist: name an existing file or folder")
    found = [path for source in sources for path in (_records_in(source) if source.is_dir() else [source])]
    if not found:
        raise UserError(f"no record in {', '.join(map(str, sources))}: name records, or folders that hold them")
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # its name is too long, say
        return False


def _records_in(folder: Path) -> list[Path]:
    found = sorted(folder.rglob("*.json"))
    return [path for path in found if path.is_file() and path.name not in _NO_RECORDS]


def _fits(study: Params, record: Record) -> bool:
    workload = study.workloads.get(record.workload)
    if workload is None or (record.model, record.dataset) != (workload.model, workload.dataset):
        return False
    if isinstance(record, Training):
        return record.params_digest == study.training_digest(record.workload)
    assert isinstance(record, Pruning | Measurement)
    variant = study.variants.get(record.variant)
    if variant is None or variant.workload != record.workload or record.ratio != study.point(record.variant).ratio:
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
    for record in sorted(found, key=lambda record: (record.moment, record.digest)):
        newest[_cell(record), record.seed, record.device.identity] = record
    return list(newest.values())


def _order(study: Params) -> Callable[[Record], tuple[object, ...]]:
    kinds = (Training, Pruning, Measurement)
    workloads, variants = list(study.workloads), list(study.variants)

    def place(record: Record) -> tuple[object, ...]:
        variant = variants.index(record.variant) if isinstance(record, Pruning | Measurement) else -1
        cell = _cell(record)[1:]
        kind = next(index for index, kind in enumerate(kinds) if isinstance(record, kind))
        return (kind, workloads.index(record.workload), variant, cell, record.device.identity, record.seed)

    return place


def _wrong_predictions(homes: list[Homed]) -> list[str]:
    found = [_wrong_labels(path, record) for path, record, _ in homes if isinstance(record, Measurement)]
    return [problem for problem in found if problem]


def _wrong_labels(path: Path, record: Measurement) -> str:
    """Say what is wrong with the predicted labels beside a measurement: a uint16 for every scored image."""
    labels = path.with_suffix(".npy")
    if not labels.exists():
        return f"{labels} is missing: copy the predicted labels that lie beside {path.name}"
    if not labels.is_file():
        return f"{labels} is not a file: copy the predicted labels that lie beside {path.name}"
    try:
        if records.sha256_of(labels) != record.predictions_sha256:
            return f"{labels} is not what {path.name} predicted (sha256 differs): copy both again"
        held = np.lib.format.open_memmap(labels, mode="r")  # reads no pickle, and trusts no header beyond the file
    except (ValueError, OSError, EOFError) as error:
        return f"{labels} holds no labels ({one_line(error)}): measure {path.name} again, or leave it out"
    if held.dtype != np.uint16 or held.shape != (record.num_images,):
        return (
            f"{labels} holds {held.dtype} of shape {held.shape}, not uint16 labels of the {record.num_images} images: "
            f"measure {path.name} again, or leave it out"
        )
    return ""


def _weights(homed: Homed) -> tuple[str, str]:
    _, record, home = homed
    return home, record.weights_sha256


def _lineage(homes: list[Homed], unknown: list[Homed]) -> list[Homed]:
    """Return the stages' own records of measured weights that neither the import nor `records/` knows."""
    if not unknown:
        return []
    wanted = {_weights(homed) for homed in unknown}
    there = list(_work_tree())
    trained = {record.weights_sha256: (path, record) for path, record in there if isinstance(record, Training)}
    found: list[Homed] = []
    for home in {home for home, _ in wanted}:
        for path, pruned in there:
            if isinstance(pruned, Pruning) and (home, pruned.weights_sha256) in wanted:
                found.append((path, pruned, home))
                base = trained.get(pruned.baseline_sha256)
                found += [(*base, home)] if base else []
    return found


def _work_tree() -> Iterator[tuple[Path, Training | Pruning]]:
    """Yield the records of what the stages have trained and pruned here so far."""
    try:
        files = list(stage_files(params.load()))
    except UserError:  # no study here: nothing was trained
        return
    for _, path in files:
        with suppress(UserError):
            record = records.read(path)
            if not isinstance(record, Measurement):
                yield path, record


def _unknown_weights(homes: list[Homed]) -> list[Homed]:
    """Return the measurements of weights that neither the import nor `records/` knows."""
    known = {_weights(homed) for homed in homes if not isinstance(homed[1], Measurement)}
    for home in {home for *_, home in homes}:
        there = committed_records(home) if _records_in(paths.RECORDS / home) else []
        known |= {(home, record.weights_sha256) for record in there if not isinstance(record, Measurement)}
    return [homed for homed in homes if isinstance(homed[1], Measurement) and _weights(homed) not in known]


def _say_unknown(path: Path, record: Record, home: str) -> str:
    return (
        f"{path} measured weights {record.weights_sha256[:12]}, which no training or pruning record of study "
        f"{home!r} has: import those records with it"
    )


def _target(record: Training | Pruning | Measurement, home: str) -> Path:
    """Return where a record is stored."""
    name, *rest = _cell(record)
    parts = [name, f"seed{record.seed}", *rest, record.digest[:12]]
    return paths.RECORDS / home / record.kind / ("-".join(parts) + ".json")


def _store(new: dict[Path, tuple[Path, Training | Pruning | Measurement]]) -> None:
    """Store records and predicted labels, by way of a temporary folder: a full disk leaves nothing half done."""
    paths.RECORDS.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=paths.RECORDS, prefix=".import-") as scratch:
        written: list[tuple[Path, Path]] = []
        for number, (target, (path, record)) in enumerate(new.items()):
            made = Path(scratch) / f"{number}.json"
            if isinstance(record, Measurement):
                shutil.copyfile(path.with_suffix(".npy"), made.with_suffix(".npy"))
                written.append((made.with_suffix(".npy"), target.with_suffix(".npy")))
            records.write(record, made)
            written.append((made, target))
        for folder in {target.parent for target in new}:
            folder.mkdir(parents=True, exist_ok=True)
        for made, target in written:
            made.replace(target)
