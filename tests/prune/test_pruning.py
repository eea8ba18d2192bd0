"""Pruning: the study's parameter counts, exact rebuilding, refusals."""

import csv
import re
from pathlib import Path
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import factories
import small_datasets
from trimlab import config
from trimlab.config import sections
from trimlab.errors import UserError
from trimlab.models import checkpoint, registry
from trimlab.models.facts import count_macs, count_params, size_bytes
from trimlab.prune import coupling, pruner
from trimlab.prune.gradients import gradients_for
from trimlab.report import reference

SHAPE = (3, 32, 32)
REFERENCE = list(csv.DictReader((Path(reference.__file__).parent / "pruning.csv").open()))


@pytest.mark.parametrize("row", REFERENCE, ids=lambda row: f"{row['ratio_percent']}%")
def test_resnet18_has_the_published_parameters_and_size(row):
    model = registry.build("resnet18", 10)
    pruner.prune(model, int(row["ratio_percent"]) / 100, config.PruningSettings(), SHAPE)
    assert f"{count_params(model) / 1e6:.2f}" == row["params_m"]
    assert f"{size_bytes(model) / 2**20:.2f}" == row["size_mb"]


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "torchvision/mobilenet_v2", "torchvision/resnet18"])
@pytest.mark.parametrize("allocation", ["uniform", "global", "isomorphic"])
def test_a_rebuilt_pruned_model_gives_bit_equal_outputs(name, allocation, tmp_path):
    model = registry.build(name, 10)
    pruner.prune(model, 0.5, config.PruningSettings(allocation=allocation), SHAPE)
    checkpoint.save(model, tmp_path / "m.safetensors", {"model": name, "num_classes": "10"})
    rebuilt = checkpoint.load(tmp_path / "m.safetensors")
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(rebuilt(images), model.eval()(images))
    assert pruner.widths(rebuilt) == pruner.widths(model)


@given(ratio=st.floats(0.05, 0.9), importance=st.sampled_from(get_args(sections.Importance)), steps=st.integers(1, 3))
@settings(max_examples=15)
def test_any_ratio_and_importance_leaves_a_working_smaller_model(ratio, importance, steps):
    model = registry.build("resnet20", 10)
    gradients = gradients_for(importance, model, small_datasets.tiny())
    pruner.prune(model, ratio, config.PruningSettings(importance=importance), SHAPE, steps=steps, gradients=gradients)
    assert count_params(model) < 272_474
    assert model.eval()(torch.zeros(1, *SHAPE)).shape == (1, 10)


@pytest.mark.parametrize("allocation", ["uniform", "global", "isomorphic"])
def test_steps_end_at_the_same_number_of_channels(allocation):
    section = config.PruningSettings(allocation=allocation, importance="group-l2")
    once, stepwise = (registry.build("resnet20", 10) for _ in range(2))
    found = [pruner.prune(model, 0.5, section, SHAPE, steps=steps) for model, steps in ((once, 1), (stepwise, 4))]
    assert found[0].ratio == pytest.approx(found[1].ratio, abs=pruner.GLOBAL_TOLERANCE)
    if allocation == "uniform":
        assert pruner.widths(stepwise) == pruner.widths(once)
        different = [k for k, v in once.state_dict().items() if not torch.equal(v, stepwise.state_dict()[k])]
        assert different  # importance is computed anew: what left with the first channels no longer counts


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_pruned_widths_are_multiples_of_round_to(ratio):
    model = registry.build("resnet20", 10)
    pruner.prune(model, ratio, config.PruningSettings(round_to=8), SHAPE)
    assert all(width % 8 == 0 for name, width in pruner.widths(model).items() if name != "fc")


@given(
    width=st.integers(1, 300), ratio=st.floats(0, 0.95), step=st.integers(2, 64),
    rounding=st.sampled_from(get_args(sections.Rounding)),
)  # fmt: skip
def test_a_rounded_width_is_the_multiple_asked_for(width, ratio, step, rounding):
    kept = int(width * (1 - ratio))
    found = coupling.rounded(kept, width, step, rounding)
    assert 0 <= found <= width
    assert found % step == 0 or found == width
    if rounding == "down":
        assert kept - step < found <= kept
    elif found < width and found > step:
        assert kept <= found < kept + step if rounding == "up" else abs(found - kept) * 2 <= step
    else:
        assert found >= min(step, width)


@pytest.mark.parametrize(
    ("rounding", "expected"), [("down", (4, 12, 24)), ("nearest", (8, 12, 24)), ("up", (8, 12, 28))]
)
def test_widths_are_rounded_in_the_direction_asked_for(rounding, expected):
    model = registry.build("resnet20", 10)
    section = config.PruningSettings(round_to=4, rounding=rounding)
    found = pruner.prune(model, 0.6, section, SHAPE)  # leaves 6, 12 and 25 of 16, 32 and 64 channels
    widths = pruner.widths(model)
    assert tuple(widths[f"layers.{stage}.0.conv1"] for stage in range(3)) == expected
    total = [sum(pruner.widths(each).values()) - 10 for each in (model, registry.build("resnet20", 10))]
    assert found.ratio == pytest.approx(1 - total[0] / total[1])


@pytest.mark.parametrize("rounding", ["nearest", "up"])
def test_a_layer_of_which_nothing_would_stay_keeps_one_multiple(rounding):
    model = registry.build("resnet20", 10)
    pruner.prune(model, 0.95, config.PruningSettings(round_to=8, rounding=rounding), SHAPE)
    assert {width for name, width in pruner.widths(model).items() if name != "fc"} == {8}


