"""The one writer to MLflow: a run a training, a pruning and a measurement, under one parent a study.

A parent is (study, digest of its params, DVC experiment). A run is tagged with its record's digest, and no record is
logged twice: what an experiment did not change stays under the parent that has it, and the experiment's `cells.json`
refers to it. Runs are functions of records: `rebuild` makes a lost store again.

Stages call `live`, `log` and `complete`, which never raise: a store that fails costs a process one line and a few
seconds, and is then left alone. What it lacks is added by the report stage, or by `trimlab track`.
"""

import json
import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock
from pydantic import BaseModel

from trimlab import paths, progress
from trimlab.config import Params
from trimlab.errors import UserError, one_line
from trimlab.records import METRIC, Epoch, Measurement, Pruning, Record, Sensitivity, Training, fields_with
from trimlab.track import mlflow_store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Metric, Run


T = TypeVar("T")

RECORD_TAG = "trimlab.record"
"""Digest of the record that a run shows; a run without it is unfinished."""

_SQLITE = "sqlite:///"
_LOCAL = f"{_SQLITE}mlflow.db"
_LOCK_SECONDS = 60.0
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # Its default of 7 retries of 2 minutes each holds up a stage for 15 minutes where a server does not answer.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
}
"""MLflow's settings where the user has given none."""

_CURVE = "epoch/"
_KINDS = {"train": "training", "prune": "pruning", "benchmark": "measurement"}
"""What the stages record."""

_STUDY_PARAMS: dict[str, Any] = {
    "study": True,
    "seeds": True,
    "data": {"split", "holdout_fraction", "seed"},
    "prune": True,
    "pruning": True,
    "quantization": True,
    "benchmark": True,
    "report": {"baseline", "candidate"},
}
"""What a parent shows; the whole tree is its `params.json`."""

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Without it MLflow shows an experiment as one of generative AI: traces, without a table of metrics."""

_KEY_LENGTH = 250
_NAME_LENGTH = 250
_VALUE_LENGTH = 5000
"""MLflow's limits; that of a param's value is 6000, of a tag's 8000, and older servers allow 5000."""

_NOT_SCALAR = {
    *("kind", "created", "commit", "curve", "widths", "layer_ratios", "clocks", "layers", "batch_layers", "builds"),
    *("class_names", "per_class", "initial_training", "processes", "mixed"),
}
"""Fields that are tags, times, curves, or only in `record.json`."""


def log(study: Params, record: Record) -> None:
    """Add a record's run to the study's parent, unless it is there. Never raises."""
    _attempt(partial(_log, study, record))


def complete(study: Params, records: Sequence[Record]) -> None:
    """Do what `rebuild` does, at the end of a pipeline: cached cells logged nothing. Never raises."""
    _attempt(partial(rebuild, study, records))


def rebuild(study: Params, records: Sequence[Record]) -> int:
    """Add the records that no parent of the study has, and the parent's summary metrics.

    A record is one run, under the parent that was first to have it: an experiment holds the cells that it changed, and
    its `cells.json` says where the others are.

    Returns:
        How many runs were added: 0 where nothing was missing.

    Raises:
        UserError: the store fails.
    """
    # A sensitivity is no run: it is part of how several prunings chose their widths.
    runs = [record for record in records if not isinstance(record, Sensitivity)]
    with _parent(study) as parent:
        added = parent.add(runs)
        parent.finish(runs)
    return added


@contextmanager
def live(study: Params, stage: str, name: str, seed: int) -> Iterator[Callable[[Epoch], None]]:
    """Yield what streams a training's epochs into its run while it goes on; tracking never raises here.

    A training that was killed and goes on finds its run again; `log` of its record completes it. A training that
    raises leaves a run that says so.

    Args:
        study: the params.
        stage: `train` or `prune`.
        name: the workload that is trained, or the variant that is fine-tuned.
        seed: of the training.
    """
    stream = _attempt(partial(_begin, study, stage, name, seed)) or _Stream(None, set())
    try:
        yield stream
    except BaseException as error:
        stream.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise


def _log(study: Params, record: Record) -> None:
    with _parent(study, _name(record)) as parent:
        parent.add([record])


def _begin(study: Params, stage: str, name: str, seed: int) -> "_Stream":
    run_name = _training_name(stage, name, seed)
    with _parent(study, run_name) as parent:
        run = parent.unfinished(run_name, _stage_tags(stage, name))
        parent.client.update_run(run.info.run_id, status="RUNNING")  # again, if an error had ended it
        return _Stream(run.info.run_id, {step for _, step in _streamed(parent.client, run)})


