"""Sensitivity: each group of coupled layers pruned alone, on hold-out images, once for all variants of a workload."""

import copy

import pytest
import torch
from torch import nn

from machines import Machine
from trimlab import config, paths, records
from trimlab.data.dataset import load_dataset
from trimlab.errors import UserError
from trimlab.models import checkpoint, registry
from trimlab.models.facts import count_macs, count_params
from trimlab.prune import pruner, sensitivity
from trimlab.prune import stage as prune_stage
from trimlab.prune.allocated import prune_as_measured
from trimlab.prune.target import taken
from trimlab.records import select
from trimlab.train import loop
from trimlab.train import stage as train_stage

SHAPE = (3, 32, 32)
PLAIN = config.PruningSettings()


def resnet20():
    return registry.build("resnet20", 10, seed=1)


def test_layers_that_a_residual_couples_are_one_group_named_by_the_first():
    found = {group.layers[0]: group for group in sensitivity.groups(resnet20(), SHAPE)}
    assert len(found) == 3 + 9
    assert found["conv1"].layers == ("conv1", *(f"layers.0.{block}.conv2" for block in range(3)))
    assert found["layers.0.0.conv1"] == (("layers.0.0.conv1",), 16, 1)
    assert not any("fc" in group.layers for group in found.values())


def test_layers_that_are_kept_and_those_coupled_with_them_are_in_no_group():
    found = sensitivity.groups(resnet20(), SHAPE, ["layers.0.1.conv2"])
    assert len(found) == 2 + 9
    assert not any("conv1" in group.layers for group in found)


def test_channels_of_a_grouped_convolution_are_pruned_in_equal_parts():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 1),
        nn.Conv2d(16, 16, 3, groups=4),
        nn.Flatten(),
        nn.Linear(16 * 900, 2),
    )
    assert {group.parts for group in sensitivity.groups(model, SHAPE)} == {4}


@pytest.mark.parametrize("width", [1, 4, 16, 64])
def test_ratios_leave_a_channel_and_each_another_number_of_them(width):
    ratios = sensitivity._ratios(sensitivity.Group(("a",), width, 1))
    kept = [int(width * (1 - ratio)) for ratio in ratios]
    assert kept == sorted(set(kept), reverse=True)
    assert all(0 < left < width for left in kept)
    assert len(ratios) == {1: 0, 4: 3, 16: 9, 64: 10}[width]


def small():
    """Three convolutions, of which the last one's channels are the classifier's inputs."""
    torch.manual_seed(0)
    layers = []
    for inputs, outputs in ((3, 64), (64, 96), (96, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)).eval()


SMALL = (3, 8, 8)


@pytest.fixture(scope="module")
def made_up():
    """The small model's groups with their true savings and made-up losses: the last one costs ten times the others."""
    curves, whole = [], (count_params(small()), count_macs(small(), SMALL))
    for group in sensitivity.groups(small(), SMALL):
        half = small()
        pruner.prune(half, 0.0, PLAIN, SMALL, ratios=dict.fromkeys(group.layers, 0.5))
        saved = whole[0] - count_params(half), whole[1] - count_macs(half, SMALL)
        slope = 10 if group.layers == ("6",) else 1
        points = [
            alone(ratio, slope, *(w - round(2 * ratio * s) for w, s in zip(whole, saved, strict=True)))
            for ratio in (0.25, 0.5, 0.75)
        ]
        curves.append(records.GroupCurve(layers=list(group.layers), width=group.width, points=points))
    return sensitivity.Measured(alone(0.0, 0, *whole), curves)


def alone(ratio, slope, params, macs):
    return records.PrunedAlone(ratio=ratio, loss=0.5 + slope * ratio, top1_accuracy=0.5, num_params=params, macs=macs)


def allocated(measured, allocation, model=None, meter=None, **point):
    """Prune the small model by made-up sensitivity."""
    section = PLAIN.model_copy(update={"allocation": allocation})
    point = config.PruningPoint.model_validate({"epochs": 0} | point)
    return prune_as_measured(point, model or small(), section, SMALL, 0, config.PruningKeys(), None, measured, meter)


