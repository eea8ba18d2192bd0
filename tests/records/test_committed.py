"""Committed records: each carries its digest in its file name, and reads back as it was written."""

from pathlib import Path

import factories
from trimlab import records

COMMITTED = sorted((Path(__file__).parents[2] / "records").rglob("*.json"))


def test_every_committed_record_keeps_its_digest() -> None:
    assert COMMITTED
    assert [path for path in COMMITTED if not path.stem.endswith(records.read(path).digest[:12])] == []


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    record = factories.engine_measurement(factories.study(), "large", "int8")
    records.write(record, tmp_path / "record.json")
    assert records.read(tmp_path / "record.json") == record
