"""`python -m trimlab.measure REQUEST.json`: one JSON line on standard output, progress on standard error.

The request names `model`, `yardstick`, `runtime`, `dataset`, `predictions` (where to, `.npy`), `batch_size`,
`warmup`, `repeats`, `batch_repeats` and `threads` (0 takes all cores).
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np

from . import dataset, memory, runtimes, timing
from .errors import MeasureError

NAMES = ("model", "yardstick", "runtime", "dataset", "predictions")
"""The strings of a request."""
COUNTS = {
    "batch_size": (1, 65536),
    "warmup": (1, 1000),
    "repeats": (1, 100_000),
    "batch_repeats": (1, 100_000),
    "threads": (0, 1024),
}
"""Its whole numbers, with their bounds."""
KEYS = (*NAMES, *COUNTS)
"""What a request has to say."""


def measure(request: Dict[str, Any]) -> Dict[str, Any]:
    """Score and time one file; see the module's docstring for the request.

    Raises:
        MeasureError: a file or the runtime is missing or broken, or they don't fit each other.
    """
    threads = request["threads"] or runtimes.cores()
    model = _open(request, "model", threads)
    peak = memory.peak_bytes()  # before anything else is loaded
    pack = dataset.load(request["dataset"], model.image_shape)
    _say("scoring {} images".format(len(pack.images)))
    predictions = dataset.predict(model, pack, request["batch_size"])
    _save(predictions, request["predictions"])
    yardstick = _open(request, "yardstick", threads)
    _check_same_images(model, yardstick)
    return {
        "runtime": request["runtime"],
        "runtime_version": model.version,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "threads": threads,
        "num_images": len(pack.images),
        "top1_accuracy": float(np.mean(predictions == pack.labels)),
        "file_bytes": Path(request["model"]).stat().st_size,
        "file_sha256": _sha256(request["model"]),
        "yardstick_sha256": _sha256(request["yardstick"]),
        "predictions_sha256": _sha256(request["predictions"]),
        "peak_memory_bytes": peak,
        **_latencies([model, yardstick], pack, request),
    }


def _latencies(sessions: List[runtimes.Session], pack: dataset.Pack, request: Dict[str, Any]) -> Dict[str, Any]:
    record = {}
    for prefix, size, repeats in (("", 1, "repeats"), ("batch_", request["batch_size"], "batch_repeats")):
        _say("timing batch {}".format(size))
        batch = pack.tiled(size)
        calls = [partial(session.run, batch) for session in sessions]
        own, other = timing.interleaved(calls, request[repeats], request["warmup"])
        record[prefix + "latency"] = timing.latency(own, size)
        record["yardstick_" + prefix + "latency"] = timing.latency(other, size)
    return record


def _open(request: Dict[str, Any], key: str, threads: int) -> runtimes.Session:
    session = runtimes.open_file(request["runtime"], request[key], threads)
    size = request["batch_size"]
    try:
        batch = np.zeros((size, *session.image_shape), np.float32)
        for _ in range(2):
            session.run(batch)
    except Exception as error:  # a runtime raises whatever the graph provokes
        message = "{} does not run at batch_size {} ({}): lower that, or export the file again"
        raise MeasureError(message.format(request[key], size, runtimes.line(error))) from None
    return session


def _check_same_images(model: runtimes.Session, yardstick: runtimes.Session) -> None:
    if yardstick.image_shape != model.image_shape:
        message = "yardstick takes images {}, model takes {}: name files of one image size"
        raise MeasureError(message.format(yardstick.image_shape, model.image_shape))


def _save(predictions: np.ndarray[Any, Any], path: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:  # given a name, numpy would append .npy to it
            np.save(file, predictions)
    except (OSError, ValueError) as error:
        raise MeasureError("predictions {!r} cannot be written ({}): name another file".format(path, error)) from None


def _read_request(path: str) -> Dict[str, Any]:
    try:
        request = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasureError("{} is no request ({}): give a JSON file".format(path, error)) from None
    if not isinstance(request, dict):
        raise MeasureError("{} is no request (no JSON object): give one with {}".format(path, ", ".join(KEYS)))
    missing = [key for key in KEYS if key not in request]
    if missing:
        raise MeasureError("{} lacks {}: add it".format(path, ", ".join(missing)))
    problems = list(_problems(request))
    if problems:
        raise MeasureError("{}: {}".format(path, "; ".join(problems)))
    return request


def _problems(request: Dict[str, Any]) -> Iterator[str]:
    for key in NAMES:
        if not isinstance(request[key], str):
            yield "{} {} is no string: give a name in quotes".format(key, json.dumps(request[key]))
    for key, (low, high) in COUNTS.items():
        value = request[key]
        if type(value) is not int or not low <= value <= high:  # True is an int, too
            yield "{} {} is no whole number in [{}, {}]: give one".format(key, json.dumps(value), low, high)


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


def main(arguments: List[str]) -> int:
    """Measure what a request asks for; return the exit code."""
    if len(arguments) != 1:
        _say("error: one request file is needed: python -m trimlab.measure REQUEST.json")
        return 2
    try:
        print(json.dumps(measure(_read_request(arguments[0]))))
    except MeasureError as error:
        _say("error: {}".format(" ".join(str(error).splitlines())))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
