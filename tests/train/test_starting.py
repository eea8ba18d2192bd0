"""A training starts from a user's weights or published ones, and its record says so."""

import shutil
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML
from torch import nn
from typer.testing import CliRunner

from trimlab import cli, config, paths, records
from trimlab.digests import sha256_of
from trimlab.models import checkpoint, factories, registry, start
from trimlab.models.architecture import Architecture
from trimlab.prune import stage as prune_stage
from trimlab.train import loop
from trimlab.train import stage as train_stage
from user_models import NET, refusal, workload, write


@pytest.fixture
def quick(quick):
    """The quick study with a training of one epoch."""
    short = quick.training["digits"].model_copy(update={"epochs": 1})
    return quick.model_copy(update={"training": {"digits": short}})


def with_workload(study, **changes):
    """The study with one workload changed, checked as if it had been read."""
    values = study.model_dump(exclude_unset=True)
    values["workloads"]["resnet20-digits"] |= changes
    return config.Params.model_validate(values)


def train(study):
    return train_stage.train_workload(study, "resnet20-digits", 0, on_epoch=lambda _: None)


def without_steps(monkeypatch):
    """Leave the weights as they start: a step does nothing but count."""
    monkeypatch.setattr(loop._Loop, "_step", lambda self, *batch: self.sums.add_(1.0))


def written():
    return checkpoint.load(paths.weights_file(paths.trained("resnet20-digits"), 0))


@pytest.mark.parametrize("classes", [10, 4])
def test_a_training_starts_from_a_file_and_another_number_of_classes_redraws_the_head(
    classes, quick, monkeypatch, capsys
):
    model = registry.build("resnet20", classes, seed=7)
    torch.save(model.state_dict(), "initial.pt")
    without_steps(monkeypatch)
    record = train(with_workload(quick, initial="initial.pt"))
    assert (record.origin, record.initial) == ("trained", "initial.pt")
    assert record.initial_sha256 == sha256_of(Path("initial.pt"))
    assert torch.equal(written().conv1.weight, model.conv1.weight)
    fresh = registry.build("resnet20", 10)
    assert torch.equal(written().fc.weight, model.fc.weight if classes == 10 else fresh.fc.weight)
    said = capsys.readouterr().err
    assert "train resnet20-digits: the classifier is fc, with 10 outputs\n" in said
    redrawn = "initial.pt has 4 classes, the dataset 10: fc starts from random weights"
    assert (redrawn if classes == 4 else "every weight starts from initial.pt") in said


def test_changed_initial_weights_or_code_resume_nothing(quick, monkeypatch):
    seen = set()
    monkeypatch.setattr(loop, "fit", lambda *_, resumable, **__: (seen.add(resumable), train_stage.Position())[1])
    for seed in (1, 2):
        torch.save(registry.build("resnet20", 10, seed).state_dict(), "initial.pt")
        train(with_workload(quick, initial="initial.pt"))
    assert len(seen) == 2
    for width in (8, 9):
        write(Path(), NET.replace("width=8", f"width={width}"))
        train(with_workload(quick, model="my_models:net", code="my_models.py"))
    assert len(seen) == 4


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"conv1.weight": torch.zeros(8, 3, 3, 3)}, "initial.pt does not fit the model: conv1.weight is (8, 3"),
        ({"fc.weight": torch.zeros(4, 32)}, None),
        ({"extra": torch.zeros(1)}, "(the file has 'extra')"),
        ({"conv1.weight": torch.zeros(3)}, "conv1.weight is (3,), not (16, 3, 3, 3)"),
        ({"bn1.running_var": torch.full((16,), -1.0)}, "'bn1.running_var' holds -1"),
    ],
)  # fmt: skip
def test_initial_weights_that_do_not_fit_are_refused_in_one_line(weights, said, quick, monkeypatch):
    monkeypatch.setattr(loop, "fit", None)
    torch.save({**registry.build("resnet20", 10).state_dict(), **weights}, "initial.pt")
    if said is None:  # another classifier, whatever its inputs
        assert start.fill(registry.build("resnet20", 10), checkpoint.read_weights(Path("initial.pt")).tensors, "x")
        return
    assert said in refusal(lambda: train(with_workload(quick, initial="initial.pt")))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch's cache with published weights of the smallest models: no network is asked."""
    from torchvision import models

    folder = tmp_path / "cache/hub/checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))

    def publish(name):
        published = models.get_model(name, weights=None, **({"init_weights": True} if name == "googlenet" else {}))
        file = folder / Path(models.get_model_weights(name).DEFAULT.url).name
        torch.save(published.state_dict(), file)
        return published

    return publish


def test_a_training_starts_from_published_weights_by_name(quick, hub, monkeypatch, capsys):
    published = hub("shufflenet_v2_x0_5")
    without_steps(monkeypatch)
    study = with_workload(
        quick, model="torchvision/shufflenet_v2_x0_5", initial="data/pretrained", normalisation="imagenet"
    )
    record = train(study)
    assert record.initial == "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    assert record.initial_sha256 == train(study).initial_sha256
    assert torch.equal(written().conv1[0].weight, published.conv1[0].weight)
    assert "has 1000 classes, the dataset 10: fc starts from random weights" in capsys.readouterr().err


