"""Datasets: verified, hashed, stratified, seeded; refusals in one line."""

import hashlib
import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from photographs import refusal
from trimlab import config, paths
from trimlab.data import stage as data_stage
from trimlab.data import verified
from trimlab.data.dataset import calibration_images, load_dataset
from trimlab.data.splits import drawn
from trimlab.digests import sha256_of
from trimlab.errors import UserError

DATA = config.Data(split="test", holdout_fraction=0.1, seed=0)
DIGITS = config.DatasetSource(source="digits", path="data/none")


@pytest.fixture
def digits(in_tmp):
    data_stage.prepare("digits", DIGITS, DATA)
    return load_dataset("digits")


def test_preparing_twice_gives_the_same_file(digits):
    first = digits.sha256
    data_stage.prepare("digits", DIGITS, DATA)
    assert load_dataset("digits").sha256 == first


def test_calibration_images_are_stratified_and_outside_the_hold_out(digits):
    sizes = digits.train_labels.bincount()
    assert not torch.isin(digits.calibration, digits.holdout).any()
    for chosen in (calibration_images(digits, 100), digits.holdout):
        quotas = sizes * len(chosen) / sizes.sum()
        assert (digits.train_labels[chosen].bincount() - quotas).abs().max() < 1


def test_the_test_set_of_the_digits_stays_what_records_were_scored_on(digits):
    said = digits.test_images.numpy().tobytes() + digits.test_labels.numpy().tobytes()
    assert len(digits.test_labels) == 359
    assert hashlib.sha256(said).hexdigest() == "a994b3fb22e6e9cf3925005283caf12a3db5fad67db50771bf1e2cd867eb2f5f"


def test_too_many_calibration_images_are_refused(digits):
    with pytest.raises(UserError, match=r"calibration_images 9000 is more than the \d+ training images"):
        calibration_images(digits, 9000)


def test_a_hold_out_is_scored_on_and_not_trained_on(digits):
    trained = digits.trained_on("holdout")
    assert len(trained) + len(digits.holdout) == len(digits.train_labels)
    assert not set(trained.indices.tolist()) & set(digits.holdout.tolist())
    scored = digits.scored("holdout")
    assert torch.equal(scored.indices, digits.holdout)
    everything = torch.arange(len(scored))
    assert torch.equal(scored.read(everything), digits.train_images[digits.holdout])
    assert torch.equal(torch.cat(list(scored.chunks(7))), digits.train_images[digits.holdout])
    assert torch.equal(scored.labels, digits.train_labels[digits.holdout])


def test_normalised_training_images_have_mean_0_and_deviation_1(digits):
    normalised = digits.normalise(digits.train_images)
    assert normalised.mean().abs() < 1e-3
    assert abs(float(normalised.std()) - 1) < 1e-3


def test_a_changed_file_is_refused(digits):
    path = paths.dataset_file("digits")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(UserError, match="sha256"):
        load_dataset("digits")


