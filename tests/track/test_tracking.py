import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

import factories
from trimlab import config, records
from trimlab.errors import UserError
from trimlab.track import connection, mlflow_runs, shown

ROOT = Path(__file__).parents[2]
SQLITE = "sqlite:///"


@pytest.fixture(scope="session")
def tracking_stores(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two stores with empty tables, shared by tests that have each their own study."""
    folder = tmp_path_factory.mktemp("stores")
    first, second = folder / "first" / "mlflow.db", folder / "second" / "mlflow.db"
    for store in (first, second):
        store.parent.mkdir()
        shutil.copy(empty_store, store)
    return f"{SQLITE}{first}", f"{SQLITE}{second}"


@pytest.fixture(autouse=True)
def store(tracking_stores: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    for name in ("DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_stores[0])
    monkeypatch.setattr(mlflow_runs, "_failed", set())
    return MlflowClient(tracking_stores[0])


@pytest.fixture
def study(request: pytest.FixtureRequest) -> config.Params:
    name = re.sub("[^a-z0-9]+", "-", request.node.name.lower())
    return factories.study(study=name[:64])


def _training(study: config.Params, seed: int = 0, **changes: object) -> records.Training:
    workload = study.variants[study.report.baseline].workload
    return factories.training(study, workload, seed, **{"curve": _curve(4), **changes})


def _curve(epochs: int, **changes: object) -> list[records.Epoch]:
    """Return a curve whose first epoch was not evaluated."""
    first, *others = factories.curve(epochs, top1=0.9, seconds=1.5)
    first = first.model_copy(update={"top1_accuracy": None})
    return [epoch.model_copy(update=changes) for epoch in (first, *others)]


def _all_records(study: config.Params) -> list[records.Record]:
    variants = (study.report.baseline, study.report.candidate)
    return [
        _training(study),
        *(factories.pruning(study, variant) for variant in variants),
        *(factories.measurement(study, variant, precision) for variant in variants for precision in ("fp32", "int8")),
    ]


def _runs(client: MlflowClient, study: config.Params) -> list[Run]:
    experiment = client.get_experiment_by_name(study.study)
    return list(client.search_runs([experiment.experiment_id]))


def _children(client: MlflowClient, study: config.Params) -> list[Run]:
    return [run for run in _runs(client, study) if "mlflow.parentRunId" in run.data.tags]


def _parents(client: MlflowClient, study: config.Params) -> list[Run]:
    return [run for run in _runs(client, study) if "mlflow.parentRunId" not in run.data.tags]


def _history(client: MlflowClient, run: Run) -> list[tuple[str, int, float]]:
    points = (point for key in run.data.metrics for point in client.get_metric_history(run.info.run_id, key))
    return sorted((point.key, point.step, point.value) for point in points)


def _artifacts(client: MlflowClient, run: Run, folder: Path) -> dict[str, str]:
    found = client.list_artifacts(run.info.run_id)
    return {
        file.path: Path(client.download_artifacts(run.info.run_id, file.path, str(folder))).read_text()
        for file in found
    }


def _contents(client: MlflowClient, study: config.Params, folder: Path) -> list[dict[str, object]]:
    """Return all that a store says of a study, but for ids and times."""
    runs = _runs(client, study)
    names = {run.info.run_id: run.info.run_name for run in runs}
    contents = [
        {
            "name": run.info.run_name,
            "status": run.info.status,
            "params": run.data.params,
            "tags": {key: names.get(value, value) for key, value in run.data.tags.items()},
            "metrics": _history(client, run),
            "inputs": [(entry.dataset, entry.tags) for entry in run.inputs.dataset_inputs],
            "artifacts": _named(_artifacts(client, run, folder), names),
        }
        for run in runs
    ]
    return sorted(contents, key=lambda run: run["name"])


def _named(artifacts: dict[str, str], names: dict[str, str]) -> dict[str, str]:
    """Put names in the place of runs' ids."""
    for run_id, name in names.items():
        artifacts = {file: text.replace(run_id, name) for file, text in artifacts.items()}
    return artifacts


def _stream(study: config.Params, stage: str, name: str, epochs: list[records.Epoch]) -> None:
    with mlflow_runs.live(study, stage, name, seed=0) as stream:
        for epoch in epochs:
            stream(epoch)


def test_store_that_the_stages_write_equals_one_made_of_the_records(
    study: config.Params,
    store: MlflowClient,
    tracking_stores: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    everything = _all_records(study)
    for record in everything:
        monkeypatch.setenv("DVC_STAGE", "some-stage")
        if isinstance(record, records.Training):
            _stream(study, "train", record.workload, record.curve)
        if isinstance(record, records.Pruning):
            _stream(study, "prune", record.variant, record.curve)
        mlflow_runs.log(study, record)
    mlflow_runs.complete(study, everything)
    monkeypatch.delenv("DVC_STAGE")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_stores[1])
    assert mlflow_runs.rebuild(study, everything) == len(everything)
    written = _contents(store, study, tmp_path)
    assert len(written) == len(everything) + 1
    assert written == _contents(MlflowClient(tracking_stores[1]), study, tmp_path)


def test_record_logged_twice_is_one_run(study: config.Params, store: MlflowClient, tmp_path: Path) -> None:
    record = _training(study)
    mlflow_runs.log(study, record)
    mlflow_runs.complete(study, [record])
    once = _contents(store, study, tmp_path)
    mlflow_runs.log(study, record)
    mlflow_runs.complete(study, [record])
    assert mlflow_runs.rebuild(study, [record, record]) == 0
    assert _contents(store, study, tmp_path) == once


def test_killed_stream_goes_on_in_the_same_run(study: config.Params, store: MlflowClient) -> None:
    record = _training(study)
    _stream(study, "train", record.workload, record.curve[:2])
    [begun] = _children(store, study)
    _stream(study, "train", record.workload, record.curve[:3])
    mlflow_runs.log(study, record)
    [ended] = _children(store, study)
    assert (begun.info.status, ended.info.status) == ("RUNNING", "FINISHED")
    assert ended.info.run_id == begun.info.run_id
    assert _points(store, ended, "epoch/train_loss") == [(e.epoch, e.train_loss) for e in record.curve]


def test_epochs_that_were_trained_again_give_way_to_the_record(study: config.Params, store: MlflowClient) -> None:
    record = _training(study)
    _stream(study, "train", record.workload, _curve(2, train_loss=7.0))
    mlflow_runs.log(study, record)
    [run] = _children(store, study)
    assert _points(store, run, "epoch/train_loss") == [(e.epoch, e.train_loss) for e in record.curve]


def _points(client: MlflowClient, run: Run, key: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, key))


