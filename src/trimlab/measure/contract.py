"""What is asked of `trimlab.measure`: the fields of a request, their JSON, their bounds."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple, get_type_hints

from .errors import MeasureError


class SevenBit(NamedTuple):
    """What an INT8 file with 7-bit weights has of its own; the rest of the request holds for it too."""

    model: str
    """The file."""
    onnx_labels: str | None
    """As in `Request`, for this file."""
    exact_labels: str | None
    """As in `Request`, for this file."""
    lineage: dict[str, Any]
    """What it changes in the request's."""


class Request(NamedTuple):
    """One file, to be scored and timed in one runtime."""

    model: str
    """The deployed file."""
    precision: str
    """What it is computed in; one of the runtime's, see `formats`."""
    baseline: str
    """The workload's unpruned FP32 file, timed in turn with the model."""
    runtime: str
    """A key of `runtimes.RUNTIMES`."""
    images: str
    """`.npy` of what is scored: images (N, C, H, W) uint8."""
    pack: str
    """`.npz` of their labels and normalisation, see `scoring.Pack`."""
    predictions: str
    """Where the predicted labels go: `.npy`, a uint16 for each image."""
    torch_labels: str
    """`.npy` of the labels that torch gives the same images."""
    onnx_labels: str | None
    """`.npy` of those that ONNX Runtime gives them with this file; None where that is the runtime."""
    exact_labels: str | None
    """`.npy` of those that an INT8 file's own arithmetic gives them; None for other precisions."""
    seven_bit: SevenBit | None
    """The file that takes the model's place where this processor would saturate with 8-bit weights."""
    calibration: str | None
    """`.npy` of normalised images (N, C, H, W) float32, where the runtime calibrates."""
    engines: str | None
    """Folder in which built engines are kept; None keeps none."""
    batch_size: int
    """The large batch, in images."""
    warmup: int
    """Untimed runs."""
    repeats: int
    """Timed runs at batch 1."""
    batch_repeats: int
    """Timed runs at the large batch."""
    processes: int
    """Clean processes that time both files, one after another."""
    threads: int
    """CPU threads; 0 takes all cores."""
    builds: int
    """How often an engine is built."""
    lineage: dict[str, Any]
    """What the record says besides: where the file comes from."""


BOUNDS = {
    "batch_size": (1, 65536),
    "warmup": (1, 1000),
    "repeats": (1, 100_000),
    "batch_repeats": (1, 100_000),
    "processes": (1, 20),
    "threads": (0, 1024),
    "builds": (1, 100),
}
"""Of a request's whole numbers."""


def parse(value: Any, source: str) -> Request:
    """Return the request that parsed JSON holds; whether its files exist is not looked at.

    Args:
        value: what `to_json` returned.
        source: what a message calls it.

    Raises:
        MeasureError: it is no object, lacks something, or a value is not what it should be.
    """
    if not isinstance(value, dict):
        raise MeasureError(f"{source} is not a request (no JSON object): give one with {', '.join(Request._fields)}")
    missing = [key for key in Request._fields if key not in value]
    if missing:
        raise MeasureError(f"{source} lacks {', '.join(missing)}: add it")
    unknown = [key for key in value if key not in Request._fields]
    if unknown:
        raise MeasureError(f"{source} has {', '.join(unknown)}, which no request has: remove it")
    problems = list(filter(None, (_problem(key, hint, value[key]) for key, hint in get_type_hints(Request).items())))
    if problems:
        raise MeasureError(f"{source}: {'; '.join(problems)}")
    seven_bit = value["seven_bit"]
    return Request(**{**value, "seven_bit": seven_bit and SevenBit(**seven_bit)})


def to_json(request: Request) -> dict[str, Any]:
    """Return what JSON says of a request; `parse` reads it."""
    return {**request._asdict(), "seven_bit": request.seven_bit and request.seven_bit._asdict()}


def moved(request: Request, place: Callable[[str], str]) -> Request:
    """Return a request whose files lie elsewhere; what it writes, `predictions` and `engines`, stays where it is.

    Args:
        request: with its files, and those of `seven_bit`.
        place: returns a file's new path, given its old one.
    """
    seven_bit = request.seven_bit
    return request._replace(
        model=place(request.model),
        baseline=place(request.baseline),
        images=place(request.images),
        pack=place(request.pack),
        torch_labels=place(request.torch_labels),
        onnx_labels=request.onnx_labels and place(request.onnx_labels),
        exact_labels=request.exact_labels and place(request.exact_labels),
        calibration=request.calibration and place(request.calibration),
        seven_bit=seven_bit
        and seven_bit._replace(
            model=place(seven_bit.model),
            onnx_labels=seven_bit.onnx_labels and place(seven_bit.onnx_labels),
            exact_labels=seven_bit.exact_labels and place(seven_bit.exact_labels),
        ),
    )


def _problem(key: str, hint: Any, value: Any) -> str | None:
    """Say what is wrong with a field's value; None where it fits the field's type and bounds."""
    shown = json.dumps(value)
    if hint is str and not isinstance(value, str):
        return f"{key} {shown} is not a string: give a name in quotes"
    if hint == str | None and not isinstance(value, str | None):
        return f"{key} {shown} is not a string: give a name in quotes, or null"
    if hint == dict[str, Any] and not isinstance(value, dict):
        return f"{key} {shown} is not a JSON object: give one"
    if hint == SevenBit | None and value is not None and not _is_seven_bit(value):
        return f"{key} is not a JSON object with {', '.join(SevenBit._fields)}: give one, or null"
    if hint is int:
        low, high = BOUNDS[key]
        if type(value) is not int or not low <= value <= high:  # True is an int, too
            return f"{key} {shown} is not a whole number in [{low}, {high}]: give one"
    return None


def _is_seven_bit(value: Any) -> bool:
    hints = get_type_hints(SevenBit)
    return (
        isinstance(value, dict)
        and set(value) == set(hints)
        and not any(_problem(key, hint, value[key]) for key, hint in hints.items())
    )
