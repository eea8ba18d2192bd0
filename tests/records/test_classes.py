"""Figures of classes in records: all classes, or none in older records."""

import json
from typing import Any

import pytest

import factories
from trimlab import records
from trimlab.errors import UserError

COUNTS = {"images": 10, "correct": 5, "predicted": 10}


@pytest.mark.parametrize("changes", [{"per_class": [COUNTS] * 9}, {"class_names": ["a", "b"]}])
def test_a_record_of_other_classes_than_it_has_is_refused(changes: Any) -> None:
    record = factories.measurement(factories.study(), "large", "fp32").model_dump() | changes
    with pytest.raises(UserError, match="entries for 10 classes"):
        records.parse(json.dumps(record), "a record")


def test_figures_of_classes_survive_writing() -> None:
    made = factories.training(factories.study(), "large", per_class=[COUNTS] * 10, macro_f1=0.5, top5_accuracy=0.9)
    assert records.parse(made.model_dump_json(), "a record") == made
    assert made.per_class[0].recall == 0.5
