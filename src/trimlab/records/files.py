"""Records as files: written whole or not at all, read with every field checked."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from trimlab import paths
from trimlab.errors import UserError, short
from trimlab.records.types import (
    OF_WEIGHTS,
    PATTERNS,
    VOLATILE,
    Measurement,
    Part,
    Pruning,
    Record,
    Sensitivity,
    Training,
    fields_with,
)

RECORD_BYTES = 16 << 20
"""Most that a record's JSON may hold; the largest of the committed ones holds 14 kB."""


AnyRecord = Annotated[Training | Sensitivity | Pruning | Measurement, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AnyRecord] = TypeAdapter(AnyRecord)


def write(record: Record, path: Path) -> None:
    """Write a record as JSON; the file appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(json.dumps(record.model_dump(), indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def read(path: Path) -> AnyRecord:
    """Read a record.

    Raises:
        UserError: the file is missing or holds no record, or a value is out of its bounds; in one line.
    """
    try:
        content = _content(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: run `dvc repro`, or `trimlab import` what was measured") from None
    except OSError as error:
        raise UserError(f"{path} is not a record ({error.strerror or error}): name a record's .json file") from None
    return parse(content, str(path))


def parse(content: bytes | str, name: str) -> AnyRecord:
    """Return the record that JSON says.

    Args:
        content: the JSON.
        name: what a message calls it.

    Raises:
        UserError: it is not a record, or a value is out of its bounds; in one line.
    """
    try:
        return _ADAPTER.validate_json(content)
    except ValidationError as error:
        wrong = _complaint(error.errors()[0])
        raise UserError(f"{name} is not a record of this version ({wrong}): measure again, or leave it out") from None


def _content(path: Path) -> bytes:
    size = paths.regular_status(path).st_size
    if size > RECORD_BYTES:
        raise OSError(f"{size >> 20} MiB, and a record has at most {RECORD_BYTES >> 20}")
    return path.read_bytes()


def _complaint(detail: ErrorDetails) -> str:
    """Name a wrong value's field, the value, and what it should be."""
    kinds = ("training", "sensitivity", "pruning", "measurement")
    where = ".".join(str(part) for part in detail["loc"] if part not in kinds)
    message = PATTERNS.get(detail.get("ctx", {}).get("pattern", ""), detail["msg"])
    message = message.removeprefix("Input ").removeprefix("Value error, ")
    single = not isinstance(detail["input"], dict | list | bytes) and detail["type"] != "missing"
    return " ".join(filter(None, [where, short(detail["input"]) if single else "", message]))


def stable(record: Record) -> dict[str, Any]:
    """Return a record without what differs between two runs of one seed: times, memory, commit."""
    values: dict[str, Any] = _stable(record)
    return values


def write_outcome(record: Training | Pruning, path: Path) -> None:
    """Write what of a record follows from its weights, and the digest of its params.

    A second run with equal weights writes equal bytes, so that DVC runs no later stage. Other params make it run them
    even where the weights are equal: their records have other digests.
    """
    outcome = record.model_dump(include={*fields_with(type(record), OF_WEIGHTS), "params_digest"})
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(outcome, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_outcome(path: Path) -> dict[str, Any]:
    """Return what `write_outcome` wrote, by the names of the record's fields.

    Raises:
        UserError: it is missing, or not as it was written.
    """
    try:
        outcome: dict[str, Any] = json.loads(_content(path))
        outcome["weights_sha256"], outcome["top1_accuracy"]
    except (OSError, ValueError, TypeError, LookupError):
        raise UserError(f"{path} does not say what its weights achieve: run `dvc repro`, which writes it") from None
    return outcome


def _stable(value: Any) -> Any:
    if isinstance(value, Part):
        volatile = fields_with(type(value), VOLATILE)
        return {name: _stable(getattr(value, name)) for name in type(value).model_fields if name not in volatile}
    return [_stable(inner) for inner in value] if isinstance(value, list) else value
