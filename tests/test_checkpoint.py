"""Weights on disk: no code, no half-written file."""

import pytest
import torch

from trimlab import checkpoint, models
from trimlab.errors import UserError


def test_saving_twice_gives_the_same_bytes(tmp_path):
    model = models.build("resnet20", 10)
    written = set()
    for _ in range(8):
        checkpoint.save(model, tmp_path / "a", {"model": "resnet20", "num_classes": "10", "more": "x"})
        written.add((tmp_path / "a").read_bytes())
    assert len(written) == 1


def test_a_seed_decides_the_weights():
    first, same, other = (models.build("resnet20", 10, seed) for seed in (1, 1, 2))
    assert torch.equal(first.conv1.weight, same.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


@pytest.mark.parametrize(("name", "count"), [("resnet18", 11_173_962), ("resnet20", 272_474)])
def test_the_models_have_the_published_parameters(name, count):
    assert sum(parameter.numel() for parameter in models.build(name, 10).parameters()) == count


def test_an_unknown_torchvision_model_is_refused():
    with pytest.raises(UserError, match="torchvision/resnet19' is unknown: torchvision offers"):
        models.build("torchvision/resnet19", 10)


def test_another_kernel_size_is_refused():
    weights = models.build("resnet20", 10).state_dict()
    weights["conv1.weight"] = torch.zeros(16, 3, 5, 5)
    with pytest.raises(UserError, match=r"kernel \(16, 3, 5, 5\)"):
        checkpoint.rebuild("resnet20", 10, weights)
