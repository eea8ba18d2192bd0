"""A study with the records that its report speaks of, and what each measured file took the images for."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from trimlab.config import Params
from trimlab.records import archive, labels
from trimlab.records.labels import ByDigest
from trimlab.records.select import select
from trimlab.records.types import Record


class Loaded(NamedTuple):
    """A study and its records."""

    study: Params
    records: list[Record]
    """Those that the study's params select."""
    classified: ByDigest


@contextmanager
def without_collector() -> Iterator[None]:
    """Pause Python's garbage collector in a block that makes many objects and few cycles.

    It goes over all records again and again, and finds nothing: with thousands of them, that is a quarter of a report's
    time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@without_collector()
def of_stages(study: Params) -> Loaded:
    """Return what the stages wrote here.

    Raises:
        UserError: a cell has not written its record, or labels do not fit one.
    """
    found = select(study, archive.stage_records(study))
    return Loaded(study, found, labels.of_stages(found))


@without_collector()
def of_committed(name: str) -> Loaded:
    """Return what is committed in `records/STUDY`.

    Raises:
        UserError: there is no such study, it has no records, a record was edited, or labels do not fit one.
    """
    study = archive.load_study(name)
    found = select(study, archive.committed_records(name))
    return Loaded(study, found, labels.of_committed(name, found))
