"""`python FILE.zip`: measure on this device whatever the bundle holds, and write records.

A bundle needs Python 3.10 or newer, numpy and a runtime; trimlab need not be installed.
"""

import argparse
import hashlib
import json
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from . import contract, device, isolated
from .contract import Request
from .errors import MeasureError, UnavailableError
from .progress import say

INDEX = "bundle.json"
"""The file in a bundle that lists its requests; their files are named within the bundle."""

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Asked(NamedTuple):
    """A request of the bundle."""

    request: Request
    """With its files where they were unpacked."""
    digest: str
    """Of what the bundle says, wherever it is unpacked."""


def main(bundle: str, arguments: list[str]) -> int:
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
        say(f"error: {error}")
        return 1


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python FILE.zip", description=__doc__)
    parser.add_argument("--runtime", action="append", help="measure in this one (repeatable); default: in all")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where to; default: ./records")
    parser.add_argument("--threads", type=_threads, help="CPU threads; 0 takes all cores; default: as the study has it")
    return parser.parse_args(arguments)


def _threads(text: str) -> int:
    low, high = contract.BOUNDS["threads"]
    if not text.isdigit() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number in [{low}, {high}]")
    return int(text)


def _unpacked(bundle: str, folder: Path) -> list[Asked]:
    """Unpack a bundle and return its requests."""
    try:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(folder)
        requests = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if not isinstance(requests, list):
            raise ValueError("no list")
        return [_placed(contract.parse(request, INDEX), folder) for request in requests]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, zipfile.BadZipFile) as error:
        raise MeasureError(
            f"{bundle} is not as `trimlab bundle` wrote it ({type(error).__name__}: {error}): copy it again"
        ) from None


def _placed(request: Request, folder: Path) -> Asked:
    """Return a request with the paths that its files have here, once names and paths are checked."""
    lineage = request.lineage
    for name in (lineage["variant"], str(lineage["seed"]), request.precision, request.runtime):
        if not _SAFE.fullmatch(name):
            raise ValueError(f"{name!r} is not a name of a variant, a seed, a precision or a runtime")
    if type(lineage["seed"]) is not int:
        raise ValueError(f"seed {lineage['seed']!r} is not a whole number")
    digest = hashlib.sha256(json.dumps(contract.to_json(request), sort_keys=True).encode()).hexdigest()
    return Asked(contract.moved(request, lambda name: _file(folder.resolve(), name)), digest)


def _file(folder: Path, name: str) -> str:
    path = (folder / name).resolve()
    if folder not in path.parents or not path.is_file():
        raise ValueError(f"file {name!r} is not in it")
    return str(path)


def _measure(asked: list[Asked], source: Path, options: argparse.Namespace) -> int:
    in_bundle = list(dict.fromkeys(request.runtime for request, _ in asked))
    unknown = [runtime for runtime in options.runtime or [] if runtime not in in_bundle]
    if unknown:
        raise MeasureError(f"--runtime {unknown[0]!r} is not in this bundle: use some of {', '.join(in_bundle)}")
    try:
        options.records.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MeasureError(f"--records {options.records} is not a folder ({error}): name one") from None
    chosen = [each for each in asked if each.request.runtime in (options.runtime or in_bundle)]
    outcomes = [_record(request, path, source) for request, path in _todo(chosen, source, options)]
    measured, found = outcomes.count("measured"), outcomes.count("found")
    outcome = f"{measured} measured, {found} found, of {len(chosen)} in all"
    say(f"{outcome}: copy {options.records} back and `trimlab import` it")
    return 1 if "failed" in outcomes or not measured + found else 0


def _todo(asked: list[Asked], source: Path, options: argparse.Namespace) -> Iterator[tuple[Request, Path]]:
    """Yield what this device can measure, with the place of its record; say which runtime is not available."""
    runtimes = dict.fromkeys(request.runtime for request, _ in asked)
    devices = {runtime: isolated.device(sys.executable, source, runtime) for runtime in runtimes}
    for number, each in enumerate(asked, 1):
        request, here = each.request, devices[each.request.runtime]
        if here is None:
            continue
        threads = (request.threads if options.threads is None else options.threads) or device.cores()
        path = options.records / (_name(each, {**here, "threads": threads}) + ".json")
        say(f"{number}/{len(asked)} {path.stem}")
        engines = str(options.records.resolve().parent / "engines") if request.engines else None
        yield request._replace(threads=threads, predictions=str(path.with_suffix(".npy")), engines=engines), path


def _name(asked: Asked, here: dict[str, Any]) -> str:
    """Name a record; another request, or the same one on another device, has another name."""
    request, lineage = asked.request, asked.request.lineage
    identity = json.dumps([asked.digest, device.identity(here)])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:12]
    return f"{lineage['variant']}-seed{lineage['seed']}-{request.precision}-{request.runtime}-{digest}"


def _record(request: Request, path: Path, source: Path) -> str:
    """Measure what has no record yet; return whether it was "measured", "found", "failed" or "unavailable"."""
    labels = path.with_suffix(".npy")
    if path.exists() and labels.exists():
        return "found"
    try:
        record = isolated.run(sys.executable, source, request)
        say(f"  {_summary(record)}")
        _write(record, path)
        return "measured"
    except UnavailableError as error:
        say(f"{path.stem} is not measured here: {error}")
        outcome = "unavailable"
    except (MeasureError, OSError) as error:
        say(f"error: {error}")
        outcome = "failed"
    for left in (labels, path.with_suffix(".tmp")):
        if left.exists():
            left.unlink()
    return outcome


def _summary(record: dict[str, Any]) -> str:
    one, many = record["latency"], record["batch_latency"]
    images_per_second = 1000 * many["batch_size"] / many["p50_ms"]
    return (
        f"top-1 {100 * record['top1_accuracy']:.2f} %, {one['p50_ms']:.3g} ms at batch 1, "
        f"{images_per_second:,.0f} images/s at batch {many['batch_size']}"
    )


def _write(record: dict[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