@pytest.mark.parametrize(
    ("allocation", "quantity", "amount"),
    [("search", "params", 50_000), ("sensitivity", "macs", 3e6), ("search", "size_mib", 0.2)],
)
def test_the_really_pruned_model_meets_a_target_and_spares_what_is_sensitive(made_up, allocation, quantity, amount):
    model = small()
    ratio, removed, ratios, _ = allocated(made_up, allocation, model, target={quantity: amount})
    reached = taken(model, config.Target.model_validate({quantity: amount}), SMALL)
    assert reached == pytest.approx(amount, rel=0.02)
    assert ratio == removed.ratio
    assert ratios["6"] <= ratios["0"] and ratios["6"] < ratios["3"]


@pytest.mark.parametrize("allocation", ["search", "sensitivity"])
def test_a_latency_is_met_and_what_is_sensitive_is_spared(made_up, allocation):
    model, meter = small(), Machine(lambda ms: 2 + ms, SMALL)
    wanted = 0.6 * meter.rule(meter.predicted(model))
    ratio, removed, ratios, latency = allocated(made_up, allocation, model, meter, target={"latency_ms": wanted})
    assert meter.rule(meter.predicted(model)) == latency.latency.p50_ms == pytest.approx(wanted, rel=0.1)
    assert ratio == removed.ratio
    assert ratios["6"] <= ratios["0"] and ratios["6"] < ratios["3"]


@pytest.mark.parametrize("allocation", ["search", "sensitivity"])
def test_a_ratio_is_the_share_of_all_layers_channels(made_up, allocation):
    model = small()
    ratio, removed, ratios, _ = allocated(made_up, allocation, model, ratio=0.4)
    assert ratio == 0.4
    assert 0.4 <= removed.ratio < 0.42
    before, after = pruner.widths(small()), pruner.widths(model)
    assert all(after[name] == int(before[name] * (1 - asked)) for name, asked in ratios.items())


def test_more_than_was_measured_is_refused(made_up):
    with pytest.raises(UserError, match=r"ratio 0\.9 is more than allocation search can remove, 0\.75"):
        allocated(made_up, "search", ratio=0.9)
    with pytest.raises(UserError, match=r"target\.params 1k is not reached within 2%: the closest is "):
        allocated(made_up, "search", target={"params": 1000})
    with pytest.raises(UserError, match=r"target\.params 1M is not below the unpruned model's 113\.\dk: lower it"):
        allocated(made_up, "sensitivity", target={"params": 1e6})


@pytest.fixture
def quick(quick, monkeypatch):
    """The quick study, trained for an instant, with three ratios and a tenth of the images."""
    monkeypatch.setattr(loop._Loop, "_step", lambda self, *batch: self.sums.add_(1.0))
    monkeypatch.setattr(sensitivity, "RATIOS", (0.3, 0.6, 0.9))
    values = quick.model_dump(exclude_unset=True)
    values["training"]["digits"] |= {"epochs": 1}
    values["pruning"] |= {"sensitivity_images": 30}
    for name, allocation in (("r30", "sensitivity"), ("r60", "search")):
        values["sweep"][name] |= {"epochs": 0, "allocation": allocation}
    study = config.Params.model_validate(values)
    train_stage.train_workload(study, "resnet20-digits", 0, on_epoch=lambda _: None)
    return study


def drawn(dataset, count=30):
    return sensitivity.Images.of(dataset, count, seed=0)


def test_images_are_of_the_hold_out_and_stratified(quick):
    dataset = load_dataset("digits")
    images = drawn(dataset, 50)
    assert set(images.scored.indices.tolist()) < set(dataset.holdout.tolist())
    assert torch.equal(images.scored.labels, dataset.train_labels[images.scored.indices])
    assert images.scored.labels.bincount().min() >= 4
    assert len(drawn(dataset, 10_000).scored) == len(dataset.holdout)


