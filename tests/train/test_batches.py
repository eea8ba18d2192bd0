"""Batches: the same ones from memory and from a file, from any step on."""

import threading
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import small_datasets
from trimlab import config
from trimlab.errors import UserError
from trimlab.models import registry
from trimlab.train import batches as batches_module
from trimlab.train import loop
from trimlab.train.batches import Batches
from trimlab.train.prefetch import AHEAD, ahead

CPU = torch.device("cpu")
SMALL = {"epochs": 2, "batch_size": 24}
PHOTOGRAPHS = {
    "random_resized_crop": {"scale": [0.3, 1.0]},
    "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4},
    "cutout": 8,
    "mixup": 0.2,
    "cutmix": 1.0,
}
LOW = {"low_resolution": [{"size": 16, "epochs": 1}]}
HIGH = {"low_resolution": [{"size": 48, "epochs": 1}]}


def recipe(**values):
    return config.Recipe.model_validate({**SMALL, **values})


def weights(dataset, chosen, folder, split="test"):
    model = registry.build("resnet20", 2)
    loop.fit(
        model, dataset, split, chosen, "fp32", 5,
        resumable=folder / "resume.safetensors", label="tiny", on_epoch=lambda _: None,
    )  # fmt: skip
    return model.state_dict()


@pytest.mark.parametrize(
    ("values", "split"),
    [
        ({}, "test"),
        (LOW, "holdout"),
        (HIGH, "test"),
        (PHOTOGRAPHS, "holdout"),
        ({**PHOTOGRAPHS, **LOW}, "test"),
    ],
)
def test_images_in_memory_and_in_a_file_give_the_same_weights(values, split, tmp_path):
    dataset = small_datasets.tiny()
    here = weights(dataset, recipe(**values), tmp_path / "a", split)
    there = weights(small_datasets.stored(dataset, tmp_path), recipe(**values), tmp_path / "b", split)
    assert all(torch.equal(a, b) for a, b in zip(here.values(), there.values(), strict=True))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("values", [{}, PHOTOGRAPHS])
def test_an_epoch_starts_at_any_step(values, in_memory, tmp_path):
    dataset = small_datasets.tiny() if in_memory else small_datasets.stored(small_datasets.tiny(), tmp_path)
    batches = Batches(dataset, "test", recipe(**values), 0, CPU)
    whole = list(batches.of_epoch(1))
    assert [len(batch.labels) for batch in whole] == [24, 24, 16]
    for step in range(4):
        rest = list(batches.of_epoch(1, step))
        assert len(rest) == 3 - step
        for one, other in zip(whole[step:], rest, strict=True):
            assert one.soft is other.soft is None
            assert all(torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))


def test_a_last_batch_of_one_image_is_left_out():
    batches = Batches(small_datasets.tiny(), "test", recipe(batch_size=21), 0, CPU)
    assert (batches.steps, batches.images_per_epoch) == (3, 63)
    assert [len(batch.images) for batch in batches.of_epoch(0)] == [21] * 3


def test_the_hold_out_is_never_trained_on(tmp_path):
    dataset = small_datasets.stored(small_datasets.tiny(), tmp_path)
    batches = Batches(dataset, "holdout", recipe(flip=False, crop_padding=0), 0, CPU)
    found = torch.cat([batch.images for batch in batches.of_epoch(0)]).flatten(1)
    held = small_datasets.tiny().train_images[:8].flatten(1)
    assert len(found) == 56
    assert not (found[:, None] == held[None]).all(2).any()


def mirrored_in(epoch, seed, flip, **values):
    """Which images of the tiny dataset an epoch mirrors, in the dataset's order."""
    dataset = small_datasets.tiny()
    batches = Batches(dataset, "test", recipe(flip=flip, crop_padding=0, **values), seed, CPU)
    known = {image.numpy().tobytes(): index for index, image in enumerate(dataset.train_images)}
    known |= {image.flip(2).numpy().tobytes(): index + 64 for index, image in enumerate(dataset.train_images)}
    seen = [known[image.numpy().tobytes()] for batch in batches.of_epoch(epoch) for image in batch.images]
    assert sorted(index % 64 for index in seen) == list(range(64))
    return torch.tensor([index + 64 in seen for index in range(64)])


@given(seed=st.integers(0, 1000), epoch=st.integers(0, 30), batch_size=st.sampled_from([16, 24, 64]))
@settings(max_examples=20)
def test_alternating_flips_mirror_an_image_every_other_epoch(seed, epoch, batch_size):
    first = mirrored_in(0, seed, "alternating")
    assert 0 < first.sum() < 64
    assert torch.equal(mirrored_in(epoch, seed, "alternating", batch_size=batch_size), first ^ (epoch % 2 == 1))


def test_alternating_flips_start_with_another_half_for_another_seed():
    halves = [mirrored_in(0, seed, "alternating") for seed in range(8)]
    assert len({tuple(half.tolist()) for half in halves}) == 8
    assert 0.4 < torch.stack(halves).float().mean() < 0.6


def test_random_flips_are_drawn_anew_in_every_epoch():
    epochs = [mirrored_in(epoch, 0, True) for epoch in range(3)]
    changed = [(one ^ other).sum() for one, other in pairwise(epochs)]
    assert all(0 < change < 64 for change in changed)
    assert not mirrored_in(0, 0, False).any()


def test_another_order_can_be_given():
    dataset = small_datasets.tiny()

    def rare_ones_twice(labels, seed, epoch):
        return torch.cat([labels.nonzero().flatten()] * 2)

    batches = Batches(dataset, "test", recipe(), 0, CPU, order=rare_ones_twice)
    assert torch.cat([batch.labels for batch in batches.of_epoch(0)]).tolist() == [1] * 64


def test_cutout_that_leaves_nothing_is_refused():
    with pytest.raises(UserError, match="cutout 32 can cover images of tiny: lower it below 32"):
        Batches(small_datasets.tiny(), "test", recipe(cutout=32), 0, CPU)


def prefetching():
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_only_a_few_batches_are_read_ahead_and_the_thread_ends_with_the_iterator():
    made = []
    items = ahead(lambda key: made.append(key) or key, range(100))
    assert [next(items), next(items)] == [0, 1]
    assert prefetching()
    items.close()
    assert len(made) <= 2 + AHEAD
    assert not prefetching()


def test_what_fails_in_the_thread_is_raised_where_the_batch_is_used(tmp_path, monkeypatch):
    batches = Batches(small_datasets.stored(small_datasets.tiny(), tmp_path), "test", recipe(), 0, CPU)

    def fails(*_):
        raise ValueError("no such image")

    monkeypatch.setattr(batches_module, "augment", fails)
    with pytest.raises(ValueError, match="no such image"):
        list(batches.of_epoch(0))
    assert not prefetching()


def test_the_prefetching_thread_leaves_the_number_of_threads_alone():
    before = torch.get_num_threads()
    assert list(ahead(lambda _: torch.get_num_threads(), range(3))) == [1, 1, 1]
    assert torch.get_num_threads() == before
