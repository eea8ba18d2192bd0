"""Image files with their classes, as training and test images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from trimlab import progress
from trimlab.config import Data, DatasetSource
from trimlab.data import decode
from trimlab.data.parts import Batch, Part
from trimlab.data.splits import drawn_test
from trimlab.errors import UserError

Labelled = tuple[Path, str]
"""An image file and its class."""


def parts_of_files(
    train: Sequence[Labelled], test: Sequence[Labelled] | None, source: DatasetSource, data: Data
) -> tuple[Part, Part, list[str]]:
    """Return training images, test images and the classes' names in order.

    Args:
        train: the training images, or all images.
        test: the test images; None draws them, stratified, from `train`.
        source: where they are, and how they are resized.
        data: its seed draws the test images.

    Raises:
        UserError: a class lacks training or test images, or no image can be read.
    """
    decode.set_up_pillow()
    classes = sorted({name for _, name in (*train, *(test or ()))})
    number = {name: index for index, name in enumerate(classes)}
    files = [[file for file, _ in part] for part in (train, test or ())]
    labels = [torch.tensor([number[name] for _, name in part], dtype=torch.int64) for part in (train, test or ())]
    if test is None:
        files, labels = _with_test_drawn(files[0], labels[0], classes, source, data)
    _refuse_missing(classes, labels, source)
    how = f"drawn with test_fraction {source.test_fraction:g}, seed {data.seed}"
    if test is not None:
        how = "as given" + (": test_fraction is not used" if "test_fraction" in source.model_fields_set else "")
    progress.say(
        f"{source.path}: {len(files[0])} training and {len(files[1])} test images ({how}) of {len(classes)} classes"
    )
    shape = _Sample(None, (3, source.image_size, source.image_size)) if source.image_size else _first(files[0], source)
    made = [
        Part(len(names), shape.image_shape, numbers, partial(_read, names, shape, source))
        for names, numbers in zip(files, labels, strict=True)
    ]
    return made[0], made[1], classes


def _with_test_drawn(
    files: list[Path], labels: Tensor, classes: list[str], source: DatasetSource, data: Data
) -> tuple[list[list[Path]], list[Tensor]]:
    """Divide images into training and test images, each in the order of `files`."""
    single = [classes[label] for label in (labels.bincount() == 1).nonzero().flatten().tolist()]
    if single:
        raise UserError(
            f"{source.path}: class {single[0]} has one image, so none is left for the test set: add images, or remove "
            f"the class{and_more(len(single) - 1, 'class', 'classes')}"
        )
    test = drawn_test(labels, source.test_fraction, data.seed)
    chosen = (~test, test)
    return (
        [[files[index] for index in which.nonzero().flatten().tolist()] for which in chosen],
        [labels[which] for which in chosen],
    )


def and_more(count: int, singular: str, plural: str) -> str:
    """Return how many more there are, as the end of a message about the first."""
    return f" (and {count} more such {plural if count > 1 else singular})" if count else ""


def _refuse_missing(classes: list[str], labels: list[Tensor], source: DatasetSource) -> None:
    train, test = (part.bincount(minlength=len(classes)).tolist() for part in labels)
    lacking = [index for index in range(len(classes)) if not train[index] or not test[index]]
    if lacking:
        raise UserError(
            f"{source.path}: class {classes[lacking[0]]} has {train[lacking[0]]} training and {test[lacking[0]]} test "
            "images, and needs at least one of each: add images, or remove the class"
            f"{and_more(len(lacking) - 1, 'class', 'classes')}"
        )


class _Sample(NamedTuple):
    """The shape that all images must have, and the file that it was taken from."""

    file: Path | None
    image_shape: tuple[int, int, int]


def _first(files: list[Path], source: DatasetSource) -> _Sample:
    """Return the shape of the first image that can be read."""
    problem = ""
    for file in files:
        try:
            height, width, channels = decode.read_image(file, source)[0].shape
            return _Sample(file, (channels, height, width))
        except decode.DamagedImage as error:
            problem = problem or str(error)
    raise UserError(f"{problem}{and_more(len(files) - 1, 'file', 'files')}")


def _read(files: list[Path], sample: _Sample, source: DatasetSource, start: int, stop: int) -> Batch:
    """Read images from `start` up to `stop`.

    Raises:
        UserError: one differs in size from the sample.
    """
    chosen = files[start:stop]
    images = np.zeros((len(chosen), *sample.image_shape), np.uint8)
    damaged, animated = [], []
    for image, file in zip(images, chosen, strict=True):
        try:
            pixels, several = decode.read_image(file, source)
        except decode.DamagedImage as error:
            damaged.append(str(error))
            continue
        height, width = pixels.shape[:2]
        if (height, width) != sample.image_shape[1:]:
            first = f"{sample.file} {sample.image_shape[2]}×{sample.image_shape[1]}"
            raise UserError(
                f"{file} is {width}×{height} pixels (width × height), {first}: give the dataset an image_size to "
                "resize them to, or make them one size"
            )
        image[:] = pixels.transpose(2, 0, 1)
        animated += [file] if several else []
    return Batch(images, damaged, animated)
