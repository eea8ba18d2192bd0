"""The true labels of a study's scored images, beside its records: with the predicted labels they say which images a
file got right, so that two files can be compared image by image."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from trimlab import paths
from trimlab.errors import UserError, one_line
from trimlab.records import archive
from trimlab.records.types import Measurement, Record

Labels = NDArray[np.uint16]
"""A class for every scored image, (N,)."""


class Classified(NamedTuple):
    """What a file took the scored images for, and what they are."""

    true: Labels
    predicted: Labels

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each image was classified rightly, (N,)."""
        return np.equal(self.true, self.predicted, dtype=np.bool_)


ByDigest = dict[str, Classified]
"""By the digest of a measurement's record."""


def stored_file(study_name: str, record: Record) -> Path:
    """Return where the true labels of the images lie on which a record was scored."""
    name = f"{record.dataset}-{record.split}-{record.dataset_sha256[:12]}.npy"
    return paths.RECORDS / study_name / "labels" / name


def of_prepared(record: Record) -> Labels | None:
    """Return the true labels from the dataset that is prepared here; None where that is another one, or none."""
    path = paths.dataset_file(record.dataset)
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        if facts["sha256"] != record.dataset_sha256:
            return None
        with safe_open(path, "numpy") as file:  # reads the labels alone, not the images
            if record.split == "test":
                labels = file.get_tensor("test_labels")
            else:
                labels = file.get_tensor("train_labels")[file.get_tensor("holdout")]
    except (OSError, ValueError, LookupError, TypeError, SafetensorError):
        return None
    return np.asarray(labels, np.uint16)


def of_stages(records: Iterable[Record]) -> ByDigest:
    """Return what the files took the images for that the stages measured here.

    Raises:
        UserError: labels do not fit a record.
    """

    def predicted(r: Measurement) -> Path:
        return paths.measurement_file(r.variant, r.seed, r.precision, r.runtime).with_suffix(".npy")

    return _classified(records, of_prepared, predicted)


def of_committed(study_name: str, records: Iterable[Record]) -> ByDigest:
    """Return what the files took the images for whose records lie in `records/STUDY`.

    Raises:
        UserError: labels do not fit a record.
    """

    def true(record: Record) -> Labels | None:
        path = stored_file(study_name, record)
        return _read(path, record) if path.exists() else None

    return _classified(records, true, lambda record: archive.stored_file(record, study_name).with_suffix(".npy"))


def _classified(
    records: Iterable[Record],
    true: Callable[[Record], Labels | None],
    predicted: Callable[[Measurement], Path],
) -> ByDigest:
    known: dict[tuple[str, str, str], Labels | None] = {}
    found: ByDigest = {}
    for record in records:
        if isinstance(record, Measurement):
            scored_on = record.dataset, record.dataset_sha256, record.split
            if scored_on not in known:
                known[scored_on] = true(record)
            labels = known[scored_on]
            if labels is not None:
                found[record.digest] = _compared(record, labels, predicted(record))
    return found


def _compared(record: Measurement, labels: Labels, path: Path) -> Classified:
    predictions = _read(path, record)
    if len(labels) != len(predictions):
        raise UserError(f"{record.dataset} has {len(labels)} true labels, {path} {len(predictions)}: import both again")
    classified = Classified(labels, predictions)
    top1 = float(np.mean(classified.correct))
    if abs(top1 - record.top1_accuracy) > 1e-9:
        raise UserError(
            f"{path} and the true labels of {record.dataset} give a top-1 of {top1:.4%}, the record says "
            f"{record.top1_accuracy:.4%}: `git checkout` the labels, or import both again"
        )
    return classified


def _read(path: Path, record: Record) -> Labels:
    try:
        labels = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{path} holds no labels ({one_line(error)}): `git checkout` it, or import it again") from None
    if not isinstance(labels, np.ndarray) or labels.dtype != np.uint16 or labels.shape != (record.num_images,):
        raise UserError(f"{path} does not hold {record.num_images} labels as uint16: import it again")
    return labels
