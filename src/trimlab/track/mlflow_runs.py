"""The one writer of runs to MLflow: a run a training, a pruning and a measurement, under one parent a study.

A parent is (study, digest of its params, DVC experiment). A run is tagged with its record's digest, and no record is
logged twice: what an experiment did not change stays under the parent that has it, and the experiment's `cells.json`
refers to it. Runs are functions of records: `rebuild` makes a lost store again. What MLflow samples of the machine
during a training is in no record, and so it is lost with the store.

Stages call `live`, `log` and `complete`, which never raise: a store that fails costs a process one line and a few
seconds, and is then left alone. What it lacks is added by the report stage, or by `trimlab track`.
"""

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from trimlab import progress
from trimlab.config import Params
from trimlab.errors import UserError, one_line
from trimlab.records import Epoch, Pruning, Record, Sensitivity, Training
from trimlab.track import connection, shown
from trimlab.track.shown import RECORD_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor


T = TypeVar("T")

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Tells MLflow 3 that an experiment is not one of generative AI. Pages of 3.17 follow the browser's choice alone."""
_STUDY = {"trimlab.kind": "study"}
"""The tag of parents."""
_PARAMS_FILE = "params.json"
_SAMPLING_SECONDS = 10
"""Between two looks at the machine during a training: one that is shorter has no system metrics."""


def log(study: Params, record: Record) -> None:
    """Add a record's run to the study's parent, unless it is there. Never raises."""
    _attempt(partial(_log, study, record))


def complete(study: Params, records: Sequence[Record], report: Path | None = None) -> None:
    """Do what `rebuild` does, at the end of a pipeline: cached cells logged nothing. Never raises."""
    _attempt(partial(rebuild, study, records, report))


def rebuild(study: Params, records: Sequence[Record], report: Path | None = None) -> int:
    """Add the records that no parent of the study has, and what the parent says of all.

    A record is one run, under the parent that was first to have it: an experiment holds the cells that it changed, and
    its `cells.json` says where the others are.

    Args:
        study: the params.
        records: those that the study's params select.
        report: the folder of the study's report, which becomes the parent's artifact `report`; None for none.

    Returns:
        How many runs were added: 0 where nothing was missing.

    Raises:
        UserError: the store fails.
    """
    # A sensitivity is no run: it is part of how several prunings chose their widths.
    runs = [record for record in records if not isinstance(record, Sensitivity)]
    with _parent(study) as parent:
        added = parent.add(runs)
        parent.finish(runs, report)
    return added


def run_of(study: Params, record: Record) -> str:
    """Return the id of a record's run, which is logged if it is missing.

    Raises:
        UserError: the store fails.
    """
    with _parent(study, shown.name(study, record)) as parent:
        parent.add([record])
        return parent.logged([record])[record.digest]


@contextmanager
def live(study: Params, stage: str, name: str, seed: int) -> Iterator[Callable[[Epoch], None]]:
    """Yield what streams a training's epochs into its run while it goes on; tracking never raises here.

    A training that was killed and goes on finds its run again; `log` of its record completes it. A training that
    raises leaves a run that says so. Meanwhile MLflow samples processor, memory, disk and network, and a GPU.

    Args:
        study: the params.
        stage: `train` or `prune`.
        name: the workload that is trained, or the variant that is fine-tuned.
        seed: of the training.
    """
    stream = _attempt(partial(_begin, study, stage, name, seed)) or _Stream(None, set())
    monitor = _attempt(partial(_monitor, stream.run_id)) if stream.run_id else None
    try:
        yield stream
    except BaseException as error:
        stream.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    finally:
        if monitor:
            monitor.finish()  # type: ignore[no-untyped-call]


def _log(study: Params, record: Record) -> None:
    with _parent(study, shown.name(study, record)) as parent:
        parent.add([record])


def _begin(study: Params, stage: str, name: str, seed: int) -> "_Stream":
    run_name = shown.training_name(study, stage, name, seed)
    with _parent(study, run_name) as parent:
        run = parent.unfinished(run_name, shown.stage_tags(stage, name))
        parent.client.update_run(run.info.run_id, status="RUNNING")  # again, if an error had ended it
        return _Stream(run.info.run_id, {step for _, step in _streamed(parent.client, run)})


