import base64
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError

import mlflow
import numpy as np
import onnx
import pandas as pd
import pytest
from mlflow import MlflowClient
from PIL import Image
from typer.testing import CliRunner

import factories
from trimlab import cli, config, deploy, paths, predict
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.report.pick import Limits
from trimlab.report.results import Results
from trimlab.track import mlflow_runs, registry

ABOUT = {
    "mean": "[0.4, 0.5, 0.6]",
    "std": "[0.2, 0.25, 0.3]",
    "classes": json.dumps(["red", "green", "blue"]),
    "input": "input: float32 (N, 3, 8, 8), RGB, (value / 255 - mean) / std",
    "output": "logits: float32 (N, 3), one a class",
}
"""Of a file whose logits are an image's mean colour."""


@pytest.fixture
def store(in_tmp: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    """An empty store where trimlab and MLflow look for one: in the project's root, which is the working directory."""
    for name in ("MLFLOW_TRACKING_URI", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(mlflow_runs, "_failed", set())
    shutil.copy(empty_store, in_tmp / "mlflow.db")
    uri = f"sqlite:///{in_tmp / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    yield MlflowClient(uri)
    mlflow.set_tracking_uri(None)


def _exported(precision: str, scale: float, **about: str) -> Path:
    """Write a candidate's file where `quantize` writes it; files of another scale have other bytes."""
    proto = onnx.parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
        agraph (float[N,3,8,8] input) => (float[N,3] logits) <float scale = {{{scale}}}> {{
            pooled = GlobalAveragePool(input)
            flat = Flatten(pooled)
            logits = Mul(flat, scale)
        }}""")
    onnx.helper.set_model_props(proto, ABOUT | about)
    file = paths.onnx_file("candidate", 0, precision)
    file.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, file)
    return file


def _results(study: config.Params, file: Path, runtime: str = "onnxruntime") -> Results:
    """Return results in which the candidate's INT8 file is the smallest."""
    measured = {"file_sha256": sha256_of(file), "file_bytes": file.stat().st_size, "runtime": runtime}
    return Results.of(
        study,
        [
            factories.measurement(study, study.report.baseline, "fp32", runtime=runtime),
            factories.measurement(study, "candidate", "int8", **measured),
        ],
    )


def _register(results: Results, name: str = "colours") -> registry.Registered:
    choice = deploy.choose(results, Limits(max_drop=100), "size")
    assert choice.file.records[0].variant == "candidate"
    return deploy.register(results, choice.file, name)


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _in_base64(*images: bytes) -> list[str]:
    return [base64.b64encode(image).decode() for image in images]


@pytest.fixture
def photographs() -> list[bytes]:
    generator = np.random.default_rng(0)
    return [_png(generator.integers(0, 256, size, np.uint8)) for size in ((8, 8, 3), (30, 21, 3), (13, 40, 3), (9, 9))]


def test_a_registered_file_predicts_what_trimlab_predicts(
    store: MlflowClient, tmp_path: Path, photographs: list[bytes]
) -> None:
    file = _exported("int8", 3.0)
    made = _register(_results(factories.study(), file))
    assert made == ("colours", "1", True)
    model = mlflow.pyfunc.load_model("models:/colours@champion")
    answers = model.predict(pd.DataFrame({"image": _in_base64(*photographs)}))
    images = [tmp_path / f"{index}.png" for index in range(len(photographs))]
    for image, content in zip(images, photographs, strict=True):
        image.write_bytes(content)
    expected = list(predict.predict(file, images, "shorter-side"))
    assert [answer["class"] for answer in answers] == [found.name for found in expected]
    assert [answer["probability"] for answer in answers] == pytest.approx([found.probability for found in expected])
    for answer in answers:
        shares = [entry["probability"] for entry in answer["top"]]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
        assert answer["top"][0]["class"] == answer["class"]


@pytest.mark.parametrize("resize", ["shorter-side", "stretch", "pad"])
def test_a_registered_file_frames_images_as_the_dataset_does(
    resize: config.Resize, store: MlflowClient, tmp_path: Path, photographs: list[bytes]
) -> None:
    sources = {"cifar10": {"source": "folder", "path": "images", "image_size": 8, "resize": resize}}
    file = _exported("int8", 3.0)
    _register(_results(factories.study(datasets=sources), file))
    (tmp_path / "wide.png").write_bytes(photographs[2])
    [expected] = predict.predict(file, [tmp_path / "wide.png"], resize)
    model = mlflow.pyfunc.load_model("models:/colours@champion")
    [answer] = model.predict(pd.DataFrame({"image": _in_base64(photographs[2])}))
    assert answer["probability"] == pytest.approx(expected.probability)


def test_the_same_file_makes_no_new_version_and_another_one_takes_the_alias(store: MlflowClient) -> None:
    first = _results(factories.study(), _exported("int8", 3.0))
    assert _register(first).is_new
    assert _register(first) == ("colours", "1", False)
    second = _results(factories.study(), _exported("int8", 2.0))
    assert _register(second) == ("colours", "2", True)
    assert _champion(store) == "2"
    assert len(store.search_model_versions("name = 'colours'")) == 2
    _exported("int8", 3.0)
    assert _register(first) == ("colours", "1", False)
    assert _champion(store) == "1"


def _champion(store: MlflowClient) -> str:
    return str(store.get_model_version_by_alias("colours", "champion").version)


def test_a_version_says_what_was_measured_and_belongs_to_its_run(store: MlflowClient) -> None:
    results = _results(factories.study(), _exported("int8", 3.0))
    [record] = [found for found in results.measurements if found.variant == "candidate"]
    _register(results)
    found = store.get_model_version("colours", "1")
    assert found.tags["top1_percent"] == f"{100 * record.top1_accuracy:.2f}"
    assert found.tags["split"] == "test set, 10,000 images"
    assert found.tags["record_sha256"] == record.digest
    assert found.tags[registry.FILE_TAG] == record.file_sha256
    assert "95 % interval" in found.description and record.device.name in found.description
    run = store.get_run(found.run_id)
    assert run.data.tags[mlflow_runs.RECORD_TAG] == record.digest
    [output] = run.outputs.model_outputs
    assert found.source == f"models:/{output.model_id}"


def test_a_model_needs_neither_trimlab_nor_torch(store: MlflowClient, photographs: list[bytes]) -> None:
    _register(_results(factories.study(), _exported("int8", 3.0)))
    folder = Path(mlflow.artifacts.download_artifacts("models:/colours@champion", dst_path="there"))
    needed = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    assert needed == {"mlflow", "numpy", "onnxruntime", "pillow"}
    program = (
        "import sys, mlflow, pandas\n"
        f"answers = mlflow.pyfunc.load_model({str(folder)!r}).predict(pandas.DataFrame({{'image': [sys.argv[1]]}}))\n"
        "print(len(answers), sorted({'trimlab', 'torch', 'onnx'} & set(sys.modules)))"
    )
    [image] = _in_base64(photographs[0])
    done = subprocess.run([sys.executable, "-c", program, image], capture_output=True, text=True, check=True)
    assert done.stdout == "1 []\n"


@pytest.mark.parametrize("sent", [b"not an image", b"", "16 bits"])
def test_what_is_no_image_is_refused_with_its_row(
    sent: bytes | str, store: MlflowClient, photographs: list[bytes]
) -> None:
    image = _png(np.zeros((8, 8), np.uint16)) if isinstance(sent, str) else sent
    _register(_results(factories.study(), _exported("int8", 3.0)))
    model = mlflow.pyfunc.load_model("models:/colours@champion")
    with pytest.raises(mlflow.MlflowException, match=r"image 1 cannot be read \(.*\): send a PNG or JPEG file"):
        model.predict(pd.DataFrame({"image": _in_base64(photographs[0], image)}))


def test_a_file_picked_by_another_runtimes_figures_is_not_registered(store: MlflowClient) -> None:
    results = _results(factories.study(), _exported("int8", 3.0), runtime="openvino")
    with pytest.raises(UserError, match="in OpenVINO: add --runtime onnxruntime"):
        _register(results)
    assert store.search_registered_models() == []


@pytest.mark.parametrize("name", ["", "a/b", "x:y", "it's", "two\nlines", "n" * 500])
def test_a_name_that_the_registry_refuses_is_one_line(name: str, store: MlflowClient) -> None:
    with pytest.raises(
        UserError, match=r"^--register .* is not a name: use letters, digits, dots and dashes$"
    ) as error:
        _register(_results(factories.study(), _exported("int8", 3.0)), name)
    assert "\n" not in str(error.value) and len(str(error.value)) < 200
    assert store.search_registered_models() == []


@pytest.mark.timeout(120)
def test_the_champion_answers_over_http(store: MlflowClient, tmp_path: Path, photographs: list[bytes]) -> None:
    file = _exported("int8", 3.0)
    _register(_results(factories.study(), file))
    (tmp_path / "image.png").write_bytes(photographs[1])
    [expected] = predict.predict(file, [tmp_path / "image.png"], "shorter-side")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("mlflow"), "models", "serve", "-m", "models:/colours@champion"]
    options = ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db", "MLFLOW_DISABLE_TELEMETRY": "true"}
    quiet = subprocess.DEVNULL
    with subprocess.Popen([*command, *options], env=environment, stdout=quiet, stderr=quiet) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/ping", server)
            url = f"http://127.0.0.1:{port}/invocations"
            [image] = _in_base64(photographs[1])
            for request in ({"dataframe_records": [{"image": image}]}, {"inputs": [{"image": image}]}):
                [answer] = _asked(url, request)["predictions"]
                assert answer["class"] == expected.name
                assert answer["probability"] == pytest.approx(expected.probability)
            with pytest.raises(HTTPError, match="400"):
                _asked(url, {"inputs": [{"image": "nothing"}]})
        finally:
            server.terminate()


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    while server.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (URLError, ConnectionError):
            time.sleep(0.2)
    raise AssertionError(f"the server ended with code {server.returncode}")


def _asked(url: str, request: object) -> dict[str, list[dict[str, object]]]:
    body = urllib.request.Request(url, json.dumps(request).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(body, timeout=30) as answer:
        return json.load(answer)


def test_the_command_registers_what_it_picks_and_prints_json_alone(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = _results(factories.study(), _exported("int8", 3.0))
    monkeypatch.setattr(deploy, "results_of", lambda study: results)
    done = CliRunner().invoke(cli.app, ["pick", "--max-drop", "100", "--register", "colours", "--json"])
    assert json.loads(done.stdout)["variant"] == "candidate"
    assert done.stderr == (
        "version 1 of colours is its champion now: "
        "mlflow models serve -m models:/colours@champion --env-manager local\n"
    )
    assert _champion(store) == "1"
