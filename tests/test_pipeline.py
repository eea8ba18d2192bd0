"""The real pipeline, end to end, on a study that takes a minute: what re-runs, what is restored, what is refused."""

import csv
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from pipelines import Project, ran
from trimlab import config, records
from trimlab.digests import sha256_of

pytestmark = pytest.mark.e2e


@pytest.fixture
def tiny(reproduced, tmp_path):
    """A copy of the reproduced study, to change."""
    shutil.copytree(reproduced.root, tmp_path / "project", symlinks=True)
    return Project(tmp_path / "project")


def test_a_repro_ends_with_a_report_and_a_second_one_runs_nothing(reproduced):
    report = (reproduced.root / "report/report.md").read_text()
    assert report.startswith("# Tiny")
    assert "true labels" not in report and "McNemar's p" in report
    for figure in re.findall(r"\]\((figures/[^)]+)\)", report):
        assert (reproduced.root / "report" / figure).exists()
    assert not re.search(r"\| +\|", report), "an empty cell"
    printed = reproduced.run("dvc", "repro")
    assert "Data and pipelines are up to date." in printed
    assert ran(printed) == []


def test_every_stage_says_where_its_output_is(reproduced):
    said = re.findall(r"^wrote (.*)$", reproduced.printed, re.MULTILINE)
    assert sorted(said) == sorted(
        [
            *(
                "fingerprint/",
                "prepare/digits/",
                "train/digits/",
                "export/digits/",
                "runtimes/here.json",
                "report/report.md",
            ),
            *(
                f"{stage}/{name}/"
                for stage in ("prune", "quantize", "benchmark")
                for name in ("base", "half", "candidate")
            ),
        ]
    )
    assert all((reproduced.root / output).exists() for output in said)


def test_the_lines_in_the_docs_run_a_deployed_file(reproduced, project, tmp_path):
    code = re.search(r"```python\n(.*?)```", (project / "docs/runtimes.md").read_text(), re.DOTALL)[1]
    dataset = load_file(reproduced.root / "prepare/digits/dataset.safetensors")
    labels = np.load(reproduced.root / "benchmark/candidate/seed0-int8-onnxruntime.npy")
    for index in range(3):
        Image.fromarray(dataset["test_images"][index].permute(1, 2, 0).numpy()).save(tmp_path / "image.png")
        lines = code.replace("image.png", str(tmp_path / "image.png"))
        assert reproduced.run("python", "-c", lines).split() == [str(labels[index])]


def test_metrics_and_plots_are_readable(reproduced):
    metrics = json.loads((reproduced.root / "report/metrics.json").read_text())
    flat = reproduced.run("dvc", "metrics", "show", "--md")
    assert "report.md" not in flat
    assert flat.count("|") > 0 and len(json.dumps(metrics)) < 1500
    reproduced.run("dvc", "plots", "show", "--json")


def test_setting_a_point_back_restores_its_cells(tiny):
    tiny.edit("half: {ratio: 0.5, epochs: 1}", "half: {ratio: 0.5, epochs: 2}")
    assert tiny.repro() == ["prune@half", "quantize@half", "benchmark@half", "report"]
    tiny.edit("half: {ratio: 0.5, epochs: 2}", "half: {ratio: 0.5, epochs: 1}")
    assert tiny.repro() == ["report"]


def test_a_comment_in_every_module_reruns_nothing_but_the_fingerprints(tiny):
    for file in [*tiny.root.glob("src/trimlab/**/*.py"), *tiny.root.glob("stages/*.py")]:
        file.write_text(f"{file.read_text()}\n# a remark\n")
    tiny.run("dvc", "repro", "fingerprint")
    assert json.loads(tiny.run("dvc", "status", "--json")) == {}
    assert tiny.repro() == []


