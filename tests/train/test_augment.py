"""Augmentation: every image has its own draw, and keeps its type, shape and range."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from trimlab import config
from trimlab.train.augment import cut_out, jitter, resized_crop, shift
from trimlab.train.mix import mix
from trimlab.train.schedule import fine_tune_recipe


def drawn(seed=0):
    return torch.Generator().manual_seed(seed)


def noise(count=16, height=12, width=20):
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=drawn(1))


@given(
    padding=st.integers(0, 4),
    mirrored=st.lists(st.booleans(), min_size=4, max_size=4),
    size=st.integers(5, 12),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_augmented_images_are_shifted_and_mirrored_copies(padding, mirrored, size, seed):
    images = torch.arange(1, 1 + 4 * 3 * size * size).reshape(4, 3, size, size)
    out = shift(images, padding, torch.tensor(mirrored), drawn(seed))
    assert out.shape == images.shape
    for image, flip, moved in zip(images, mirrored, out, strict=True):
        wide = torch.nn.functional.pad(image, (padding,) * 4)
        crops = [
            wide[:, y : y + size, x : x + size]
            for y in range(2 * padding + 1)
            for x in range(2 * padding + 1)
        ]  # fmt: skip
        assert any(torch.equal(moved, crop.flip(2) if flip else crop) for crop in crops)


CROP = config.RandomResizedCrop()
UNFLIPPED = torch.zeros(16, dtype=torch.bool)


def test_a_part_as_large_as_its_image_is_the_image():
    whole = config.RandomResizedCrop(scale=[1.0, 1.0], ratio=[1.0, 1.0])
    images = noise(width=12)
    assert torch.equal(resized_crop(images, whole, UNFLIPPED, drawn()), images)
    mirrored = torch.arange(16) % 3 == 0
    out = resized_crop(images, whole, mirrored, drawn())
    assert torch.equal(out[mirrored], images[mirrored].flip(3))
    assert torch.equal(out[~mirrored], images[~mirrored])


def test_a_part_is_inside_its_image_and_has_the_area_that_was_asked_for():
    """Of images whose channels are the place of their pixels."""
    rows, columns = torch.arange(100).view(-1, 1).expand(100, 200), torch.arange(200).expand(100, 200)
    images = torch.stack([rows, columns, rows]).byte().expand(64, 3, 100, 200)
    out = resized_crop(
        images, config.RandomResizedCrop(scale=[0.2, 0.3], ratio=[0.75, 1.3333]), UNFLIPPED.repeat(4), drawn()
    ).float()
    high, wide = (out[:, c].amax((1, 2)) - out[:, c].amin((1, 2)) + 1 for c in (0, 1))
    assert ((high * wide / 20000 > 0.18) & (high * wide / 20000 < 0.32)).all()
    assert ((wide / high > 0.7) & (wide / high < 1.4)).all()
    assert len(out[:, 0, 0, 0].unique()) > 10


def test_jitter_of_grey_images_scales_them():
    images = torch.full((32, 3, 4, 4), 100, dtype=torch.uint8)
    out = jitter(images, config.ColorJitter(brightness=0.5, saturation=1.0, contrast=1.0), drawn())
    assert (out == out[:, :1, :1, :1]).all()
    shades = out[:, 0, 0, 0].float()
    assert 50 <= shades.min() < 60
    assert 140 < shades.max() <= 150


def test_saturation_keeps_the_grey_of_a_pixel_and_contrast_that_of_an_image():
    images = noise() // 2 + 64  # nothing is cut off
    shares = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)

    def grey(pixels):
        return (pixels * shares).sum(1)

    pale = jitter(images, config.ColorJitter(saturation=0.5), drawn())
    assert (grey(pale) - grey(images)).abs().max() < 1
    assert not torch.equal(pale, images)
    flat = jitter(images, config.ColorJitter(contrast=0.5), drawn())
    assert (grey(flat).mean((1, 2)) - grey(images).mean((1, 2))).abs().max() < 0.5
    assert not torch.equal(flat, images)


@given(side=st.integers(1, 11), seed=st.integers(0, 20))
@settings(max_examples=20)
def test_cutout_blacks_out_a_square_of_every_image(side, seed):
    out = cut_out(torch.full((8, 3, 12, 20), 9, dtype=torch.uint8), side, drawn(seed))
    assert torch.equal(out[:, 0], out[:, 1])
    for image in out[:, 0]:
        rows, columns = (image == 0).any(1).sum(), (image == 0).any(0).sum()
        assert min(rows, columns) >= 1
        assert max(rows, columns) <= side
        assert (image == 0).sum() == rows * columns


LABELS = torch.arange(16) % 4


@pytest.mark.parametrize("values", [{"mixup": 0.4}, {"cutmix": 1.0}])
@pytest.mark.parametrize("seed", range(5))
def test_labels_are_mixed_as_the_images_are(values, seed):
    """Of images whose pixels are their class."""
    images = LABELS.byte()[:, None, None, None].expand(16, 3, 10, 10) * 60
    mixed = mix(images, config.Recipe(epochs=1, **values), drawn(seed))
    shares = mixed.labels(F.one_hot(LABELS, 4).float())
    assert (mixed.images.dtype, shares.shape) == (torch.uint8, (16, 4))
    torch.testing.assert_close(shares.sum(1), torch.ones(16))
    expected = (shares * torch.arange(4) * 60).sum(1)
    assert (mixed.images.float().mean((1, 2, 3)) - expected).abs().max() < 0.51


def test_a_batch_is_mixed_in_one_of_two_ways():
    recipe = config.Recipe(epochs=1, mixup=1.0, cutmix=1.0)
    images = LABELS.byte()[:, None, None, None].expand(16, 3, 10, 10) * 60
    pasted = [bool((mix(images, recipe, drawn(seed)).images % 60 == 0).all()) for seed in range(40)]
    assert 10 < sum(pasted) < 30


def test_fine_tuning_keeps_the_augmentation():
    recipe = config.Recipe(epochs=1, cutout=4, mixup=0.2, random_resized_crop=CROP)
    tuned = fine_tune_recipe(recipe, config.PruningPoint(ratio=0.5, epochs=2))
    assert (tuned.cutout, tuned.mixup, tuned.random_resized_crop) == (4, 0.2, CROP)
