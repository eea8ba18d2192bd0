"""DVC's own files, mended where a kill cut them short: DVC refuses those, and no stage runs before it reads them."""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from ruamel.yaml import YAML, YAMLError

_LOCK = Path(".dvc/tmp/lock")
"""DVC holds it whenever it writes one of the files below."""
_WORDS = {
    Path("dvc.lock"): "no cell runs again, the run cache has them",
    Path(".dvc/tmp/rwlock"): "DVC makes it again",
}


def mend() -> list[str]:
    """Rename what a killed DVC left half written to `NAME.broken`; return a line for each file.

    Nothing is touched while DVC runs.
    """
    found = [path for path, is_whole in _FILES.items() if path.is_file() and not is_whole(path.read_bytes())]
    if not found:
        return []
    with suppress(Timeout), FileLock(_LOCK, timeout=0):
        return [_set_aside(path) for path in found]
    return []


def _set_aside(path: Path) -> str:
    broken = path.with_name(f"{path.name}.broken")
    path.replace(broken)
    return f"{path} ended early, as if DVC had been killed: it was renamed to {broken.name}; {_WORDS[path]}"


def _is_whole_lockfile(content: bytes) -> bool:
    """Whether a dvc.lock's last line has its end, and each entry what DVC needs; it may list fewer than it did."""
    try:
        stages = YAML(typ="safe").load(content)["stages"].values()
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
    Path("dvc.lock"): _is_whole_lockfile,
    Path(".dvc/tmp/rwlock"): _is_json_object,
}
