"""DVC's own files: what it has saved, and what a kill cut short, which it refuses before any stage runs."""

import json
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

_LOCKFILE = Path("dvc.lock")
_TABLE = Path(".dvc/tmp/rwlock")
_LOCK = Path(".dvc/tmp/lock")
"""DVC holds it whenever it writes one of the files below."""
_WORDS = {
    _LOCKFILE: "no cell runs again, the run cache has them",
    _TABLE: "DVC makes it again",
}


def repair() -> list[str]:
    """Rename what a killed DVC left half written to `NAME.broken`; return a line for each file.

    Nothing is touched while DVC runs.
    """
    found = [path for path, is_whole in _FILES.items() if path.is_file() and not is_whole(path.read_bytes())]
    if not found:
        return []
    with suppress(Timeout), FileLock(_LOCK, timeout=0):
        return [_set_aside(path) for path in found]
    return []


def entry(cell: str) -> str | None:
    """Return what dvc.lock says of a cell: nothing where DVC has not saved it, None where there is no dvc.lock."""
    try:
        text = _LOCKFILE.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^  {re.escape(cell)}:\n((?:    .*\n)*)", text, re.M)
    return found[1] if found else ""


def _set_aside(path: Path) -> str:
    broken = path.with_name(f"{path.name}.broken")
    path.replace(broken)
    return f"{path} ended early, as if DVC had been killed: it was renamed to {broken.name}; {_WORDS[path]}"


def _is_whole_lockfile(content: bytes) -> bool:
    """Whether a dvc.lock's last line has its end, and the last cell what DVC needs; cells may be missing after it."""
    cells = list(re.finditer(rb"^  \S.*$", content, re.M))
    try:
        last = YAML(typ="safe").load(content[cells[-1].start() :] if cells else content)
        stages = last.values() if cells else last["stages"].values()
        files = [file for stage in stages for part in ("deps", "outs") for file in stage.get(part, [])]
        params = [read for stage in stages for read in stage.get("params", {}).values()]
        return (
            content.endswith(b"\n")
            and all("cmd" in stage for stage in stages)
            and all("md5" in file and "size" in file for file in files)
            and all(isinstance(read, dict) for read in params)
        )
    except (YAMLError, LookupError, TypeError, AttributeError, ValueError):
        return False


def _is_json_object(content: bytes) -> bool:
    with suppress(ValueError):
        found: Any = json.loads(content)
        return isinstance(found, dict)
    return False


_FILES: dict[Path, Callable[[bytes], bool]] = {
    _LOCKFILE: _is_whole_lockfile,
    _TABLE: _is_json_object,
}
