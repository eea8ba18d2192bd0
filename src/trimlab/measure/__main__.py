"""`python -m trimlab.measure REQUEST.json`: one record as a JSON line on standard output, progress on standard error.

`python -m trimlab.measure --runtime NAME` asks whether a runtime is available here: it prints the device that the
runtime computes on. `python -m trimlab.measure --times NUMBER REQUEST.json` times the files of a request once more, in
process NUMBER, counted from 0, and prints what the record adds.

REQUEST.json holds a `contract.Request`. A process times the files once, however many `processes` it asks for:
`isolated` starts the others. The exit code is 0, 1 where something is wrong, 3 where this machine can't measure that
precision, or 4 where it can't measure in that runtime at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from . import accuracy, contract, device, runtimes, scoring, timing, weights
from .contract import Request
from .errors import MeasureError, NoRuntimeError, UnavailableError, one_line
from .progress import say
from .scoring import Predictions
from .session import Session, Settings

UNAVAILABLE = {3: UnavailableError, 4: NoRuntimeError}
"""The exit codes where this machine can't measure that."""


def measure(request: Request) -> dict[str, Any]:
    """Score and time one file; return the record.

    Raises:
        UnavailableError: the runtime or the precision is not available here.
        MeasureError: a file is missing or broken, or they don't fit each other.
    """
    request = weights.fitted(request)
    with device.watched() as watch:
        measured = _measured(request)
    versions = {**request.lineage.get("versions", {}), **measured["versions"]}
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        **request.lineage,
        **measured,
        "versions": versions,
        "created": created,
        "contended": watch.contended,
    }


def times(request: Request, number: int) -> dict[str, Any]:
    """Time the files of a request alone; return `processes` and `contended` as a record has them.

    Args:
        request: what to time.
        number: of the process. In every odd one the baseline file is opened and takes its turns first, so that whatever
            the order is worth shows as spread between processes.

    Raises:
        UnavailableError, MeasureError: as `measure`.
    """
    request = weights.fitted(request)
    files = [("", request.model, request.precision), ("baseline_", request.baseline, "fp32")]
    with device.watched() as watch, ExitStack() as opened:
        sessions = {
            name: opened.enter_context(closing(_open(request, file, _settings(request)._replace(precision=precision))))
            for name, file, precision in (reversed(files) if number % 2 else files)
        }
        pack = scoring.load(request.images, request.pack, sessions[""].image_shape)
        process = _process(_clocks(sessions, pack, request, ["latency"])["latency"])
    return {"processes": [process], "contended": watch.contended}


def _measured(request: Request) -> dict[str, Any]:
    with closing(_open(request, request.model, _settings(request))) as model:
        memory_bytes = model.memory_bytes()  # before anything else is loaded
        pack = scoring.load(request.images, request.pack, model.image_shape)
        say(f"scoring {len(pack.images)} images")
        predictions = scoring.predict(model, pack, request.batch_size)
        _save(predictions.labels, request.predictions)
        scored = _scored(request, model, pack, predictions)
        with closing(_open(request, request.baseline, _settings(request)._replace(precision="fp32"))) as baseline:
            _check_same_images(model, baseline)
            latencies = _latencies(model, baseline, pack, request)
        layers, engines = _layers(model, pack, request), _engines(model, pack, request)
    return {**scored, "peak_memory_bytes": memory_bytes, **latencies, **layers, **engines}


def _scored(request: Request, model: Session, pack: scoring.Pack, predicted: Predictions) -> dict[str, Any]:
    """Return what is known of a file without timing it."""
    return {
        "precision": request.precision,
        "runtime": request.runtime,
        "runtime_version": model.version,
        "device": model.device,
        "versions": {"numpy": np.__version__, **model.versions},
        **accuracy.figures(predicted.labels, pack.labels, predicted.num_classes, predicted.top5_hits),
        **_agreement(predicted.labels, pack, request),
        "file_bytes": Path(request.model).stat().st_size,
        "file_sha256": _sha256(request.model),
        "baseline_file_sha256": _sha256(request.baseline),
        "predictions_sha256": _sha256(request.predictions),
    }


def _settings(request: Request) -> Settings:
    return Settings(
        precision=request.precision,
        threads=request.threads or device.cores(),
        batch_size=request.batch_size,
        engines=_path(request.engines),
        calibration=_path(request.calibration),
    )


def _path(name: str | None) -> Path | None:
    return Path(name) if name else None


def _agreement(predictions: np.ndarray[Any, Any], pack: scoring.Pack, request: Request) -> dict[str, Any]:
    """Compare with torch, with ONNX Runtime where another runtime ran the file, and with an INT8 file's arithmetic."""
    torch_labels = _labels(request.torch_labels, len(predictions))
    found = {"torch_agreement": float(np.mean(predictions == torch_labels))}
    for other, file in (("onnx", request.onnx_labels), ("exact", request.exact_labels)):
        if file:
            labels = _labels(file, len(predictions))
            found[f"{other}_top1_accuracy"] = float(np.mean(labels == pack.labels))
            found[f"{other}_agreement"] = float(np.mean(predictions == labels))
    return found


def _latencies(model: Session, baseline: Session, pack: scoring.Pack, request: Request) -> dict[str, Any]:
    clocks = _clocks({"": model, "baseline_": baseline}, pack, request)
    process = _process(clocks.pop("latency"))
    others = [
        {"name": name, **{key: timing.latency(*runs) for key, runs in series.items()}}
        for name, series in clocks.items()
    ]
    return {**timing.pooled([process]), "clocks": others, "processes": [process]}


