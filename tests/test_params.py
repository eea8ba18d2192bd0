"""params.yaml: what is wrong is said in one line a problem, before anything heavy starts."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from trimlab import params
from trimlab.errors import UserError

BAD = {
    "ratio: 0.5": ("ratio: 1.4", "prune.ratio 1.4 is not in [0, 0.95]: set it in that range"),
    "importance: l1": (
        "importance: l9",
        "pruning.importance 'l9' is not allowed: use one of l1, l2, lamp, fpgm, bn_scale or random",
    ),
    "epochs: 8": ("epochs: 1.5", "training.digits.epochs 1.5 is wrong"),
    "source: digits": ("source: digit", "datasets.digits.source 'digit' is not allowed"),
    "path: data/none": ("path: x", "datasets.digits.path 'x' does not fit source 'digits'"),
    "sweep.r30}": ("sweep.r31}", "pruning 'sweep.r31' is unknown: use one of prune, sweep.none"),
    "baseline: resnet20-digits": ("baseline: resnet", "report.baseline 'resnet' is unknown"),
    "  - 0\n": ("  - 0\n  - 0\n", "seeds [0, 0] repeat: list each once"),
    "  r30:": ("  30:", "sweep.30 30 is wrong"),
    "model: resnet20": ("model: torchvision/resnet19", "model 'torchvision/resnet19' is unknown: use one of resnet18"),
    "baseline: resnet20-digits\n": ("baseline: candidate\n", "report.baseline 'candidate' is pruned"),
    "split: test": ("splitt: test", "data.splitt is no known key (did you mean split?)"),
}


@pytest.fixture
def text(project):
    return (project / "studies/quick.yaml").read_text()


def problems(text, folder):
    file = folder / "params.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        params.load(file)
    return str(error.value).splitlines()


@pytest.mark.parametrize("good", BAD)
def test_a_bad_value_is_named_with_its_bound_and_remedy(good, text, tmp_path):
    bad, expected = BAD[good]
    assert good in text
    assert any(expected in line for line in problems(text.replace(good, bad, 1), tmp_path))


def test_every_problem_has_its_line(text, tmp_path):
    twice = text.replace("ratio: 0.5", "ratio: 1.4").replace("epochs: 8", "epochs: 0")
    assert len(problems(twice, tmp_path)) == 2


def test_a_missing_file_and_broken_yaml_are_one_line(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        params.load(tmp_path / "none.yaml")
    assert len(problems("study: [", tmp_path)) == 1
    assert "duplicate key" in problems("study: a\nstudy: b\n", tmp_path)[0]


@given(st.floats(allow_nan=True).filter(lambda ratio: not 0 <= ratio <= 0.95))
def test_no_ratio_outside_its_range_passes(ratio):
    with pytest.raises(ValueError, match="ratio"):
        params.PruningPoint(ratio=ratio, epochs=1)


def test_a_folder_and_an_empty_file_are_one_line(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        params.load(tmp_path)
    assert problems("", tmp_path) == [f"{tmp_path / 'params.yaml'}: holds no params: start from a file in studies/"]


def test_the_models_offered_are_torchvisions():
    from torchvision import models

    assert set(params.TORCHVISION_MODELS) <= set(models.list_models(module=models))


def test_existing_defaults_never_change():
    # Digests leave defaults out, so that a new field orphans no record; a changed default would lie to old ones.
    kept = json.loads((Path(__file__).parent / "golden/defaults.json").read_text())
    current = {
        f"{section.__name__}.{name}": field.get_default(call_default_factory=True)
        for section in params.Section.__subclasses__()
        for name, field in section.model_fields.items()
        if not field.is_required()
    }
    assert {key: current[key] for key in kept} == kept


@pytest.mark.parametrize("key", ["study", "seeds", "variants", "report"])
def test_a_missing_section_is_named(key, text, tmp_path):
    values = YAML(typ="safe").load(text)
    del values[key]
    assert any(f"{key} is missing: add it" in line for line in problems(json.dumps(values), tmp_path))


def test_the_committed_schema_is_current_and_takes_the_committed_studies(project):
    committed = (project / "params.schema.json").read_text()
    assert committed == params.schema(), "run `trimlab schema`"
    for file in sorted((project / "studies").glob("*.yaml")):
        jsonschema.validate(YAML(typ="safe").load(file), json.loads(committed))


def test_every_field_is_described(project):
    definitions = json.loads((project / "params.schema.json").read_text())
    sections = [definitions, *definitions["$defs"].values()]
    bare = [
        name
        for section in sections
        for name, field in section["properties"].items()
        if not {"description", "$ref"} & field.keys()
    ]
    assert bare == []


@pytest.mark.parametrize("study", ["quick", "cifar10-cpu", "paper"])
def test_committed_studies_are_good(study, project):
    assert params.load(project / f"studies/{study}.yaml").study == study


def test_digests_tell_apart_what_decides_a_cell(project):
    study = params.load(project / "studies/quick.yaml")
    changed = study.model_copy(update={"prune": study.prune.model_copy(update={"ratio": 0.6})})
    assert study.pruning_digest("candidate") != changed.pruning_digest("candidate")
    assert study.pruning_digest("resnet20-digits-r60") == changed.pruning_digest("resnet20-digits-r60")
    assert study.training_digest("resnet20-digits") == changed.training_digest("resnet20-digits")


@pytest.mark.parametrize("stage", ["prepare", "train", "prune", "quantize", "benchmark", "report"])
def test_every_stage_answers_bad_params_in_one_line_without_heavy_imports(stage, project, tmp_path):
    bad = (project / "studies/quick.yaml").read_text().replace("ratio: 0.5", "ratio: 1.4")
    (tmp_path / "params.yaml").write_text(bad)
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{stage}', 'candidate']\n"
        "try:\n"
        f"    runpy.run_path({str(project / 'stages' / stage) + '.py'!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print(end.code)\n"
        "print([name for name in ('torch', 'mlflow', 'onnx', 'numpy') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = "error: params.yaml: prune.ratio 1.4 is not in [0, 0.95]: set it in that range"
    assert done.stdout.splitlines() == [said, "[]"]


def test_check_exits_nonzero_and_says_one_line(project, tmp_path):
    (tmp_path / "params.yaml").write_text(
        (project / "studies/quick.yaml").read_text().replace("ratio: 0.5", "ratoi: 0.5")
    )
    done = subprocess.run(
        [sys.executable, "-c", "from trimlab import cli; cli.main()", "check"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "did you mean ratio?" in done.stderr
    assert "Traceback" not in done.stderr
