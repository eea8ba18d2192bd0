"""Datasets: verified, hashed, balanced, seeded; refusals in one line."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from trimlab import data, params, paths
from trimlab.errors import UserError

DATA = params.Data(split="test", holdout_fraction=0.1, seed=0)
DIGITS = params.Dataset(source="digits", path="data/none")


@pytest.fixture
def digits(in_tmp):
    data.prepare("digits", DIGITS, DATA)
    return data.load("digits")


def write_folder(root, size=8, train=30, test=6):
    for part, count in (("train", train), ("test", test)):
        for label in ("cat", "dog"):
            (root / part / label).mkdir(parents=True)
            for index in range(count):
                pixels = np.full((size, size, 3), index * 7 % 255, np.uint8)
                Image.fromarray(pixels).save(root / part / label / f"{index:02}.png")


def test_preparing_twice_gives_the_same_file(digits):
    first = digits.sha256
    data.prepare("digits", DIGITS, DATA)
    assert data.load("digits").sha256 == first


def test_calibration_images_are_balanced_and_outside_the_hold_out(digits):
    chosen = data.calibration(digits, 100)
    assert digits.train_labels[chosen].bincount().tolist() == [10] * 10
    assert not torch.isin(digits.calibration, digits.holdout).any()
    counts = digits.train_labels[digits.holdout].bincount()
    assert counts.max() - counts.min() <= 1


def test_too_many_calibration_images_are_refused(digits):
    with pytest.raises(UserError, match=r"calibration_images 9000 is more than the \d+ training images"):
        data.calibration(digits, 9000)


def test_a_hold_out_is_scored_on_and_not_trained_on(digits):
    images, labels = digits.trained_on("holdout")
    assert len(labels) + len(digits.holdout) == len(digits.train_labels)
    assert len(digits.scored("holdout")[1]) == len(digits.holdout)
    assert len(images) == len(labels)


def test_normalised_training_images_have_mean_0_and_deviation_1(digits):
    normalised = digits.normalise(digits.train_images)
    assert normalised.mean().abs() < 1e-3
    assert abs(float(normalised.std()) - 1) < 1e-3


def test_a_changed_file_is_refused(digits):
    path = paths.dataset_file("digits")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="sha256"):
        data.load("digits")


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=60),
    seed=st.integers(0, 9),
)
def test_any_prefix_of_in_turn_is_balanced_as_far_as_classes_last(labels, seed):
    tensor = torch.tensor(labels)
    order = data.in_turn(tensor, torch.arange(len(labels)), seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    smallest = min(tensor.bincount()[tensor.unique()])
    counts = tensor[order[: int(smallest) * len(tensor.unique())]].bincount()[tensor.unique()]
    assert (counts == smallest).all()


def test_a_folder_of_images_is_read(in_tmp):
    write_folder(in_tmp / "pets")
    data.prepare("pets", params.Dataset(source="folder", path="pets"), DATA)
    pets = data.load("pets")
    assert pets.classes == ["cat", "dog"]
    assert pets.train_images.shape == (60, 3, 8, 8)
    assert pets.test_labels.tolist() == [0] * 6 + [1] * 6


def test_a_class_in_one_part_alone_is_refused(in_tmp):
    write_folder(in_tmp / "pets")
    (in_tmp / "pets/test/zebra").mkdir()
    Image.new("RGB", (8, 8)).save(in_tmp / "pets/test/zebra/1.png")
    with pytest.raises(UserError, match="pets/test/zebra: train and test must hold images of the same classes"):
        data.prepare("pets", params.Dataset(source="folder", path="pets"), DATA)


def test_images_of_two_sizes_are_refused(in_tmp):
    write_folder(in_tmp / "pets")
    Image.new("RGB", (9, 9)).save(in_tmp / "pets/train/cat/odd.png")
    with pytest.raises(UserError, match=r"odd.png is \(9, 9\) pixels, .* make them one size"):
        data.prepare("pets", params.Dataset(source="folder", path="pets"), DATA)


def test_a_damaged_image_is_named(in_tmp):
    write_folder(in_tmp / "pets")
    (in_tmp / "pets/train/cat/bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png is no readable image"):
        data.prepare("pets", params.Dataset(source="folder", path="pets"), DATA)


def npz(**changed):
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 255, (40, 8, 8, 3), np.uint8),
        "train_labels": np.arange(40) % 2,
        "test_images": rng.integers(0, 255, (10, 8, 8, 3), np.uint8),
        "test_labels": np.arange(10) % 2,
    }
    np.savez("set.npz", **{**arrays, **changed})
    return params.Dataset(source="npz", path="set.npz")


def test_an_npz_is_read(in_tmp):
    data.prepare("set", npz(), DATA)
    assert data.load("set").image_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_labels": np.arange(10) % 3}, "labels reach from 0 to 2, there are 2 classes"),
        ({"train_labels": np.arange(39) % 2}, "40 training images, 39 labels"),
        ({"train_labels": np.full(40, 0.5)}, "train_labels is float64"),
        ({"train_labels": np.zeros((40, 2), int)}, "give whole numbers"),
        ({"train_images": np.zeros((40, 8, 8, 3))}, "give uint8"),
        ({"test_images": np.zeros((10, 9, 9, 3), np.uint8)}, "make them one size"),
    ],
)
def test_an_npz_that_does_not_fit_is_refused(changed, message, in_tmp):
    with pytest.raises(UserError, match=message):
        data.prepare("set", npz(**changed), DATA)


def test_a_file_that_is_no_npz_is_refused(in_tmp):
    (in_tmp / "set.npz").write_bytes(b"PK\x03\x04 junk")
    with pytest.raises(UserError, match=r"is no \.npz"):
        data.prepare("set", params.Dataset(source="npz", path="set.npz"), DATA)


def test_missing_cifar_says_where_to_put_it(in_tmp, monkeypatch):
    from torchvision import datasets

    def offline(self):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    monkeypatch.delenv("DATA_ROOT", raising=False)
    with pytest.raises(UserError, match=r"data/raw holds no whole cifar-10-batches-py, .* put the official"):
        data.prepare("cifar10", params.Dataset(source="cifar10", path="data/none"), DATA)


def test_the_facts_beside_the_file_name_its_digest(digits):
    facts = json.loads(paths.dataset_file("digits").with_suffix(".json").read_text())
    assert facts["sha256"] == digits.sha256
    assert facts["train_images"] == len(digits.train_labels)
