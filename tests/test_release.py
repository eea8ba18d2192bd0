"""Released weights: FP16 in git, with the record of their training, up to the report of a study that uses them."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import factories
from trimlab import cli, config, paths, records, rehearsal
from trimlab.config import checks
from trimlab.data import stage as data_stage
from trimlab.digests import sha256_of
from trimlab.errors import UserError
from trimlab.models import checkpoint
from trimlab.report import findings
from trimlab.report.results import Results
from trimlab.report.sections import report
from trimlab.track import shown
from trimlab.train import stage as train_stage

ROOT = Path(__file__).parent.parent
WORKLOAD = "resnet20-digits"
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A project in which the quick study's model was trained for an epoch with two seeds, and released."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        text = (ROOT / "studies/quick.yaml").read_text().replace("  - 0\n", "  - 0\n  - 1\n", 1)
        Path("params.yaml").write_text(text.replace("epochs: 8", "epochs: 1"))
        paths.NO_FILE.parent.mkdir()
        paths.NO_FILE.touch()
        study = config.load()
        data_stage.prepare("digits", study.datasets["digits"], study.data)
        for seed in SEEDS:
            train_stage.train_workload(study, WORKLOAD, seed, on_epoch=lambda _: None)
        done = CliRunner().invoke(cli.app, ["release", WORKLOAD])
        assert done.exit_code == 0, done.output
        (folder / "printed.txt").write_text(done.output)
    return folder


@pytest.fixture
def mine(trained, tmp_path, monkeypatch):
    """A copy of that project to change."""
    shutil.copytree(trained, tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    return tmp_path / "mine"


def released(seed=0):
    return paths.RELEASED / WORKLOAD / f"seed{seed}.safetensors"


def trained_file(seed=0):
    return paths.weights_file(paths.trained(WORKLOAD), seed)


def using(weights, split="test"):
    """The study, with weights in place of the training, and without what it trained."""
    shutil.rmtree("train", ignore_errors=True)
    text = Path("params.yaml").read_text().replace("weights: data/none", f"weights: {weights}", 1)
    Path("params.yaml").write_text(text.replace("split: test", f"split: {split}"))
    return config.load()


def train(study, seed=0):
    return train_stage.train_workload(study, WORKLOAD, seed, on_epoch=lambda _: None)


def refusal(*arguments):
    """The one line with which `trimlab release` refuses."""
    with pytest.raises(UserError) as error:
        CliRunner().invoke(cli.app, ["release", *arguments], catch_exceptions=False)
    said = str(error.value)
    assert len(said.splitlines()) == 1
    return said


def test_released_weights_are_the_trained_ones_in_fp16_and_half_as_large(mine):
    for seed in SEEDS:
        before, after = load_file(trained_file(seed)), load_file(released(seed))
        assert before.keys() == after.keys()
        for name, tensor in before.items():
            expected = tensor.half() if tensor.is_floating_point() else tensor
            assert torch.equal(after[name], expected), name
    assert released().stat().st_size < 0.6 * trained_file().stat().st_size


def test_the_line_names_file_size_epochs_commit_and_both_accuracies(mine):
    lines = (mine / "printed.txt").read_text().splitlines()
    assert len(lines) == len(SEEDS)
    record = records.read(released().with_suffix(".json"))
    assert lines[0].startswith(f"{released()}: 0.53 MiB, 1 epoch at commit {record.commit}; ")
    assert f"to FP16: {100 * record.top1_accuracy:.2f} % and " in lines[0]
    assert lines[0].endswith("of 359 labels differ)")


def test_each_seed_gets_its_own_weights_and_the_record_of_their_training_travels_with_them(mine):
    made = {seed: records.read(paths.record_file(paths.trained(WORKLOAD), seed)) for seed in SEEDS}
    study = using(paths.RELEASED / WORKLOAD)
    assert checks.missing_files(study) == []
    found = {seed: train(study, seed) for seed in SEEDS}
    for seed, record in found.items():
        assert (record.origin, record.epochs, record.curve) == ("file", 0, [])
        assert (record.initial, record.initial_dtype) == (str(released(seed)), "float16")
        assert record.initial_sha256 == sha256_of(released(seed))
        assert record.initial_training == made[seed]
        assert records.read(paths.record_file(paths.trained(WORKLOAD), seed)) == record
    assert found[0].weights_sha256 != found[1].weights_sha256


def test_the_accuracy_is_measured_again_not_believed(mine):
    """Weights that say 3 to every image, under the record of a training: its accuracy is not taken over."""
    claimed = records.read(released().with_suffix(".json"))
    tensors = load_file(released())
    tensors["fc.weight"], tensors["fc.bias"] = torch.zeros(10, 64), torch.eye(10)[3]
    save_file(tensors, released(), metadata={"trimlab": json.dumps({"training": claimed.digest})})
    record = train(using(paths.RELEASED / WORKLOAD))
    assert record.top1_accuracy == claimed.per_class[3].images / claimed.num_images != claimed.top1_accuracy
    assert record.initial_training == claimed


def test_the_log_says_that_fp16_is_computed_in_fp32(mine, capsys):
    train(using(released()))
    assert (
        f"every weight starts from {released()}, which holds float16: computed in float32\n" in capsys.readouterr().err
    )


def test_the_report_says_where_the_weights_come_from(mine):
    study = using(paths.RELEASED / WORKLOAD)
    found = [train(study, seed) for seed in SEEDS]
    (said,) = findings.given_weights(Results.of(study, found))
    made = found[0].initial_training
    assert f"{released(0)}, trained by study quick (seed 0) at commit {made.commit}" in said.plain
    assert "1 epoch, batch 64" in said.plain
    for record in found:
        before, after = (100 * each.top1_accuracy for each in (record.initial_training, record))
        assert f"{before:.2f} % there, {after:.2f} % here as float16" in said.plain


def test_one_file_for_several_seeds_is_said(mine):
    study = using(released())
    found = [train(study, seed) for seed in SEEDS]
    (said,) = findings.given_weights(Results.of(study, found))
    assert said.plain.endswith("All seeds start from these weights: their spread says nothing about training.")
    opening = factories.document(report(Results.of(study, found), []))
    assert f"All seeds of {WORKLOAD} start from the same weights" in opening
    assert "start from the same weights" not in factories.document(report(Results.of(study, found[:1]), []))
    assert said.plain.count(str(released())) == 1


def test_weights_without_a_record_are_named_as_such(mine):
    shutil.copy(trained_file(), "given.safetensors")
    study = using("given.safetensors")
    (said,) = findings.given_weights(Results.of(study, [train(study)]))
    assert "given.safetensors (float32, sha256 " in said.plain
    assert said.plain.endswith("How they were trained is not recorded.")


def test_a_run_of_a_training_that_names_another_is_logged_without_it(mine):
    record = train(using(released()))
    assert not [name for name in shown.measured(record) | shown.params(record) if "initial_training" in name]


def test_releasing_again_changes_nothing_and_another_training_is_not_replaced(mine):
    before = {file: file.read_bytes() for file in paths.RELEASED.rglob("*.*")}
    again = CliRunner().invoke(cli.app, ["release", WORKLOAD])
    assert again.output == (mine / "printed.txt").read_text()
    assert {file: file.read_bytes() for file in paths.RELEASED.rglob("*.*")} == before
    for name in (".safetensors", ".json"):
        shutil.copy(released(1).with_suffix(name), released(0).with_suffix(name))
    said = refusal(WORKLOAD, "--seed", "0")
    assert said == f"{released()} or its .json is there, of another training: remove both, or name another folder"
    elsewhere = CliRunner().invoke(cli.app, ["release", WORKLOAD, "--seed", "1", "--out", "elsewhere"])
    assert elsewhere.exit_code == 0
    assert [file.name for file in sorted(Path("elsewhere").rglob("*.*"))] == ["seed1.json", "seed1.safetensors"]


@pytest.mark.parametrize("lost", [".safetensors", ".json"])
def test_a_release_of_which_half_is_lost_is_refused(lost, mine):
    released().with_suffix(lost).unlink()
    assert "remove both, or name another folder" in refusal(WORKLOAD)


def test_what_cannot_be_released_is_refused_in_one_line(mine):
    assert refusal("resnet18") == f"workload 'resnet18' is not in the study: use some of {WORKLOAD}, {WORKLOAD}-amp"
    assert refusal(WORKLOAD, "--seed", "7") == "seed 7 is not in the study: use some of 0, 1"
    assert refusal(f"{WORKLOAD}-amp").endswith(f"does not exist: run `dvc repro train@{WORKLOAD}-amp`")
    assert refusal(WORKLOAD, "--out", "params.yaml") == "--out params.yaml is not a folder: name a folder"


def test_weights_of_other_params_or_of_another_record_are_refused(mine):
    weights = [trained_file(seed) for seed in SEEDS]
    first = weights[0].read_bytes()
    shutil.copy(weights[1], weights[0])
    assert "is not of the weights in" in refusal(WORKLOAD)
    weights[0].write_bytes(first)
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("epochs: 1,", "epochs: 2,"))
    assert f"is not of these params: run `dvc repro train@{WORKLOAD}`" in refusal(WORKLOAD)


def test_given_weights_are_not_released_again(mine):
    train(using(released()))
    assert refusal(WORKLOAD, "--seed", "0", "--out", "more") == (
        f"workload '{WORKLOAD}' was given its weights: release them where they were trained"
    )


def test_a_value_beyond_fp16_is_refused(mine):
    file = trained_file()
    model = checkpoint.load(file)
    model.bn1.running_var[0] = 1e5
    checkpoint.save(model, file, checkpoint.architecture(file).metadata())
    record = records.read(paths.record_file(paths.trained(WORKLOAD), 0))
    other = record.model_copy(update={"weights_sha256": sha256_of(file)})
    records.write(other, paths.record_file(paths.trained(WORKLOAD), 0))
    assert "bn1.running_var holds 1e+05, and FP16 at most 65504" in refusal(WORKLOAD, "--out", "more")
    assert not Path("more").exists()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda beside: beside.unlink(), "does not exist: put it there, the record of the training that made"),
        (lambda beside: shutil.copy(released(1).with_suffix(".json"), beside), "is not the record of the training"),
        (lambda beside: beside.write_text("{}"), "is not a record"),
    ],
)
def test_released_weights_without_their_own_record_are_refused(spoil, said, mine):
    spoil(released().with_suffix(".json"))
    with pytest.raises(UserError, match=said) as error:
        train(using(released()))
    assert len(str(error.value).splitlines()) == 1


def test_a_hold_out_that_the_weights_were_trained_on_is_not_scored(mine):
    with pytest.raises(UserError, match="was trained on images of the hold-out"):
        train(using(released(), split="holdout"))


def test_a_study_without_seed_0_needs_no_weights_of_it(mine):
    for suffix in (".safetensors", ".json"):
        released(0).with_suffix(suffix).unlink()
    text = Path("params.yaml").read_text().replace("  - 0\n  - 1\n", "  - 1\n", 1)
    Path("params.yaml").write_text(text)
    rehearsal.rehearse(using(paths.RELEASED / WORKLOAD), WORKLOAD)


def test_another_normalisation_than_the_records_is_refused(mine):
    study = using(f"{released()}, normalisation: imagenet")
    with pytest.raises(UserError, match="was trained with images normalised by mean"):
        train(study)


def test_a_released_file_that_is_missing_names_the_command_that_brings_it(mine):
    study = using(paths.RELEASED / WORKLOAD)
    released(1).unlink()
    assert checks.missing_files(study) == [
        f"workloads.{WORKLOAD}.weights '{released(1)}' does not exist: run `git checkout {released(1)}`, or write it "
        "with `trimlab release`"
    ]


def odd(folder):
    """The files of a folder of released weights that are not weights in FP16 beside their record."""
    found = {file for file in folder.rglob("*") if file.is_file()}
    for file in folder.rglob("*.safetensors"):
        weights, beside = checkpoint.read_weights(file), file.with_suffix(".json")
        if weights.dtype == "float16" and weights.training == records.read(beside).digest:
            found -= {file, beside}
    return found


def test_what_the_repository_released_is_whole_and_git_carries_it(project):
    assert odd(project / paths.RELEASED) == set()
    asked = [str(released()), str(released().with_suffix(".json"))]
    ignored = subprocess.run(["git", "check-ignore", *asked], cwd=project, capture_output=True, text=True, check=False)
    assert ignored.stdout == ""


def test_a_file_that_does_not_belong_there_is_noticed(mine):
    assert odd(paths.RELEASED) == set()
    (paths.RELEASED / f"{WORKLOAD}.dvc").touch()
    shutil.copy(trained_file(), released(1))
    expected = {paths.RELEASED / f"{WORKLOAD}.dvc", released(1), released(1).with_suffix(".json")}
    assert odd(paths.RELEASED) == expected
