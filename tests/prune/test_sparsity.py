"""Training with a penalty on groups: what is pruned later shrinks, and a killed run ends where a whole one does."""

import copy

import pytest
import torch
from torch import nn

import small_datasets
from trimlab import config
from trimlab.config import Recipe
from trimlab.errors import UserError
from trimlab.models import registry
from trimlab.prune import pruner
from trimlab.prune.sparsity import GroupSparsity
from trimlab.train import loop, resume

RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.05, schedule="constant", flip=False, crop_padding=0)
SECTION = config.PruningSettings(importance="group-l2")


def chain():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=4, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, bias=False), nn.BatchNorm2d(24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 2),
    )  # fmt: skip


def trained(model, dataset, file, regularizer, recipe=RECIPE):
    return loop.fit(
        model, dataset, "test", recipe, "fp32", 0,
        resumable=file, label="a", on_epoch=lambda _: None, regularizer=regularizer,
    )  # fmt: skip


def pruned_share(model):
    """The share of the squared norm of all weights that pruning half of the channels takes away."""
    smaller = copy.deepcopy(model)
    pruner.prune(smaller, 0.5, SECTION, (3, 32, 32))
    before, after = (
        sum(module.weight.detach().square().sum().item() for module in each.modules() if isinstance(module, nn.Conv2d))
        for each in (model, smaller)
    )
    return 1 - after / before


@pytest.mark.parametrize("regularizer", ["group-norm", "growing"])
def test_groups_that_are_pruned_later_shrink(regularizer, tmp_path):
    dataset, plain, sparse = small_datasets.tiny(), chain(), chain()
    sparsity, recipe = (
        config.Sparsity(regularizer=regularizer, strength=0.05, epochs=8),
        RECIPE.model_copy(update={"epochs": 8}),
    )
    trained(plain, dataset, tmp_path / "plain", None, recipe)
    trained(sparse, dataset, tmp_path / "sparse", GroupSparsity(sparse, sparsity, dataset.image_shape), recipe)
    assert pruned_share(sparse) < 0.8 * pruned_share(plain)


@pytest.mark.parametrize("regularizer", ["group-norm", "growing"])
def test_a_killed_training_ends_where_a_whole_one_does(regularizer, tmp_path, monkeypatch):
    dataset, sparsity = small_datasets.tiny(), config.Sparsity(regularizer=regularizer, strength=0.05, epochs=2)
    whole, first, second = chain(), chain(), chain()
    trained(whole, dataset, tmp_path / "whole", GroupSparsity(whole, sparsity, dataset.image_shape))
    monkeypatch.setattr(resume, "SAVE_EVERY_SECONDS", 0.0)
    steps, kill_after = [], 3 + len(dataset.train_labels) // RECIPE.batch_size
    step = loop._Loop._step

    def killed(self, batch):
        if len(steps) == kill_after:
            raise KeyboardInterrupt
        steps.append(step(self, batch))

    monkeypatch.setattr(loop._Loop, "_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trained(first, dataset, tmp_path / "killed", GroupSparsity(first, sparsity, dataset.image_shape))
    monkeypatch.setattr(loop._Loop, "_step", step)
    position = trained(second, dataset, tmp_path / "killed", GroupSparsity(second, sparsity, dataset.image_shape))
    assert position.resumptions == 1
    assert all(
        torch.equal(a, b) for a, b in zip(whole.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_layer_that_keeps_its_channels_has_no_penalty():
    torch.manual_seed(0)
    model = registry.build("resnet20", 10)
    sparsity = config.Sparsity(strength=1.0, epochs=1)
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    regularizer = GroupSparsity(model, sparsity, (3, 8, 8), keep=names[:1])
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    regularizer.add_gradients()
    penalised = {name for name in names if model.get_submodule(name).weight.grad.any()}
    assert names[0] not in penalised
    assert penalised
    assert not registry.classifier(model).bias.grad.any()
    assert not list(regularizer.parameters())


def test_what_torch_pruning_cannot_regularize_is_one_line(monkeypatch):
    def fails(*_):
        raise IndexError("index 9 is out of bounds\nfor dimension 1")

    monkeypatch.setattr("torch_pruning.pruner.GrowingRegPruner.regularize", fails)
    sparsity = config.Sparsity(regularizer="growing", epochs=1)
    keys = config.PruningKeys(sparsity="prune.sparsity")
    with pytest.raises(UserError, match=r"prune\.sparsity\.regularizer growing: torch-pruning cannot") as error:
        GroupSparsity(registry.build("resnet20", 10), sparsity, (3, 8, 8), keys=keys)
    assert len(str(error.value).splitlines()) == 1
