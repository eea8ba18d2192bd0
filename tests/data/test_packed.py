"""The file that prepare writes: the bytes of safetensors, exact statistics, whole or not there."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from photographs import refusal, write_folder
from trimlab import config, paths
from trimlab.data import packed
from trimlab.data import stage as data_stage
from trimlab.data.dataset import load_dataset

DATA = config.Data(split="test", holdout_fraction=0.1, seed=0)


def source(kind, **options):
    return config.DatasetSource(source=kind, path="data/none" if kind == "digits" else "pets", **options)


@given(count=st.integers(1, 9), size=st.integers(1, 5), name=st.text(max_size=9), seed=st.integers(0, 99))
def test_a_file_has_the_bytes_that_safetensors_writes(count, size, name, seed, tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("packed"), np.random.default_rng(seed)
    arrays = {
        "images": rng.integers(0, 256, (count, 3, size, size), np.uint8),
        "labels": rng.integers(0, 9, count),
        "first": rng.integers(0, 9, 2),
        "mean": rng.random(3, np.float32),
    }
    metadata = {"classes": json.dumps([name])}
    save_file({key: torch.from_numpy(array) for key, array in arrays.items()}, folder / "expected", metadata)
    with packed.replacing(folder / "found.safetensors") as file:
        shapes = {key: (array.dtype.name, array.shape) for key, array in arrays.items()}
        tensors = packed.Tensors(file, shapes, metadata)
        for key, array in arrays.items():
            tensors.write(key, np.array_split(array, 2))
    written = (folder / "found.safetensors").read_bytes()
    assert written == (folder / "expected").read_bytes()
    assert len(written) == tensors.size_bytes


@given(seed=st.integers(0, 99), count=st.integers(2, 20), top=st.integers(2, 256))
def test_statistics_are_those_of_the_pixels(seed, count, top):
    images = np.random.default_rng(seed).integers(0, top, (count, 3, 5, 4), np.uint8)
    images[:, 1] = 255
    sums = sum((packed.Sums.over(images[at : at + 3]) for at in range(3, count, 3)), packed.Sums.over(images[:3]))
    pixels = torch.from_numpy(images).double() / 255
    assert torch.from_numpy(sums.mean()).equal(pixels.mean((0, 2, 3)).float())
    assert sums.std()[1] == 1
    assert torch.from_numpy(sums.std())[[0, 2]].equal(pixels.std((0, 2, 3)).float()[[0, 2]])
    assert sums.constant() == [1]


def test_results_come_in_order_and_only_a_few_ahead():
    started, most = [], 2 * min(packed.cores(), packed.MOST_THREADS) + 1
    for expected, found in enumerate(packed._in_order(lambda item: started.append(item) or item, range(200))):
        assert found == expected
        assert len(started) <= found + 1 + most


def test_what_is_interrupted_leaves_the_old_file_and_nothing_else(in_tmp, monkeypatch):
    write_folder(in_tmp / "pets")
    data_stage.prepare("pets", source("folder"), DATA)
    before = load_dataset("pets").sha256

    def interrupted(file, shapes, metadata):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(data_stage, "Tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        data_stage.prepare("pets", source("folder"), DATA)
    assert load_dataset("pets").sha256 == before
    assert sorted(file.name for file in (in_tmp / "prepare/pets").iterdir()) == ["dataset.json", "dataset.safetensors"]


def test_a_full_disk_is_refused_before_images_are_read(in_tmp, monkeypatch):
    write_folder(in_tmp / "pets")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: type("Usage", (), {"free": 10**6}))
    said = refusal(lambda: data_stage.prepare("pets", source("folder", image_size=512), DATA))
    assert said == "prepare/pets needs 0.1 GB, the disk has 0.0 GB free: make room"
    assert not paths.dataset_file("pets").exists()


def test_built_in_images_are_resized(in_tmp):
    data_stage.prepare("digits", source("digits", image_size=48), DATA)
    assert load_dataset("digits").test_images.shape == (359, 3, 48, 48)


def test_images_of_two_sizes_in_an_npz_are_resized(in_tmp):
    rng = np.random.default_rng(0)
    np.savez(
        "pets",
        train_images=rng.integers(0, 255, (40, 8, 12, 3), np.uint8),
        train_labels=np.arange(40) % 2,
        test_images=rng.integers(0, 255, (10, 9, 9, 3), np.uint8),
        test_labels=np.arange(10) % 2,
    )
    npz = config.DatasetSource(source="npz", path="pets.npz", image_size=16)
    data_stage.prepare("pets", npz, DATA)
    assert load_dataset("pets").image_shape == (3, 16, 16)
