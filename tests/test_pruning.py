"""Pruning: the study's parameter counts, exact rebuilding, refusals."""

import csv
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trimlab import checkpoint, models, pruning, reference, training
from trimlab import params as schema
from trimlab.errors import UserError

SHAPE = (3, 32, 32)
REFERENCE = list(csv.DictReader((Path(reference.__file__).parent / "pruning.csv").open()))


@pytest.mark.parametrize("row", REFERENCE, ids=lambda row: f"{row['ratio_percent']}%")
def test_resnet18_has_the_published_parameters_and_size(row):
    model = models.build("resnet18", 10)
    pruning.prune(model, int(row["ratio_percent"]) / 100, schema.Pruning(), SHAPE)
    assert f"{training.count_params(model) / 1e6:.2f}" == row["params_m"]
    assert f"{training.size_bytes(model) / 2**20:.2f}" == row["size_mb"]


@pytest.mark.parametrize("name", ["resnet18", "resnet20", "torchvision/mobilenet_v2", "torchvision/resnet18"])
@pytest.mark.parametrize("scope", ["uniform", "global"])
def test_a_rebuilt_pruned_model_gives_bit_equal_outputs(name, scope, tmp_path):
    model = models.build(name, 10)
    pruning.prune(model, 0.5, schema.Pruning(scope=scope), SHAPE)
    checkpoint.save(model, tmp_path / "m.safetensors", {"model": name, "num_classes": "10"})
    rebuilt = checkpoint.load(tmp_path / "m.safetensors")
    images = torch.randn(2, *SHAPE)
    with torch.no_grad():
        assert torch.equal(rebuilt(images), model.eval()(images))
    assert pruning.widths(rebuilt) == pruning.widths(model)


@given(ratio=st.floats(0.05, 0.9), importance=st.sampled_from(["l1", "l2", "lamp", "fpgm", "bn_scale", "random"]))
@settings(max_examples=15, deadline=None)
def test_any_ratio_and_importance_leaves_a_working_smaller_model(ratio, importance):
    model = models.build("resnet20", 10)
    pruning.prune(model, ratio, schema.Pruning(importance=importance), SHAPE)
    assert training.count_params(model) < 272_474
    assert model.eval()(torch.zeros(1, *SHAPE)).shape == (1, 10)


@pytest.mark.parametrize("ratio", [0.3, 0.5])
def test_pruned_widths_are_multiples_of_round_to(ratio):
    model = models.build("resnet20", 10)
    pruning.prune(model, ratio, schema.Pruning(round_to=8), SHAPE)
    assert all(width % 8 == 0 for name, width in pruning.widths(model).items() if name != "fc")


def test_round_to_that_leaves_a_layer_whole_is_refused():
    with pytest.raises(UserError, match=r"round_to 16 leaves .* whole"):
        pruning.prune(models.build("resnet20", 10), 0.6, schema.Pruning(round_to=16), SHAPE)


def test_ratio_zero_leaves_the_weights_as_they_are():
    model = models.build("resnet20", 10)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    pruning.prune(model, 0.0, schema.Pruning(), SHAPE)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_macs_are_those_of_the_literature():
    assert training.count_macs(models.build("resnet20", 10), SHAPE) == 40_813_184
    assert training.count_macs(models.build("resnet18", 10), SHAPE) == 555_422_720