def test_a_constant_of_augmentation_makes_exactly_the_cells_stale_that_train(tiny):
    file = tiny.root / "src/trimlab/train/augment.py"
    whole = file.read_text()
    file.write_text(whole.replace("clamp(0, 255)", "clamp(0, 254)"))
    assert file.read_text() != whole
    tiny.run("dvc", "repro", "fingerprint")
    stale = json.loads(tiny.run("dvc", "status", "--json"))
    variants = ("base", "half", "candidate")
    # Files may be trained for INT8, so that code of training is the stage's code.
    trained = {f"{stage}@{variant}" for stage in ("prune", "quantize") for variant in variants}
    assert set(stale) == {"train@digits", "export@digits"} | trained
    file.write_text(whole)
    tiny.run("dvc", "repro", "fingerprint")
    assert json.loads(tiny.run("dvc", "status", "--json")) == {}


def test_a_training_that_gives_equal_weights_reruns_nothing_below_it(tiny):
    tiny.run("dvc", "repro", "-f", "-s", "train@digits")
    assert tiny.repro() == ["report"], "its record has other times"


def test_two_runs_of_a_seed_give_the_same_records(tiny):
    before = tiny.records()
    # One cell at a time: a forced repro of everything would only take longer.
    for cell in ("train@digits", "prune@half", "quantize@candidate", "benchmark@candidate"):
        tiny.repro("-f", "-s", cell)
    after = tiny.records()
    assert before != after
    assert {key: records.stable(r) for key, r in before.items()} == {key: records.stable(r) for key, r in after.items()}


def test_the_report_comes_out_of_imported_records_byte_for_byte(tiny):
    tiny.run("trimlab", "import")
    assert tiny.run("trimlab", "import").startswith("0 records added")
    own, committed = tiny.root / "report", tiny.root / "reports/tiny"
    before = contents(own)
    for gone in ("train", "prune", "export", "quantize", "benchmark", "prepare"):
        shutil.rmtree(tiny.root / gone)
    tiny.run("trimlab", "report", "tiny")
    assert contents(committed) == contents(own) == before


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


STORE = """\
import json, os
from mlflow import MlflowClient
client = MlflowClient()
runs = []
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        tags = {k: v for k, v in run.data.tags.items() if k != "mlflow.parentRunId"}
        history = {
            key: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
            if not key.startswith("system/")  # sampled where a training takes long enough, and in no record
        }
        inputs = [(i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs]
        runs.append([run.info.run_name, run.info.status, run.data.params, tags, history, inputs])
print(json.dumps(sorted(runs, key=lambda run: run[0]), sort_keys=True))
"""


def test_tracking_equals_the_store_rebuilt_from_records(tiny):
    shutil.rmtree(tiny.root / "mlartifacts", ignore_errors=True)
    tiny.run("trimlab", "import")
    first, second = (f"sqlite:///{tiny.root}/{name}.db" for name in ("mlflow", "rebuilt"))
    tiny.run("trimlab", "track", "tiny", MLFLOW_TRACKING_URI=second)
    stores = [
        json.loads(tiny.run("python", "-W", "ignore", "-c", STORE, MLFLOW_TRACKING_URI=uri).splitlines()[-1])
        for uri in (first, second)
    ]
    assert len(stores[0]) == 1 + 1 + 3 + 6  # parent, training, prunings, measurements
    assert stores[0] == stores[1]


