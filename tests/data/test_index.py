"""Datasets with an index: a table of images, classes and, if it says so, splits; refusals name rows."""

import pandas as pd
import pytest

from photographs import refusal, write_image
from trimlab import config
from trimlab.data import stage as data_stage
from trimlab.data.dataset import load_dataset

DATA = config.Data(split="test", holdout_fraction=0.1, seed=0)


def photos():
    data_stage.prepare("photos", config.DatasetSource(source="index", path="photos"), DATA)
    return load_dataset("photos")


def rows(root, count=40):
    """Write images, and return the rows of an index: every fifth image is for testing."""
    found = []
    for index in range(count):
        write_image(root / f"photos/images/{index:02}.png", shade=index)
        split = "train" if index % 5 else "test"
        found.append({"path": f"images/{index:02}.png", "label": "cat" if index % 3 else "dog", "split": split})
    return found


def write(root, table, suffix="csv"):
    frame = pd.DataFrame(table)
    if suffix == "csv":
        frame.to_csv(root / "photos/index.csv", index=False)
    else:
        frame.to_parquet(root / "photos/index.parquet")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_an_index_is_read_in_its_order(suffix, in_tmp):
    table = rows(in_tmp)
    write(in_tmp, table, suffix)
    found = photos()
    assert found.classes == ["cat", "dog"]
    assert found.train_images[:, 0, 0, 0].tolist() == [index for index in range(40) if index % 5]
    assert found.train_labels.tolist() == [int(index % 3 == 0) for index in range(40) if index % 5]
    assert found.test_images[:, 0, 0, 0].tolist() == list(range(0, 40, 5))


def test_csv_and_parquet_give_the_same_file(in_tmp):
    digests = []
    for suffix in ("csv", "parquet"):
        write(in_tmp, rows(in_tmp), suffix)
        digests.append(photos().sha256)
        (in_tmp / f"photos/index.{suffix}").unlink()
    assert digests[0] == digests[1]


def test_without_splits_a_test_set_is_drawn(in_tmp, capsys):
    write(in_tmp, [{"path": row["path"], "label": row["label"]} for row in rows(in_tmp)])
    assert photos().test_labels.bincount().tolist() == [5, 3]
    assert "32 training and 8 test images (drawn with test_fraction 0.2, seed 0)" in capsys.readouterr().err


def test_numbers_are_labels_and_other_columns_are_left_alone(in_tmp):
    table = [row | {"label": 7 if row["label"] == "cat" else 12, "width": 0.5} for row in rows(in_tmp)]
    for suffix in ("csv", "parquet"):
        write(in_tmp, table, suffix)
        assert photos().classes == ["12", "7"]
        (in_tmp / f"photos/index.{suffix}").unlink()


def test_a_class_may_have_the_name_of_a_missing_value(in_tmp):
    write(in_tmp, [row | {"label": "NA" if row["label"] == "cat" else "null"} for row in rows(in_tmp)])
    assert photos().classes == ["NA", "null"]


def test_spaces_around_values_and_a_byte_order_mark_are_no_part_of_names(in_tmp):
    lines = [f"{row['path']}, {row['label']} , {row['split']}" for row in rows(in_tmp)]
    (in_tmp / "photos/index.csv").write_text("\n".join(["path, label, split", *lines]), encoding="utf-8-sig")
    assert photos().classes == ["cat", "dog"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "images/99.png"}, "row 3: path 'images/99.png' is no file in photos: put the image there, or remove"),
        ({"path": "images"}, "row 3: path 'images' is no file in photos"),
        ({"path": None}, "row 3: path is empty: name an image, or remove the row"),
        ({"path": "images/00.png"}, "row 3: path 'images/00.png' is that of row 1 too: remove one of them"),
        ({"path": "images/./00.png"}, "row 3: path 'images/./00.png' is that of row 1 too: remove one of them"),
        ({"path": "../photos/images/02.png"}, "is not within photos, which DVC tracks: copy the image there"),
        ({"path": "/etc/hostname"}, "row 3: path '/etc/hostname' is not within photos, which DVC tracks"),
        ({"label": None}, "row 3: label of 'images/02.png' is empty: name a class, or remove the row"),
        ({"split": "val"}, "row 3: split 'val' is unknown: use train or test"),
        ({"split": None}, "row 3: split '' is unknown: use train or test"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row, message, suffix, in_tmp):
    table = rows(in_tmp)
    table[2] |= row
    write(in_tmp, table, suffix)
    said = refusal(photos)
    assert said.startswith(f"photos/index.{suffix}: row 3: ")
    assert message in said


def test_of_many_rows_that_do_not_fit_some_are_named_and_the_rest_counted(in_tmp):
    write(in_tmp, [row | {"path": f"missing/{row['path']}"} for row in rows(in_tmp)])
    lines = refusal(photos, lines=11).splitlines()
    assert lines[0].startswith("photos/index.csv: row 1: path 'missing/images/00.png' is no file in photos")
    assert lines[10] == "photos/index.csv: 30 more rows have such problems"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,class\na.png,cat\n", "photos/index.csv has no column label (its columns: 'path, class'): add it"),
        ("path;label\na.png;cat\n", "photos/index.csv has no column path (its columns: 'path;label'): add it"),
        ("", "photos/index.csv cannot be read as a table (No columns to parse from file): write it anew"),
        ("path,label\n", "photos/index.csv names no images: add rows"),
        ("path,label\na,b,c\nd\ne,f,g,h\n", "photos/index.csv cannot be read as a table"),
    ],
)
def test_a_table_that_is_no_index_is_refused(text, message, in_tmp):
    (in_tmp / "photos").mkdir()
    (in_tmp / "photos/index.csv").write_text(text)
    assert refusal(photos).startswith(message)


def test_a_damaged_parquet_file_is_refused(in_tmp):
    (in_tmp / "photos").mkdir()
    (in_tmp / "photos/index.parquet").write_bytes(b"PAR1 no table")
    assert "photos/index.parquet cannot be read as a table" in refusal(photos)


def test_no_index_and_two_are_refused(in_tmp):
    table = rows(in_tmp)
    assert "photos holds none of index.csv and index.parquet: put one of them there" in refusal(photos)
    write(in_tmp, table, "csv")
    write(in_tmp, table, "parquet")
    assert "photos holds 2 of index.csv and index.parquet: put one of them there" in refusal(photos)


def test_a_class_without_training_images_is_refused(in_tmp):
    table = rows(in_tmp)
    table[5] |= {"label": "zebra"}
    write(in_tmp, table)
    assert "photos: class zebra has 0 training and 1 test images, and needs at least one of each" in refusal(photos)