@dataclass
class _Stream:
    run_id: str | None
    """None where the run could not be made."""
    logged: set[int]

    def __call__(self, epoch: Epoch) -> None:
        if self.run_id and epoch.epoch not in self.logged:
            self.logged.add(epoch.epoch)
            _attempt(partial(_log_epoch, self.run_id, epoch))

    def end(self, status: str) -> None:
        if self.run_id:
            _attempt(partial(_end, self.run_id, status))


def _log_epoch(run_id: str, epoch: Epoch) -> None:
    with _store() as client:
        client.log_batch(run_id, metrics=_metrics(_curve([epoch]), _milliseconds(datetime.now())))


def _end(run_id: str, status: str) -> None:
    with _store() as client:
        client.set_terminated(run_id, status)


_failed: set[str] = set()
"""Stores that failed in this process: another try may take seconds, and a training has hundreds of epochs."""


def _attempt(do: Callable[[], T]) -> T | None:
    """Do it, unless tracking is off or the store has failed in this process; say in one line why it fails."""
    if os.environ.get("TRIMLAB_TRACKING") == "off" or (uri := _uri()) in _failed:
        return None
    try:
        return do()
    except Exception as error:  # whatever it is: hours of work must not end because of tracking
        _failed.add(uri)
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        progress.say(
            f"not tracked: {one_line(reason, 400)}; "
            "the records are kept, and the report stage or `trimlab track` adds their runs"
        )
        return None


@dataclass(frozen=True)
class _Parent:
    """A study's parent run in an open store."""

    client: "MlflowClient"
    study: Params
    experiment_id: str
    run_id: str
    children: "list[Run]"

    def add(self, records: Sequence[Record]) -> int:
        logged = self._logged(records)
        missing = {record.digest: record for record in records if record.digest not in logged}
        for record in missing.values():
            self._write(record)
        if missing:
            self.client.set_terminated(self.run_id)
        return len(missing)

    def _logged(self, records: Sequence[Record]) -> dict[str, str]:
        """Return the runs of records by digest, under whichever parent of the study they are: by one query."""
        tags = {RECORD_TAG: records[0].digest} if len(records) == 1 else {}
        runs = _search(self.client, self.experiment_id, tags)
        return {run.data.tags[RECORD_TAG]: run.info.run_id for run in runs if RECORD_TAG in run.data.tags}

    def finish(self, records: Sequence[Record]) -> None:
        _describe(self.client, self.run_id, self.study)
        distinct, logged = {record.digest: record for record in records}, self._logged(records)
        cells = [{"run_name": _name(r), "record": key, "run_id": logged[key]} for key, r in distinct.items()]
        self.client.log_text(self.run_id, json.dumps(cells, indent=1) + "\n", "cells.json")
        if records:
            newest = max(records, key=_age)
            summary = _metrics(_at_step_0(_summary(self.study, records)), _created(newest))
            _log_batches(self.client, self.run_id, summary, {}, _commit_tags(newest))
        self.client.set_terminated(self.run_id)  # also one that an earlier version left running

    def unfinished(self, name: str, tags: dict[str, str], start: int | None = None) -> "Run":
        """Return the run of this name that has no record yet (streamed, or cut short), or a new one."""
        for run in self.children:
            if run.info.run_name == name and RECORD_TAG not in run.data.tags:
                return run
        tags = _tag_texts({**_study_tags(self.study), **tags, "mlflow.parentRunId": self.run_id})
        return self.client.create_run(self.experiment_id, start_time=start, tags=tags, run_name=name)

    def _write(self, record: Record) -> None:
        curve = _curve(record.curve) if isinstance(record, Training | Pruning) else {}
        run = self._run_for(record, curve)
        run_id, end = run.info.run_id, _created(record)
        self.client.log_text(run_id, _pretty(record), "record.json")
        self.client.log_inputs(run_id, datasets=[_dataset(record)])
        streamed = _streamed(self.client, run)
        rest = {key: value for key, value in curve.items() if key not in streamed}
        metrics = _metrics({**rest, **_at_step_0(_measured(record))}, end)
        params = {**_deciding_params(self.study, record), **_params(record)}
        _log_batches(self.client, run_id, metrics, params, _tags(record))
        self.client.set_terminated(run_id, end_time=end)
        # Last: a run that is cut short before this is found again by `unfinished`.
        self.client.set_tag(run_id, RECORD_TAG, record.digest)
        self._close(run)

    def _run_for(self, record: Record, curve: dict[tuple[str, int], float]) -> "Run":
        name, tags, start = _name(record), _stage_tags(_stage(record), _cell(record)), _started(record)
        run = self.unfinished(name, tags, start)
        if not _streamed(self.client, run).items() <= curve.items():
            # Epochs that ran again after a kill are not those that count, and metrics cannot be deleted.
            self.client.delete_run(run.info.run_id)
            self._close(run)
            run = self.unfinished(name, tags, start)
        return run

    def _close(self, run: "Run") -> None:
        self.children[:] = [child for child in self.children if child.info.run_id != run.info.run_id]


