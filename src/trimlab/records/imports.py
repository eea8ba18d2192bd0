"""Records of other machines, and of the stages here, into `records/`: each once by digest."""

import re
import shutil
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from trimlab import config, paths
from trimlab.digests import sha256_of
from trimlab.errors import UserError, one_line
from trimlab.records import archive, labels
from trimlab.records.files import AnyRecord, read, write
from trimlab.records.types import Measurement, Pruning, Record, Sensitivity, Training

ARCHIVE_BYTES = 256 << 20
"""Most that an archive may unpack to."""


_KINDS = ("training", "sensitivity", "pruning", "measurement")
_STORED = re.compile(r"-[0-9a-f]{12}\.json$")


class Imported(NamedTuple):
    """How many of the records given to an import were new, and how many `records/` held before."""

    new: int
    known: int


def import_records(sources: Sequence[Path] = ()) -> Imported:
    """Put records, and measurements' predicted labels, into `records/`, each once by digest.

    Where the dataset on which they were scored is prepared here, its true labels are stored with them.
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
    study = config.load()
    # A cell shared by two studies is restored from the run cache with the first one's name.
    return _import([(path, record, study.study) for path, record in _read_all(archive.present(study))], set())


Homed = tuple[Path, AnyRecord, str]
"""Where a record was found, the record, and the study to which it goes."""


def _read_all(files: Iterable[Path]) -> list[tuple[Path, AnyRecord]]:
    """Read records; report every file that is not one, a line each."""
    found, problems = [], []
    for path in files:
        try:
            found.append((path, read(path)))
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
    everything = [*homes, *lineage]
    targets = {archive.stored_file(record, home): (path, record) for path, record, home in everything}
    new = {target: pair for target, pair in targets.items() if not target.exists()}
    known = stored | {target.resolve() for target in targets if target not in new}
    try:
        _store(new, _new_labels(everything))
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
    # KeyError: a link to no member. RecursionError: a link to itself.
    except (tarfile.TarError, OSError, EOFError, KeyError, RecursionError, zlib.error) as error:
        raise UserError(f"{source} is not an archive of records ({one_line(error)}): copy it again") from None
    return target


def _json_files(sources: Sequence[Path]) -> list[Path]:
    for source in sources:
        if not _exists(source):
            raise UserError(f"{source} does not exist: name an existing file or folder")
    found = [path for source in sources for path in (archive.records_in(source) if source.is_dir() else [source])]
    if not found:
        raise UserError(f"no record in {', '.join(map(str, sources))}: name records, or folders that hold them")
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # its name is too long, say
        return False


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
        if sha256_of(labels) != record.predictions_sha256:
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
        files = list(archive.stage_files(config.load()))
    except UserError:  # no study here: nothing was trained
        return
    for _, path in files:
        with suppress(UserError):
            record = read(path)
            if isinstance(record, Training | Pruning):
                yield path, record


def _unknown_weights(homes: list[Homed]) -> list[Homed]:
    """Return the measurements of weights that neither the import nor `records/` knows."""
    known = {_weights(homed) for homed in homes if isinstance(homed[1], Training | Pruning)}
    for home in {home for *_, home in homes}:
        there = archive.committed_records(home) if archive.records_in(paths.RECORDS / home) else []
        known |= {(home, record.weights_sha256) for record in there if isinstance(record, Training | Pruning)}
    return [homed for homed in homes if isinstance(homed[1], Measurement) and _weights(homed) not in known]


def _say_unknown(path: Path, record: Record, home: str) -> str:
    return (
        f"{path} measured weights {record.weights_sha256[:12]}, which no training or pruning record of study "
        f"{home!r} has: import those records with it"
    )


def _new_labels(homes: list[Homed]) -> dict[Path, labels.Labels]:
    """Return the true labels that are not stored yet, of the datasets that are prepared here, by where they go."""
    # A sensitivity is scored on a part of the hold-out.
    whole = [(record, home) for _, record, home in homes if not isinstance(record, Sensitivity)]
    scored = {labels.stored_file(home, record): record for record, home in whole}
    found = {path: labels.of_prepared(record) for path, record in scored.items() if not path.exists()}
    return {path: true for path, true in found.items() if true is not None}


def _store(new: dict[Path, tuple[Path, AnyRecord]], true_labels: dict[Path, labels.Labels]) -> None:
    """Store records and labels, by way of a temporary folder: a full disk leaves nothing half done."""
    paths.RECORDS.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=paths.RECORDS, prefix=".import-") as scratch:
        written: list[tuple[Path, Path]] = []
        for number, (target, (path, record)) in enumerate(new.items()):
            made = Path(scratch) / f"{number}.json"
            if isinstance(record, Measurement):
                shutil.copyfile(path.with_suffix(".npy"), made.with_suffix(".npy"))
                written.append((made.with_suffix(".npy"), target.with_suffix(".npy")))
            write(record, made)
            written.append((made, target))
        for number, (target, true) in enumerate(true_labels.items()):
            made = Path(scratch) / f"true-{number}.npy"
            np.save(made, true)
            written.append((made, target))
        for folder in {target.parent for _, target in written}:
            folder.mkdir(parents=True, exist_ok=True)
        for made, target in written:
            made.replace(target)
