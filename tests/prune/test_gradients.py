"""Gradients for Taylor and Hessian importances, and what these keep."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import small_datasets
from trimlab import config
from trimlab.models import registry
from trimlab.prune import gradients, pruner
from trimlab.prune.gradients import gradients_for

SHAPE = (3, 32, 32)
TINY = small_datasets.tiny()


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip


def of_each_image(model, images):
    """The gradient of each image's loss, by parameter."""
    found = []
    for index in images:
        logits = model.eval()(TINY.normalise(TINY.train_images[index : index + 1]))
        model.zero_grad()
        F.cross_entropy(logits, TINY.train_labels[index : index + 1]).backward()
        found.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    return {name: torch.stack([each[name] for each in found]) for name in found[0]}


def test_gradients_are_means_over_the_first_calibration_images(monkeypatch):
    monkeypatch.setattr(gradients, "GRADIENT_IMAGES", 12)
    model = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mean, squared = (gradients_for(importance, model.train(), TINY) for importance in ("taylor", "hessian"))
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    expected = of_each_image(model, TINY.calibration[:12].tolist())
    for name, each in expected.items():
        assert torch.allclose(mean[name], each.mean(0), atol=1e-6)
        assert torch.allclose(squared[name], each.square().mean(0), atol=1e-7)


def test_importances_of_weights_alone_need_no_gradients():
    assert gradients_for("group-l1", network(), TINY) is None


@pytest.mark.parametrize("importance", ["taylor", "hessian"])
def test_channels_on_which_the_loss_does_not_depend_go_first(importance):
    model = network()
    with torch.no_grad():
        model[0].weight[:4] *= 100  # large weights, which a norm would keep
        model[5].weight[:, :4] = 0  # without effect
    left = model[5].weight[:, 4:].detach().clone()
    section = config.PruningSettings(importance=importance)
    pruner.prune(model, 0.5, section, SHAPE, gradients=gradients_for(importance, model, TINY))
    assert torch.equal(model[5].weight.detach(), left)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_parameters_without_a_part_in_the_outputs_have_gradient_zero():
    model = registry.build("resnet20", 2)
    model.unused = nn.Linear(3, 3)
    model.conv1.weight.requires_grad_(False)
    found = gradients_for("taylor", model, TINY)
    assert found.keys() == dict(model.named_parameters()).keys()
    assert not found["unused.weight"].any() and not found["conv1.weight"].any()
    assert found["fc.weight"].any()
