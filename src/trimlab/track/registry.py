"""MLflow's model registry: picked files as models that `mlflow models serve` runs, the last one as the champion."""

import base64
import io
import shutil
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from trimlab.config import Params, Resize
from trimlab.records import Measurement
from trimlab.track import connection, mlflow_runs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import Model, ModelSignature

CHAMPION = "champion"
"""The alias of the version that was registered last."""
FILE_TAG = "trimlab.file_sha256"
"""Digest of a version's ONNX file: no file is registered twice under a name."""

_CODE = Path(__file__).with_name("served.py")
_NEEDED = ("numpy", "onnxruntime", "pillow")
"""What the code needs besides MLflow, which adds itself."""


class Registered(NamedTuple):
    """A version of a registered model."""

    name: str
    version: str
    is_new: bool
    """Whether it was made now; otherwise the file had been registered before."""

    def sentence(self) -> str:
        """Say what it is, and how it is served."""
        before = "" if self.is_new else ", which has held this file before,"
        return (
            f"version {self.version} of {self.name}{before} is its {CHAMPION} now: "
            f"mlflow models serve -m models:/{self.name}@{CHAMPION} --env-manager local"
        )


def register(
    study: Params, record: Measurement, file: Path, name: str, tags: Mapping[str, str], description: str
) -> Registered:
    """Register a measured ONNX file as a model, and move the alias `champion` to it.

    The model belongs to the record's run, which is logged if it is missing.

    Args:
        study: the params.
        record: of the file.
        file: the ONNX file, with class names, mean and standard deviation inside.
        name: of the registered model.
        tags: of the version; those of a file that was registered before are replaced.
        description: of the version, markdown.

    Raises:
        UserError: the store fails.
    """
    run_id = mlflow_runs.run_of(study, record)
    shown = connection.tag_texts({**tags, FILE_TAG: record.file_sha256})
    with connection.opened() as client:
        found = _version_of(client, name, record.file_sha256)
        number = found or _new_version(client, name, run_id, record, file, study.datasets[record.dataset].resize)
        for key, value in shown.items():
            client.set_model_version_tag(name, number, key, value)
        client.update_model_version(name, number, description)
        client.set_registered_model_alias(name, CHAMPION, number)
    return Registered(name, number, found is None)


def _version_of(client: "MlflowClient", name: str, sha256: str) -> str | None:
    """Return the version that holds a file; None where there is none."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    # Compared here: a server may hold versions that others made.
    for found in client.search_model_versions(f"name = '{name}'"):
        if found.tags.get(FILE_TAG) == sha256:
            return str(found.version)
    return None


def _new_version(
    client: "MlflowClient", name: str, run_id: str, record: Measurement, file: Path, resize: Resize
) -> str:
    from mlflow.entities import LoggedModelOutput

    experiment_id = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment_id, f"{record.variant}-{record.precision}", run_id, model_type="classifier"
    )
    with TemporaryDirectory() as folder:
        _save(Path(folder) / "model", _empty(logged, run_id), file, resize)
        client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    source = f"models:/{logged.model_id}"
    made = client.create_model_version(name, source, run_id, model_id=logged.model_id, await_creation_for=0)
    return str(made.version)


def _empty(logged: "LoggedModel", run_id: str) -> "Model":
    from mlflow.models import Model

    return Model(logged.artifact_location, run_id, model_uuid=logged.model_id, model_id=logged.model_id)


def _save(folder: Path, model: "Model", file: Path, resize: Resize) -> None:
    """Write a model's folder: the ONNX file, the code that runs it, requirements, signature and an example."""
    import pandas as pd
    from mlflow import pyfunc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own, of pandas
        pyfunc.save_model(
            folder,
            mlflow_model=model,
            python_model=str(_CODE),
            artifacts={"onnx": str(file)},
            model_config={"resize": resize},
            signature=_signature(),
            input_example=pd.DataFrame({"image": [_grey()]}),
            pip_requirements=[f"{package}=={version(package)}" for package in _NEEDED],
        )
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


def _signature() -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, Object, Property, Schema

    listed = Array(Object([Property("class", "string"), Property("probability", "double")]))
    answer = [ColSpec("string", "class"), ColSpec("double", "probability"), ColSpec(listed, "top")]
    return ModelSignature(Schema([ColSpec("string", "image")]), Schema(list(answer)))


def _grey() -> str:
    """Return an image as a request holds it: a grey PNG file in base64."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "grey").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
