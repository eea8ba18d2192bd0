"""The stage `prepare`: read a source, check it, draw hold-out and calibration images, write one file."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from trimlab import paths, progress
from trimlab.config import Data, DatasetSource
from trimlab.data.dataset import Split
from trimlab.data.registry import READERS
from trimlab.data.splits import drawn, held_out
from trimlab.digests import sha256_of
from trimlab.errors import UserError


def prepare(name: str, source: DatasetSource, data: Data) -> None:
    """Read a dataset, check it, and write its one file and that file's digest.

    Raises:
        UserError: files are missing or do not fit together, or there are too few images for a hold-out.
    """
    train, test, classes = READERS[source.source](Path(source.path), data)
    _check(name, train, test, classes)
    everything, sizes = torch.arange(len(train[1])), train[1].bincount()
    holdout = drawn(train[1], everything, sizes, data.seed)[: held_out(name, len(everything), data)].sort().values
    rest = everything[~torch.isin(everything, holdout)]
    calibration = drawn(train[1], rest, sizes, data.seed + 1)
    scaled = train[0].double() / 255
    tensors = {
        "train_images": train[0].contiguous(),
        "train_labels": train[1],
        "test_images": test[0].contiguous(),
        "test_labels": test[1],
        "holdout": holdout,
        "calibration": calibration,
        "mean": scaled.mean((0, 2, 3)).float(),
        "std": torch.where(_constant(name, train[0]), 1, scaled.std((0, 2, 3))).float(),
    }
    path = paths.dataset_file(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"classes": json.dumps(classes)})
    facts = {
        "source": source.source,
        "sha256": sha256_of(path),
        "train_images": len(train[1]),
        "test_images": len(test[1]),
        "holdout_images": len(holdout),
        "image_shape": list(train[0].shape[1:]),
        "classes": classes,
    }
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")


def _check(name: str, train: Split, test: Split, classes: list[str]) -> None:
    for part, (images, labels) in (("training", train), ("test", test)):
        if len(images) != len(labels) or not len(labels):
            raise UserError(f"dataset {name}: {len(images)} {part} images, {len(labels)} labels: give as many of both")
        if images.shape[1:] != train[0].shape[1:]:
            raise UserError(
                f"dataset {name}: {part} images are {tuple(images.shape[1:])}, training images "
                f"{tuple(train[0].shape[1:])}: make them one size"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
            raise UserError(
                f"dataset {name}: {part} labels reach from {int(labels.min())} to {int(labels.max())}, there are "
                f"{len(classes)} classes: number them from 0"
            )


def _constant(name: str, images: Tensor) -> Tensor:
    """Return which channels have the same value in all images, (C,) bool."""
    constant = images.amin((0, 2, 3)) == images.amax((0, 2, 3))
    if constant.all():
        raise UserError(f"dataset {name}: all training images have the same colour: give other images")
    if constant.any():
        which = ", ".join(str(channel) for channel in constant.nonzero().flatten().tolist())
        progress.say(f"dataset {name}: channel {which} has the same value in all training images and is not scaled")
    return constant
