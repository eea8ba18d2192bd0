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
from typing import Any, Dict, List

import numpy as np

from . import dataset, memory, runtimes, timing
from .errors import MeasureError

# fmt: off
KEYS = (
    "model", "yardstick", "runtime", "dataset", "predictions", "batch_size", "warmup", "repeats",
    "batch_repeats", "threads",
)
# fmt: on
"""What a request has to say."""


def measure(request: Dict[str, Any]) -> Dict[str, Any]:
    """Score and time one file; see the module's docstring for the request.

    Raises:
        MeasureError: a file or the runtime is missing or broken.
    """
    threads = request["threads"] or runtimes.cores()
    model = runtimes.open_file(request["runtime"], request["model"], threads)
    peak = _peak_memory(model, request["batch_size"])  # before anything else is loaded
    pack = dataset.load(request["dataset"])
    _say("scoring {} images".format(len(pack.images)))
    predictions = dataset.predict(model, pack, request["batch_size"])
    np.save(request["predictions"], predictions)
    yardstick = runtimes.open_file(request["runtime"], request["yardstick"], threads)
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


def _peak_memory(model: runtimes.Session, batch_size: int) -> int:
    batch = np.zeros((batch_size, *model.image_shape), np.float32)
    for _ in range(2):
        model.run(batch)
    return memory.peak_bytes()


def _read_request(path: str) -> Dict[str, Any]:
    try:
        request = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MeasureError("{} is no request ({}): give a JSON file".format(path, error)) from None
    missing = [key for key in KEYS if key not in request]
    if missing:
        raise MeasureError("{} lacks {}: add it".format(path, ", ".join(missing)))
    return dict(request)


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
        _say("error: {}".format(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
