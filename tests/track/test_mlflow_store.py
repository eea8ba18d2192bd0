"""MLflow's local store: whole or absent whenever a process is killed, repaired where torn, at home where copied."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import count
from pathlib import Path

import pytest
from mlflow import MlflowClient

import factories
from trimlab import records
from trimlab.errors import UserError
from trimlab.track import mlflow_runs, mlflow_store
from users import another_user

ROOT = Path(__file__).parents[2]
SQLITE = "sqlite:///"
STUDY = factories.study()
RECORD = factories.measurement(STUDY, STUDY.report.candidate, "int8")

KILLED = """
import os, signal, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
left = int(sys.argv[1])

@event.listens_for(Engine, "after_cursor_execute")
def count(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "mlflow":
    from mlflow import MlflowClient
    MlflowClient("sqlite:///mlflow.db").search_experiments()
else:
    import factories
    from trimlab.track import mlflow_runs
    mlflow_runs.rebuild(factories.study(), [])
"""
"""Makes a store, and is killed after so many of its 1,700 statements."""


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mlflow_runs, "_failed", set())
    monkeypatch.setattr(mlflow_store, "_QUIET_SECONDS", 0.0)
    monkeypatch.setattr(mlflow_store, "_BUSY_SECONDS", 0.2)


@pytest.fixture
def quick_tables(empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the tables of a new store instead of making them; an upgrade is MLflow's own."""
    upgrade = mlflow_store._make_tables
    monkeypatch.setattr(
        mlflow_store, "_make_tables", lambda file: upgrade(file) if file.exists() else shutil.copy(empty_store, file)
    )


def _use(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder the project; return where its store is."""
    project.mkdir(exist_ok=True)
    monkeypatch.setenv("DVC_ROOT", str(project))
    return project / "mlflow.db"


def _client(store: Path) -> MlflowClient:
    return MlflowClient(f"{SQLITE}{store}")


def _record_of_the_run(store: Path) -> records.Record:
    client = _client(store)
    experiment = client.get_experiment_by_name(STUDY.study)
    [run] = [r for r in client.search_runs([experiment.experiment_id]) if mlflow_runs.RECORD_TAG in r.data.tags]
    return records.read(Path(client.download_artifacts(run.info.run_id, "record.json")))


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _killed(project: Path, by: str, statements: int) -> "subprocess.Popen[str]":
    project.mkdir()
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT / 'tests'}", "DVC_ROOT": str(project)}
    command = [sys.executable, "-c", KILLED, str(statements), by]
    return subprocess.Popen(command, cwd=project, env=env, stderr=subprocess.DEVNULL, text=True)


def test_a_process_that_is_killed_while_the_store_is_made_breaks_nothing(
    tmp_path: Path, quick_tables: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moments = [("mlflow", 30), ("mlflow", 400), ("ours", 400)]
    killed = [_killed(tmp_path / f"{by}-{statements}", by, statements) for by, statements in moments]
    assert {process.wait() for process in killed} == {-signal.SIGKILL}
    for by, statements in moments:
        store = _use(tmp_path / f"{by}-{statements}", monkeypatch)
        assert store.exists() == (by == "mlflow"), "ours is made beside"
        assert mlflow_runs.rebuild(STUDY, [RECORD]) == 1
        assert _record_of_the_run(store) == RECORD
        said = capsys.readouterr().err
        assert ("mlflow.db.broken-1" in said) == (store.parent / "mlflow.db.broken-1").exists()
        assert not list(store.parent.glob("mlflow.db.new*"))
    broken = [path.parent.name for path in tmp_path.glob("*/mlflow.db.broken-1")]
    assert broken and not any(name.startswith("ours") for name in broken)


def _truncate(store: Path) -> None:
    os.truncate(store, store.stat().st_size // 2)


def _overwrite(store: Path, at: int) -> None:
    with store.open("r+b") as file:
        file.seek(at)
        file.write(b"garbage!" * 4096)


@pytest.mark.parametrize(
    "damage", [_truncate, lambda store: _overwrite(store, 0), lambda store: _overwrite(store, 40_000)]
)  # fmt: skip
def test_a_damaged_store_is_kept_and_a_new_one_made(
    damage, tmp_path: Path, quick_tables: None, empty_store: Path, monkeypatch, capsys
) -> None:
    store = _use(tmp_path, monkeypatch)
    shutil.copy(empty_store, store)
    (tmp_path / "mlflow.db.broken-1").write_text("from before")
    damage(store)
    damaged = store.read_bytes()
    assert mlflow_runs.rebuild(STUDY, [RECORD]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert "it was renamed to mlflow.db.broken-2" in line and "the records are kept" in line
    assert (tmp_path / "mlflow.db.broken-2").read_bytes() == damaged
    assert _record_of_the_run(store) == RECORD


def test_a_store_is_quiet_to_a_clock_that_was_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "mlflow.db"
    store.touch()
    os.utime(store, (time.time() + 86_400,) * 2)
    monkeypatch.setattr(mlflow_store, "_QUIET_SECONDS", 0.2)
    monkeypatch.setattr(mlflow_store, "_BUSY_SECONDS", 60.0)
    assert mlflow_store._is_quiet(store)


def test_a_store_that_is_written_to_all_the_time_is_not_quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, times = tmp_path / "mlflow.db", count()
    store.touch()
    monkeypatch.setattr(mlflow_store.time, "sleep", lambda _: os.utime(store, (0, next(times))))
    assert not mlflow_store._is_quiet(store)


def test_an_empty_file_is_a_store_that_is_not_made_yet(tmp_path: Path, quick_tables: None, monkeypatch, capsys) -> None:
    store = _use(tmp_path, monkeypatch)
    store.touch()
    store.with_name("mlflow.db-journal").write_bytes(b"of a store that is gone")
    assert mlflow_runs.rebuild(STUDY, [RECORD]) == 1
    assert capsys.readouterr().err == ""
    assert not store.with_name("mlflow.db-journal").exists()


@contextmanager
def _locked(store: Path) -> Iterator[None]:
    with closing(sqlite3.connect(store)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield


@contextmanager
def _of_a_newer_mlflow(store: Path) -> Iterator[None]:
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = 'from-2040'")
    yield


@contextmanager
def _unreadable(store: Path) -> Iterator[None]:
    store.with_name("mlflow.db.lock").touch()
    store.with_name("mlflow.db.lock").chmod(0o666)
    store.chmod(0)
    try:
        with another_user():
            yield
    finally:
        store.chmod(0o600)


@pytest.mark.parametrize(
    ("state", "reason"),
    [(_locked, "locked"), (_of_a_newer_mlflow, "upgrade MLflow"), (_unreadable, "unable to open|denied")],
)
def test_a_good_store_that_cannot_be_used_stays(
    state, reason, tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _use(tmp_path, monkeypatch)
    shutil.copy(empty_store, store)
    with state(store), pytest.raises(UserError, match=rf"^MLflow's store .* fails \(.*({reason})"):
        mlflow_runs.rebuild(STUDY, [RECORD])
    assert not list(tmp_path.glob("mlflow.db.broken*"))


def test_a_file_that_was_never_a_store_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diary = tmp_path / "diary.txt"
    diary.write_text("dear diary, " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{SQLITE}{diary}")
    with pytest.raises(UserError, match="not a database"):
        mlflow_runs.rebuild(STUDY, [RECORD])
    assert diary.read_text() == "dear diary, " * 100


def test_a_store_of_an_older_mlflow_keeps_its_runs(tmp_path: Path, monkeypatch, capsys) -> None:
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from sqlalchemy import create_engine

    store = _use(tmp_path, monkeypatch)
    older = mlflow_store._revisions()[-3]
    engine = create_engine(f"{SQLITE}{store}")
    Base.metadata.create_all(engine)
    config = _get_alembic_config(f"{SQLITE}{store}")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, older)
    engine.dispose()
    with closing(sqlite3.connect(store)) as database, database:
        database.execute("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'mine', 'active')")
    assert mlflow_runs.rebuild(STUDY, [RECORD]) == 1
    assert capsys.readouterr().err == ""
    assert _client(store).get_experiment_by_name("mine").experiment_id == "7"


@pytest.mark.parametrize("moved", [False, True])
def test_a_copied_project_has_its_own_artifacts(
    moved: bool, tmp_path: Path, empty_store: Path, monkeypatch, capsys
) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    shutil.copy(empty_store, _use(original, monkeypatch))
    mlflow_runs.rebuild(STUDY, [RECORD])
    shutil.move(original, copy) if moved else shutil.copytree(original, copy)
    before = _files(original)
    store = _use(copy, monkeypatch)
    another = factories.training(STUDY, RECORD.workload)
    mlflow_runs.log(STUDY, another)
    [line] = capsys.readouterr().err.splitlines()
    assert "was copied or moved" in line and str(copy / "mlartifacts") in line
    assert _files(original) == before
    shutil.rmtree(original, ignore_errors=True)
    mlflow_runs.rebuild(STUDY, [RECORD, another])
    assert capsys.readouterr().err == ""
    client = _client(store)
    runs = client.search_runs([client.get_experiment_by_name(STUDY.study).experiment_id])
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    found = [records.read(Path(client.download_artifacts(run.info.run_id, "record.json"))) for run in children]
    assert sorted(r.digest for r in found) == sorted([RECORD.digest, another.digest])
    assert all(Path(client.download_artifacts(run.info.run_id, "")).is_relative_to(copy) for run in runs)


def test_artifacts_that_a_user_put_elsewhere_stay_there(tmp_path: Path, empty_store: Path, monkeypatch, capsys) -> None:
    store = _use(tmp_path / "project", monkeypatch)
    shutil.copy(empty_store, store)
    elsewhere = (tmp_path / "elsewhere").as_uri()
    _client(store).create_experiment(STUDY.study, elsewhere)
    mlflow_runs.rebuild(STUDY, [RECORD])
    assert _client(store).get_experiment_by_name(STUDY.study).artifact_location == elsewhere
    assert capsys.readouterr().err == ""