def settled(path):
    """Make a file look as if it was written a minute ago."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - 60 * 10**9))


def test_a_file_is_hashed_once_and_again_after_a_change(digits, monkeypatch):
    hashed, path = [], paths.dataset_file("digits")
    monkeypatch.setattr(verified, "sha256_of", lambda file: hashed.append(file) or sha256_of(file))
    settled(path)
    for _ in range(3):
        load_dataset("digits")
    assert len(hashed) == 1
    os.utime(path, ns=(0, 0))
    load_dataset("digits")
    assert len(hashed) == 2


def test_a_file_that_changed_after_its_digest_was_remembered_is_refused(digits):
    path = paths.dataset_file("digits")
    settled(path)
    load_dataset("digits")
    changed = path.read_bytes()[:-1] + b"\x01"
    path.unlink()  # tensors read from it are mapped, not copied
    path.write_bytes(changed)
    settled(path)
    assert "run `dvc checkout prepare@digits`" in refusal(lambda: load_dataset("digits"))


def test_the_digest_of_a_file_written_just_now_is_not_remembered(digits):
    load_dataset("digits")
    assert not paths.verification("digits").exists()


@pytest.mark.parametrize("known", ["", "[]", '{"identity": 1}', "\xff"])
def test_a_damaged_memory_of_digests_is_replaced(known, digits):
    settled(paths.dataset_file("digits"))
    memory = paths.verification("digits")
    memory.parent.mkdir(parents=True)
    memory.write_bytes(known.encode("latin-1"))
    assert load_dataset("digits").sha256 == digits.sha256
    assert json.loads(memory.read_text())["sha256"] == digits.sha256


def in_turn(labels, among, seed):
    """The order of committed records: classes take turns."""
    shuffled = among[torch.randperm(len(among), generator=torch.Generator().manual_seed(seed))].tolist()
    seen, turns = {}, []
    for index in shuffled:
        label = int(labels[index])
        turns.append((seen.setdefault(label, 0), label, index))
        seen[label] += 1
    return [index for _, _, index in sorted(turns)]


@given(classes=st.integers(1, 7), each=st.integers(2, 20), fraction=st.floats(0, 0.5), seed=st.integers(0, 2**31 - 2))
def test_of_balanced_classes_the_order_is_that_of_committed_records(classes, each, fraction, seed):
    labels = torch.randperm(classes * each, generator=torch.Generator().manual_seed(seed)) % classes
    everything = torch.arange(len(labels))
    first = drawn(labels, everything, labels.bincount(), seed)
    assert first.tolist() == in_turn(labels, everything, seed)
    # The calibration images: the classes of what the hold-out leaves need not be balanced.
    rest = everything[~torch.isin(everything, first[: round(fraction * len(labels))])]
    assert drawn(labels, rest, labels.bincount(), seed + 1).tolist() == in_turn(labels, rest, seed + 1)


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=6), seed=st.integers(0, 9), part=st.floats(0, 1))
def test_any_first_images_are_as_proportional_as_can_be(sizes, seed, part):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = drawn(labels, torch.arange(len(labels)), labels.bincount(), seed)
    assert sorted(order.tolist()) == list(range(len(labels)))
    count = round(part * len(labels))
    quotas = [size * count / sum(sizes) for size in sizes]

    def distance(counts):
        return sum((n - quota) ** 2 / size for n, quota, size in zip(counts, quotas, sizes, strict=True))

    counts = labels[order[:count]].bincount(minlength=len(sizes)).tolist()
    for less in range(len(sizes)):
        for more in range(len(sizes)):
            swapped = [n - (i == less) + (i == more) for i, n in enumerate(counts)]
            assert distance(counts) <= distance(swapped) + 1e-9


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8), fraction=st.floats(0.01, 0.5), seed=st.integers(0, 9)
)
def test_a_hold_out_leaves_every_class_of_two_a_training_image(sizes, fraction, seed):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    order = drawn(labels, torch.arange(len(labels)), labels.bincount(), seed)
    left = labels[order[round(fraction * len(labels)) :]].bincount(minlength=len(sizes))
    assert all(left[label] >= 1 for label, size in enumerate(sizes) if size > 1)


def test_a_rare_class_is_held_out_and_calibrates_in_proportion(in_tmp):
    labels = np.array([0] * 360 + [1] * 40)
    images = np.random.default_rng(0).integers(0, 255, (400, 8, 8, 3), np.uint8)
    data_stage.prepare("set", npz(train_images=images, train_labels=labels), DATA)
    rare = load_dataset("set")
    assert rare.train_labels[rare.holdout].bincount().tolist() == [36, 4]
    assert rare.train_labels[calibration_images(rare, 100)].bincount().tolist() == [90, 10]


def shades(count):
    return np.random.default_rng(1).integers(0, 255, (count, 8, 8, 3), np.uint8)


def test_a_hold_out_of_no_image_is_refused(in_tmp):
    tiny = DATA.model_copy(update={"holdout_fraction": 1e-5})
    assert refusal(lambda: data_stage.prepare("set", npz(), tiny)) == (
        "data.holdout_fraction 1e-05 of the 40 training images of set is less than one image: set it to at least 0.03"
    )


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_to_train_on_are_refused(count, in_tmp):
    source = npz(train_images=shades(count), train_labels=np.arange(count), test_labels=np.zeros(10, int))
    half = DATA.model_copy(update={"holdout_fraction": 0.5})
    assert f"1 of {count} training images are outside the hold-out" in refusal(
        lambda: data_stage.prepare("set", source, half)
    )


def test_a_constant_channel_is_said_and_not_scaled(in_tmp, capsys):
    images = shades(40)
    images[..., 2] = 7
    data_stage.prepare("set", npz(train_images=images), DATA)
    assert "channel 2 has the same value in all training images" in capsys.readouterr().err
    flat = load_dataset("set")
    assert flat.std[2] == 1
    assert flat.normalise(flat.test_images).isfinite().all()
    assert flat.normalise(flat.train_images)[:, 2].abs().max() < 1e-6


def test_images_of_one_colour_are_refused(in_tmp):
    source = npz(train_images=np.full((40, 8, 8, 3), 9, np.uint8))
    assert "have the same colour" in refusal(lambda: data_stage.prepare("set", source, DATA))


@pytest.mark.parametrize("told", ["", "{", "[]", "{}", '{"sha256": "0", "classes": 3}', "\xff"])
def test_damaged_facts_of_a_dataset_are_refused(told, digits):
    paths.dataset_file("digits").with_suffix(".json").write_bytes(told.encode("latin-1"))
    assert refusal(lambda: load_dataset("digits")).endswith(
        "dataset.json is not what prepare wrote: run `dvc repro -f prepare@digits`"
    )


@pytest.mark.parametrize("gone", ["json", "safetensors"])
def test_a_missing_file_of_a_dataset_is_named(gone, digits):
    paths.dataset_file("digits").with_suffix(f".{gone}").unlink()
    assert f"dataset.{gone} does not exist: run `dvc repro prepare@digits`" in refusal(lambda: load_dataset("digits"))


def test_a_prepared_file_without_its_tensors_is_refused(digits):
    path = paths.dataset_file("digits")
    path.unlink()  # tensors read from it are mapped, not copied
    path.write_bytes(b"no tensors")
    facts = {"sha256": hashlib.sha256(b"no tensors").hexdigest(), "classes": ["a"]}
    path.with_suffix(".json").write_text(json.dumps(facts))
    assert "is not what prepare writes" in refusal(lambda: load_dataset("digits"))


def npz(**changed):
    rng = np.random.default_rng(0)
    arrays = {
        "train_images": rng.integers(0, 255, (40, 8, 8, 3), np.uint8),
        "train_labels": np.arange(40) % 2,
        "test_images": rng.integers(0, 255, (10, 8, 8, 3), np.uint8),
        "test_labels": np.arange(10) % 2,
    }
    np.savez("set.npz", **{**arrays, **changed})
    return config.DatasetSource(source="npz", path="set.npz")


def test_an_npz_is_read(in_tmp):
    data_stage.prepare("set", npz(), DATA)
    assert load_dataset("set").image_shape == (3, 8, 8)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"test_labels": np.arange(10) % 3}, "labels reach from 0 to 2, there are 2 classes"),
        ({"train_labels": np.arange(39) % 2}, "40 training images, 39 labels"),
        ({"train_labels": np.full(40, 0.5)}, "train_labels is float64"),
        ({"train_labels": np.zeros((40, 2), int)}, "give whole numbers"),
        ({"train_images": np.zeros((40, 8, 8, 3))}, "give uint8"),
        ({"test_images": np.zeros((10, 9, 9, 3), np.uint8)}, "make them one size"),
        ({"train_images": np.zeros((40, 0, 8, 3), np.uint8)}, "give uint8"),
        ({"train_labels": np.array(1)}, r"train_labels is int64 \(\): give whole numbers"),
        ({"test_labels": np.array(1)}, r"test_labels is int64 \(\): give whole numbers"),
        ({"classes": np.array("cat")}, r"classes is <U3 \(\): give one name a class"),
        ({"classes": np.array([["cat", "dog"]])}, "give one name a class"),
        ({"classes": np.array([0.5, 1.5])}, "classes is float64"),
        ({"train_labels": np.arange(40) * 10**9}, "reach from 0 to 39000000000: number the classes from 0"),
        (
            {"train_labels": np.full(40, 2**64 - 1, np.uint64)},
            "reach from 18446744073709551615 to 18446744073709551615",
        ),
        ({"train_labels": np.arange(40) - 1}, "reach from -1 to 38"),
    ],
)
def test_an_npz_that_does_not_fit_is_refused(changed, message, in_tmp):
    with pytest.raises(UserError, match=message):
        data_stage.prepare("set", npz(**changed), DATA)


def test_a_file_that_is_no_npz_is_refused(in_tmp):
    (in_tmp / "set.npz").write_bytes(b"PK\x03\x04 junk")
    with pytest.raises(UserError, match=r"is not an \.npz"):
        data_stage.prepare("set", config.DatasetSource(source="npz", path="set.npz"), DATA)


def test_class_names_of_an_npz_are_read(in_tmp):
    data_stage.prepare("set", npz(classes=np.array(["cat", "dog", "none"])), DATA)
    assert load_dataset("set").classes == ["cat", "dog", "none"]


def lone_array(file):
    np.save(file, np.arange(9))
    file.with_suffix(".npz.npy").rename(file)


def foreign_member(file):
    np.savez(file, train_labels=np.arange(4), test_labels=np.arange(4), test_images=np.zeros((4, 8, 8, 3), np.uint8))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("train_images", "no array")


def promised_27_tib(file):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**10, 32, 32, 3)})
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("train_images.npy", header.getvalue())


@pytest.mark.parametrize("write", [lone_array, foreign_member, promised_27_tib, lambda file: file.mkdir()])
def test_a_file_that_holds_no_arrays_is_refused(write, in_tmp):
    write(in_tmp / "set.npz")
    said = refusal(lambda: data_stage.prepare("set", config.DatasetSource(source="npz", path="set.npz"), DATA))
    assert said.startswith("set.npz is not ")
    assert "context manager" not in said


def test_missing_cifar_says_where_to_put_it(in_tmp, monkeypatch):
    from torchvision import datasets

    def offline(self):
        raise OSError("no network")

    monkeypatch.setattr(datasets.CIFAR10, "download", offline)
    monkeypatch.delenv("DATA_ROOT", raising=False)
    with pytest.raises(UserError, match=r"data/raw holds no complete cifar-10-batches-py, .* put the official"):
        data_stage.prepare("cifar10", config.DatasetSource(source="cifar10", path="data/none"), DATA)


def test_the_facts_beside_the_file_name_its_digest(digits):
    facts = json.loads(paths.dataset_file("digits").with_suffix(".json").read_text())
    assert facts["sha256"] == digits.sha256
    assert facts["train_images"] == len(digits.train_labels)
