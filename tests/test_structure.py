"""The structure holds: a package a stage, imports that run downwards, no circles."""

import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from trimlab import fingerprint

SRC = Path(__file__).parent.parent / "src"
STAGES = Path(__file__).parent.parent / "stages"
NAMES = ["fingerprint", "prepare", "train", "prune", "export", "quantize", "runtimes", "benchmark", "report"]
FLOW = ["data", "train", "prune", "quantize", "benchmark", "report"]
"""The packages that are stages, in order."""

FLOORS = [
    {"cli"},
    {"search"},
    {"deploy", "execution", "predict", "rehearsal", "release"},
    {"track"},
    {"benchmark", "latency", "report"},
    {"quantize"},
    {"prune"},
    {"train"},
    {"data", "models"},
    {"machine"},
    {"measure"},
    {"records"},
    {"config"},
    {"measure.accuracy", "measure.device", "measure.memory", "measure.errors", "measure.samples"},
    {"digests", "dvc_files", "errors", "fingerprint", "formats", "paths", "progress"},
]
"""From top to bottom: a package or module imports from lower floors alone, and from itself."""

ALONE = {"measure.accuracy", "measure.device", "measure.memory", "measure.errors", "measure.samples"}
"""Modules of `measure` that others import by themselves: training does not depend on how files are measured."""


def room(module):
    """The package of a module's full name, or the module itself where it is in none."""
    parts = module.split(".")[1:]
    return ".".join(parts[:2]) if ".".join(parts[:2]) in ALONE else parts[0]


def every_module():
    files = (SRC / "trimlab").rglob("*.py")
    names = (".".join(file.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__") for file in files)
    return sorted(name for name in names if name != "trimlab")


def imported(module):
    """The modules that a module imports, inside functions too; a package stands for its `__init__`."""
    return set(fingerprint.imports(module)) - {"trimlab"}


@pytest.mark.parametrize("stage", NAMES)
def test_a_stage_writes_into_the_folder_of_its_name(stage):
    entry = YAML(typ="safe").load(STAGES.parent / "dvc.yaml")["stages"][stage]
    entry = entry.get("do", entry)
    outs = [
        path if isinstance(path, str) else next(iter(path))
        for key in ("outs", "metrics")
        for path in entry.get(key, [])
    ]
    assert outs
    assert [out for out in outs if not out.startswith(f"{stage}/")] == []
    assert "${study}" not in "".join(outs)


def test_every_module_has_its_floor():
    assert {room(module) for module in every_module()} == set().union(*FLOORS)


@pytest.mark.parametrize("module", every_module())
def test_imports_run_downwards(module):
    floor = next(index for index, rooms in enumerate(FLOORS) if room(module) in rooms)
    allowed = {room(module)}.union(*FLOORS[floor + 1 :])
    assert {room(other) for other in imported(module)} <= allowed


def test_no_modules_import_each_other():
    graph = {module: imported(module) for module in every_module()}
    assert list(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("package", FLOW)
def test_params_paths_and_records_meet_in_a_stage_alone(package):
    """An algorithm takes its own section, and tensors or a model; `stage` reads its inputs and assembles the record."""
    for module in every_module():
        if module.startswith(f"trimlab.{package}.") and not module.endswith(".stage"):
            assert not {"trimlab.paths", "trimlab.config", "trimlab.records"} <= imported(module), module


def test_the_package_itself_holds_its_version_alone():
    """Where nothing is installed, on a host that gets the source alone, there is no metadata to ask."""
    assert re.fullmatch(r'__version__ = "\d+\.\d+\.\d+"\n', (SRC / "trimlab/__init__.py").read_text())


@pytest.mark.parametrize("module", [name for name in every_module() if name.startswith("trimlab.measure")])
def test_measuring_takes_nothing_along_but_the_formats(module):
    assert [name for name in imported(module) if not name.startswith("trimlab.measure")] in ([], ["trimlab.formats"])


@pytest.mark.parametrize("stage", NAMES)
def test_stages_only_wire(stage):
    text = (STAGES / f"{stage}.py").read_text()
    assert len(text.splitlines()) <= 30
    assert "import torch" not in text


def test_make_names_its_commands_in_full():
    """The make of macOS looks them up before it applies the Makefile's path."""
    recipes = [line.strip() for line in (STAGES.parent / "Makefile").read_text().splitlines() if line.startswith("\t")]
    words = [word for line in recipes for word in line.split()]
    assert {"trimlab", "dvc", "ruff", "mypy", "python", "mlflow", "pytest"} & set(words) == {"pytest"}