@pytest.mark.parametrize("rounding", ["nearest", "up"])
def test_rounding_that_gives_every_channel_back_is_refused(rounding):
    section = config.PruningSettings(round_to=64, rounding=rounding)
    with pytest.raises(UserError, match=r"sweep\.r95\.ratio 0\.3 removes nothing: pruning\.round_to 64 rounds every"):
        pruner.prune(registry.build("resnet20", 10), 0.3, section, SHAPE, keys=KEYS)


def test_filter_l1_keeps_the_filters_of_the_largest_l1_norm():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    norms = model[0].weight.detach().abs().sum((1, 2, 3))
    with torch.no_grad():
        model[4].weight *= 100 * torch.rand(8)  # what follows a channel changes group norms alone
    pruner.prune(model, 0.5, config.PruningSettings(importance="filter-l1"), SHAPE)
    assert torch.equal(model[0].weight.detach().abs().sum((1, 2, 3)), norms[norms.argsort()[4:].sort().values])


KEYS = config.PruningKeys("sweep.r95.ratio", "pruning.round_to", "sweep.r95.keep")


@pytest.mark.parametrize(
    ("ratio", "round_to", "reason", "remedy"),
    [
        (0.95, None, "0 of 16 channels would stay", r"sweep\.r95\.ratio to at most 0\.93"),
        (0.6, 16, "6 of 16 channels would stay, fewer than pruning.round_to 16", "pruning.round_to to at most 6"),
        (
            0.95,
            64,
            "0 of 16 channels would stay, fewer than pruning.round_to 64",
            "pruning.round_to to at most 8 and sweep.r95.ratio to at most 0.5",
        ),
    ],
)
def test_a_layer_left_whole_is_refused_with_a_remedy_that_works(ratio, round_to, reason, remedy):
    section = config.PruningSettings(round_to=round_to)
    with pytest.raises(UserError, match=f"leaves conv1 whole: {reason}.*: set {remedy}") as error:
        pruner.prune(registry.build("resnet20", 10), ratio, section, SHAPE, keys=KEYS)
    assert len(str(error.value).splitlines()) == 1
    numbers = [float(word) for word in re.findall(r"at most ([\d.]*\d)", str(error.value).split(": set ")[1])]
    fixed = next((number for number in numbers if number < 1), ratio)
    rounded = next((int(number) for number in numbers if number > 1), round_to)
    pruner.prune(registry.build("resnet20", 10), fixed, config.PruningSettings(round_to=rounded), SHAPE)


def test_the_keys_are_those_that_decided():
    study = factories.rounded_study()
    expected = (
        *("prune.ratio", "pruning.round_to", "prune.keep", "pruning.allocation", "prune.target", "prune.sparsity"),
    )
    assert study.pruning_keys("candidate") == expected
    assert study.pruning_keys("large-r50-16").round_to == "sweep.r50-16.round_to"


def test_grouped_convolutions_are_counted_by_group():
    with pytest.raises(
        UserError, match=r"0 of 4 channels would stay in each of its 32 groups: set ratio to at most 0\.75$"
    ):
        pruner.prune(registry.build("torchvision/resnext50_32x4d", 10), 0.95, config.PruningSettings(), (3, 64, 64))


def test_a_global_ratio_that_is_not_reached_is_refused():
    section = config.PruningSettings(allocation="global")
    with pytest.raises(UserError, match=r"ratio 0\.9 is not reached: .* 39% of all channels would stay"):
        pruner.prune(registry.build("resnet20", 10), 0.9, section, SHAPE)


def test_layers_get_ratios_of_their_own():
    model = registry.build("resnet20", 10)
    own = {"layers.0.0.conv1": 0.25, "layers.0.1.conv1": 0.0, "layers.2.0.conv1": 0.75}
    pruner.prune(model, 0.5, config.PruningSettings(allocation="global"), SHAPE, ratios=own)
    widths = pruner.widths(model)
    assert [widths[name] for name in own] == [12, 16, 16]
    assert (widths["layers.1.0.conv1"], widths["layers.2.1.conv1"], widths["conv1"]) == (16, 32, 8)


def test_layers_that_lose_channels_together_need_equal_ratios():
    with pytest.raises(UserError, match=r"ratio 0\.5 would leave layers\.0\.0\.conv2 12 of 16 channels"):
        pruner.prune(registry.build("resnet20", 10), 0.5, config.PruningSettings(), SHAPE, ratios={"conv1": 0.25})
    with pytest.raises(KeyError, match="is named conv9"):
        pruner.prune(registry.build("resnet20", 10), 0.5, config.PruningSettings(), SHAPE, ratios={"conv9": 0.25})


def test_isomorphic_allocation_shares_the_ratio_out_among_layers_built_alike():
    model = registry.build("resnet20", 10)
    with torch.no_grad():
        model.layers[0][0].conv1.weight[8:] *= 1e-3  # ranks low beside its likes
    uniform = pruner.widths(model)
    found = pruner.prune(model, 0.5, config.PruningSettings(allocation="isomorphic"), SHAPE)
    widths = pruner.widths(model)
    inner = [name for name in widths if name.endswith("conv1") and name != "conv1"]
    assert len({widths[name] / uniform[name] for name in inner}) > 1
    assert sum(widths[name] for name in inner) == sum(uniform[name] for name in inner) // 2
    assert found.ratio == pytest.approx(0.5, abs=0.05)


def test_ratio_zero_leaves_the_weights_as_they_are():
    model = registry.build("resnet20", 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruner.prune(model, 0.0, config.PruningSettings(), SHAPE)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_macs_are_those_of_the_literature():
    assert count_macs(registry.build("resnet20", 10), SHAPE) == 40_813_184
    assert count_macs(registry.build("resnet18", 10), SHAPE) == 555_422_720