def test_each_group_is_pruned_alone_and_the_model_stays(quick):
    model = resnet20()
    before = copy.deepcopy(model.state_dict())
    images = drawn(load_dataset("digits"))
    found = sensitivity.measure(model, PLAIN, images, 0, config.PruningKeys(), ["layers.[12].*"], None, "test")
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    assert [curve.layers[0] for curve in found.groups] == ["conv1", *(f"layers.0.{block}.conv1" for block in range(3))]
    first, second = found.groups[:2]
    kept = int(16 * 0.4)
    # A channel: conv1 and its BatchNorm; in and out of each block; into the next stage and its shortcut.
    channel = 9 * 3 + 2 + 3 * (9 * 16 + 9 * 16 + 2) + 9 * 32 + 32
    assert found.unpruned.num_params - first.points[1].num_params == (16 - kept) * channel
    assert found.unpruned.num_params - second.points[1].num_params == (16 - kept) * (2 * 9 * 16 + 2)
    assert second.points[1].macs < second.points[0].macs < found.unpruned.macs
    assert [point.ratio for point in first.points] == [0.3, 0.6, 0.9]
    again = sensitivity.measure(model, PLAIN, images, 0, config.PruningKeys(), ["layers.[12].*"], None, "test")
    assert again == found


def test_the_loss_and_top1_are_of_the_scored_images(quick):
    dataset = load_dataset("digits")
    images = drawn(dataset)
    loss, top1 = sensitivity._score(model := resnet20().eval(), dataset, images.scored)
    with torch.no_grad():
        logits = model(dataset.normalise(dataset.train_images[images.scored.indices]))
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, images.scored.labels).item(), rel=1e-4)
    assert top1 == pytest.approx((logits.argmax(1) == images.scored.labels).double().mean().item())


def pruned(study, variant):
    return prune_stage.prune_variant(study, variant, 0, on_epoch=lambda _: None)


def test_a_workload_is_measured_once_and_its_ratios_are_on_record(quick, monkeypatch):
    first = pruned(quick, "resnet20-digits-r60")
    file = paths.sensitivity_file("resnet20-digits-r60", 0)
    measured = records.read(file)
    assert (measured.split, measured.num_images, measured.trained_on_images) == ("holdout", 30, True)
    assert measured.weights_sha256 == first.baseline_sha256
    assert first.scope == "search"
    assert set(first.layer_ratios) == {layer for group in measured.groups for layer in group.layers}
    assert len(set(first.layer_ratios.values())) > 1
    unpruned = pruner.widths(resnet20())
    assert all(first.widths[name] == int(unpruned[name] * (1 - r)) for name, r in first.layer_ratios.items())
    assert first.reached_ratio == pytest.approx(0.6, abs=0.02)
    assert pruner.widths(checkpoint.load(paths.weights_file(paths.pruned("resnet20-digits-r60"), 0))) == first.widths

    monkeypatch.setattr(sensitivity, "measure", None)  # what is kept is used
    second = pruned(quick, "resnet20-digits-r30")
    assert records.read(paths.sensitivity_file("resnet20-digits-r30", 0)) == measured
    assert (second.scope, second.reached_ratio) == ("sensitivity", pytest.approx(0.3, abs=0.02))

    assert select.fits(quick, measured)
    assert not select.fits(quick.model_copy(update={"pruning": config.PruningSettings()}), measured)


def test_a_variant_that_is_pruned_uniformly_measures_nothing(quick, monkeypatch):
    monkeypatch.setattr(sensitivity, "measure", None)
    record = pruned(quick, "candidate")
    assert record.layer_ratios == {}
    assert not paths.sensitivity_file("candidate", 0).exists()


def test_the_number_of_images_is_no_part_of_a_uniform_variants_digest(quick):
    other = quick.model_copy(update={"pruning": quick.pruning.model_copy(update={"sensitivity_images": 40})})
    assert other.pruning_digest("candidate") == quick.pruning_digest("candidate")
    assert other.pruning_digest("resnet20-digits-r60") != quick.pruning_digest("resnet20-digits-r60")


def test_given_weights_may_have_seen_the_images(quick):
    workloads = {key: each.model_copy(update={"weights": "data/mine.pt"}) for key, each in quick.workloads.items()}
    given = quick.model_copy(update={"workloads": workloads})
    record = prune_stage._measured_sensitivity(
        given, "resnet20-digits-r60", 0, resnet20(), load_dataset("digits"), None
    )
    assert record.trained_on_images is None
