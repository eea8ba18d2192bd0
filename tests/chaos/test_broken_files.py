"""Files that are damaged anywhere, and hostile archives: read as they are, or refused in a line; nothing is left."""

import csv
import io
import json
import os
import pickle
import shutil
import stat
import tarfile
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import factories
from trimlab import config, paths, records
from trimlab.data import stage as data_stage
from trimlab.data.dataset import load_dataset
from trimlab.errors import UserError
from trimlab.models import checkpoint, registry
from trimlab.models.architecture import Architecture
from trimlab.records import imports

STUDY = factories.study()
DATA = config.Data(split="test", holdout_fraction=0.1, seed=0)
SMALL = np.random.default_rng(0).integers(0, 255, (16, 8, 8, 3), np.uint8)
LABELS = np.arange(16) % 2


@cache
def model():
    return registry.build("resnet20", 10)


def a_record(folder):
    return factories.write(factories.training(STUDY, "large"), folder / "training.json")


def read_record(file):
    imports.import_records([file])


def predicted_labels(folder):
    factories.write(factories.pruning(STUDY, "large"), folder / "pruning.json")
    return factories.write(factories.measurement(STUDY, "large", "int8"), folder / "m.json").with_suffix(".npy")


def import_folder(file):
    imports.import_records([file.parent])


def an_archive(folder):
    made = a_record(folder)
    with tarfile.open(folder / "records.tar.gz", "w:gz") as packed:
        packed.add(made, "training.json")
    made.unlink()
    return folder / "records.tar.gz"


def an_outcome(folder):
    records.write_outcome(factories.training(STUDY, "large"), folder / "seed0.json")
    return folder / "seed0.json"


def users_weights(folder):
    torch.save(model().state_dict(), folder / "given.pt")
    return folder / "given.pt"


def stage_weights(folder):
    checkpoint.save(model(), folder / "seed0.safetensors", {"model": "resnet20", "num_classes": "10"})
    return folder / "seed0.safetensors"


def rebuild(file):
    checkpoint.rebuild(Architecture("resnet20", 10), checkpoint.read_weights(file).tensors)


def an_npz(folder):
    arrays = {f"{part}_{kind}": a for part in ("train", "test") for kind, a in (("images", SMALL), ("labels", LABELS))}
    np.savez(folder / "set.npz", **arrays)
    return folder / "set.npz"


def prepare(source, path):
    data_stage.prepare("set", config.DatasetSource(source=source, path=str(path)), DATA)


def an_image(folder):
    for part in ("train", "test"):
        for number, pixels in enumerate(SMALL):
            file = folder / "images" / part / "ab"[number % 2] / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
    return folder / "images/train/a/0.png"


def an_index(folder):
    an_image(folder)
    with (folder / "images/index.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "split"])
        found = sorted((folder / "images").rglob("*.png"))
        rows.writerows([path.relative_to(folder / "images"), path.parent.name, path.parts[-3]] for path in found)
    return folder / "images/index.csv"


def a_prepared_dataset(folder):
    prepare("npz", an_npz(folder))
    return paths.dataset_file("set")


KINDS = {
    "record": (a_record, read_record),
    "predicted labels": (predicted_labels, import_folder),
    "archive": (an_archive, read_record),
    "outcome": (an_outcome, records.read_outcome),
    "a user's weights": (users_weights, rebuild),
    "a stage's weights": (stage_weights, checkpoint.load),
    "npz": (an_npz, lambda file: prepare("npz", file)),
    "image": (an_image, lambda file: prepare("folder", file.parents[2])),
    "index": (an_index, lambda file: prepare("index", file.parent)),
    "prepared dataset": (a_prepared_dataset, lambda file: load_dataset("set")),
}
"""What is read: how a good one is made, and what reads it."""
OUTPUTS = ("records", "prepare", ".dvc")
"""Where a reader may write."""


@cache
def good(kind, where):
    """The files of a good example, in a folder of their own."""
    folder = Path(where) / kind.replace(" ", "-")
    folder.mkdir()
    made = KINDS[kind][0](folder)
    if made.parts[0] == "prepare":  # below the working directory
        shutil.move("prepare", folder / "prepare")
        made = folder / made
    return folder, made.relative_to(folder)


AT = st.floats(0, 1, exclude_max=True)
DAMAGE = st.one_of(
    st.tuples(st.just("cut"), AT),
    st.tuples(st.just("flip"), AT, st.integers(1, 255)),
    st.tuples(st.just("overwrite"), AT, st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("insert"), AT, st.binary(min_size=1, max_size=64)),
    st.tuples(st.just("remove"), AT, st.integers(1, 4096)),
    st.tuples(
        st.just("replace"), st.sampled_from([b"", b"\0" * 999, b"[]", b"{}", b"\x80\x04N.", b"PK\x03\x04", b"\xff"])
    ),
    st.tuples(st.just("be"), st.sampled_from(["folder", "pipe", "dangling link", "itself"])),
)


def damage(path, how, *details):
    content = path.read_bytes()
    at = int(details[0] * len(content)) if isinstance(details[0], float) else 0
    match how:
        case "cut":
            path.write_bytes(content[:at])
        case "flip":
            path.write_bytes(content[:at] + bytes([content[at] ^ details[1]]) + content[at + 1 :])
        case "overwrite":
            path.write_bytes(content[:at] + details[1] + content[at + len(details[1]) :])
        case "insert":
            path.write_bytes(content[:at] + details[1] + content[at:])
        case "remove":
            path.write_bytes(content[:at] + content[at + details[1] :])
        case "replace":
            path.write_bytes(details[0])
        case "be":
            path.unlink()
            be = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "dangling link": lambda: path.symlink_to("no")}
            be.get(details[0], lambda: path.symlink_to(path.name))()


