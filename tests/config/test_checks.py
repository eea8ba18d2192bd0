"""`trimlab check` and `trimlab schema`: files that are missing, what looks like a slip, the wrong folder."""

import pytest
from typer.testing import CliRunner

import factories
from trimlab import cli, config, paths
from trimlab.config import checks
from trimlab.errors import UserError

MINE = {"mine": {"source": "folder", "path": "data/mine"}, "pack": {"source": "npz", "path": "data/pack.npz"}}
FILES = {"code": "data/none", "initial": "data/none", "weights": "data/mine.pt"}
WORKLOAD = {"model": "resnet20", "dataset": "mine", "training": "training.short", **FILES}


@pytest.fixture
def study(in_tmp):
    """A study of one's own data and weights, in a project that holds neither."""
    paths.NO_FILE.parent.mkdir()
    paths.NO_FILE.touch()
    return factories.study(
        datasets=MINE,
        workloads={"large": WORKLOAD},
        variants={"large": {"workload": "large", "pruning": "sweep.none"}},
        report={"title": "Mine", "baseline": "large", "candidate": "large"},
    )


def put(study):
    """Make the study's files."""
    (paths.Path("data") / "mine").mkdir()
    for name in ("pack.npz", "mine.pt"):
        (paths.Path("data") / name).touch()


def test_each_missing_file_is_named_with_its_remedy(study):
    assert checks.missing_files(study) == [
        "workloads.large.weights 'data/mine.pt' does not exist: put the file there and run `dvc add data/mine.pt`",
        "datasets.mine.path 'data/mine' does not exist: put the folder there and run `dvc add data/mine`",
        "datasets.pack.path 'data/pack.npz' does not exist: put the file there and run `dvc add data/pack.npz`",
    ]
    put(study)
    assert checks.missing_files(study) == []


@pytest.mark.parametrize("tracked", ["data/mine.dvc", "data.dvc"])
def test_a_file_that_was_not_pulled_names_the_command_that_pulls_it(tracked, study):
    put(study)
    (paths.Path("data") / "mine").rmdir()
    paths.Path(tracked).touch()
    assert checks.missing_files(study) == [
        f"datasets.mine.path 'data/mine' does not exist, though DVC tracks it: run `dvc pull {tracked}`"
    ]


def test_a_folder_is_no_file_and_a_file_no_folder(study):
    for name in ("pack.npz", "mine.pt"):
        (paths.Path("data") / name).mkdir()
    (paths.Path("data") / "mine").touch()
    assert checks.missing_files(study) == [
        "workloads.large.weights 'data/mine.pt/seed0.safetensors' does not exist: put the file there and run "
        "`dvc add data/mine.pt/seed0.safetensors`",
        "datasets.mine.path 'data/mine' is not a folder: name a folder",
        "datasets.pack.path 'data/pack.npz' is not a file: name a file",
    ]


@pytest.mark.parametrize(("files", "count"), [([], "none"), (["index.csv", "index.parquet"], "2")])
def test_a_folder_without_its_one_index_is_named(files, count, study):
    put(study)
    indexed = study.datasets["mine"].model_copy(update={"source": "index"})
    study = study.model_copy(update={"datasets": study.datasets | {"mine": indexed}})
    for name in files:
        (paths.Path("data/mine") / name).touch()
    assert checks.missing_files(study) == [
        f"datasets.mine.path 'data/mine' holds {count} of index.csv and index.parquet: put one of them there"
    ]
    (paths.Path("data/mine/index.csv")).touch()
    (paths.Path("data/mine/index.parquet")).unlink(missing_ok=True)
    assert checks.missing_files(study) == []


def test_a_missing_placeholder_is_said(study):
    put(study)
    paths.NO_FILE.unlink()
    assert checks.missing_files(study) == [
        "data/none does not exist: run in the project's root, or `git checkout data/none`"
    ]


def test_a_download_is_a_note_until_the_images_are_there(in_tmp, monkeypatch):
    monkeypatch.delenv("DATA_ROOT", raising=False)
    study = factories.study()
    assert checks.notes(study) == ["data/raw holds no cifar-10-batches-py: `dvc repro` downloads it there (170 MB)"]
    monkeypatch.setenv("DATA_ROOT", "elsewhere")
    assert checks.notes(study)[0].startswith("elsewhere holds no cifar-10-batches-py")
    (in_tmp / "elsewhere/cifar-10-batches-py").mkdir(parents=True)
    assert checks.notes(study) == []


def test_the_folders_of_cifar_are_torchvisions():
    from torchvision import datasets

    assert {
        "cifar10": datasets.CIFAR10.base_folder,
        "cifar100": datasets.CIFAR100.base_folder,
    } == checks.CIFAR_FOLDERS


def test_what_nothing_uses_is_a_warning(study):
    assert checks.warnings(study) == [
        f"{key} is not used: remove it, or refer to it where you meant to"
        for key in ("datasets.pack", "sweep.r50", "sweep.r80", "prune")
    ]


def test_a_candidate_that_is_the_baseline_is_a_warning_where_something_is_pruned():
    study = factories.study(report={"title": "T", "baseline": "large", "candidate": "large"})
    assert "report.candidate 'large' is the baseline: it is compared with its own FP32 file" in checks.warnings(study)


def test_a_study_that_prunes_nothing_may_compare_the_precisions_of_its_baseline():
    variants = {name: {"workload": name, "pruning": "sweep.none"} for name in ("large", "small")}
    study = factories.study(variants=variants, report={"title": "T", "baseline": "large", "candidate": "large"})
    assert not [warning for warning in checks.warnings(study) if "is the baseline" in warning]