def _monitor(run_id: str) -> "SystemMetricsMonitor":
    from mlflow.system_metrics import system_metrics_monitor

    # A store that fails is said once, by the stream.
    for name in (system_metrics_monitor.__name__, "mlflow.system_metrics"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    monitor = system_metrics_monitor.SystemMetricsMonitor(  # type: ignore[no-untyped-call]
        run_id, _SAMPLING_SECONDS, resume_logging=True, tracking_uri=connection.uri()
    )
    monitor.start()  # type: ignore[no-untyped-call]
    return monitor


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
    points = shown.points(shown.curve([epoch]), shown.milliseconds(datetime.now()))
    with connection.opened() as client:
        client.log_batch(run_id, metrics=points)


def _end(run_id: str, status: str) -> None:
    with connection.opened() as client:
        client.set_terminated(run_id, status)


_failed: set[str] = set()
"""Stores that failed in this process: another try may take seconds, and a training has hundreds of epochs."""


def _attempt(do: Callable[[], T]) -> T | None:
    """Do it, unless tracking is off or the store has failed in this process; say in one line why it fails."""
    if os.environ.get("TRIMLAB_TRACKING") == "off" or (uri := connection.uri()) in _failed:
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
        there = self.logged(records)
        missing = {record.digest: record for record in records if record.digest not in there}
        for record in missing.values():
            self._write(record)
        if missing:
            self.client.set_terminated(self.run_id)
        return len(missing)

    def logged(self, records: Sequence[Record]) -> dict[str, str]:
        """Return the runs of records by digest, under whichever parent of the study they are: by one query."""
        tags = {RECORD_TAG: records[0].digest} if len(records) == 1 else {}
        runs = connection.search(self.client, self.experiment_id, tags)
        return {run.data.tags[RECORD_TAG]: run.info.run_id for run in runs if RECORD_TAG in run.data.tags}

    def finish(self, records: Sequence[Record], report: Path | None) -> None:
        _describe(self.client, self.run_id, self.study)
        distinct, logged = {record.digest: record for record in records}, self.logged(records)
        cells = [
            {"run_name": shown.name(self.study, record), "record": key, "run_id": logged[key]}
            for key, record in distinct.items()
        ]
        self.client.log_text(self.run_id, _pretty(cells), "cells.json")
        if report and report.is_dir():
            self.client.log_artifacts(self.run_id, str(report), "report")
        if records:
            newest = shown.newest(records)
            points = shown.points(shown.at_step_0(_summary(self.study, records)), shown.ended(newest))
            connection.log_batches(self.client, self.run_id, points, {}, shown.commit_tags(newest))
        for run in self.children:
            if run.info.status == "RUNNING":  # of a process that was killed: all cells have their records
                self.client.set_terminated(run.info.run_id, "KILLED")
        self.client.set_terminated(self.run_id)

    def unfinished(self, name: str, tags: dict[str, str], start: int | None = None) -> "Run":
        """Return the run of this name that has no record yet (streamed, or cut short), or a new one."""
        for run in self.children:
            if run.info.run_name == name and RECORD_TAG not in run.data.tags:
                return run
        tags = {**shown.study_tags(self.study), **tags, "mlflow.parentRunId": self.run_id}
        return self.client.create_run(
            self.experiment_id, start_time=start, tags=connection.tag_texts(tags), run_name=name
        )

    def _write(self, record: Record) -> None:
        curve = shown.curve(record.curve) if isinstance(record, Training | Pruning) else {}
        run = self._run_for(record, curve)
        run_id, end = run.info.run_id, shown.ended(record)
        self.client.log_text(run_id, _pretty(record.model_dump()), "record.json")
        self.client.log_text(run_id, _pretty(shown.deciding_params(self.study, record)), _PARAMS_FILE)
        self.client.log_inputs(run_id, datasets=[shown.dataset(record)])
        streamed = _streamed(self.client, run)
        rest = {key: value for key, value in curve.items() if key not in streamed}
        points = shown.points({**rest, **shown.at_step_0(shown.measured(record))}, end)
        connection.log_batches(self.client, run_id, points, shown.params(record), shown.tags(record))
        self.client.set_terminated(run_id, end_time=end)
        # Last: a run that is cut short before this is found again by `unfinished`.
        self.client.set_tag(run_id, RECORD_TAG, record.digest)
        self._close(run)

    def _run_for(self, record: Record, curve: dict[tuple[str, int], float]) -> "Run":
        name, tags = shown.name(self.study, record), shown.stage_tags(shown.stage(record), shown.cell(record))
        start = shown.started(record)
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
    with connection.opened() as client:
        experiment_id = _experiment(client, study.study)
        tags = connection.tag_texts({**shown.study_tags(study), **_STUDY})
        parents = connection.search(client, experiment_id, _STUDY)
        # Compared here: the name of a DVC experiment may hold quotes.
        mine = [run for run in parents if all(run.data.tags.get(key) == tags[key] for key in _IDENTITY)]
        run_id = mine[0].info.run_id if mine else _new_parent(client, experiment_id, study, tags, parents)
        wanted = {"mlflow.parentRunId": run_id} | ({"mlflow.runName": run_name} if run_name else {})
        yield _Parent(client, study, experiment_id, run_id, connection.search(client, experiment_id, wanted))


_IDENTITY = ("trimlab.params", "dvc.experiment")
"""The tags that tell the parents of a study apart."""


def _experiment(client: "MlflowClient", name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        experiment_id: str = client.create_experiment(name, connection.artifacts(name), _EXPERIMENT_TAGS)
        return experiment_id
    experiment_id = found.experiment_id
    for key in _EXPERIMENT_TAGS.keys() - found.tags.keys():  # made by an earlier version
        client.set_experiment_tag(experiment_id, key, _EXPERIMENT_TAGS[key])
    return experiment_id


def _new_parent(
    client: "MlflowClient", experiment_id: str, study: Params, tags: dict[str, str], others: "list[Run]"
) -> str:
    name = shown.parent_name(study, _params_before(client, others))
    run_id: str = client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
    _describe(client, run_id, study)
    # It is not a process, and a killed one could not end it: the children show what is running.
    client.set_terminated(run_id)
    for run in others:
        if run.info.status == "RUNNING":  # of an earlier version
            client.set_terminated(run.info.run_id)
    return run_id


def _params_before(client: "MlflowClient", parents: "list[Run]") -> Params | None:
    """Return the params of the last parent that is no experiment of DVC; None where there is none to compare with."""
    plain = [run for run in parents if run.data.tags.get("dvc.experiment") == shown.NO_EXPERIMENT]
    if not plain:
        return None
    run_id = max(plain, key=lambda run: run.info.start_time).info.run_id
    with TemporaryDirectory() as folder, suppress(*connection.failures(), ValidationError):
        return Params.model_validate_json(Path(client.download_artifacts(run_id, _PARAMS_FILE, folder)).read_text())
    return None  # they are lost, or of an earlier version


def _describe(client: "MlflowClient", run_id: str, study: Params) -> None:
    connection.log_batches(client, run_id, [], shown.study_params(study), {})
    client.log_text(run_id, _pretty(study.model_dump()), _PARAMS_FILE)


def _pretty(values: Any) -> str:
    return json.dumps(values, indent=1) + "\n"


def _streamed(client: "MlflowClient", run: "Run") -> dict[tuple[str, int], float]:
    """Return the curve's points that a run has."""
    keys = [key for key in run.data.metrics if key.startswith(shown.CURVE)]
    histories = (client.get_metric_history(run.info.run_id, key) for key in keys)
    return {(point.key, point.step): point.value for history in histories for point in history}


def _summary(study: Params, records: Sequence[Record]) -> dict[str, float]:
    """Return a parent's figures: the candidate's of `dvc metrics`, which also compare it with the baseline."""
    from trimlab.report.results import Results
    from trimlab.report.series import metrics

    return metrics(Results.of(study, records))["candidate"]
