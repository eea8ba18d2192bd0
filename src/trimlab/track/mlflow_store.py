"""MLflow's local store, an SQLite file: created atomically, replaced where it is broken, moved with its project.

MLflow makes and upgrades its tables in some 70 steps without a transaction; a process that is killed between two
leaves a file that no MLflow ever opens again. So both happen in a temporary file, which is renamed when it is complete.
All of it is called under the store's lock, before MLflow opens the file.
"""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from itertools import count
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trimlab import progress

ARTIFACTS = "mlartifacts"
"""Folder beside the store in which each experiment has its own."""

_BUSY_SECONDS = 5.0
_QUIET_SECONDS = 1.0
_SIDE_FILES = ("-journal", "-wal", "-shm")
"""What SQLite keeps beside a file. One that is left behind would be applied to the next file of that name."""

_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_HEADER = b"SQLite format 3\0"
_NOT_TORN = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
}
"""Why an upgrade may fail though the store is good."""


class StoreError(Exception):
    """The store cannot be used, and it stays as it is; the message gives the reason."""


def prepare(file: Path, ours: bool) -> None:
    """Make, upgrade or repair a store so that MLflow opens it, and point its experiments to the artifacts beside it.

    A broken store is renamed to `FILE.broken-N`, and a line says so. One that is locked, unreadable or of a newer
    MLflow stays.

    Args:
        file: the store.
        ours: whether only trimlab uses this name, so that a file without SQLite's header must be a damaged store.

    Raises:
        StoreError, OSError, sqlite3.Error: the store cannot be used.
    """
    if file.is_dir():
        raise StoreError(f"{file} is a folder")
    # More than once, because `mlflow server` does not take this lock, and may make the tables at the same time.
    for _ in range(3):
        if _is_complete(file, ours):
            return _bring_home(file)
        if _is_empty(file):
            _make(file)
        elif _is_quiet(file):
            _upgrade(file)
    raise StoreError("another program is changing its tables")


def artifacts(file: Path, experiment: str) -> str:
    """Return the URI of an experiment's artifacts, beside its store."""
    return (file.parent / ARTIFACTS / experiment).as_uri()


def _is_complete(file: Path, ours: bool) -> bool:
    """Whether MLflow's tables are all there and up to date. A damaged file is moved aside."""
    if _is_empty(file):
        return False
    try:
        revision = _revision(file)
    except sqlite3.DatabaseError as error:
        if _code(error) not in _DAMAGE or not (ours or _has_header(file)):
            raise
        _set_aside(file, _first_line(error))
        return False
    if revision is not None and revision not in _revisions():
        raise StoreError(f"its tables are of a newer MLflow ({revision}): upgrade MLflow")
    return revision == _revisions()[0]


def _is_empty(file: Path) -> bool:
    return not file.exists() or file.stat().st_size == 0


def _is_quiet(file: Path) -> bool:
    """Wait until a store has not been written to for a while, or give up."""
    # Not by the age of its last change: a clock that was set back would put that into the future.
    written: int | None = None
    since = 0.0
    deadline = time.monotonic() + _BUSY_SECONDS
    while (now := time.monotonic()) < deadline:
        if written != (last := file.stat().st_mtime_ns):
            written, since = last, now
        elif now - since >= _QUIET_SECONDS:
            return True
        time.sleep(0.1)
    return False


def _make(file: Path) -> None:
    made = _beside(file)
    _make_tables(made)
    for path in _with_side_files(file)[1:]:
        path.unlink(missing_ok=True)
    if _is_empty(file):
        made.replace(file)


def _upgrade(file: Path) -> None:
    made = _beside(file)
    _copy(file, made)
    try:
        _make_tables(made)
    except Exception as error:
        if not _shows_torn(error, file):
            raise StoreError(_first_line(error)) from error
        _set_aside(file, _first_line(error))
    else:
        made.replace(file)


def _beside(file: Path) -> Path:
    """Return where a store is made; what a killed process left there is deleted."""
    made = file.with_name(f"{file.name}.new")
    for path in _with_side_files(made):
        path.unlink(missing_ok=True)
    return made


