"""A measurement in clean processes: peak memory and times are that file's alone."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from . import contract, timing
from .__main__ import UNAVAILABLE
from .contract import Request
from .errors import MeasureError, NoRuntimeError
from .progress import say

# Not `-m` and PYTHONPATH: an interpreter that comes with a runtime may ignore that.
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from trimlab.measure import __main__ as measure; "
    "measure.end_with_parent(); sys.exit(measure.main(sys.argv[1:]))"
)


def device(interpreter: str, source: Path, runtime: str) -> dict[str, Any] | None:
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
        raise MeasureError(f"looking for {runtime} failed with exit code {code}: {_said(last)}")
    say(f"{runtime} is not available here: {_said(last)}")
    return None


def run(interpreter: str, source: Path, request: Request) -> dict[str, Any]:
    """Return the record of a request, timed in as many processes as it asks for, one after another.

    What they say meanwhile is shown, indented.

    Args:
        interpreter: a Python with numpy and the runtime.
        source: the folder that holds the package `trimlab`.
        request: what to measure.

    Raises:
        UnavailableError: this machine can't measure that.
        MeasureError: it failed, and the message has its exit code and last line; or the interpreter does not run.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "request.json"
        file.write_text(json.dumps(contract.to_json(request)), encoding="utf-8")

        def answer(*options: str) -> dict[str, Any]:
            printed = Path(scratch) / "answer.json"
            code, last = _finished(_command(interpreter, source, *options, str(file)), printed, show=True)
            if code in UNAVAILABLE:
                raise UNAVAILABLE[code](_said(last))
            if code:
                raise MeasureError(f"measuring {request.model} failed with exit code {code}: {_said(last)}")
            return _read(printed, interpreter)

        record = answer()
        for number in range(1, request.processes):
            say(f"  process {number + 1} of {request.processes}")
            record = _timed_again(record, answer("--times", str(number)))
        return record


def _timed_again(record: dict[str, Any], timed: dict[str, Any]) -> dict[str, Any]:
    """Add what one more process timed to a record."""
    processes = [*record["processes"], *timed["processes"]]
    contended = record["contended"] or timed["contended"]
    return {**record, **timing.pooled(processes), "processes": processes, "contended": contended}


def _read(printed: Path, interpreter: str) -> dict[str, Any]:
    try:
        found = json.loads(printed.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise MeasureError(f"interpreter {interpreter!r} printed no JSON: set TRIMLAB_PYTHON to a Python")
    return found


def _command(interpreter: str, source: Path, *arguments: str) -> list[str]:
    return [interpreter, "-c", _PROGRAM, str(source), *arguments]


def _said(line: str) -> str:
    for prefix in ("unavailable: ", "error: "):
        if line.startswith(prefix):
            return line[len(prefix) :]
    return line


def _finished(command: list[str], printed: Path, show: bool) -> tuple[int, str]:
    """Run a command with its output in a file; return its exit code and the last line that it said."""
    last = "it printed nothing"
    try:
        with printed.open("wb") as output:
            # The input is never written to: it ends when this process does, see `end_with_parent`.
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
    except OSError as error:
        raise MeasureError(
            f"interpreter {command[0]!r} does not run ({error}): set TRIMLAB_PYTHON to a Python"
        ) from None
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            last = line.strip() or last
            if show:
                say("  " + line.rstrip())
    return process.returncode, last
