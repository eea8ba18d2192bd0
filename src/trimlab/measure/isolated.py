"""A measurement in a clean process: peak memory and times are that file's alone."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from .__main__ import UNAVAILABLE
from .errors import MeasureError, NoRuntimeError
from .progress import say

# Not `-m` and PYTHONPATH: an interpreter that comes with a runtime may ignore that.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from trimlab.measure import __main__ as measure; "
    "sys.exit(measure.main(sys.argv[1:]))"
)


def device(interpreter: str, source: Path, runtime: str) -> Optional[Dict[str, Any]]:
    """Return the device that a runtime computes on in an interpreter; say why where it is not available.

    Raises:
        MeasureError: the runtime is unknown, or the interpreter does not run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        printed = Path(scratch) / "device.json"
        code, last = _finished(_command(interpreter, source, "--runtime", runtime), printed, show=False)
        if code == 0:
            return _read(printed, interpreter)
    if UNAVAILABLE.get(code) is not NoRuntimeError:
        raise MeasureError("looking for {} failed with exit code {}: {}".format(runtime, code, _said(last)))
    say("{} is not available here: {}".format(runtime, _said(last)))
    return None


def run(interpreter: str, source: Path, request: Dict[str, Any]) -> Dict[str, Any]:
    """Return the record of a request; what it says meanwhile is shown, indented.

    Args:
        interpreter: a Python with numpy and the runtime.
        source: the folder that holds the package `trimlab`.
        request: see `trimlab.measure.__main__`.

    Raises:
        UnavailableError: this machine can't measure that.
        MeasureError: it failed, and the message has its exit code and last line; or the interpreter does not run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file, printed = Path(scratch) / "request.json", Path(scratch) / "record.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        code, last = _finished(_command(interpreter, source, str(file)), printed, show=True)
        if code in UNAVAILABLE:
            raise UNAVAILABLE[code](_said(last))
        if code:
            raise MeasureError("measuring {} failed with exit code {}: {}".format(request["model"], code, _said(last)))
        return _read(printed, interpreter)


def _read(printed: Path, interpreter: str) -> Dict[str, Any]:
    try:
        found = json.loads(printed.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise MeasureError("interpreter {!r} printed no JSON: set TRIMLAB_PYTHON to a Python".format(interpreter))
    return found


def _command(interpreter: str, source: Path, *arguments: str) -> List[str]:
    return [interpreter, "-c", _PROGRAM, str(source), *arguments]


def _said(line: str) -> str:
    for prefix in ("unavailable: ", "error: "):
        if line.startswith(prefix):
            return line[len(prefix) :]
    return line


def _finished(command: List[str], printed: Path, show: bool) -> Tuple[int, str]:
    """Run a command with its output in a file; return its exit code and the last line that it said."""
    last = "it printed nothing"
    try:
        with printed.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.PIPE, encoding="utf-8", errors="replace"
            )
    except OSError as error:
        raise MeasureError(
            "interpreter {!r} does not run ({}): set TRIMLAB_PYTHON to a Python".format(command[0], error)
        ) from None
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            last = line.strip() or last
            if show:
                say("  " + line.rstrip())
    return process.returncode, last
