"""`python FILE.zip`: measure on this device whatever the bundle holds, and write records.

A bundle needs Python 3.8 or newer, numpy and a runtime; trimlab need not be installed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

from . import device, isolated
from .__main__ import COUNTS, check
from .errors import MeasureError, UnavailableError
from .progress import say

INDEX = "bundle.json"
"""The file in a bundle that lists its requests."""
FILES = ("model", "yardstick", "dataset", "torch_labels", "onnx_labels", "exact_labels", "calibration")
"""What of a request, and of its file with 7-bit weights, lies in the bundle."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def main(bundle: str, arguments: List[str]) -> int:
    """Measure a bundle's files; return the exit code.

    Args:
        bundle: the zip file.
        arguments: of the command line.
    """
    options = _options(arguments)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _measure(_unpacked(bundle, Path(scratch)), Path(scratch), options)
    except MeasureError as error:
        say("error: {}".format(error))
        return 1


def _options(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python FILE.zip", description=__doc__)
    parser.add_argument("--runtime", action="append", help="measure in this one (repeatable); default: in all")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where to; default: ./records")
    parser.add_argument("--threads", type=_threads, help="CPU threads; 0 takes all cores; default: as the study has it")
    return parser.parse_args(arguments)


def _threads(text: str) -> int:
    low, high = COUNTS["threads"]
    if not text.isdigit() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError("{!r} is not a whole number in [{}, {}]".format(text, low, high))
    return int(text)


def _unpacked(bundle: str, folder: Path) -> List[Dict[str, Any]]:
    """Unpack a bundle and return its requests, with paths in the folder."""
    try:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(folder)
        requests = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if not isinstance(requests, list):
            raise ValueError("no list")
        return [_placed(request, folder) for request in requests]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        message = "{} is not as `trimlab bundle` wrote it ({}: {}): copy it again"
        raise MeasureError(message.format(bundle, type(error).__name__, error)) from None


def _placed(request: Dict[str, Any], folder: Path) -> Dict[str, Any]:
    """Return a request with the paths that it has here, once it is checked."""
    check({**request, "predictions": ""}, INDEX)
    lineage = request["lineage"]
    for name in (lineage["variant"], str(lineage["seed"]), str(request["precision"]), request["runtime"]):
        if not _SAFE.fullmatch(name):
            raise ValueError("{!r} is not a name of a variant, a seed, a precision or a runtime".format(name))
    if type(lineage["seed"]) is not int:
        raise ValueError("seed {!r} is not a whole number".format(lineage["seed"]))
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    placed = {**request, **_files(request, folder), "digest": digest}
    if request["seven_bit"]:
        placed["seven_bit"] = {**request["seven_bit"], **_files(request["seven_bit"], folder)}
    return placed


def _files(of: Dict[str, Any], folder: Path) -> Dict[str, str]:
    found = {key: (folder / of[key]).resolve() for key in FILES if of.get(key)}
    for key, path in found.items():
        if folder.resolve() not in path.parents or not path.is_file():
            raise ValueError("{} {!r} is not in it".format(key, of[key]))
    return {key: str(path) for key, path in found.items()}


def _measure(requests: List[Dict[str, Any]], source: Path, options: argparse.Namespace) -> int:
    in_bundle = list(dict.fromkeys(request["runtime"] for request in requests))
    unknown = [runtime for runtime in options.runtime or [] if runtime not in in_bundle]
    if unknown:
        message = "--runtime {!r} is not in this bundle: use some of {}"
        raise MeasureError(message.format(unknown[0], ", ".join(in_bundle)))
    try:
        options.records.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MeasureError("--records {} is not a folder ({}): name one".format(options.records, error)) from None
    chosen = [request for request in requests if request["runtime"] in (options.runtime or in_bundle)]
    outcomes = [_record(request, path, source) for request, path in _todo(chosen, source, options)]
    measured, found = outcomes.count("measured"), outcomes.count("found")
    say("{} measured, {} found, of {} in all: copy {} back and `trimlab import` it".format(
        measured, found, len(chosen), options.records
    ))  # fmt: skip
    return 1 if "failed" in outcomes or not measured + found else 0


def _todo(
    requests: List[Dict[str, Any]], source: Path, options: argparse.Namespace
) -> Iterator[Tuple[Dict[str, Any], Path]]:
    """Yield what this device can measure, with the place of its record; say which runtime is not available."""
    asked = dict.fromkeys(request["runtime"] for request in requests)
    devices = {runtime: isolated.device(sys.executable, source, runtime) for runtime in asked}
    for number, request in enumerate(requests, 1):
        here = devices[request["runtime"]]
        if here is None:
            continue
        threads = request["threads"] if options.threads is None else options.threads
        request = {**request, "threads": threads or device.cores()}
        path = options.records / (_name(request, {**here, "threads": request["threads"]}) + ".json")
        say("{}/{} {}".format(number, len(requests), path.stem))
        engines = str(options.records.resolve().parent / "engines") if request["engines"] else None
        yield {**request, "predictions": str(path.with_suffix(".npy")), "engines": engines}, path


def _name(request: Dict[str, Any], here: Dict[str, Any]) -> str:
    """Name a record; another request, or the same one on another device, has another name."""
    lineage = request["lineage"]
    identity = json.dumps([request["digest"], device.identity(here)])
    return "{}-seed{}-{}-{}-{}".format(
        lineage["variant"], lineage["seed"], request["precision"], request["runtime"],
        hashlib.sha256(identity.encode()).hexdigest()[:12],
    )  # fmt: skip


def _record(request: Dict[str, Any], path: Path, source: Path) -> str:
    """Measure what has no record yet; return whether it was "measured", "found", "failed" or "unavailable"."""
    labels = path.with_suffix(".npy")
    if path.exists() and labels.exists():
        return "found"
    try:
        record = isolated.run(sys.executable, source, request)
        say("  {}".format(_summary(record)))
        _write(record, path)
        return "measured"
    except UnavailableError as error:
        say("{} is not measured here: {}".format(path.stem, error))
        outcome = "unavailable"
    except (MeasureError, OSError) as error:
        say("error: {}".format(error))
        outcome = "failed"
    for left in (labels, path.with_suffix(".tmp")):
        if left.exists():
            left.unlink()
    return outcome


def _summary(record: Dict[str, Any]) -> str:
    one, many = record["latency"], record["batch_latency"]
    return "top-1 {:.2f} %, {:.3g} ms at batch 1, {:,.0f} images/s at batch {}".format(
        100 * record["top1_accuracy"], one["p50_ms"], 1000 * many["batch_size"] / many["p50_ms"], many["batch_size"]
    )


def _write(record: Dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
