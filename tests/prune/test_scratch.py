"""The controls of pruning: fresh weights in the pruned shape, equal budgets, BatchNorm's statistics estimated anew."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trimlab import config, paths, records
from trimlab.data.dataset import Dataset, load_dataset
from trimlab.models import checkpoint, cifar_resnet, registry
from trimlab.models.architecture import Architecture
from trimlab.models.facts import count_macs
from trimlab.prune import batchnorm, pruner
from trimlab.prune import stage as prune_stage
from trimlab.prune.scratch import from_scratch
from trimlab.train import loop
from trimlab.train import stage as train_stage
from trimlab.train.budget import training_macs
from trimlab.train.distill import Teacher

SHAPE = (3, 32, 32)
RESNET20 = Architecture("resnet20", 10)
NONE = torch.zeros(0, dtype=torch.int64)
EMPTY = Dataset("empty", NONE, NONE, NONE, NONE, NONE, NONE, torch.zeros(1), torch.ones(1), ["a", "b"], "0" * 64)


def pruned(ratio=0.5, name="resnet20"):
    model = registry.build(name, 10, seed=1)
    pruner.prune(model, ratio, config.PruningSettings(), SHAPE)
    return model


@pytest.mark.parametrize("name", ["resnet20", "torchvision/mobilenet_v2"])
def test_a_control_has_the_pruned_widths_and_weights_of_its_seed_alone(name):
    of = pruned(name=name)
    shapes = {key: tensor.shape for key, tensor in of.state_dict().items()}
    first, again, other = (from_scratch(of, Architecture(name, 10), seed).state_dict() for seed in (0, 0, 1))
    assert {key: tensor.shape for key, tensor in first.items()} == shapes
    assert all(torch.equal(first[key], again[key]) for key in first)
    key = next(key for key, tensor in first.items() if tensor.ndim == 4)
    assert not torch.equal(first[key], other[key])
    assert not torch.equal(first[key], of.state_dict()[key])


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_fresh_weights_are_drawn_for_the_pruned_widths(ratio):
    control = from_scratch(pruned(ratio), RESNET20, seed=0)
    factory = cifar_resnet.cifar_resnet([int(width * (1 - ratio)) for width in (16, 32, 64)], 3, 10)
    for name, layer in factory.named_modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 1000:
            deviation = control.get_submodule(name).weight.std() / layer.weight.std()
            assert deviation.item() == pytest.approx(1, abs=0.15), name
    assert control.fc.weight.abs().max() <= factory.fc.in_features**-0.5


@pytest.mark.parametrize(
    "draw", [lambda w: nn.init.normal_(w, std=0.02), lambda w: nn.init.kaiming_uniform_(w, a=5**0.5)]
)
def test_weights_that_a_factory_draws_otherwise_keep_its_rule(draw, in_tmp, monkeypatch):
    def built(*_, **__):
        model = cifar_resnet.CifarResNet((16, 32, 64), 3, 10)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                draw(layer.weight)
        return model

    of = pruned()
    monkeypatch.setattr(registry, "build_from", built)
    control = from_scratch(of, RESNET20, seed=0)
    layer = control.get_submodule("layers.2.1.conv1")
    assert (layer.weight.std() / draw(torch.empty_like(layer.weight)).std()).item() == pytest.approx(1, abs=0.1)


@pytest.fixture
def quick(quick):
    """The quick study with a training of two epochs, one of them on smaller images."""
    values = quick.model_dump(exclude_unset=True)
    values["training"]["digits"] |= {"epochs": 2, "low_resolution": [{"size": 16, "epochs": 1}]}
    values["sweep"]["r60"] |= {"epochs": 1}
    return config.Params.model_validate(values)


def pruning_record(study, monkeypatch, **point):
    """The record of r60 with another point, without any training step."""
    monkeypatch.setattr(loop._Loop, "_step", lambda self, *batch: self.sums.add_(1.0))
    values = study.model_dump(exclude_unset=True)
    values["sweep"]["r60"] |= point
    study = config.Params.model_validate(values)
    trained = train_stage.train_workload(study, "resnet20-digits", 0, on_epoch=lambda _: None)
    return trained, prune_stage.prune_variant(study, "resnet20-digits-r60", 0, on_epoch=lambda _: None)


def test_a_record_says_what_a_fine_tuning_took_and_both_accuracies_before_it(quick, monkeypatch):
    trained, record = pruning_record(quick, monkeypatch)
    images = 1438
    small = count_macs(registry.build("resnet20", 10), (3, 16, 16))
    assert trained.training_macs == 3 * images * (trained.macs + small)
    assert record.training_macs == 3 * images * record.macs
    assert (record.initial, record.epochs) == ("pruned", 1)
    assert record.top1_reestimated is not None
    assert record.reached_ratio == pytest.approx(0.6, abs=0.05) and record.reached_ratio > 0.6


def test_a_record_holds_the_target_and_what_was_reached(quick, monkeypatch):
    point = {"target": {"macs": "14M"}, "ratio": None, "importance": "taylor", "steps": 2}
    _, record = pruning_record(quick, monkeypatch, **point)
    assert record.target == records.Target(macs=14e6)
    assert record.macs == pytest.approx(14e6, rel=0.02)
    assert record.ratio == pytest.approx(0.4, abs=0.01) and record.top1_reestimated is not None
    assert (record.importance, record.scope, record.steps) == ("taylor", "uniform", 2)
    assert records.read(paths.record_file(paths.pruned("resnet20-digits-r60"), 0)) == record


def test_a_teacher_adds_its_forward_passes(quick, monkeypatch):
    trained, record = pruning_record(quick, monkeypatch, distillation=0.5)
    assert record.training_macs == 1438 * (3 * record.macs + trained.macs)


@pytest.mark.parametrize("distillation", [0.0, 0.5])
def test_a_control_from_scratch_takes_the_budget_of_training_and_fine_tuning(distillation, quick, monkeypatch):
    point = {"initial": "scratch", "budget": "whole", "distillation": distillation}
    trained, record = pruning_record(quick, monkeypatch, **point)
    an_epoch = record.training_macs / record.epochs
    assert abs(record.training_macs - (trained.training_macs + an_epoch)) <= an_epoch / 2
    assert len(record.curve) == record.epochs > 1
    assert (record.initial, record.top1_reestimated) == ("scratch", None)
    weights = checkpoint.load(paths.weights_file(paths.pruned("resnet20-digits-r60"), 0))
    assert pruner.widths(weights) == record.widths
    fresh = from_scratch(weights, RESNET20, 0)
    assert torch.equal(weights.conv1.weight, fresh.conv1.weight)
    assert records.read(paths.record_file(paths.pruned("resnet20-digits-r60"), 0)) == record


def test_batchnorm_gets_the_statistics_of_training_images_and_the_model_stays(quick):
    dataset = load_dataset("digits")
    model = pruned().eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    copied = batchnorm.reestimated(model, dataset)
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    images = dataset.normalise(dataset.train_images[dataset.calibration])
    with torch.no_grad():
        first = model.conv1(images)
    assert torch.allclose(copied.bn1.running_mean, first.mean((0, 2, 3)), atol=1e-3)
    assert torch.allclose(copied.bn1.running_var, first.var((0, 2, 3)), rtol=0.05)
    assert torch.equal(copied.conv1.weight, model.conv1.weight) and not copied.training


def test_a_model_without_batchnorm_has_nothing_to_estimate():
    assert batchnorm.reestimated(nn.Linear(2, 2), None) is None


@given(count=st.integers(2, 200), batch=st.integers(2, 64), epochs=st.integers(1, 9), low=st.integers(0, 8))
@settings(max_examples=30)
def test_a_budget_counts_images_at_their_size(count, batch, epochs, low):
    low = min(low, epochs - 1)
    small = [{"size": 8, "epochs": low}] if low else []
    recipe = config.Recipe.model_validate({"epochs": epochs, "batch_size": batch, "low_resolution": small})
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    images = torch.zeros(count, 1, 16, 16, dtype=torch.uint8)
    labels = torch.zeros(count, dtype=torch.int64)
    dataset = replace(EMPTY, train_images=images, train_labels=labels)
    seen = count - (count % batch == 1)
    expected = 3 * seen * 2 * (low * 8 * 8 + (epochs - low) * 16 * 16)
    assert training_macs(model, dataset, "test", recipe) == expected
    assert training_macs(model, dataset, "test", recipe, teacher=Teacher(model, 0.5, 1.0)) == expected * 4 / 3
    once = Teacher(model, 0.5, 1.0, cache=Path("labels.safetensors"))
    views = 2 * count  # each image and its mirror image
    assert training_macs(model, dataset, "test", recipe, teacher=once) == expected + views * 2 * 16 * 16
