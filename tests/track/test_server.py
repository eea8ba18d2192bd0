"""A real MLflow server that goes away in mid-training and comes back: the training goes on, and nothing is lost."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

import factories
from trimlab.track import mlflow_runs

STUDY = factories.study()
EPOCHS = 20


@contextmanager
def server(folder: Path, port: int) -> Iterator[str]:
    """Run a server on loopback, which keeps everything in a folder; it is killed at the end."""
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/server.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    ]
    env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=folder, env=env, stdout=quiet, stderr=quiet, start_new_session=True) as process:
        try:
            uri, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
            while not _answers(uri):
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.2)
            yield uri
        finally:
            os.killpg(process.pid, 9)


def _answers(uri: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"{uri}/health", timeout=5) as answer:
        return bool(answer.status == 200)
    return False


@pytest.mark.e2e
def test_a_server_that_goes_away_in_mid_training_costs_a_line_and_gets_the_record_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(mlflow_runs, "_failed", set())
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    for name in mlflow_runs._ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    record = factories.training(STUDY, "large", epochs=EPOCHS, curve=factories.curve(EPOCHS, 0.9, seconds=5.0))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with server(tmp_path, port) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        stream = mlflow_runs.live(STUDY, "train", "large", 0)
        epoch = stream.__enter__()
        for each in record.curve[:5]:
            epoch(each)
    began = time.monotonic()
    for each in record.curve[5:]:
        epoch(each)
    stream.__exit__(None, None, None)
    mlflow_runs.log(STUDY, record)
    assert time.monotonic() - began < 30, "each epoch waits for the server"
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("not tracked: MLflow's store http://127.0.0.1") and "adds their runs" in line

    mlflow_runs._failed.clear()  # as in a new process: the report stage, or `trimlab track`
    with server(tmp_path, port) as uri:
        assert mlflow_runs.rebuild(STUDY, [record]) == 1
        client = MlflowClient(uri)
        [experiment] = [found for found in client.search_experiments() if found.name == STUDY.study]
        runs = client.search_runs([experiment.experiment_id])
        [run] = [run for run in runs if run.data.tags.get("dvc.stage") == "train@large"]
        assert run.info.status == "FINISHED" and run.data.tags[mlflow_runs.RECORD_TAG] == record.digest
        history = client.get_metric_history(run.info.run_id, "epoch/top1_accuracy")
        assert sorted(point.step for point in history) == list(range(1, EPOCHS + 1))
