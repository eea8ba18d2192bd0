"""The structure holds: imports run downwards, and a stage depends on the modules that can change its output."""

import ast
import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from trimlab.fingerprint import EXEMPT

SRC = Path(__file__).parent.parent / "src"
STAGES = Path(__file__).parent.parent / "stages"
NAMES = ["prepare", "train", "prune", "quantize", "runtimes", "benchmark", "report"]

LAYERS = [
    {"cli"},
    {"report", "tracking", "offline"},
    {"figures"},
    {"anatomy", "conclusions"},
    {"tables"},
    {"archive", "results"},
    {"bundles"},
    {"benchmarking", "pruning", "quantization"},
    {"training", "export", "calibration", "interpreters"},
    {"onnx_files", "checkpoint"},
    {"checks", "data", "models", "machine", "reference", "mlflow_store"},
    {"records", "measure"},
    {"measure.device", "measure.memory"},
    {"params"},
    {"paths", "errors", "progress", "fingerprint", "onednn"},
]
"""From top to bottom: a module imports from lower layers alone."""


ALONE = {"measure.device", "measure.memory"}
"""Modules of `measure` that others import by themselves: training does not depend on how files are measured."""


def module_file(name):
    package = SRC / "trimlab" / name.replace(".", "/")
    return package / "__init__.py" if package.is_dir() else package.with_suffix(".py")


def imported(file):
    """The modules of trimlab that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "trimlab":
            found |= {alias.name for alias in node.names} - {"__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trimlab."):
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            own = ({".".join(name.split(".")[1:][:size]) for size in (1, 2)} for name in full)
            found |= {next(iter(names & ALONE), min(names, key=len)) for names in own}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("trimlab.")}
    return found


def reached(file):
    """What a stage imports, transitively, less what is exempt (and what only the exempt reach)."""
    todo, found = imported(file), set()
    while todo:
        name = todo.pop()
        if name not in found | EXEMPT:
            found.add(name)
            todo |= imported(module_file(name))
    return found - ALONE if "measure" in found else found


def modules():
    entries = [path for path in (SRC / "trimlab").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    return {path.stem for path in entries} - {"__init__", "__pycache__"}


@pytest.mark.parametrize("stage", NAMES)
def test_a_stage_depends_on_the_modules_that_can_change_its_output(stage):
    entry = YAML(typ="safe").load(STAGES.parent / "dvc.yaml")["stages"][stage]
    deps = set(entry.get("do", entry)["deps"])
    prefix = "src/trimlab/"
    expected = {
        prefix + (name if module_file(name).name == "__init__.py" else f"{name.replace('.', '/')}.py")
        for name in reached(STAGES / f"{stage}.py")
    }
    assert {dep for dep in deps if dep.startswith(prefix)} == expected
    assert f"stages/{stage}.py" in deps


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


def test_every_module_has_its_layer():
    assert modules() == set().union(*LAYERS) - ALONE


@pytest.mark.parametrize("level", range(len(LAYERS)))
def test_imports_run_downwards(level):
    below = set().union(*LAYERS[level + 1 :]) if level + 1 < len(LAYERS) else set()
    # Within the report's layer, one module may serve another; nowhere else.
    for name in LAYERS[level]:
        file = module_file(name)
        files = file.parent.rglob("*.py") if file.name == "__init__.py" else [file]
        for each in files:
            assert imported(each) - {name} <= below, f"{each.name} imports {imported(each) - below}"


def test_the_package_itself_holds_its_version_alone():
    """Where nothing is installed, on a host that gets the source alone, there is no metadata to ask."""
    assert re.fullmatch(r'__version__ = "\d+\.\d+\.\d+"\n', (SRC / "trimlab/__init__.py").read_text())


def test_measuring_imports_neither_torch_nor_the_rest():
    heavy = {"torch", "pydantic", "mlflow", "torchvision", "trimlab"}
    for file in (SRC / "trimlab/measure").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(), feature_version=(3, 8))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            outside = [name for name in names if not name.startswith("trimlab.measure")]
            assert not heavy & {name.split(".")[0] for name in outside}, file


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