Runs = tuple[list[float], int]
"""Seconds of each run, and its images."""


def _clocks(
    sessions: dict[str, Session], pack: scoring.Pack, request: Request, wanted: Sequence[str] | None = None
) -> dict[str, dict[str, Runs]]:
    """Time sessions in turns, by every clock that they have or by those that are wanted.

    Args:
        sessions: by what their fields in a record begin with, in the order of their turns.
        pack: the images.
        request: how often.
        wanted: names of clocks.
    """
    clocks: dict[str, dict[str, Runs]] = {}
    for prefix, size, repeats in (("", 1, request.repeats), ("batch_", request.batch_size, request.batch_repeats)):
        say(f"timing batch {size}")
        batch = pack.tiled(size)
        stopwatches = [session.stopwatches(batch) for session in sessions.values()]
        for clock in wanted or stopwatches[0]:
            runs = timing.interleaved([each[clock] for each in stopwatches], repeats, request.warmup)
            for name, seconds in zip(sessions, runs, strict=True):
                clocks.setdefault(clock, {})[f"{name}{prefix}latency"] = seconds, size
    return clocks


def _process(wall: dict[str, Runs]) -> dict[str, Any]:
    return {key: timing.series(*runs) for key, runs in wall.items()}


def _layers(model: Session, pack: scoring.Pack, request: Request) -> dict[str, Any]:
    say("profiling layers")
    sizes = {"layers": 1, "batch_layers": request.batch_size}
    return {key: model.layers(pack.tiled(size)) for key, size in sizes.items()}


def _engines(model: Session, pack: scoring.Pack, request: Request) -> dict[str, Any]:
    """Describe the engine, and build it again: no two builds need be alike."""
    facts = model.engine()
    if facts is None:
        return {}
    builds = [_build(model, pack, request)]
    for build in range(1, request.builds):
        with closing(_open(request, request.model, _settings(request)._replace(build=build))) as again:
            builds.append(_build(again, pack, request))
    return {"engine": facts, "builds": builds}


def _build(model: Session, pack: scoring.Pack, request: Request) -> dict[str, Any]:
    facts = model.engine() or {}
    build = {key: facts[key] for key in ("sha256", "size_bytes", "build_seconds")}
    for prefix, size, repeats in (("", 1, request.repeats), ("batch_", request.batch_size, request.batch_repeats)):
        stopwatch = model.stopwatches(pack.tiled(size))["gpu_graph"]
        (seconds,) = timing.interleaved([stopwatch], repeats, request.warmup)
        build[prefix + "latency"] = timing.latency(seconds, size)
    return build


def _open(request: Request, file: str, settings: Settings) -> Session:
    session = runtimes.open_file(request.runtime, file, settings)
    size = request.batch_size
    try:
        batch = np.zeros((size, *session.image_shape), np.float32)
        for _ in range(2):
            session.run(batch)
    except Exception as error:  # a runtime raises whatever the graph provokes
        session.close()
        raise MeasureError(
            f"{file} does not run at batch_size {size} ({one_line(error)}): lower that, or export the file again"
        ) from None
    return session


def _check_same_images(model: Session, baseline: Session) -> None:
    if baseline.image_shape != model.image_shape:
        raise MeasureError(
            f"baseline takes images {baseline.image_shape}, model takes {model.image_shape}: "
            "name files of one image size"
        )


def _save(predictions: np.ndarray[Any, Any], path: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("wb") as file:  # given a name, numpy would append .npy to it
            np.save(file, predictions)
    except (OSError, ValueError) as error:
        raise MeasureError(f"predictions {path!r} cannot be written ({error}): name another file") from None


def _read_request(path: str) -> Request:
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MeasureError(f"{path} is not a request ({error}): give a JSON file") from None
    return contract.parse(value, path)


def _labels(path: str, count: int) -> np.ndarray[Any, Any]:
    try:
        labels: np.ndarray[Any, Any] = np.load(path)
    except (OSError, ValueError, EOFError) as error:
        raise MeasureError(f"{path} holds no labels ({one_line(error)}): make it again, or name another .npy") from None
    if labels.shape != (count,):
        raise MeasureError(f"{path} holds labels {labels.shape} for {count} images: make it again")
    return labels


def _sha256(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def end_with_parent() -> None:
    """End this process when the one that started it is gone and standard input ends with it.

    A killed stage would otherwise leave its measurement running, beside the one that the next stage times.
    """

    def wait() -> None:
        os.read(0, 1)
        os._exit(1)

    # It sleeps in the system, and takes no time from what is measured.
    threading.Thread(target=wait, daemon=True).start()


def main(arguments: list[str]) -> int:
    """Measure or time what a request asks for, or look for a runtime; return the exit code."""
    *options, last = arguments or [""]
    try:
        if options == ["--runtime"]:
            print(json.dumps(runtimes.device_of(last)))
        elif options[:1] == ["--times"] and len(options) == 2 and options[1].isdecimal():
            print(json.dumps(times(_read_request(last), int(options[1]))))
        elif not options and last:
            print(json.dumps(measure(_read_request(last))))
        else:
            say("error: one request file is needed: python -m trimlab.measure REQUEST.json")
            return 2
    except UnavailableError as error:
        say(f"unavailable: {' '.join(str(error).splitlines())}")
        return next(code for code, kind in UNAVAILABLE.items() if type(error) is kind)
    except MeasureError as error:
        say(f"error: {' '.join(str(error).splitlines())}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