def test_a_picked_file_is_deployed_as_its_card_says(tiny, tmp_path):
    said = tiny.run("trimlab", "pick", "--max-drop", "100", "--objective", "size", "--out", "deployed")
    assert "smallest" in said and "wrote deployed/\n" in said
    deployed = tiny.root / "deployed"
    record = records.read(deployed / "record.json")
    assert sha256_of(deployed / "model.onnx") == record.file_sha256
    smallest = min(r.file_bytes for r in tiny.records().values() if r.kind == "measurement")
    assert record.file_bytes == smallest
    card = (deployed / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", card, re.S)
    (deployed / "classify.py").write_text(example)
    image = tmp_path / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)).save(image)
    done = subprocess.run(
        [sys.executable, "classify.py", image], cwd=deployed, capture_output=True, text=True, check=True
    )
    name = done.stdout.strip()
    assert name in (deployed / "classes.txt").read_text().splitlines()
    assert tiny.run("trimlab", "predict", "deployed/model.onnx", str(image)).startswith(f"{image}: {name} (")
    again = tiny.run("trimlab", "pick", "--out", "deployed", code=1)
    assert "deployed is not an empty folder: name another one, or remove it" in again
    shutil.rmtree(deployed)
    values = json.loads(tiny.run("trimlab", "pick", "--max-drop", "100", "--json"))
    assert values["file_sha256"] == [record.file_sha256]
    refused = tiny.run("trimlab", "pick", "--max-mib", "0.001", code=1)
    assert "none of 6 files measured on " in refused
    assert "--max-mib " in refused
    assert "Traceback" not in refused


def test_a_search_tries_points_goes_on_and_ends_with_a_study(tiny):
    refused = tiny.run("trimlab", "search", code=1)
    assert "data.split test: a search would choose on the test set" in refused
    tiny.edit("split: test", "split: holdout")
    for stage in ("prune", "quantize", "benchmark"):
        shutil.rmtree(tiny.root / stage / "half")  # as in a study that has not run yet
    before = tiny.params.read_bytes()
    first = tiny.run("trimlab", "search", "--max-drop", "100", "--hours", "0")
    assert tiny.params.read_bytes() == before
    assert "search: try 1, ratio 0.3" in first
    assert {name for name in ran(first) if "half" in name} == set()
    assert "timing batch 1" in first, "the stages' progress is shown"
    second = tiny.run("trimlab", "search", "--max-drop", "100", "--hours", "0")
    assert "search: try 2, ratio 0.64" in second, "the first try is kept, and it was within the limits"
    study = config.load(tiny.root / "studies/tiny-found.yaml")
    assert (study.data.split, study.point("candidate").ratio) == ("test", 0.64)
    assert tiny.params.read_bytes() == before
    assert (tiny.root / "searches/tiny.svg").read_text().startswith("<?xml")
    shown = csv.DictReader(tiny.run("dvc", "exp", "show", "--csv", "--all-commits").splitlines())
    assert {"0.3", "0.64"} <= {row["prune.ratio"] for row in shown}


def test_an_experiment_runs_the_candidates_cells_and_the_report(tiny):
    printed = tiny.run("dvc", "exp", "run", "-n", "more", "-S", "prune.ratio=0.6")
    assert ran(printed) == ["prune@candidate", "quantize@candidate", "benchmark@candidate", "report"]
    shown = tiny.run("dvc", "exp", "show", "--csv")
    assert "more" in shown
    names = [run[0] for run in json.loads(tiny.run("python", "-W", "ignore", "-c", STORE,
             MLFLOW_TRACKING_URI=f"sqlite:///{tiny.root}/mlflow.db").splitlines()[-1])]  # fmt: skip
    # A parent, and the cells that changed: the others stay where they are.
    assert len(names) == 11 + 1 + 4
    assert "tiny prune.ratio=0.6" in names


def test_a_bad_experiment_is_one_line_and_leaves_params_alone(tiny):
    before = tiny.params.read_bytes()
    printed = tiny.run("dvc", "exp", "run", "--temp", "-S", "prune.ratio=1.4", code=1)
    assert printed.count("prune.ratio 1.4 is not in [0, 0.95]: set it in that range") == 1
    assert "Traceback" not in printed
    assert tiny.params.read_bytes() == before


