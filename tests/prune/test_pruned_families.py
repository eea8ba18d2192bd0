"""Families of models: pruned without touching what stays, rebuilt bit for bit, or refused in one line."""

import pytest
import torch
import torch_pruning as tp
from safetensors.torch import load_file, save_file
from torch import nn

from families import FAMILIES, SHAPE, built, shuffle, transformer
from trimlab import config
from trimlab.errors import UserError
from trimlab.models import registry
from trimlab.models.facts import count_macs, count_params
from trimlab.models.reshape import fit_to
from trimlab.prune import coupling, pruner

IMAGES = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(1))
each = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)


@each
def test_a_pruned_model_is_rebuilt_bit_equal_from_its_file(family, tmp_path):
    model, fresh = built(family), built(family)
    pruner.prune(model, 0.3, config.PruningSettings(), SHAPE)
    save_file(model.state_dict(), tmp_path / "pruned.safetensors")
    fit_to(fresh, load_file(tmp_path / "pruned.safetensors"))
    with torch.no_grad():
        assert torch.equal(fresh(IMAGES), model(IMAGES))
    assert count_params(fresh) < 0.97 * count_params(built(family))
    assert count_macs(fresh, SHAPE) < 0.97 * count_macs(built(family), SHAPE)


@each
def test_steps_end_at_the_widths_of_one_step(family):
    once, stepwise = built(family), built(family)
    first, last = (
        pruner.prune(model, 0.5, config.PruningSettings(), SHAPE, steps=steps)
        for model, steps in ((once, 1), (stepwise, 3))
    )
    assert first == last
    assert pruner.widths(stepwise) == pruner.widths(once)


@each
def test_channels_that_are_zero_go_without_changing_the_outputs(family):
    """torch-pruning must remove the same channels on both sides of every operation."""
    model = built(family)
    criterion = coupling.Importance(tp.importance.MagnitudeImportance(p=1), [registry.classifier(model)])
    pruned = coupling.pruner(model, IMAGES[:1], criterion, pruning_ratio=0.3)
    compared = 0
    for group in pruned.step(interactive=True):
        normed = any(isinstance(dep.target.module, nn.LayerNorm) for dep, _ in group)
        if normed:  # a zero moves the mean of the others
            continue
        silence(group)
        with torch.no_grad():
            before = model(IMAGES)
            group.prune()
            torch.testing.assert_close(model(IMAGES), before, rtol=1e-4, atol=1e-4 * before.abs().max().item())
        compared += 1
    assert compared > 1


@torch.no_grad()
def silence(group):
    """Make the channels that a group removes zero."""
    for dep, indices in group:
        layer = dep.target.module
        outputs = group._DG.is_out_channel_pruning_fn(dep.handler)
        if isinstance(layer, nn.BatchNorm2d) or (outputs and isinstance(layer, nn.Conv2d | nn.Linear)):
            for tensor in (layer.weight, layer.bias):
                if tensor is not None:
                    tensor[indices] = 0


def test_what_attention_and_shuffles_split_stays_whole():
    whole = pruner.prune(built(transformer), 0.3, config.PruningSettings(), SHAPE).whole
    blocks = [f"encoder.layers.encoder_layer_{block}" for block in (0, 1)]
    width_of_tokens = [f"{block}.{layer}" for block in blocks for layer in ("self_attention.out_proj", "mlp.3")]
    assert whole == ["conv_proj", *width_of_tokens]
    whole = set(pruner.prune(built(shuffle), 0.3, config.PruningSettings(), SHAPE).whole)
    second = {f"stage2.1.branch2.{index}" for index in (0, 3, 5)}
    assert second & whole == {"stage2.1.branch2.5"}  # the last convolution, before the shuffle


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ((1, 6, 4, 4), (1, 2, 3, 4, 4), {4}),
        ((1, 6, 4, 4), (1, 6, 16), {6}),
        ((1, 6, 4, 4), (1, 96), set()),
        ((1, 5, 24), (1, 5, 3, 2, 4), {5}),
        ((1, 6, 6, 4), (1, 3, 2, 6, 4), {4}),  # which of the two sixes has the channels is not known
    ],
)
def test_sizes_that_a_reshape_keeps(before, after, kept):
    assert coupling.kept_by_reshape(before, after) == kept


class Fixed(nn.Module):
    """A forward that has a width written into it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = self.second(self.first(x))
        return self.head(x.mean((2, 3)) * torch.ones(8))


class Hidden(nn.Module):
    """A width that no tensor tells."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3), nn.LayerNorm(8, elementwise_affine=False)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.norm(self.first(x).mean((2, 3))))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Fixed, r"the pruned model does not run: name in keep the layers before .*second \(RuntimeError: "),
        (Hidden, r"the pruned model cannot be rebuilt from its weights, because of norm \(RuntimeError: "),
    ],
)
def test_a_model_that_cannot_be_pruned_is_refused_before_training(model, message):
    untrained = model().eval()
    before = {name: tensor.clone() for name, tensor in untrained.state_dict().items()}
    for allocation in ("uniform", "global"):
        with pytest.raises(UserError, match=message) as error:
            pruner.dry_run(untrained, 0.3, config.PruningSettings(allocation=allocation), SHAPE)
        assert len(str(error.value).splitlines()) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in untrained.state_dict().items())


def test_keeping_the_layer_that_a_forward_fixes_is_enough():
    pruner.dry_run(Fixed().eval(), 0.3, config.PruningSettings(), SHAPE, keep=["second"])


def test_a_dry_run_draws_nothing():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    pruner.dry_run(registry.build("resnet20", 10), 0.3, config.PruningSettings(), SHAPE)
    assert torch.equal(torch.rand(1), expected)


def test_channels_that_take_others_with_them_are_refused():
    timm = pytest.importorskip("timm")
    model = timm.create_model("ghostnet_050", num_classes=10).eval()
    with pytest.raises(UserError, match=r"ratio 0\.3 would leave conv_stem 2 of 8 channels instead of 5, because"):
        pruner.prune(model, 0.3, config.PruningSettings(), SHAPE)


def test_kept_layers_and_those_coupled_with_them_keep_all_channels():
    model = registry.build("resnet20", 10)
    keep = ["layers.2.0.conv2", "*.1.*.conv1"]
    whole = pruner.prune(model, 0.5, config.PruningSettings(), SHAPE, keep=keep).whole
    widths = pruner.widths(model)
    coupled = {name for name, width in widths.items() if width == 64}
    assert coupled == {f"layers.2.{block}.conv2" for block in range(3)} | {"layers.2.0.downsample.0"}
    assert {widths[f"layers.1.{block}.conv1"] for block in range(3)} == {32}
    assert coupled < set(whole)
    assert widths["conv1"] == 8


def test_a_pattern_of_no_layer_is_refused():
    with pytest.raises(
        UserError, match=r"^prune\.keep 'layer\.\*' matches no convolution or linear layer.*layers\.0"
    ) as error:
        keys = config.PruningKeys(keep="prune.keep")
        pruner.prune(registry.build("resnet20", 10), 0.5, config.PruningSettings(), SHAPE, keys=keys, keep=["layer.*"])
    assert len(str(error.value)) < 300