def test_published_weights_need_the_normalisation_that_they_were_trained_with(quick, hub):
    hub("shufflenet_v2_x0_5")
    values = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    study = with_workload(
        quick, model="torchvision/shufflenet_v2_x0_5", initial="data/pretrained", normalisation=values
    )
    assert refusal(lambda: train(study)) == (
        "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1 was trained with images normalised by mean [0.485, 0.456, 0.406] and "
        "std [0.229, 0.224, 0.225]: set the normalisation of workloads.resnet20-digits to these values"
    )


def test_published_weights_behind_a_normalisation_of_their_own_ask_for_it(hub):
    hub("googlenet")
    spec = workload("torchvision/googlenet", initial="data/pretrained", normalisation="imagenet")
    said = refusal(lambda: start.starting_model(spec, Architecture.of(spec, 10), 0))
    assert said.endswith("normalises once more: set arguments to {transform_input: true}")
    spec = spec.model_copy(update={"arguments": {"transform_input": True}})
    assert start.starting_model(spec, Architecture.of(spec, 10), 0).model.transform_input


def test_published_weights_do_not_take_every_argument():
    said = refusal(lambda: factories.pretrained("torchvision/vit_b_16", {"image_size": 64}))
    assert "do not fit its arguments (The parameter 'image_size' expected value 224 but got 64 instead.)" in said


@pytest.mark.parametrize("name", ["torchvision/mobilenet_v2", "timm/resnet18"])
def test_a_hub_that_is_not_reached_is_one_line_with_the_remedy(name, tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("<urlopen error: no network>")

    import timm
    from torchvision.models import _api

    monkeypatch.setattr(_api, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr(timm.models._builder, "load_pretrained", unreachable)
    assert refusal(lambda: factories.pretrained(name, {})) == (
        f"the published weights of {name} cannot be loaded (<urlopen error: no network>): save "
        "the pretrained model's state dict on a machine with a network, and name that file as `initial`"
    )


def test_timms_published_weights_come_with_their_normalisation(monkeypatch):
    import timm

    filled = lambda model, **_: nn.init.ones_(model.head.weight)  # noqa: E731
    monkeypatch.setattr(timm.models._builder, "load_pretrained", filled)
    published = factories.pretrained("timm/vit_tiny_patch16_224", {})
    assert published.name == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert published.normalisation.mean == [0.5, 0.5, 0.5]
    assert published.model.head.weight.shape[0] == 1000
    assert bool((published.model.head.weight == 1).all())


def test_a_users_model_is_trained_pruned_and_on_record(quick):
    code = write(Path())
    study = with_workload(quick, model="my_models:net", code=str(code), arguments={"width": 12})
    point = study.sweep["r30"].model_copy(update={"epochs": 0})
    study = study.model_copy(update={"sweep": {**study.sweep, "r30": point}})
    record = train(study)
    assert record.code_sha256 == sha256_of(code)
    pruned = prune_stage.prune_variant(study, "resnet20-digits-r30", 0, on_epoch=lambda _: None)
    assert pruned.code_sha256 == record.code_sha256
    assert pruned.widths == {"stem": 8, "head.1": 10}
    assert records.read(paths.record_file(paths.pruned("resnet20-digits-r30"), 0)) == pruned
    spec = study.workloads["resnet20-digits"]
    rebuilt = checkpoint.load(paths.weights_file(paths.pruned("resnet20-digits-r30"), 0), spec)
    assert rebuilt.stem.out_channels == 8
    code.write_text(code.read_text() + "\n")
    assert "my_models.py has changed since train/" in refusal(
        lambda: prune_stage.prune_variant(study, "resnet20-digits-r30", 0, on_epoch=lambda _: None)
    )


def test_code_and_initial_weights_are_dependencies_of_the_training(project):
    deps = YAML(typ="safe").load(project / "dvc.yaml")["stages"]["train"]["do"]["deps"]
    assert {"${item.code}", "${item.initial}"} <= set(deps)
    for name in (paths.NO_FILE, paths.PRETRAINED):
        assert (project / name).is_file()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "my_models:net"}, None),
        ({"model": "my_models:raises"}, "workloads.resnet20-digits: model my_models:raises cannot be built"),
        ({"model": "my_models:net", "arguments": "{widht: 3}"}, "it takes width"),
        ({"model": "my_models:net", "classifier": "fc"}, "classifier 'fc' is not a layer of my_models:net"),
        ({"model": "torchvision/resnet19", "code": "data/none"}, "torchvision/resnet19 is unknown"),
        ({"model": "torchvision/vit_b_16", "code": "data/none"}, "fixes its input size at 224, and the images are"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prepared", [True, False])
def test_check_tries_each_model(changes, said, prepared, quick, project):
    write(Path())
    if not prepared:
        shutil.rmtree("prepare")
    text = (project / "studies/quick.yaml").read_text()
    fields = ", ".join(f"{key}: {value}" for key, value in ({"code": "my_models.py"} | changes).items())
    paths.PARAMS.write_text(text.replace("model: resnet20, code: data/none", fields, 1))
    done = CliRunner().invoke(cli.app, ["check"])
    if said is None or (not prepared and "fixes its input size" in said):
        assert done.exit_code == 0, done.exception
    else:
        assert said in str(done.exception)
        assert len(str(done.exception).splitlines()) == 1
