"""One cell of the pipeline in a copy of the source tree: inputs from the remote, `dvc repro`, results to the remote.

`python -m trimlab.execution.cell PARENT` reads an order from standard input, a JSON object:

    cell        DVC's name of the cell
    upstream    the entries in dvc.lock of the cells that it depends on, by name; null for what `dvc add` tracks
    files       the contents of their outputs that DVC does not cache, by path
    answer      the file for the answer, a JSON object: the cell's entry, the contents of its outputs that DVC does not
                cache, and the device

A cell is pushed as its data, then as its one entry of the run cache: what the run cache of the remote has is complete.
`dvc push --run-cache` pushes the entry first, and every other entry again with each cell.
"""

import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimlab.measure import device

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import Stage

LOCKFILE = Path("dvc.lock")
KILLED = 3
"""Exit code where a signal ended the cell, for example for want of memory: another try may succeed."""

_ENTRY = re.compile(r"[0-9a-f]{64}")
_SIGNALLED = re.compile(r"exited with (-\d+|1(2[9]|[3-5]\d))$", re.MULTILINE)
"""What DVC says of a command that a signal ended: the signal as Python counts it, or 128 more as shells do."""
_WATCH_SECONDS = 0.3


def main(parent: int) -> int:
    """Run the ordered cell; return the exit code."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    order = json.load(sys.stdin)
    from dvc.exceptions import DvcException

    try:
        answer = run(**{key: order[key] for key in ("cell", "upstream", "files")})
    except DvcException as error:
        print(f"error: {(said := told(error))}", flush=True)
        return KILLED if _SIGNALLED.search(said) else 1
    Path(order["answer"]).write_text(json.dumps(answer))
    return 0


def run(cell: str, upstream: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """Run a cell, or take it from the run cache; return its answer.

    Raises:
        DvcException: the cell failed, or the remote did.
    """
    from dvc.repo import Repo

    # JSON is YAML. The cell's own entry is missing: DVC asks the run cache, then runs it.
    stages = {name: entry for name, entry in upstream.items() if entry}
    LOCKFILE.write_text(json.dumps({"schema": "2.0", "stages": stages}))
    write(files)
    with Repo() as repo:
        if needed := [name for name, entry in upstream.items() if not entry or _cached(entry, files)]:
            repo.pull(needed, force=True)
        (stage,) = repo.stage.collect(cell)
        # What a machine has must not be restored as the result of another.
        shared = all(out.use_cache for out in stage.outs)
        if shared:
            stage.save_deps()
            fetch_run(repo, stage)
        repo.reproduce(cell, single_item=True, run_cache=shared)
        if shared:
            repo.push([cell])
            (stage,) = repo.stage.collect(cell)
            push_runs(repo, stage)
        own = {out.def_path: Path(out.fspath).read_text() for out in stage.outs if not out.use_cache}
    return {"entry": entries(LOCKFILE)[cell], "files": own, "device": device.identity(device.cpu(device.cores()))}


def write(files: dict[str, str]) -> None:
    """Write the outputs that DVC does not cache."""
    for name, text in files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)


def entries(lockfile: Path) -> dict[str, Any]:
    """Return the entries of a dvc.lock by cell; none where it does not exist."""
    from dvc.utils.serialize import load_yaml

    if not lockfile.exists():
        return {}
    found: dict[str, Any] = load_yaml(str(lockfile)).get("stages") or {}
    return found


def fetch_run(repo: "Repo", stage: "Stage") -> None:
    """Fetch what the remote's run cache has of a cell, and its data. The cell's inputs are there."""
    from dvc.exceptions import DvcException

    # `dvc repro --pull` does that too, but fetches all entries of all cells first.
    found = _copy_runs(stage, _remote(repo), repo.cache.legacy)
    with suppress(DvcException):  # data that are gone are made again
        for objects in repo.stage_cache.get_used_objs(found).values():
            repo.cloud.pull(objects)


def push_runs(repo: "Repo", stage: "Stage") -> None:
    """Push what the run cache has of a cell, whose data are in the remote."""
    _copy_runs(stage, repo.cache.legacy, _remote(repo))


def newest_run(repo: "Repo", stage: "Stage") -> dict[str, Any] | None:
    """Return a cell's newest entry in the run cache here. Its dependencies have their hashes; they need not be here.

    DVC's own lookup reads each dependency from the disk.
    """
    from dvc.stage.cache import _get_cache_hash
    from dvc.stage.serialize import to_single_stage_lockfile

    key = _get_cache_hash(to_single_stage_lockfile(stage), key=True)
    files = Path(repo.stage_cache._get_cache_dir(key)).glob("*")
    newest = max(files, key=lambda file: file.stat().st_mtime, default=None)
    entry: dict[str, Any] | None = repo.stage_cache._load_cache(key, newest.name) if newest else None
    return entry


def _remote(repo: "Repo") -> Any:
    return repo.cloud.get_remote_odb(None, "push --run-cache", hash_name="md5-dos2unix")


def _copy_runs(stage: "Stage", source: Any, target: Any) -> list[tuple[str, str]]:
    """Copy a cell's entries from one run cache to another; return DVC's two keys of each."""
    from dvc.fs import generic
    from dvc.stage.cache import _get_stage_hash

    key = _get_stage_hash(stage)
    place = ("runs", key[:2], key)
    folder = source.fs.join(source.path, *place)
    if not source.fs.exists(folder):
        return []
    # Other names are files that are being written.
    names = [name for file in source.fs.find(folder) if _ENTRY.fullmatch(name := source.fs.name(file))]
    for name in names:
        there = target.fs.join(target.path, *place, name)
        if not target.fs.exists(there):
            generic.copy(source.fs, source.fs.join(folder, name), target.fs, there)
    return [(key, name) for name in names]


def _cached(entry: dict[str, Any], files: dict[str, str]) -> bool:
    """Whether DVC has a cell's outputs."""
    return any(out["path"] not in files for out in entry.get("outs", []))


def told(error: BaseException | None) -> str:
    """Return what an exception says, and those that caused it."""
    lines = []
    while error:
        lines.append(str(error))
        error = error.__cause__
    return "\n".join(lines)


def _end_with(parent: int) -> None:
    """End this process and its stage with the process that started it: a node's worker may be killed."""
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1])))
