"""`python FILE.zip`: measure on this device whatever the bundle holds, and write records.

A bundle needs Python 3.8 or newer, numpy and a runtime, and nothing of ours.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Dict, List, Optional

from . import isolated
from .errors import MeasureError, UnavailableError
from .progress import say

INDEX = "bundle.json"
"""The file in a bundle that lists its requests."""
FILES = ("model", "yardstick", "dataset", "torch_labels", "onnx_labels", "calibration")
"""What of a request lies in the bundle."""


def main(bundle: str, arguments: List[str]) -> int:
    """Measure a bundle's files; return the exit code.

    Args:
        bundle: the zip file.
        arguments: of the command line.
    """
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(scratch)
        requests = json.loads((Path(scratch) / INDEX).read_text(encoding="utf-8"))
        chosen = [request for request in requests if request["runtime"] in (options.runtime or [request["runtime"]])]
        failed = _measure_all(_measurable(chosen, Path(scratch)), Path(scratch), options)
    written = len(list(options.records.glob("*.json")))
    say("{} of {} records lie in {}: take that folder home, `trimlab import` it".format(
        written, len(chosen), options.records
    ))  # fmt: skip
    return 1 if failed or not written else 0


def _options(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python FILE.zip", description=__doc__)
    parser.add_argument("--runtime", action="append", help="measure in this one (repeatable); default: in all")
    parser.add_argument("--records", type=Path, default=Path("records"), help="where to; default: ./records")
    parser.add_argument("--threads", type=int, help="CPU threads; 0 takes all cores; default: as the study has it")
    return parser.parse_args(arguments)


def _measurable(requests: List[Dict[str, Any]], source: Path) -> List[Dict[str, Any]]:
    """Return those whose runtime is to be had here; say which isn't."""
    asked = dict.fromkeys(request["runtime"] for request in requests)
    here = [runtime for runtime in asked if isolated.available(sys.executable, source, runtime)]
    return [request for request in requests if request["runtime"] in here]


def _measure_all(requests: List[Dict[str, Any]], source: Path, options: argparse.Namespace) -> bool:
    """Measure what has no record yet; return whether something went wrong."""
    failed = False
    for number, request in enumerate(requests, 1):
        name = _name(request)
        path = options.records / (name + ".json")
        if path.exists():
            continue
        say("{}/{} {}".format(number, len(requests), name))
        try:
            _write(isolated.run(sys.executable, source, _placed(request, source, path, options.threads)), path)
        except UnavailableError as error:
            say("{} is not measured here: {}".format(name, error))
        except MeasureError as error:
            say("error: {}".format(error))
            failed = True
    return failed


def _name(request: Dict[str, Any]) -> str:
    lineage = request["lineage"]
    return "{}-seed{}-{}-{}".format(lineage["variant"], lineage["seed"], request["precision"], request["runtime"])


def _placed(request: Dict[str, Any], source: Path, record: Path, threads: Optional[int]) -> Dict[str, Any]:
    """Return a request with the paths that it has here."""
    record.parent.mkdir(parents=True, exist_ok=True)
    placed = {**request, **{key: str(source / request[key]) for key in FILES if request[key]}}
    placed["predictions"] = str(record.with_suffix(".npy"))
    if request["engines"]:
        placed["engines"] = str(record.parent.parent / "engines")
    if threads is not None:
        placed["threads"] = threads
    return placed


def _write(record: Dict[str, Any], path: Path) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)