def test_long_curve_is_logged_whole(study: config.Params, store: MlflowClient) -> None:
    record = _training(study, curve=_curve(300))
    mlflow_runs.log(study, record)
    [run] = _children(store, study)
    assert [step for step, _ in _points(store, run, "epoch/images_per_second")] == list(range(1, 301))
    assert [step for step, _ in _points(store, run, "epoch/train_loss")] == list(range(1, 301))


def test_parent_is_complete_where_most_cells_were_cached(study: config.Params, store: MlflowClient) -> None:
    everything = _all_records(study)
    mlflow_runs.log(study, everything[0])
    mlflow_runs.complete(study, everything)
    [parent] = _parents(store, study)
    children = _children(store, study)
    assert sorted(run.data.tags[mlflow_runs.RECORD_TAG] for run in children) == sorted(r.digest for r in everything)
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    assert parent.info.status == "FINISHED"


def test_params_without_effect_are_not_logged(study: config.Params) -> None:
    record = factories.measurement(study, study.report.candidate, "int8")
    name = study.workloads[record.workload].training.removeprefix("training.")
    values = {"epochs": 2, "optimizer": "adamw", "learning_rate": 1e-3, "random_resized_crop": {}}
    recipe = config.Recipe.model_validate(values)
    adamw = study.model_copy(update={"training": {**study.training, name: recipe}})
    gone = {"momentum", "nesterov", "crop_padding"}
    assert gone <= shown.deciding_params(study, record)["training"].keys()
    assert not gone & shown.deciding_params(adamw, record)["training"].keys()


def test_processes_are_in_the_record_alone(study: config.Params) -> None:
    benchmark = study.benchmark.model_copy(update={"processes": 3})
    replicated = study.model_copy(update={"benchmark": benchmark})
    record = factories.measurement(replicated, study.report.candidate, "int8")
    assert "processes" not in shown.params(record)
    assert shown.measured(record)["speedup"] == pytest.approx(record.speedup)
    assert shown.deciding_params(replicated, record)["benchmark"]["processes"] == 3