@contextmanager
def _parent(study: Params, run_name: str | None = None) -> Iterator[_Parent]:
    """Open a study's parent, with its children of one name, or all."""
    with _store() as client:
        experiment_id = _experiment(client, study.study)
        tags = _tag_texts({**_study_tags(study), "trimlab.kind": "study"})
        identity = {key: tags[key] for key in ("trimlab.kind", "trimlab.params")}
        # Compared here: the name of a DVC experiment may hold quotes.
        mine = [
            run
            for run in _search(client, experiment_id, identity)
            if run.data.tags["dvc.experiment"] == tags["dvc.experiment"]
        ]
        run_id = mine[0].info.run_id if mine else _new_parent(client, experiment_id, study, tags)
        wanted = {"mlflow.parentRunId": run_id} | ({"mlflow.runName": run_name} if run_name else {})
        yield _Parent(client, study, experiment_id, run_id, _search(client, experiment_id, wanted))


def _experiment(client: "MlflowClient", name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        experiment_id: str = client.create_experiment(name, _artifacts(name), _EXPERIMENT_TAGS)
        return experiment_id
    experiment_id = found.experiment_id
    for key in _EXPERIMENT_TAGS.keys() - found.tags.keys():  # made by an earlier version
        client.set_experiment_tag(experiment_id, key, _EXPERIMENT_TAGS[key])
    return experiment_id


def _new_parent(client: "MlflowClient", experiment_id: str, study: Params, tags: dict[str, str]) -> str:
    run_id: str = client.create_run(experiment_id, tags=tags, run_name=_parent_name(study)).info.run_id
    _describe(client, run_id, study)
    # It is not a process, and a killed one could not end it: the children show what is running.
    client.set_terminated(run_id)
    return run_id


def _parent_name(study: Params) -> str:
    """Return a name by which people can tell studies apart; the digest of the params is a tag."""
    candidate, experiment = study.report.candidate, os.environ.get("DVC_EXP_NAME")
    point = study.point(candidate)
    asked = f"{point.ratio:.0%} pruned" if point.target is None else f"pruned to {point.target}"
    name = f"{candidate}, {asked}"
    return _cut(f"{experiment}: {name}" if experiment else name, _NAME_LENGTH)


def _describe(client: "MlflowClient", run_id: str, study: Params) -> None:
    _log_batches(client, run_id, [], _study_params(study), {})
    client.log_text(run_id, _pretty(study), "params.json")


def _pretty(values: BaseModel) -> str:
    return json.dumps(values.model_dump(), indent=1) + "\n"


def _search(client: "MlflowClient", experiment_id: str, tags: dict[str, str]) -> "list[Run]":
    """Return all runs with these tags."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    page = client.search_runs([experiment_id], query)
    found = list(page)
    while page.token:
        page = client.search_runs([experiment_id], query, page_token=page.token)
        found.extend(page)
    return found


@contextmanager
def _store() -> "Iterator[MlflowClient]":
    """Open the store for one process at a time: making its tables, and find-or-create, would race."""
    uri = _uri()
    try:
        with FileLock(_lock_file(uri), timeout=_LOCK_SECONDS):
            yield _client(uri)
    except _failures() as error:
        reason = one_line(error)
        remedy = "set MLFLOW_TRACKING_URI to a store that works, or unset it for a local one"
        raise UserError(_without_password(f"MLflow's store {uri} fails ({reason}): {remedy}")) from error


def _failures() -> tuple[type[Exception], ...]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, sqlite3.Error, mlflow_store.StoreError, OSError, ImportError


@cache
def _client(uri: str) -> "MlflowClient":
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    # Its messages about creating tables and retrying requests are noise here: errors come as exceptions.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    if uri.startswith(_SQLITE):
        mlflow_store.prepare(file := _database(uri), ours=file == _database(_LOCAL))
    elif not uri.startswith("http"):
        from mlflow.store.db import utils

        # A second in all; its default of 10 takes more than a minute where no database answers.
        utils.MAX_RETRY_COUNT = 4
    from mlflow import MlflowClient

    return MlflowClient(uri)


def _uri() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _LOCAL
    return f"{_SQLITE}{_database(uri)}" if uri.startswith(_SQLITE) else uri


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


def _artifacts(experiment: str) -> str | None:
    """Return where an experiment's artifacts lie, fixed when it is made; None leaves that to the server."""
    uri = _uri()
    return mlflow_store.artifacts(_database(uri), experiment) if uri.startswith(_SQLITE) else None


def _without_password(message: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//***@", message)


def _log_batches(
    client: "MlflowClient", run_id: str, metrics: "list[Metric]", params: dict[str, str], tags: dict[str, str]
) -> None:
    """Log in as few calls as MLflow's limits allow: 100 params, 1000 entries."""
    from mlflow.entities import Param, RunTag

    run_params = [Param(_key(key), _cut(value, _VALUE_LENGTH)) for key, value in params.items()]
    run_tags = [RunTag(key, value) for key, value in _tag_texts(tags).items()]
    client.log_batch(run_id, metrics[:800], run_params[:100], run_tags)
    if len(metrics) > 800 or len(params) > 100:
        _log_batches(client, run_id, metrics[800:], dict(list(params.items())[100:]), {})


def _metrics(values: dict[tuple[str, int], float], timestamp: int) -> "list[Metric]":
    from mlflow.entities import Metric

    return [Metric(key, value, timestamp, step) for (key, step), value in values.items()]


def _curve(epochs: Sequence[Epoch]) -> dict[tuple[str, int], float]:
    return {
        (_CURVE + key, epoch.epoch): float(value)
        for epoch in epochs
        for key, value in epoch.model_dump(exclude={"epoch"}, exclude_none=True).items()
    }


def _at_step_0(values: dict[str, float]) -> dict[tuple[str, int], float]:
    return {(key, 0): value for key, value in values.items()}


def _streamed(client: "MlflowClient", run: "Run") -> dict[tuple[str, int], float]:
    """Return the curve's points that a run has."""
    keys = [key for key in run.data.metrics if key.startswith(_CURVE)]
    histories = (client.get_metric_history(run.info.run_id, key) for key in keys)
    return {(point.key, point.step): point.value for history in histories for point in history}


def _study_tags(study: Params) -> dict[str, str]:
    tags = {
        "trimlab.study": study.study,
        "trimlab.params": study.digest(),
        "dvc.experiment": os.environ.get("DVC_EXP_NAME") or "none",
    }
    baseline = os.environ.get("DVC_EXP_BASELINE_REV")
    return {**tags, "dvc.baseline": baseline} if baseline else tags


def _stage_tags(stage: str, cell: str) -> dict[str, str]:
    # Not the environment's DVC_STAGE: it is `report` where a cached cell is caught up on.
    return {
        "trimlab.kind": _KINDS[stage],
        "dvc.stage": f"{stage}@{cell}",
        "mlflow.source.name": f"stages/{stage}.py",
    }


def _tags(record: Record) -> dict[str, str]:
    return {**_commit_tags(record), "device": " · ".join(record.device.identity[1:])}


def _commit_tags(record: Record) -> dict[str, str]:
    return {"git.commit": record.commit, "mlflow.source.git.commit": record.commit.removesuffix("-dirty")}


def _stage(record: Record) -> str:
    if isinstance(record, Training):
        return "train"
    return "prune" if isinstance(record, Pruning) else "benchmark"


def _cell(record: Record) -> str:
    """Return the key of the record's cell in its stage."""
    return record.variant if isinstance(record, Pruning | Measurement) else record.workload


def _name(record: Record) -> str:
    if isinstance(record, Measurement):
        return _cut(f"{record.variant} {record.precision} {record.runtime} seed{record.seed}", _NAME_LENGTH)
    return _training_name(_stage(record), _cell(record), record.seed)


def _training_name(stage: str, name: str, seed: int) -> str:
    return _cut(f"{stage} {name} seed{seed}", _NAME_LENGTH)


def _study_params(study: Params) -> dict[str, str]:
    trained = any(variant.is_trained_quantized for variant in study.variants.values())
    unused = {} if trained else {"quantization": {"qat"}}
    return _texts(_flat(study.model_dump(include=_STUDY_PARAMS, exclude=unused)))


def _deciding_params(study: Params, record: Record) -> dict[str, str]:
    """Return the params that decided a record, besides those that are fields of it."""
    recipe = study.recipe(record.workload)
    sections: dict[str, Any] = {}
    if isinstance(record, Pruning | Measurement):
        sections["pruning"] = study.pruning_of(record.variant).model_dump()
    if isinstance(record, Measurement):
        # How weights are trained for INT8 is in the record, where they are.
        sections["quantization"] = study.quantization.model_dump(exclude={"qat"})
        sections["benchmark"] = study.benchmark.model_dump()
    data = study.model_dump(include={"data": _STUDY_PARAMS["data"]})
    training = {"training": recipe.model_dump(exclude=recipe.unused)}
    return _texts(_flat({**data, **training, **sections}))


def _params(record: Record) -> dict[str, str]:
    metrics = fields_with(type(record), METRIC)
    return _texts({key: value for key, value in _scalars(record).items() if key not in metrics})


def _measured(record: Record) -> dict[str, float]:
    metrics = fields_with(type(record), METRIC)
    measured = {key.replace(".", "_"): float(value) for key, value in _scalars(record).items() if key in metrics}
    if isinstance(record, Measurement):
        measured["speedup"] = record.speedup
        measured["batch_speedup"] = record.batch_speedup
        measured["batch_images_per_second"] = record.batch_latency.images_per_second
        for clock in record.clocks:
            measured[f"{clock.name}_p50_ms"] = clock.latency.p50_ms
            measured[f"{clock.name}_batch_p50_ms"] = clock.batch_latency.p50_ms
    return measured


def _scalars(record: Record) -> dict[str, Any]:
    return _flat(record.model_dump(exclude=_NOT_SCALAR))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Spell nested keys with dots; what is None is left out."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[prefix + key] = value
    return flat


def _tag_texts(tags: dict[str, str]) -> dict[str, str]:
    return {_key(key): _cut(value, _VALUE_LENGTH) for key, value in tags.items()}


def _key(text: str) -> str:
    """Spell a key in the characters that MLflow allows."""
    return re.sub(r"[^\w.\- ]", "_", text)[:_KEY_LENGTH]


def _cut(text: str, length: int) -> str:
    """Shorten a text to what MLflow keeps, without what databases refuse (an environment may hold raw bytes)."""
    text = text.encode(errors="replace").decode().replace("\0", " ")
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _texts(values: dict[str, Any]) -> dict[str, str]:
    return {key: _text(value) for key, value in values.items()}


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _dataset(record: Record) -> "DatasetInput":
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = {"path": str(paths.dataset_file(record.dataset)), "sha256": record.dataset_sha256}
    # A digest has 36 characters at most; the whole one stands in the source.
    dataset = Dataset(record.dataset, record.dataset_sha256[:32], "local", json.dumps(source))
    context = "testing" if isinstance(record, Measurement) else "training"
    return DatasetInput(dataset, [InputTag("mlflow.data.context", context)])


def _created(record: Record) -> int:
    return _milliseconds(record.moment)


def _started(record: Record) -> int:
    seconds = record.train_seconds if isinstance(record, Training | Pruning) else 0.0
    return _created(record) - round(1000 * seconds)


def _milliseconds(time: datetime) -> int:
    return round(1000 * time.timestamp())


def _summary(study: Params, records: Sequence[Record]) -> dict[str, float]:
    """Return the parent's metrics: baseline in FP32, candidate in each precision, means over seeds."""
    groups: dict[str, list[Measurement]] = {}
    for record in records:
        if isinstance(record, Measurement):
            for role in _roles(study, record):
                groups.setdefault(f"{role}/{record.precision}/{record.runtime}", []).append(record)
    return {
        f"{group}/{key}": fmean(_measured(record)[key] for record in _on_newest_device(members))
        for group, members in groups.items()
        for key in ("top1_accuracy", "file_bytes", "latency_p50_ms", "batch_speedup")
    }


def _roles(study: Params, record: Measurement) -> list[str]:
    baseline = record.variant == study.report.baseline and record.precision == "fp32"
    return ["baseline"] * baseline + ["candidate"] * (record.variant == study.report.candidate)


def _on_newest_device(measured: list[Measurement]) -> list[Measurement]:
    # No mean is taken over devices.
    device = max(measured, key=_age).device.identity
    return [record for record in measured if record.device.identity == device]


def _age(record: Record) -> tuple[datetime, str]:
    return record.moment, record.digest
