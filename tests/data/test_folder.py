"""Datasets in folders: layouts, sizes, classes, what is left out; refusals in one line."""

import os
import struct

import numpy as np
import pytest
import torch
from PIL import Image

from photographs import png, refusal, write_folder, write_image, write_mixed
from trimlab import config, paths
from trimlab.data import stage as data_stage
from trimlab.data.dataset import load_dataset

DATA = config.Data(split="test", holdout_fraction=0.1, seed=0)


def pets(**options):
    source = config.DatasetSource(source="folder", path="pets", **options)
    data_stage.prepare("pets", source, DATA)
    return load_dataset("pets")


def test_a_folder_of_images_is_read(in_tmp):
    write_folder(in_tmp / "pets")
    found = pets()
    assert found.classes == ["cat", "dog"]
    assert found.train_images.shape == (60, 3, 8, 8)
    assert found.test_labels.tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize("resize", ["shorter-side", "stretch", "pad"])
def test_photographs_of_mixed_sizes_and_formats_become_one_size(resize, in_tmp):
    write_mixed(in_tmp / "pets")
    found = pets(image_size=16, resize=resize)
    assert found.image_shape == (3, 16, 16)
    assert found.classes == ["cat", "dog", "fox"]


def test_a_drawn_test_set_has_a_share_of_each_class_and_is_said_in_a_line(in_tmp, capsys):
    write_mixed(in_tmp / "pets", {"cat": 30, "dog": 10, "fox": 2})
    found = pets(image_size=16)
    assert found.test_labels.bincount().tolist() == [6, 2, 1]
    assert found.train_labels.bincount().tolist() == [24, 8, 1]
    said = "pets: 33 training and 9 test images (drawn with test_fraction 0.2, seed 0) of 3 classes\n"
    assert said in capsys.readouterr().err
    assert pets(image_size=16, test_fraction=0.5).test_labels.bincount().tolist() == [15, 5, 1]


def test_a_test_fraction_without_effect_is_said(in_tmp, capsys):
    write_folder(in_tmp / "pets")
    pets(test_fraction=0.3)
    assert "12 test images (as given: test_fraction is not used) of 2 classes" in capsys.readouterr().err


def test_drawn_test_images_are_no_training_images(in_tmp):
    for index in range(60):
        write_image(in_tmp / f"pets/{'cat' if index % 3 else 'dog'}/{index:02}.png", shade=index)
    found = pets()
    shades = torch.cat([found.train_images, found.test_images])[:, 0, 0, 0]
    assert sorted(shades.tolist()) == list(range(60))
    assert pets().test_images.equal(found.test_images)


def test_a_class_of_one_image_is_refused_where_the_test_set_is_drawn(in_tmp):
    write_mixed(in_tmp / "pets", {"cat": 9, "dog": 1, "fox": 1})
    assert refusal(lambda: pets(image_size=16)) == (
        "pets: class dog has one image, so none is left for the test set: add images, or remove the class "
        "(and 1 more such class)"
    )


def test_a_class_in_one_part_alone_is_refused(in_tmp):
    write_folder(in_tmp / "pets")
    write_image(in_tmp / "pets/test/zebra/1.png")
    assert "pets: class zebra has 0 training and 1 test images, and needs at least one of each" in refusal(pets)


def test_an_empty_class_folder_is_refused(in_tmp):
    write_mixed(in_tmp / "pets")
    (in_tmp / "pets/lynx/more").mkdir(parents=True)
    assert "pets/lynx holds no images: add images, or remove the folder" in refusal(lambda: pets(image_size=16))


@pytest.mark.parametrize(("part", "other"), [("train", "test"), ("test", "train")])
def test_one_part_alone_is_refused_and_not_taken_for_a_class(part, other, in_tmp):
    write_folder(in_tmp / "pets")
    (in_tmp / "pets" / other).rename(in_tmp / "elsewhere")
    assert f"pets holds {part} and no {other}: lay images out as pets/train/CLASS" in refusal(pets)


def test_a_class_may_be_called_train(in_tmp):
    for label in ("bus", "train"):
        for index in range(9):
            write_image(in_tmp / f"pets/{label}/{index}.jpg", shade=index)
    assert pets().classes == ["bus", "train"]


@pytest.mark.parametrize("path", ["nowhere", "empty", "flat"])
def test_a_folder_without_class_folders_is_refused(path, in_tmp):
    (in_tmp / "empty").mkdir()
    write_image(in_tmp / "flat/1.png")
    source = config.DatasetSource(source="folder", path=path)
    said = refusal(lambda: data_stage.prepare("pets", source, DATA))
    assert "class folder" in said
    assert f"lay images out as {path}/train/CLASS and {path}/test/CLASS, or as {path}/CLASS" in said


def test_images_of_two_sizes_are_refused_with_the_remedy(in_tmp):
    write_folder(in_tmp / "pets")
    write_image(in_tmp / "pets/train/cat/odd.png", (12, 9))
    assert refusal(pets) == (
        "pets/train/cat/odd.png is 12×9 pixels (width × height), pets/train/cat/00.png 8×8: give the dataset an "
        "image_size to resize them to, or make them one size"
    )


