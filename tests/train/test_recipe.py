"""The options of a recipe: optimizer, clipping, accumulation, moving average, rare classes."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from trimlab import config
from trimlab.data.dataset import Dataset
from trimlab.models import registry
from trimlab.models.facts import count_params
from trimlab.train import loop
from trimlab.train.averaging import averaged
from trimlab.train.balance import balanced_order, class_weights, cross_entropy
from trimlab.train.optimizer import optimizer_of, take_step

PLAIN = {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "crop_padding": 0, "flip": False}
LABELS = torch.tensor([0] * 90 + [2] * 9 + [3])
"""Four classes, of which the second has no images."""


@pytest.fixture
def lopsided():
    """42 images of two classes, of which the second is rare."""
    generator = torch.Generator().manual_seed(0)
    labels = (torch.arange(42) % 7 == 0).long()
    images = torch.randint(0, 256, (42, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return Dataset(
        name="lopsided",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
        holdout=torch.arange(4),
        calibration=torch.arange(4, 42),
        mean=torch.full((3,), 0.5),
        std=torch.full((3,), 0.25),
        classes=["common", "rare"],
        sha256="0" * 64,
    )


def classifier():
    """A model without BatchNorm: its gradients are sums over images."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))


def fit(dataset, folder, model=None, **options):
    model = model or classifier()
    done = loop.fit(
        model, dataset, "test", config.Recipe(**{**PLAIN, **options}), "fp32", 0,
        resumable=folder / "resume.safetensors", label="lopsided", on_epoch=lambda _: None,
    )  # fmt: skip
    return model, done


@pytest.mark.parametrize("options", [{}, {"optimizer": "adamw", "learning_rate": 0.001, "weight_decay": 0.05}])
def test_norms_and_biases_are_not_decayed(options):
    model, recipe = registry.build("resnet20", 10), config.Recipe(epochs=1, **options)
    decayed, rest = optimizer_of(model, recipe).param_groups
    assert decayed["weight_decay"] == recipe.weight_decay
    assert rest["weight_decay"] == 0
    assert all(parameter.ndim == 1 for parameter in rest["params"])
    assert sum(p.numel() for group in (decayed, rest) for p in group["params"]) == count_params(model)


def test_adamw_takes_torchs_steps():
    ours, theirs = classifier(), classifier()
    recipe = config.Recipe(epochs=1, optimizer="adamw", learning_rate=0.001, weight_decay=0.0)
    optimizers = optimizer_of(ours, recipe), torch.optim.AdamW(theirs.parameters(), 0.001, weight_decay=0.0)
    inputs = torch.rand(4, 192, generator=torch.Generator().manual_seed(1))
    for model, optimizer in zip((ours, theirs), optimizers, strict=True):
        for _ in range(3):
            optimizer.zero_grad()
            model(inputs).square().sum().backward()
            optimizer.step()
    assert torch.equal(ours[1].weight, theirs[1].weight)


ADAMW = {"optimizer": "adamw", "learning_rate": 0.01}
OPTIONS = [
    ADAMW,
    {"flip": "alternating"},
    {"ema": 0.9},
    {"clip_norm": 0.1},
    {"accumulate": 4},
    {"balance": "weights"},
    {"balance": "sampling"},
    {**ADAMW, "ema": 0.9, "clip_norm": 0.1, "accumulate": 4, "balance": "sampling"},
]


def convolutional(seed=0):
    """A model with what a resumed training must restore: buffers, and dropout's draws."""
    torch.manual_seed(seed)
    convolution = [nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*convolution, nn.Flatten(), nn.Linear(72, 2))


@pytest.mark.parametrize("steps", [5, 9])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    options, steps, lopsided, tmp_path, monkeypatch
):
    whole, _ = fit(lopsided, tmp_path / "a", convolutional(), **options)
    plain, _ = fit(lopsided, tmp_path / "plain", convolutional())
    assert not torch.equal(whole[-1].weight, plain[-1].weight)

    monkeypatch.setattr(loop.resume, "SAVE_EVERY_SECONDS", -1.0)
    step, taken = loop._Loop._step, []

    def dying(self, *batch):
        if len(taken) == steps:
            raise KeyboardInterrupt
        taken.append(None)
        step(self, *batch)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop._Loop, "_step", dying)
        fit(lopsided, tmp_path / "b", convolutional(), **options)
    resumed, done = fit(lopsided, tmp_path / "b", convolutional(seed=9), **options)

    assert done.resumptions == 1
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


@pytest.mark.parametrize(("norm", "moved"), [(0.5, 0.5), (100.0, 5.0), (None, 5.0)])
def test_a_step_is_no_longer_than_the_clipped_norm(norm, moved):
    weight = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    weight.grad = torch.tensor([3.0, 4.0])
    take_step(optimizer, torch.amp.GradScaler("cpu", enabled=False), norm)
    assert weight.detach().norm() == pytest.approx(moved, rel=1e-4)


def test_gradients_are_unscaled_before_they_are_clipped():
    weight = nn.Parameter(torch.zeros(2))
    optimizer, scaler = torch.optim.SGD([weight], lr=1.0), torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaler.scale((weight * torch.tensor([3.0, 4.0])).sum()).backward()
    take_step(optimizer, scaler, 1.0)
    assert weight.tolist() == pytest.approx([-0.6, -0.8], rel=1e-4)


