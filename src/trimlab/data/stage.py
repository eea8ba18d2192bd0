"""The stage `prepare`: read a source, check it, draw hold-out and calibration images, write one file."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from trimlab import paths, progress
from trimlab.config import Data, DatasetSource
from trimlab.data.packed import Reading, Sums, Tensors, replacing
from trimlab.data.parts import Part
from trimlab.data.registry import READERS
from trimlab.data.splits import drawn, held_out
from trimlab.digests import sha256_of
from trimlab.errors import UserError


def prepare(name: str, source: DatasetSource, data: Data) -> None:
    """Read a dataset, check it, and write its one file and that file's digest.

    Raises:
        UserError: files are missing, damaged or do not fit together, or there are too few images for a hold-out.
    """
    train, test, classes = READERS[source.source](source, data)
    _check(name, train, test, classes)
    holdout, calibration = _drawn(name, train.labels, data)
    path = paths.dataset_file(name)
    indices = {
        "train_labels": train.labels,
        "test_labels": test.labels,
        "holdout": holdout,
        "calibration": calibration,
    }
    _write(name, path, train, test, {key: value.numpy() for key, value in indices.items()}, classes)
    facts = {
        "source": source.source,
        "sha256": sha256_of(path),
        "train_images": train.count,
        "test_images": test.count,
        "holdout_images": len(holdout),
        "image_shape": list(train.image_shape),
        "classes": classes,
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


def _check(name: str, train: Part, test: Part, classes: list[str]) -> None:
    for which, part in (("training", train), ("test", test)):
        if part.count != len(part.labels) or not part.count:
            raise UserError(
                f"dataset {name}: {part.count} {which} images, {len(part.labels)} labels: give as many of both"
            )
        if part.image_shape != train.image_shape:
            raise UserError(
                f"dataset {name}: {which} images are {part.image_shape}, training images {train.image_shape} "
                "(channels, height, width): give the dataset an image_size to resize them to, or make them one size"
            )
        if int(part.labels.min()) < 0 or int(part.labels.max()) >= len(classes):
            raise UserError(
                f"dataset {name}: {which} labels reach from {int(part.labels.min())} to {int(part.labels.max())}, "
                f"there are {len(classes)} classes: number them from 0"
            )


def _drawn(name: str, labels: Tensor, data: Data) -> tuple[Tensor, Tensor]:
    """Draw the hold-out and the calibration images, indices into the training set."""
    everything, sizes = torch.arange(len(labels)), labels.bincount()
    holdout = drawn(labels, everything, sizes, data.seed)[: held_out(name, len(everything), data)].sort().values
    rest = everything[~torch.isin(everything, holdout)]
    return holdout, drawn(labels, rest, sizes, data.seed + 1)


def _write(
    name: str, path: Path, train: Part, test: Part, indices: dict[str, NDArray[Any]], classes: list[str]
) -> None:
    """Write the dataset's file, whole or not at all.

    Raises:
        UserError: an image cannot be read, all have one colour, or the disk has no room.
    """
    shapes = {key: (array.dtype.name, array.shape) for key, array in indices.items()}
    shapes |= dict.fromkeys(("mean", "std"), ("float32", (train.image_shape[0],)))
    shapes |= {f"{key}_images": ("uint8", (p.count, *p.image_shape)) for key, p in (("train", train), ("test", test))}
    readings = [Reading(test), Reading(train)]
    with replacing(path) as file:
        tensors = Tensors(file, shapes, {"classes": json.dumps(classes)})
        _refuse_full_disk(path.parent, tensors.size_bytes)
        images = iter(progress.bar(itertools.chain(*readings), f"prepare {name}", total=train.count + test.count))
        tensors.write("test_images", itertools.islice(images, test.count))
        tensors.write("train_images", images)
        _refuse_damaged(name, readings)
        sums = readings[1].sums
        _say_constant(name, sums)
        for key, array in (indices | {"mean": sums.mean(), "std": sums.std()}).items():
            tensors.write(key, [array])
    _say_animated(name, readings)


def _refuse_full_disk(folder: Path, size_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        raise UserError(f"{folder} needs {size_bytes / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free: make room")


MOST_DAMAGED = 10
"""How many damaged images a message names; a file lists them all."""


def _refuse_damaged(name: str, readings: list[Reading]) -> None:
    damaged = sorted(line for reading in readings for line in reading.damaged)
    if len(damaged) > MOST_DAMAGED:
        listed = paths.damaged_images(name)
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(damaged) + "\n")
        more = f"{len(damaged) - MOST_DAMAGED} more images cannot be read: {listed} lists them all"
        damaged = [*damaged[:MOST_DAMAGED], more]
    if damaged:
        raise UserError("\n".join(damaged))


def _say_animated(name: str, readings: list[Reading]) -> None:
    animated = [file for reading in readings for file in reading.animated]
    if animated:
        progress.say(
            f"dataset {name}: of several frames or pages, the first is taken: {animated[0]}"
            f"{f' and {len(animated) - 1} more' if animated[1:] else ''}"
        )


def _say_constant(name: str, sums: Sums) -> None:
    """Say which channels have the same value in all training images.

    Raises:
        UserError: all of them have.
    """
    constant = sums.constant()
    if len(constant) == len(sums.total):
        raise UserError(f"dataset {name}: all training images have the same colour: give other images")
    if constant:
        which = ", ".join(str(channel) for channel in constant)
        progress.say(f"dataset {name}: channel {which} has the same value in all training images and is not scaled")