def test_training_for_int8_that_no_variant_asks_for_is_a_warning():
    warned = "quantization.qat is not used: remove it, or add int8-qat to a variant's precisions"
    section = {"quantization": {"qat": {"epochs": 2}}}
    assert warned in checks.warnings(factories.study(**section))
    asked = {key: variant.model_dump() for key, variant in factories.study().variants.items()}
    asked["large"]["precisions"] = ["fp32", "int8-qat"]
    assert warned not in checks.warnings(factories.study(**section, variants=asked))


def test_a_curve_without_points_is_a_warning():
    study = factories.study(training={"short": {"epochs": 3, "evaluate_every": 4}, "spare": {"epochs": 2}})
    assert checks.warnings(study) == [
        "training.spare is not used: remove it, or refer to it where you meant to",
        "training.short.evaluate_every 4 is above its 3 epochs: the curve has the last epoch only",
    ]


def test_cached_labels_of_images_that_are_shown_in_parts_are_a_warning():
    point = {"ratio": 0.6, "epochs": 3, "distillation": 0.5, "soft_labels": "cached"}
    cropping = {"short": {"epochs": 3, "random_resized_crop": {}}}
    assert checks.warnings(factories.study(prune=point)) == []
    assert checks.warnings(factories.study(prune=point, training=cropping)) == [
        "prune.soft_labels is `cached`, of whole images, but training.short.random_resized_crop shows parts of them: "
        "`fresh` labels are of the same part"
    ]
    assert checks.warnings(factories.study(prune={**point, "distillation": 0.0}, training=cropping)) == []


def test_a_control_without_what_it_controls_is_a_warning():
    study = factories.controlled_study()
    assert checks.warnings(study) == []
    alone = {"ratio": 0.7, "epochs": 2, "initial": "scratch"}
    points = study.model_dump()["sweep"] | {"r50-scratch": alone, "r50-whole": alone | {"ratio": 0.0}}
    assert checks.warnings(factories.study(sweep=points, variants=study.model_dump()["variants"])) == [
        "variants.large-r50-scratch is trained from scratch beside no pruned variant: add one of large with the same "
        "ratio or target, allocation, round_to, rounding and keep",
        "sweep.r50-whole.initial 'scratch' at ratio 0 trains the unpruned model of large once more: raise ratio, "
        "unless you want a second baseline",
    ]


def test_a_budget_that_nothing_asks_for_is_a_warning():
    variants = factories.study().model_dump()["variants"]
    mixed = {"candidate": variants["candidate"] | {"precisions": ["fp32", "int8-mixed"]}}
    budget = {"max_drop": 1.0}
    assert checks.warnings(factories.study(quantization=budget)) == [
        "quantization.max_drop is not used: remove it, or add int8-mixed to the precisions of a variant"
    ]
    assert checks.warnings(factories.study(quantization=budget, variants=variants | mixed)) == []


def test_committed_studies_have_nothing_to_warn_of(project, monkeypatch):
    monkeypatch.chdir(project)
    for file in sorted((project / "studies").glob("*.yaml")):
        assert checks.warnings(config.load(file)) == []
        assert checks.missing_files(config.load(file)) == []


def test_check_fails_on_a_missing_file_and_not_on_a_warning(project, in_tmp):
    text = (project / "studies/quick.yaml").read_text()
    paths.PARAMS.write_text(text.replace("sweep:\n", "sweep:\n  spare: {ratio: 0.1, epochs: 0}\n"))
    with pytest.raises(UserError, match="data/none does not exist"):
        cli.check(paths.PARAMS)
    paths.NO_FILE.parent.mkdir()
    paths.NO_FILE.touch()
    done = CliRunner().invoke(cli.app, ["check"])
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "warning: params.yaml: sweep.spare is not used: remove it, or refer to it where you meant to",
        "params.yaml: study quick, 2 workloads, 7 variants: all values are valid",
    ]


def test_code_and_initial_weights_that_are_missing_are_named_with_their_remedy(study):
    put(study)
    workload = study.workloads["large"].model_copy(
        update={"code": "my_models.py", "initial": "data/first.pt", "weights": "data/none"}
    )
    own = study.model_copy(update={"workloads": {"large": workload}})
    assert checks.missing_files(own) == [
        "workloads.large.code 'my_models.py' does not exist: put the file or package folder there",
        "workloads.large.initial 'data/first.pt' does not exist: put the file there and run `dvc add data/first.pt`",
    ]
    assert (
        "workloads.large.normalisation is `dataset`: if the weights in 'data/first.pt' were trained with other values, "
        "set those"
    ) in checks.warnings(own)
    paths.Path("my_models.py").mkdir()
    assert "is not a file or package folder: name a file or package folder" in checks.missing_files(own)[0]


def test_published_weights_are_a_download_and_have_a_placeholder(study):
    put(study)
    workload = study.workloads["large"].model_copy(update={"initial": "data/pretrained", "weights": "data/none"})
    own = study.model_copy(update={"workloads": {"large": workload}})
    assert checks.missing_files(own) == [
        "data/pretrained does not exist: run in the project's root, or `git checkout data/pretrained`"
    ]
    paths.PRETRAINED.touch()
    assert checks.missing_files(own) == []
    assert checks.notes(own) == [
        "workloads.large: `dvc repro` downloads the published weights of resnet20, unless it has them"
    ]


def test_the_schema_is_written_in_a_projects_root_alone(in_tmp):
    with pytest.raises(UserError, match=r"has no dvc\.yaml: run `trimlab schema` in the project's root"):
        cli.schema()
    assert not paths.SCHEMA.exists()
    (in_tmp / "dvc.yaml").touch()
    cli.schema()
    assert paths.SCHEMA.read_text() == config.schema()
