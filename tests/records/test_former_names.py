"""Fields that were renamed: committed records keep their identity, and are read under either name."""

import json
from pathlib import Path
from typing import Any

import pytest

import factories
from trimlab import records
from trimlab.errors import UserError
from trimlab.records.types import FORMER_NAMES

COMMITTED = sorted((Path(__file__).parents[2] / "records").rglob("*.json"))


def renamed(value: Any, names: dict[str, str]) -> Any:
    """Return parsed JSON with other keys."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(inner, names) for key, inner in value.items()}
    return [renamed(inner, names) for inner in value] if isinstance(value, list) else value


def test_every_committed_record_keeps_its_digest() -> None:
    assert COMMITTED
    assert [path for path in COMMITTED if not path.stem.endswith(records.read(path).digest[:12])] == []


@pytest.mark.parametrize("make", [factories.measurement, factories.engine_measurement])
def test_a_record_is_the_same_under_old_names_and_new_ones(make: Any) -> None:
    new = make(factories.study(), "large", "int8").model_dump()
    old = renamed(new, FORMER_NAMES)
    assert old != new and "baseline_latency" in new
    read = [records.parse(json.dumps(found), "a record") for found in (old, new)]
    assert read[0] == read[1]
    assert read[0].digest == read[1].digest


def test_records_are_written_under_the_new_names(tmp_path: Path) -> None:
    record = factories.engine_measurement(factories.study(), "large", "int8")
    records.write(record, tmp_path / "record.json")
    text = (tmp_path / "record.json").read_text()
    assert [old for old in FORMER_NAMES.values() if old in text] == []
    assert records.read(tmp_path / "record.json") == record


@pytest.mark.parametrize("name", ["baseline_latency", "yardstick_latency"])
def test_a_wrong_value_is_named_as_the_file_names_it(name: str) -> None:
    values = factories.measurement(factories.study(), "large", "int8").model_dump()
    del values["baseline_latency"]
    with pytest.raises(UserError, match=rf"\({name} 3 should be an object\)"):
        records.parse(json.dumps({**values, name: 3}), "a record")


def test_a_record_with_both_names_is_refused() -> None:
    values = factories.measurement(factories.study(), "large", "int8").model_dump()
    twice = {**values, "yardstick_latency": values["baseline_latency"]}
    with pytest.raises(UserError, match="yardstick_latency Extra inputs are not permitted"):
        records.parse(json.dumps(twice), "a record")
