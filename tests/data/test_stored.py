"""Images in a file: those that are asked for are read, and no others."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trimlab import config
from trimlab.data import stage as data_stage
from trimlab.data.dataset import load_dataset
from trimlab.data.stored import StoredImages


@pytest.fixture
def digits(in_tmp):
    source = config.DatasetSource(source="digits", path="data/none")
    data_stage.prepare("digits", source, config.Data(split="test", holdout_fraction=0.1, seed=0))
    return load_dataset("digits")


def test_images_that_exceed_memory_stay_in_the_file(digits):
    stored = load_dataset("digits", memory_bytes=0)
    assert torch.equal(stored.train_labels, digits.train_labels)
    assert stored.image_shape == digits.image_shape
    chosen = torch.tensor([7, 3, 3, 1200])
    for split in ("test", "holdout"):
        whole, read = digits.scored(split), stored.scored(split)
        assert not isinstance(read.images, torch.Tensor)
        assert torch.equal(torch.cat(list(read.chunks(50))), torch.cat(list(whole.chunks(50))))
    assert torch.equal(stored.train_images[chosen], digits.train_images[chosen])


def test_a_file_that_ends_early_is_no_image(digits):
    stored = load_dataset("digits", memory_bytes=0).test_images
    os.truncate(stored.file, stored.offset + 5)
    with pytest.raises(OSError, match="ends before image 0"):
        stored[torch.tensor([0])]


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system doesn't say what is resident")
def test_a_prepared_file_takes_memory_only_where_it_is_read(in_tmp):
    """safetensors maps it; a file of holes takes no disk either."""
    count = 10_000
    header = json.dumps(
        {"train_images": {"dtype": "U8", "shape": [count, 3, 64, 64], "data_offsets": [0, 12288 * count]}}
    )
    with Path("large.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + 12288 * count)
    before = resident_bytes()
    mapped = load_file("large.safetensors")["train_images"]
    stored = StoredImages.named(Path("large.safetensors"), "train_images")
    for chosen in torch.split(torch.randperm(count), 100):
        stored[chosen]
    assert resident_bytes() - before < 30e6
    mapped[:5000].sum()
    assert resident_bytes() - before > 50e6