@pytest.mark.parametrize("options", [{"schedule": "constant"}, {"warmup": 0.3}])
def test_accumulated_batches_train_as_one_large_batch(options, lopsided, tmp_path):
    whole, _ = fit(lopsided, tmp_path / "a", batch_size=32, **options)
    parts, _ = fit(lopsided, tmp_path / "b", batch_size=8, accumulate=4, **options)
    assert torch.allclose(whole[1].weight, parts[1].weight, atol=1e-6)
    assert not torch.allclose(classifier()[1].weight, parts[1].weight, atol=1e-3)


def test_a_checkpoint_is_written_between_optimizer_steps_alone(lopsided, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.resume, "SAVE_EVERY_SECONDS", -1.0)
    saved, save = [], loop._Loop.save
    monkeypatch.setattr(loop._Loop, "save", lambda self: (saved.append(self.position.step), save(self)))
    fit(lopsided, tmp_path, epochs=1, accumulate=4)  # 6 batches
    assert saved == [4, 0]


def test_the_average_of_constant_weights_is_those_weights():
    model = registry.build("resnet20", 2)
    average = averaged(model, 0.9)
    for _ in range(5):
        average.update_parameters(model)
    for name, value in model.state_dict().items():
        assert torch.allclose(average.module.state_dict()[name], value, rtol=1e-5), name


def test_an_average_follows_its_decay_and_forgets_the_start():
    model = nn.Linear(1, 1, bias=False)
    average = averaged(model, 0.5)
    expected = None
    for step in range(20):
        nn.init.constant_(model.weight, float(step))
        average.update_parameters(model)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = float(step) if expected is None else decay * expected + (1 - decay) * step
    assert average.module.weight.item() == pytest.approx(expected, rel=1e-5)


def test_infinite_and_whole_number_buffers_stay_as_they_are():
    model = nn.Linear(1, 1)
    model.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
    model.register_buffer("index", torch.arange(100))
    average = averaged(model, 0.9)
    for _ in range(3):
        average.update_parameters(model)
    assert torch.equal(average.module.mask, model.mask)
    assert torch.equal(average.module.index, model.index)


def test_the_average_is_evaluated_and_kept(lopsided, tmp_path):
    raw, _ = fit(lopsided, tmp_path / "a")
    kept, done = fit(lopsided, tmp_path / "b", ema=0.9)
    assert not torch.equal(raw[1].weight, kept[1].weight)
    inputs = lopsided.normalise(lopsided.test_images)
    found = float((kept.eval()(inputs).argmax(1) == lopsided.test_labels).double().mean())
    assert done.curve[-1].top1_accuracy == pytest.approx(found)


def test_class_weights_are_inverse_to_sizes_and_have_mean_1_over_images():
    weights = class_weights(LABELS, 4)
    assert weights[1] == 0
    assert weights[LABELS].mean() == pytest.approx(1)
    assert (weights * torch.bincount(LABELS))[[0, 2, 3]].tolist() == pytest.approx([100 / 3] * 3)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_labels_and_the_same_probabilities_have_the_same_weighted_loss(smoothing):
    logits = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
    weights = class_weights(LABELS, 4)
    loss = cross_entropy(logits, LABELS, smoothing, weights)
    probabilities = F.one_hot(LABELS, 4).float()
    assert cross_entropy(logits, probabilities, smoothing, weights) == pytest.approx(loss.item(), rel=1e-5)
    own = [torch.nonzero(LABELS.eq(label)).flatten() for label in (0, 2, 3)]
    means = [F.cross_entropy(logits[each], LABELS[each], label_smoothing=smoothing).item() for each in own]
    assert loss == pytest.approx(sum(means) / 3, rel=1e-5)


def test_a_balanced_order_draws_all_classes_alike_and_all_images_of_a_class():
    labels = LABELS.repeat(100)[torch.randperm(10_000, generator=torch.Generator().manual_seed(1))]
    order = balanced_order(labels, seed=0, epoch=0)
    assert order.shape == labels.shape
    counts = torch.bincount(labels[order], minlength=4)
    assert counts[1] == 0
    assert all(abs(count - 3333) < 250 for count in counts[[0, 2, 3]].tolist())
    assert len(order[labels[order] == 3].unique()) == 100


def test_a_balanced_order_is_drawn_anew_for_each_epoch_and_seed():
    orders = [balanced_order(LABELS, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert torch.equal(orders[0], balanced_order(LABELS, 0, 0))
    assert not any(torch.equal(orders[0], other) for other in orders[1:])


@pytest.mark.parametrize(("balance", "expected"), [("none", 1 / 7), ("weights", 0.5), ("sampling", 0.5)])
def test_where_images_say_nothing_balanced_classes_are_equally_likely(balance, expected, lopsided, tmp_path):
    blank = replace(lopsided, train_images=torch.full_like(lopsided.train_images, 128))
    model, _ = fit(blank, tmp_path, epochs=20, learning_rate=0.05, balance=balance)
    rare = model(blank.normalise(blank.train_images[:1])).softmax(1)[0, 1].item()
    assert rare == pytest.approx(expected, abs=0.08)