def tree():
    """What lies where a reader may write, and its content."""
    files = [path for name in OUTPUTS for path in Path(name).rglob("*")]
    return {str(path): path.read_bytes() for path in files if stat.S_ISREG(path.lstat().st_mode)}


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@example(how=("be", "pipe"))
@example(how=("be", "folder"))
@given(how=DAMAGE)
def test_a_file_that_is_damaged_anywhere_is_read_or_refused_in_a_line_and_leaves_nothing(kind, how, in_tmp, examples):
    for name in (*OUTPUTS, "given"):
        shutil.rmtree(name, ignore_errors=True)
    paths.PARAMS.write_text(json.dumps(STUDY.model_dump()))
    folder, name = good(kind, examples)
    shutil.copytree(folder, "given")
    made = Path("given") / name
    if name.parts[0] == "prepare":
        shutil.move("given/prepare", "prepare")
        made = name
    before = None if made.is_relative_to("prepare") else tree()
    damage(made, *how)
    try:
        KINDS[kind][1](made)
    except UserError as error:
        for line in str(error).splitlines():
            assert line.isprintable() and len(line) < 500, line
            assert ": " in line or " (" in line, line
        assert before is None or {name for name in tree() if ".dvc" not in name} == set(before)


NAMES = [
    "a.json",
    "b/a.json",
    "../a.json",
    "/tmp/trimlab-escaped.json",
    "link/a.json",
    "b/../../a.json",
    "a" * 300,
    ".",
    "",
]
NAMES += ["a\nb.json", "ä.json", "\udcff.json", "a.json/", "index.json", "a.npy", "C:\\a.json", "b"]
TYPES = [tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
TYPES += [tarfile.BLKTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE]
TARGETS = ["", "../outside", "/etc/passwd", "a.json", "b", ".", "nowhere", "link"]


class Code:
    def __reduce__(self):
        return os.system, ("touch escaped",)


RECORD = json.dumps(factories.training(STUDY, "large").model_dump()).encode()
CONTENTS = [
    RECORD,
    b"",
    b"[]",
    RECORD[:200],
    pickle.dumps(Code()),
    RECORD.replace(b'"synthetic"', b'"../../up"'),
    b"\0" * 9,
]
MEMBER = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(TYPES), st.sampled_from(TARGETS), st.sampled_from(CONTENTS), st.booleans()
)


def packed(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, target, content, odd in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname, member.size = kind, target, len(content)
            if odd:
                member.mode, member.uid, member.mtime = 0o7777, 0, 2**33
            with suppress(ValueError, UnicodeError):  # what no archive can hold
                archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example([(".", tarfile.SYMTYPE, ".", b"", False)])
@given(st.lists(MEMBER, min_size=1, max_size=4))
def test_an_archive_of_whatever_members_leaves_records_or_a_refusal(in_tmp, members):
    project, outside = in_tmp / "project", in_tmp / "outside"
    for folder in (project, outside):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    (outside / "a.json").write_text("untouched")
    (project / "records.tar.gz").write_bytes(packed(members))
    os.chdir(project)
    paths.PARAMS.write_text(json.dumps(STUDY.model_dump()))
    try:
        imports.import_records([Path("records.tar.gz")])
        left = {path.name for path in Path("records").rglob("*") if path.is_file()}
        assert all(name.startswith("large-seed0-") for name in left)
    except UserError as error:
        assert all(line.isprintable() and len(line) < 500 for line in str(error).splitlines()), error
        assert sorted(path.name for path in project.iterdir()) == ["params.yaml", "records.tar.gz"]
    finally:
        os.chdir(in_tmp)
    assert sorted(path.name for path in in_tmp.iterdir()) == ["outside", "project"]
    assert [path.read_text() for path in outside.iterdir()] == ["untouched"]
    assert not Path("/tmp/trimlab-escaped.json").exists()