def test_other_files_are_counted_and_said_in_one_line(in_tmp, capsys):
    write_folder(in_tmp / "pets")
    before = pets().sha256
    for name in ("train/cat/notes.txt", "test/dog/more/1.heic", "train/README", "LICENSE", "val/cat/1.png"):
        (in_tmp / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        (in_tmp / "pets" / name).write_text("no image")
    capsys.readouterr()
    assert pets().sha256 == before
    lines = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert lines[0].startswith("pets/train/README is left out (and 4 more such entries): images lie in class folders")


def test_an_image_outside_the_class_folders_is_refused(in_tmp):
    write_folder(in_tmp / "pets")
    write_image(in_tmp / "pets/train/cat.png")
    assert "pets/train/cat.png is in no class folder" in refusal(pets)


def test_what_desktops_leave_behind_is_no_image_and_no_class(in_tmp, capsys):
    write_folder(in_tmp / "pets")
    before = pets().sha256
    for name in (".DS_Store", "train/.DS_Store", "train/cat/.DS_Store", "train/cat/Thumbs.db", "test/dog/desktop.ini"):
        (in_tmp / "pets" / name).write_bytes(b"\0")
    for part in ("train", "test"):
        (in_tmp / "pets" / part / ".cache").mkdir()
        (in_tmp / "pets" / part / ".cache/1.png").write_bytes(b"\0")
    assert pets().sha256 == before
    assert "left out" not in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_and_not_waited_for(in_tmp):
    write_folder(in_tmp / "pets")
    os.mkfifo(in_tmp / "pets/train/cat/a.png")
    assert "a.png is not a regular file" in refusal(pets)


def test_a_link_that_leads_back_is_refused(in_tmp):
    write_folder(in_tmp / "pets")
    (in_tmp / "pets/train/cat/again").symlink_to(in_tmp / "pets/train", target_is_directory=True)
    assert "pets/train/cat/again links to a folder that it lies in" in refusal(pets)


def test_linked_images_and_folders_are_read(in_tmp):
    write_folder(in_tmp / "pets")
    (in_tmp / "pets/train/cat").rename(in_tmp / "cats")
    (in_tmp / "pets/train/cat").symlink_to(in_tmp / "cats", target_is_directory=True)
    assert len(pets().train_labels) == 60


def damage(folder, count):
    for index in range(count):
        (folder / f"bad{index:02}.jpg").write_bytes(b"no image")


def test_all_damaged_images_are_named_at_once_and_the_old_file_stays(in_tmp):
    write_folder(in_tmp / "pets")
    before = pets().sha256
    damage(in_tmp / "pets/train/cat", 3)
    lines = refusal(pets, lines=3).splitlines()
    assert lines[2] == "pets/train/cat/bad02.jpg is not a readable image: replace or remove it"
    assert load_dataset("pets").sha256 == before
    assert sorted(file.name for file in (in_tmp / "prepare/pets").iterdir()) == ["dataset.json", "dataset.safetensors"]


def test_many_damaged_images_are_listed_in_a_file(in_tmp):
    write_folder(in_tmp / "pets")
    damage(in_tmp / "pets/train/cat", 40)
    lines = refusal(pets, lines=11).splitlines()
    listed = paths.damaged_images("pets")
    assert lines[10] == f"30 more images cannot be read: {listed} lists them all"
    assert len(listed.read_text().splitlines()) == 40


def test_a_folder_of_damaged_images_is_refused(in_tmp):
    for label in ("cat", "dog"):
        for index in range(9):
            write_image(in_tmp / f"pets/{label}/{index}.png")
            (in_tmp / f"pets/{label}/{index}.png").write_bytes(b"")
    assert refusal(pets).endswith("0.png is empty: replace or remove it (and 13 more such files)")


def test_a_decompression_bomb_is_refused(in_tmp):
    write_folder(in_tmp / "pets")
    (in_tmp / "pets/train/cat/huge.png").write_bytes(png(struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0), b""))
    assert "huge.png has more than 89478485 pixels: make it smaller" in refusal(pets)


def test_of_several_frames_the_first_is_taken_and_said(in_tmp, capsys):
    write_folder(in_tmp / "pets")
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (50, 200, 90)]
    frames[0].save(in_tmp / "pets/train/cat/zz.gif", save_all=True, append_images=frames[1:])
    assert pets().train_images[30, 0].unique().tolist() == [50]
    assert "of several frames or pages, the first is taken: pets/train/cat/zz.gif\n" in capsys.readouterr().err


def test_resized_images_give_the_same_file_in_any_number_of_threads(in_tmp, monkeypatch):
    write_mixed(in_tmp / "pets", {"cat": 40, "dog": 40})
    digests = []
    for threads in (1, 5):
        monkeypatch.setattr("trimlab.data.packed.cores", lambda threads=threads: threads)
        digests.append(pets(image_size=24).sha256)
    assert digests[0] == digests[1]


def test_images_of_a_folder_are_those_of_their_files(in_tmp):
    rng, written = np.random.default_rng(0), []
    for label in ("cat", "dog"):
        for part, count in (("train", 50), ("test", 3)):
            (in_tmp / "pets" / part / label).mkdir(parents=True)
            for index in range(count):
                written.append((part, rng.integers(0, 256, (9, 7, 3), np.uint8)))
                Image.fromarray(written[-1][1]).save(in_tmp / f"pets/{part}/{label}/{index:02}.png")
    found = pets()
    for part, images in (("train", found.train_images), ("test", found.test_images)):
        expected = np.stack([image for where, image in written if where == part]).transpose(0, 3, 1, 2)
        assert (images.numpy() == expected).all()
