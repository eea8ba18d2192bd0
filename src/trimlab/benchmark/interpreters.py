"""The Pythons that measure: which one serves a runtime, what it sees of trimlab, which runtimes this machine has."""

import atexit
import functools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trimlab import config, measure, paths
from trimlab.errors import UserError
from trimlab.measure import isolated
from trimlab.measure.contract import Request
from trimlab.measure.errors import MeasureError, UnavailableError


def sources() -> Iterator[tuple[Path, Path]]:
    """Yield every file of the measuring code, and its name in a folder on another Python's path."""
    package = Path(measure.__file__).parent
    for file in [package.parent / "__init__.py", package.parent / "formats.py", *sorted(package.rglob("*.py"))]:
        yield file, file.relative_to(package.parents[1])


@functools.cache
def source() -> Path:
    """Return a folder that holds `sources` and nothing else, until this process ends.

    Where trimlab is installed, its parent folder is this Python's site-packages, which another Python must not see.
    """
    folder = tempfile.TemporaryDirectory(prefix="trimlab-measure-")
    atexit.register(folder.cleanup)
    for file, name in sources():
        target = Path(folder.name) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return Path(folder.name)


def run_measure(request: Request) -> dict[str, Any]:
    """Measure in a clean process and return the record as parsed JSON; its progress is shown.

    The interpreter is TRIMLAB_PYTHON_RUNTIME (a runtime may need a Python of its own), TRIMLAB_PYTHON, or this one.

    Raises:
        UnavailableError: this machine can't measure that.
        UserError: it failed, or the interpreter does not run.
    """
    try:
        return isolated.run(_interpreter(request.runtime), source(), request)
    except UnavailableError:
        raise
    except MeasureError as error:
        raise UserError(str(error)) from None


def find_runtimes(wanted: Sequence[config.Runtime]) -> None:
    """Write which of the wanted runtimes this machine has to `paths.runtimes_file()`, and say why it lacks others.

    Nothing else is written: machines with the same runtimes write equal files, and share what they measured.

    Raises:
        UserError: it has none of them, or an interpreter does not run.
    """
    here = [runtime for runtime in wanted if _available(runtime)]
    if not here:
        raise UserError(f"no runtime of {', '.join(wanted)} is available here: install one, or list another")
    path = paths.runtimes_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"runtimes": here}) + "\n")


def found_runtimes(wanted: Sequence[config.Runtime]) -> list[config.Runtime]:
    """Return those of the wanted runtimes that `find_runtimes` found.

    Raises:
        UserError: it has not been called, or found none of them.
    """
    path = paths.runtimes_file()
    try:
        here = json.loads(path.read_text())["runtimes"]
        found = [runtime for runtime in wanted if runtime in here]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise UserError(f"{path} lists no runtimes ({error}): run `dvc repro -f -s runtimes`") from None
    if not found:
        raise UserError(f"{path} lists no runtime of {', '.join(wanted)}: run `dvc repro -f -s runtimes`")
    return found


def _available(runtime: str) -> bool:
    try:
        return isolated.device(_interpreter(runtime), source(), runtime) is not None
    except MeasureError as error:
        raise UserError(str(error)) from None


def _interpreter(runtime: str) -> str:
    own = os.environ.get(f"TRIMLAB_PYTHON_{runtime.upper()}")
    return own or os.environ.get("TRIMLAB_PYTHON") or sys.executable