def test_parent_sums_up_seeds_of_one_device(study: config.Params, store: MlflowClient) -> None:
    candidate = study.report.candidate
    speeds = {
        "latency": factories.latency(0.5),
        "batch_latency": factories.latency(16.0),
        "baseline_batch_latency": factories.latency(64.0),
    }
    earlier = {"device": factories.GPU, "created": "2026-01-02T04:00:00+09:00"}
    mlflow_runs.complete(
        study,
        [
            factories.measurement(study, candidate, "int8", seed=0, top1_accuracy=0.8, **speeds),
            factories.measurement(study, candidate, "int8", seed=1, top1_accuracy=0.9, **speeds),
            factories.measurement(study, candidate, "int8", top1_accuracy=0.1, **earlier),
            factories.measurement(study, study.report.baseline, "int8", top1_accuracy=0.2),
            factories.measurement(study, study.report.baseline, "fp32", top1_accuracy=0.95),
        ],
    )
    [parent] = _parents(store, study)
    assert parent.data.metrics["top1_percent"] == pytest.approx(85)
    assert parent.data.metrics["points_lost"] == pytest.approx(10)
    assert parent.data.metrics["batch_speedup"] == pytest.approx(4.0)
    assert parent.data.metrics["latency_ms"] == pytest.approx(0.5)
    assert len(parent.data.metrics) == 9
    assert len(_children(store, study)) == 5


def test_runs_are_found_by_tags_and_by_params(
    study: config.Params, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "half")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "f00d")
    candidate = study.report.candidate
    timed = {"latency": factories.latency(0.5), "commit": "0123456789ab-dirty"}
    record = factories.measurement(study, candidate, "int8", **timed)
    mlflow_runs.complete(study, [record, _training(study, commit="0123456789ab-dirty")])
    [parent] = _parents(store, study)
    found = store.search_runs(
        [parent.info.experiment_id],
        f"tags.dvc.stage = 'benchmark@{candidate}'"
        " and tags.dvc.experiment = 'half' and tags.dvc.baseline = 'f00d'"
        " and tags.device = 'Test CPU · avx512_vnni · 2 threads' and tags.mlflow.source.git.commit = '0123456789ab'"
        f" and tags.git.commit = '0123456789ab-dirty' and params.ratio = '{study.prune.ratio}'"
        " and params.precision = 'int8' and metrics.latency_ms < 0.6",
    )
    assert [run.info.run_name for run in found] == ["candidate 60 % INT8 · onnxruntime"]


def test_run_names_its_dataset_and_holds_its_whole_record(
    study: config.Params, store: MlflowClient, tmp_path: Path
) -> None:
    batch = factories.latency(16.0, batch_size=64)
    record = factories.measurement(study, study.report.candidate, "int8", batch_latency=batch)
    mlflow_runs.log(study, record)
    [run] = _children(store, study)
    [entry] = run.inputs.dataset_inputs
    assert (entry.dataset.name, entry.dataset.digest) == (record.dataset, record.dataset_sha256[:32])
    file = Path(store.download_artifacts(run.info.run_id, "record.json", str(tmp_path)))
    assert records.read(file) == record
    assert run.data.metrics["images_per_second"] == pytest.approx(4000)
    assert run.data.metrics["size_mib"] == pytest.approx(record.file_bytes / 2**20)
    assert run.data.params["threads"] == "2"


