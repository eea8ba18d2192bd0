"""The store that `MLFLOW_TRACKING_URI` names: opened for one process at a time, and what MLflow takes of texts."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from trimlab import paths
from trimlab.errors import UserError, one_line
from trimlab.track import mlflow_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

_SQLITE = "sqlite:///"
_LOCAL = f"{_SQLITE}mlflow.db"
_LOCK_SECONDS = 60.0
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # Its default of 7 retries of 2 minutes each holds up a stage for 15 minutes where a server does not answer.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
"""MLflow's settings where the user has given none."""

_KEY_LENGTH = 250
NAME_LENGTH = 250
_VALUE_LENGTH = 5000
"""MLflow's limits; that of a param's value is 6000, of a tag's 8000, and older servers allow 5000."""


@contextmanager
def opened() -> "Iterator[MlflowClient]":
    """Open the store for one process at a time: making its tables, and find-or-create, would race.

    Raises:
        UserError: the store fails.
    """
    name = uri()
    try:
        with FileLock(_lock_file(name), timeout=_LOCK_SECONDS):
            yield _client(name)
    except failures() as error:
        reason = one_line(error)
        remedy = "set MLFLOW_TRACKING_URI to a store that works, or unset it for a local one"
        raise UserError(_without_password(f"MLflow's store {name} fails ({reason}): {remedy}")) from error


def failures() -> tuple[type[Exception], ...]:
    """Return what a store raises that fails."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, mlflow_store.StoreError, OSError, ImportError


@cache
def _client(uri: str) -> "MlflowClient":
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Its messages about creating tables and retrying requests are noise here: errors come as exceptions.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    if uri.startswith(_SQLITE):
        mlflow_store.prepare(file := _database(uri), ours=file == _database(_LOCAL))
    elif not uri.startswith("http"):
        from mlflow.store.db import utils

        # A second in all; its default of 10 takes more than a minute where no database answers.
        utils.MAX_RETRY_COUNT = 4
    from mlflow import MlflowClient

    return MlflowClient(uri)


def uri() -> str:
    """Return the store's URI, a local one as an absolute path."""
    named = os.environ.get("MLFLOW_TRACKING_URI") or _LOCAL
    return f"{_SQLITE}{_database(named)}" if named.startswith(_SQLITE) else named


def _database(uri: str) -> Path:
    # From the project's root: `dvc exp run --temp` deletes the folder it works in.
    return paths.project_root() / uri.removeprefix(_SQLITE)


def _lock_file(uri: str) -> Path:
    local = uri.startswith(_SQLITE)
    file = _database(uri) if local else paths.project_root() / paths.STATE / "mlflow"
    file.parent.mkdir(parents=True, exist_ok=True)
    lock = file.with_name(f"{file.name}.lock")
    if not lock.exists():
        lock.touch()  # fails at once in a read-only folder, where FileLock would wait
    return lock


def artifacts(experiment: str) -> str | None:
    """Return where an experiment's artifacts lie, fixed when it is made; None leaves that to the server."""
    name = uri()
    return mlflow_store.artifacts(_database(name), experiment) if name.startswith(_SQLITE) else None


def _without_password(message: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//***@", message)


def search(client: "MlflowClient", experiment_id: str, tags: dict[str, str]) -> "list[Run]":
    """Return all runs with these tags."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    page = client.search_runs([experiment_id], query)
    found = list(page)
    while page.token:
        page = client.search_runs([experiment_id], query, page_token=page.token)
        found.extend(page)
    return found


def log_batches(
    client: "MlflowClient", run_id: str, metrics: "list[Metric]", params: dict[str, str], tags: dict[str, str]
) -> None:
    """Log in as few calls as MLflow's limits allow: 100 params, 1000 entries."""
    from mlflow.entities import Param, RunTag

    run_params = [Param(_key(key), cut(value, _VALUE_LENGTH)) for key, value in params.items()]
    run_tags = [RunTag(key, value) for key, value in tag_texts(tags).items()]
    client.log_batch(run_id, metrics[:800], run_params[:100], run_tags)
    if len(metrics) > 800 or len(params) > 100:
        log_batches(client, run_id, metrics[800:], dict(list(params.items())[100:]), {})


def tag_texts(tags: dict[str, str]) -> dict[str, str]:
    """Return tags in MLflow's limits."""
    return {_key(key): cut(value, _VALUE_LENGTH) for key, value in tags.items()}


def _key(text: str) -> str:
    """Spell a key in the characters that MLflow allows."""
    return re.sub(r"[^\w.\- ]", "_", text)[:_KEY_LENGTH]


def cut(text: str, length: int) -> str:
    """Shorten a text to what MLflow keeps, without what databases refuse (an environment may hold raw bytes)."""
    text = text.encode(errors="replace").decode().replace("\0", " ")
    return text if len(text) <= length else f"{text[: length - 1]}…"