@pytest.fixture
def shared(tiny, tmp_path):
    """The copy with a DVC remote, and a bare repository as its git remote: only these can give data away."""
    tiny.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "remote"))
    tiny.commit("remote")
    tiny.run("dvc", "push")
    tiny.run("git", "clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    tiny.run("git", "remote", "add", "origin", str(tmp_path / "bare.git"))
    return tiny


def cloned(folder):
    subprocess.run(["git", "clone", "-q", folder / "bare.git", folder / "clone"], check=True)
    return Project(folder / "clone")


def test_what_was_pushed_is_pulled_and_nothing_runs(shared, tmp_path):
    clone = cloned(tmp_path)
    clone.run("dvc", "pull")
    assert clone.repro() == ["runtimes"]  # what the machine has is never restored
    assert "Data and pipelines are up to date." in clone.run("dvc", "repro")


def test_a_colleague_who_sets_the_same_values_gets_what_was_computed(shared, tmp_path):
    shared.edit("ratio: 0.3", "ratio: 0.6")
    shared.repro()
    shared.run("dvc", "push", "--run-cache")
    clone = cloned(tmp_path)
    clone.run("dvc", "pull")
    clone.repro()
    clone.edit("ratio: 0.3", "ratio: 0.6")
    clone.run("dvc", "fetch", "--run-cache")
    assert clone.repro("--pull") == ["report"]  # no cache has it: it is rendered
    assert clone.records() == shared.records()


def test_another_project_gets_the_candidates_files_by_their_version(shared, tmp_path):
    shared.run("gto", "register", "candidate", "--version", "v1.0.0")
    shared.run("git", "push", "-q", "origin", "candidate@v1.0.0")
    other = Project(tmp_path / "other")
    other.root.mkdir()
    url = f"file://{tmp_path}/bare.git"
    other.run("dvc", "artifacts", "get", url, "candidate", "--rev", "v1.0.0", "-o", "deployed")
    assert contents(other.root / "deployed") == contents(shared.root / "quantize/candidate")
    file = "quantize/candidate/seed0-int8.onnx"
    other.run("dvc", "get", url, file, "--rev", "candidate@v1.0.0")
    assert sha256_of(other.root / "seed0-int8.onnx") == sha256_of(shared.root / file)


def test_a_dataset_comes_from_another_project_by_its_tag(tiny, tmp_path):
    registry = Project(tmp_path / "registry")
    write_images(registry.root / "shades", shade=0)
    for command in (
        ["git", "init", "-q", "-b", "main"], ["git", "config", "user.name", "Test"],
        ["git", "config", "user.email", "test@example.org"], ["dvc", "init", "-q"], ["dvc", "add", "shades"],
        ["dvc", "remote", "add", "-d", "storage", str(tmp_path / "images")], ["dvc", "push"],
    ):  # fmt: skip
        registry.run(*command)
    registry.commit("shades")
    registry.run("git", "tag", "v1")
    tiny.run("dvc", "import", str(registry.root), "shades", "-o", "data/shades", "--rev", "v1")
    tiny.edit("datasets:\n", "datasets:\n  shades: {source: folder, path: data/shades}\n")
    assert tiny.repro("prepare@shades") == ["prepare@shades"]
    tiny.commit("shades")
    tiny.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    assert "run `dvc pull data/shades.dvc`" in clone.run("trimlab", "check", code=1)
    clone.run("dvc", "pull", "data/shades.dvc")
    clone.run("trimlab", "check")
    assert contents(clone.root / "data/shades") == contents(registry.root / "shades")


def without(folder, runtime):
    """Return the variables of a machine that lacks a runtime."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho unavailable: {runtime} cannot be imported >&2\nexit 4\n")
    path.chmod(0o755)
    return {f"TRIMLAB_PYTHON_{runtime.upper()}": str(path)}


def test_a_machine_with_more_runtimes_measures_anew_and_one_with_the_same_nothing(tiny, tmp_path):
    tiny.edit("batch_repeats: 5}", "batch_repeats: 5, runtimes: [onnxruntime, openvino]}")
    printed = tiny.run("dvc", "repro", **without(tmp_path, "openvino"))
    assert ran(printed) == ["runtimes", "benchmark@base", "benchmark@half", "benchmark@candidate", "report"]
    assert "openvino is not available here: openvino cannot be imported" in printed
    assert {record.runtime for record in tiny.records().values() if record.kind == "measurement"} == {"onnxruntime"}
    here = tiny.root / "runtimes/here.json"
    here.unlink()
    assert ran(tiny.run("dvc", "repro", **without(tmp_path, "openvino"))) == ["runtimes"]
    here.unlink()  # a fresh clone, elsewhere
    assert tiny.repro() == ["runtimes", "benchmark@base", "benchmark@half", "benchmark@candidate", "report"]
    found = {record.runtime for record in tiny.records().values() if record.kind == "measurement"}
    assert found == {"onnxruntime", "openvino"}
    assert tiny.run("git", "status", "--short", "--", "runtimes") == ""


def test_a_study_starts_from_a_weights_file(tiny):
    (tiny.root / "data").mkdir(exist_ok=True)
    shutil.copy(tiny.root / "train/digits/model/seed0.safetensors", tiny.root / "data/given.safetensors")
    tiny.edit("weights: data/none", "weights: data/given.safetensors")
    before = tiny.records()["train/digits/record/seed0.json"]
    # The weights are the same; what follows records the params that they came from, and so runs again.
    assert tiny.repro("prune@base") == ["train@digits", "prune@base"]
    given = tiny.records()["train/digits/record/seed0.json"]
    assert (given.origin, given.epochs) == ("file", 0)
    assert given.weights_sha256 == before.weights_sha256


def test_a_clone_starts_from_released_weights_that_git_alone_carries(tiny, tmp_path):
    trained = tiny.records()["train/digits/record/seed0.json"]
    printed = tiny.run("trimlab", "release", "digits")
    assert printed.startswith("released/digits/seed0.safetensors: 0.53 MiB, 3 epochs at commit ")
    tiny.edit("weights: data/none", "weights: released/digits")
    tiny.commit("release")
    tiny.run("git", "clone", "-q", ".", str(tmp_path / "clone"))
    clone = Project(tmp_path / "clone")
    assert clone.repro("train@digits") == ["fingerprint", "prepare@digits", "train@digits"]
    given = records.read(clone.root / "train/digits/record/seed0.json")
    assert (given.initial, given.initial_dtype) == ("released/digits/seed0.safetensors", "float16")
    assert given.initial_training == trained
    assert clone.run("git", "status", "--short", "--", "released") == ""


def write_images(root, shade):
    for part, count in (("train", 40), ("test", 4)):
        for index, label in enumerate(("dark", "light")):
            folder = root / part / label
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = np.full((32, 32, 3), 120 * index + number + shade, np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:02}.png")


def test_a_changed_image_reruns_its_datasets_cells_and_checkout_brings_the_former_ones_back(tiny):
    write_images(tiny.root / "data/shades", shade=0)
    tiny.run("dvc", "add", "data/shades")
    tiny.edit("datasets:\n", "datasets:\n  shades: {source: folder, path: data/shades}\n")
    tiny.edit(
        "sweep:\n",
        "  shades: {model: resnet20, code: data/none, dataset: shades, training: training.short, precision: fp32, "
        "initial: data/none, weights: data/none}\n"
        "sweep:\n",
    )
    tiny.repro()
    tiny.commit("with shades")
    report = (tiny.root / "report/report.md").read_bytes()
    weights = (tiny.root / "train/shades/model/seed0.safetensors").read_bytes()

    Image.new("RGB", (32, 32), (200, 10, 10)).save(tiny.root / "data/shades/train/dark/00.png")
    tiny.run("dvc", "add", "data/shades")
    assert tiny.repro() == ["prepare@shades", "train@shades", "export@shades", "report"]
    tiny.commit("another image")
    assert (tiny.root / "train/shades/model/seed0.safetensors").read_bytes() != weights

    tiny.run("git", "checkout", "-q", "HEAD~1")
    tiny.run("dvc", "checkout")
    assert (tiny.root / "train/shades/model/seed0.safetensors").read_bytes() == weights
    assert (tiny.root / "report/report.md").read_bytes() == report
    assert tiny.repro() == []