def test_experiments_of_dvc_have_parents_of_their_own(
    study: config.Params, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = _training(study)
    mlflow_runs.log(study, record)
    monkeypatch.setenv("DVC_EXP_NAME", "it's")
    mlflow_runs.log(study, record)
    changed = study.model_copy(update={"seeds": [1]})
    mlflow_runs.log(changed, record)
    experiments = sorted(run.data.tags["dvc.experiment"] for run in _parents(store, study))
    assert experiments == ["it's", "it's", "none"]


def test_an_experiment_logs_the_cells_that_it_changed_and_refers_to_the_others(
    study: config.Params, store: MlflowClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _all_records(study)
    mlflow_runs.complete(study, before)
    monkeypatch.setenv("DVC_EXP_NAME", "other")
    changed = factories.pruning(study, "small-r50", weights_sha256=factories.weights("other"))
    after = [changed if record.digest == before[-1].digest else record for record in before]
    mlflow_runs.complete(study, after)
    [parent] = [run for run in _parents(store, study) if run.data.tags["dvc.experiment"] == "other"]
    own = [run for run in _children(store, study) if run.data.tags["mlflow.parentRunId"] == parent.info.run_id]
    assert [run.data.tags[mlflow_runs.RECORD_TAG] for run in own] == [changed.digest]
    cells = json.loads(_artifacts(store, parent, tmp_path)["cells.json"])
    runs = {run.info.run_id: run.data.tags.get(mlflow_runs.RECORD_TAG) for run in _children(store, study)}
    assert [runs[cell["run_id"]] for cell in cells] == [record.digest for record in after]


def test_a_note_in_the_report_makes_no_new_parent(study: config.Params, store: MlflowClient) -> None:
    everything = _all_records(study)
    mlflow_runs.complete(study, everything)
    report = study.report.model_copy(update={"title": "Another", "notes": ["A remark."]})
    mlflow_runs.complete(study.model_copy(update={"report": report}), everything)
    assert len(_parents(store, study)) == 1


def test_a_run_shows_few_params_and_holds_all_that_decided_it(
    study: config.Params, store: MlflowClient, tmp_path: Path
) -> None:
    everything = _all_records(study)
    mlflow_runs.complete(study, everything)
    sections = {
        "training": {"data", "workload", "training"},
        "pruning": {"data", "workload", "training", "point", "pruning"},
        "measurement": {"data", "workload", "training", "point", "pruning", "quantization", "benchmark"},
    }
    for run in _children(store, study):
        assert 8 <= len(run.data.params) <= 16, run.info.run_name
        assert {"model", "dataset", "seed"} <= run.data.params.keys()
        found = json.loads(_artifacts(store, run, tmp_path)["params.json"])
        assert found.keys() == sections[run.data.tags["trimlab.kind"]]
    [parent] = _parents(store, study)
    assert len(parent.data.params) <= 16
    assert config.Params.model_validate_json(_artifacts(store, parent, tmp_path)["params.json"]) == study


def test_runs_of_one_parent_have_names_of_their_own(study: config.Params, store: MlflowClient) -> None:
    both = study.model_copy(update={"seeds": [0, 1]})
    everything = factories.everything(both)
    names = [shown.name(both, record) for record in everything]
    assert len(set(names)) == len(everything)
    assert {
        "large · training · seed 0",
        "large-r50 · pruning · seed 1",
        "large-r50 FP16 · onnxruntime · seed 0",
    } <= set(names)
    assert shown.name(study, _training(study)) == "large · training"


def test_a_parent_is_named_by_what_changed_since_the_last_one(
    study: config.Params, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def complete(**prune: object) -> None:
        point = study.prune.model_copy(update=prune)
        mlflow_runs.complete(study.model_copy(update={"prune": point}), [])

    complete()
    complete(ratio=0.7)
    monkeypatch.setenv("DVC_EXP_NAME", "often-tried")
    complete(ratio=0.8)
    complete(ratio=0.7, epochs=9, learning_rate=0.5, distillation=0.25, importance="random")
    many = "prune.epochs=9 prune.learning_rate=0.5 prune.distillation=0.25 and 1 more"
    names = [run.info.run_name for run in _parents(store, study)]
    changes = ["", " prune.ratio=0.7", " prune.ratio=0.8", f" {many}"]
    assert sorted(names) == sorted(f"{study.study}{change}" for change in changes)


def test_a_parent_holds_the_report(study: config.Params, store: MlflowClient, tmp_path: Path) -> None:
    folder = tmp_path / "report"
    (folder / "figures").mkdir(parents=True)
    (folder / "report.md").write_text("# A report")
    (folder / "figures/one.svg").write_text("<svg/>")
    mlflow_runs.complete(study, _all_records(study), folder)
    [parent] = _parents(store, study)
    got = Path(store.download_artifacts(parent.info.run_id, "report", str(tmp_path / "got")))
    assert sorted(file.relative_to(got).as_posix() for file in got.rglob("*.*")) == ["figures/one.svg", "report.md"]


def test_a_long_training_has_metrics_of_the_machine(
    study: config.Params, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_runs, "_SAMPLING_SECONDS", 0.2)
    record = _training(study)
    with mlflow_runs.live(study, "train", record.workload, 0) as stream:
        for epoch in record.curve:
            stream(epoch)
        deadline = time.monotonic() + 30
        while not _system_metrics(store, study) and time.monotonic() < deadline:
            time.sleep(0.1)
    mlflow_runs.log(study, record)
    [run] = _children(store, study)
    assert run.info.status == "FINISHED"
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_percentage"} <= run.data.metrics.keys()
    assert not [thread.name for thread in threading.enumerate() if "SystemMetrics" in thread.name]


def _system_metrics(client: MlflowClient, study: config.Params) -> list[str]:
    return [key for run in _children(client, study) for key in run.data.metrics if key.startswith("system/")]


def test_a_parent_of_a_killed_training_does_not_run_for_ever(study: config.Params, store: MlflowClient) -> None:
    mlflow_runs._begin(study, "train", "any", 0)  # killed here
    assert [run.info.status for run in _parents(store, study)] == ["FINISHED"]
    assert [run.info.status for run in _children(store, study)] == ["RUNNING"]
    mlflow_runs.complete(study, [_training(study)])
    assert sorted(run.info.status for run in _children(store, study)) == ["FINISHED", "KILLED"]


def test_abandoned_parents_of_an_earlier_version_are_closed(study: config.Params, store: MlflowClient) -> None:
    mlflow_runs.complete(study, [])
    [parent] = _parents(store, study)
    store.update_run(parent.info.run_id, status="RUNNING")
    changed = study.model_copy(update={"seeds": [1]})
    mlflow_runs.complete(changed, [])
    assert [run.info.status for run in _parents(store, study)] == ["FINISHED"] * 2


def test_a_measurement_takes_as_long_as_its_timed_calls(study: config.Params, store: MlflowClient) -> None:
    record = factories.measurement(study, study.report.candidate, "int8")
    mlflow_runs.log(study, record)
    [run] = _children(store, study)
    series = record.latency, record.batch_latency, record.baseline_latency, record.baseline_batch_latency
    expected = sum(each.n * each.p50_ms for each in series)
    assert run.info.end_time - run.info.start_time == pytest.approx(expected, abs=1)


@pytest.mark.parametrize(("error", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_run_says_how_its_training_ended_and_goes_on_later(
    error: type[BaseException], status: str, study: config.Params, store: MlflowClient
) -> None:
    record = _training(study)
    with pytest.raises(error), mlflow_runs.live(study, "train", record.workload, 0) as stream:
        stream(record.curve[0])
        raise error
    [run] = _children(store, study)
    assert run.info.status == status
    with mlflow_runs.live(study, "train", record.workload, 0):
        [run] = _children(store, study)
        assert run.info.status == "RUNNING"
    mlflow_runs.log(study, record)
    [run] = _children(store, study)
    assert run.info.status == "FINISHED"


def test_an_experiment_is_one_of_models(study: config.Params, store: MlflowClient, tmp_path: Path) -> None:
    store.create_experiment(study.study, tmp_path.as_uri())  # by an earlier version
    mlflow_runs.log(study, _training(study))
    assert store.get_experiment_by_name(study.study).tags["mlflow.experimentKind"] == "custom_model_development"


def test_long_and_odd_names_fail_no_run(
    study: config.Params, store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "it's \udcff `long`" * 1000)
    device = factories.CPU.model_copy(update={"name": "a ' \" ` | name" * 16})
    record = _training(study, device=device, versions={"pack!age" * 25: "1" * 200, "..": "2"})
    assert mlflow_runs.rebuild(study, [record]) == 1
    assert mlflow_runs.rebuild(study, [record]) == 0
    assert len(_parents(store, study)) == len(_children(store, study)) == 1


def test_wrong_store_is_one_line_for_a_command(study: config.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://me:secret@host/db")
    with pytest.raises(UserError, match=r"^MLflow's store nonsense://\*\*\*@host/db fails .*MLFLOW_TRACKING_URI") as e:
        mlflow_runs.rebuild(study, [])
    assert "\n" not in str(e.value)
    assert "secret" not in str(e.value)


def _run_stages(study: config.Params) -> None:
    """Call tracking as the stages do."""
    record = _training(study, curve=_curve(50))
    _stream(study, "train", record.workload, record.curve)
    mlflow_runs.log(study, record)
    mlflow_runs.complete(study, [record])


@pytest.mark.parametrize("error", [RuntimeError("two\nlines"), OSError("disk"), UserError("bad"), KeyError("key")])
def test_no_stage_fails_because_of_tracking(
    error: Exception, study: config.Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(connection, "_client", fail)
    _run_stages(study)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("not tracked: ") and line.endswith("`trimlab track` adds their runs")


def test_stages_leave_the_store_alone_where_tracking_is_off(
    study: config.Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    monkeypatch.setattr(connection, "_client", asked.append)
    monkeypatch.setenv("TRIMLAB_TRACKING", "off")
    _run_stages(study)
    assert (asked, capsys.readouterr().err) == ([], "")


def test_store_that_fails_later_loses_no_training(
    study: config.Params, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    record = _training(study)
    with mlflow_runs.live(study, "train", record.workload, 0) as stream:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://host")
        for epoch in record.curve:
            stream(epoch)
    mlflow_runs.log(study, record)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("not tracked: MLflow's store nonsense://host fails")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI"):
        mlflow_runs.rebuild(study, [record])


def test_a_server_that_does_not_answer_is_asked_twice_by_a_stage(
    study: config.Params, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(connection._ENVIRONMENT, "MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(0.1)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        _run_stages(study)
        asked = 0
        with suppress(TimeoutError):
            while True:
                silent.accept()
                asked += 1
    assert 1 <= asked <= 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("not tracked: MLflow's store http://127.0.0.1")


@pytest.mark.parametrize(
    "place", ["sqlite:///.", "sqlite:////proc/mlflow.db", "sqlite:////proc/1/deeper/mlflow.db", "sqlite+pysqlite:///."]
)
def test_a_place_where_no_store_can_be_is_said_at_once(
    place: str, study: config.Params, in_tmp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last is not a file to us, as a database server is not: MLflow alone decides when to give up."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    started = time.monotonic()
    with pytest.raises(UserError, match=r"^MLflow's store .* fails .*MLFLOW_TRACKING_URI"):
        mlflow_runs.rebuild(study, [])
    assert time.monotonic() - started < 4


_LOG_EACH = """
import os
import sys
from pathlib import Path
import mlflow
from trimlab import config, records
from trimlab.track import mlflow_runs
mlflow_runs._LOCK_SECONDS = 600.0  # on a busy machine the last of them waits long
study = config.Params.model_validate_json(Path("study.json").read_text())
started = []
for file in sys.argv[1:]:
    started.append(os.fork())
    if not started[-1]:
        mlflow_runs.log(study, records.read(Path(file)))
        os._exit(0)
for process in started:
    assert os.waitpid(process, 0)[1] == 0
"""
"""Logs each record in a process of its own, all at once; they share the import of MLflow."""


def test_eight_processes_on_a_cold_store_lose_nothing(
    study: config.Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is the default one, in the project's root, though the processes work elsewhere."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    (elsewhere / "study.json").write_text(study.model_dump_json())
    expected = [factories.measurement(study, study.report.candidate, "int8", seed=seed) for seed in range(8)]
    for record in expected:
        records.write(record, elsewhere / f"{record.seed}.json")
    command = [sys.executable, "-W", "ignore", "-c", _LOG_EACH, *(f"{record.seed}.json" for record in expected)]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    client = MlflowClient(f"{SQLITE}{tmp_path / 'mlflow.db'}")
    [parent] = _parents(client, study)
    assert parent.info.artifact_uri.startswith((tmp_path / "mlartifacts").as_uri())
    digests = sorted(run.data.tags[mlflow_runs.RECORD_TAG] for run in _children(client, study))
    assert digests == sorted(record.digest for record in expected)
    assert sorted(file.suffix for file in elsewhere.iterdir()) == [".json"] * 9


def test_importing_tracking_does_not_import_mlflow() -> None:
    program = "import sys, trimlab.track.mlflow_runs; sys.exit('mlflow' in sys.modules)"
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    assert subprocess.run([sys.executable, "-c", program], env=env, check=False).returncode == 0
