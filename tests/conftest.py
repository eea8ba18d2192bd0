"""What tests share."""

import os
from pathlib import Path

# Before torch is imported, here and in child processes: test workers share the cores, so threads that wait must not
# spin, and one a process is enough.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from pipelines import TINY, Project, copy_source
from trimlab import config, paths
from trimlab.data import stage as data_stage

PROJECT = Path(__file__).parent.parent

# On a busy machine an example can take any time; what hangs ends at the test's own limit.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


def pytest_collection_modifyitems(items):
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU on this machine"))
        if "e2e" in item.keywords and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1800))  # dozens of stages, which start in ten seconds on a slow machine


@pytest.fixture(autouse=True, scope="session")
def own_machine_lock(tmp_path_factory):
    """Nothing timed here counts: don't wait for a real training's lock, and don't hold it up."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIMLAB_LOCK", str(tmp_path_factory.mktemp("machine") / "lock"))
        yield


@pytest.fixture
def project():
    """The project's root, which holds params.yaml and dvc.yaml."""
    return PROJECT


@pytest.fixture
def in_tmp(tmp_path, monkeypatch):
    """An empty working directory that is the project's root to the code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def quick(in_tmp, project):
    """The quick study in an empty project, its dataset prepared."""
    study = config.load(project / "studies/quick.yaml")
    data_stage.prepare("digits", study.datasets["digits"], study.data)
    paths.NO_FILE.parent.mkdir(exist_ok=True)
    for marker in (paths.NO_FILE, paths.PRETRAINED):
        marker.touch()
    return study


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """MLflow's store with empty tables, to be copied: making those takes seconds."""
    from trimlab.track import mlflow_store

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow_store.prepare(file, ours=True)
    return file


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory):
    """The tiny study, reproduced once for all test workers. Tests change copies of it."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "reproduced"
    tiny, printed = Project(shared / "project"), shared / "printed.txt"
    with FileLock(f"{shared}.lock"):
        if not printed.exists():
            copy_source(tiny.root)
            tiny.params.write_text(TINY)
            tiny.run("git", "init", "-q", "-b", "main")
            tiny.run("git", "config", "user.name", "Test")
            tiny.run("git", "config", "user.email", "test@example.org")
            tiny.commit("start")
            said = tiny.run("dvc", "repro")
            tiny.commit("reproduced")
            printed.write_text(said)
    tiny.printed = printed.read_text()
    return tiny