def _make_tables(file: Path) -> None:
    from mlflow.store.db.utils import _initialize_tables
    from sqlalchemy import create_engine

    engine = create_engine(f"sqlite:///{file}")
    try:
        _initialize_tables(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()


@cache
def _revisions() -> list[str]:
    """Return the revisions of MLflow's tables that the installed MLflow knows, the newest first."""
    import mlflow
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory(str(Path(mlflow.__file__).parent / "store" / "db_migrations"))
    return [script.revision for script in scripts.walk_revisions()]


def _revision(file: Path) -> str | None:
    """Return the revision of a store's tables, None where they have none, after a check of the whole file."""
    with _opened(file) as database:
        [found] = database.execute("PRAGMA quick_check(1)").fetchone()
        if found != "ok":
            error = sqlite3.DatabaseError(found)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error
        if "alembic_version" not in _tables(database):
            return None
        row = database.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else None


def _tables(database: sqlite3.Connection) -> set[str]:
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


@contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    # mode=rw: what a killed process left in a journal is rolled back, and no file is made.
    with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=_BUSY_SECONDS)) as database:
        yield database


def _copy(file: Path, to: Path) -> None:
    with _opened(file) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
    shutil.copymode(file, to)


def _shows_torn(error: Exception, file: Path) -> bool:
    """Whether an upgrade failed because a store's tables are half made: MLflow's tables, not another program's."""
    if isinstance(error, OSError | MemoryError) or _code(getattr(error, "orig", error)) in _NOT_TORN:
        return False
    with _opened(file) as database:
        return {"experiments", "runs"} <= _tables(database)


def _set_aside(file: Path, reason: str) -> None:
    broken = next(
        path for n in count(1) if not (path := file.with_name(f"{file.name}.broken-{n}")).exists()
    )  # fmt: skip
    # The file itself last: until then it is found torn again.
    for path, aside in reversed(list(zip(_with_side_files(file), _with_side_files(broken), strict=True))):
        if path.exists():
            path.replace(aside)
    progress.say(
        f"MLflow's store {file} is broken ({reason}): it was renamed to {broken.name}, and a new one is created; "
        "the records are kept, and the report stage or `trimlab track` adds their runs again"
    )


def _bring_home(file: Path) -> None:
    """Point experiments to the artifacts beside this store: MLflow stores absolute paths, and projects are copied."""
    with _opened(file) as database:
        found = database.execute("SELECT experiment_id, name, artifact_location FROM experiments").fetchall()
        away = [(key, old, artifacts(file, name)) for key, name, old in found if _is_away(file, name, old)]
        with database:
            for key, old, home in away:
                database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (home, key))
                database.execute(
                    "UPDATE runs SET artifact_uri = ? || substr(artifact_uri, ?)"
                    " WHERE experiment_id = ? AND substr(artifact_uri, 1, ?) = ?",
                    (home, len(old) + 1, key, len(old) + 1, f"{old}/"),
                )
    if away:
        progress.say(
            f"MLflow's store {file} was copied or moved: its artifacts are now looked for in {file.parent / ARTIFACTS}"
        )


def _is_away(file: Path, experiment: str, location: str | None) -> bool:
    """Whether an experiment's artifacts lie beside another copy of its store."""
    parts = urlsplit(location or "")
    path, home = Path(unquote(parts.path)), file.parent / ARTIFACTS / experiment
    ours = parts.scheme in ("", "file") and path.is_absolute() and path.parts[-2:] == (ARTIFACTS, experiment)
    return ours and path.resolve() != home.resolve()


def _with_side_files(file: Path) -> list[Path]:
    return [file, *(file.with_name(file.name + suffix) for suffix in _SIDE_FILES)]


def _has_header(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_HEADER)) == _HEADER


def _code(error: BaseException) -> int | None:
    """Return SQLite's primary code of an error."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _first_line(error: Exception) -> str:
    return str(getattr(error, "orig", error)).strip().split("\n")[0] or type(error).__name__
