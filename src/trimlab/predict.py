"""Class names of images, by a deployed ONNX file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimlab import config
from trimlab.data import decode
from trimlab.errors import UserError, one_line
from trimlab.quantize import onnx_files


class Prediction(NamedTuple):
    """What a file says of an image."""

    image: Path
    name: str
    """Of the class."""
    probability: float
    """By softmax of the logits, in [0, 1]."""


def predict(file: Path, images: Sequence[Path], resize: config.Resize) -> Iterator[Prediction]:
    """Yield the class of each image, read as the stage `prepare` reads one.

    Args:
        file: an ONNX file that trimlab exported: it holds class names, mean and standard deviation.
        images: of any size.
        resize: how they become as large as the file's images.

    Raises:
        UserError: the file is not one of trimlab's, or an image cannot be read.
    """
    try:
        session = onnx_files.open_session(file)
        about = session.get_modelmeta().custom_metadata_map
        mean, std = (np.asarray(json.loads(about[key]), np.float32) for key in ("mean", "std"))
        classes = json.loads(about["classes"])
        height, width = session.get_inputs()[0].shape[2:]
    except Exception as error:  # whatever the bytes provoke
        reason = one_line(f"{type(error).__name__}: {error}", 120)
        raise UserError(f"{file} is not an ONNX file of trimlab's ({reason}): name one from quantize/") from None
    if height != width:
        raise UserError(f"{file} takes images of {width} by {height} pixels: only square ones can be predicted")
    source = config.DatasetSource(source="folder", path=".", image_size=height, resize=resize)
    decode.set_up_pillow()
    for image in images:
        pixels = _read(image, source).astype(np.float32) / 255
        # A grey image's three channels are equal.
        normalised = ((pixels[..., : len(mean)] - mean) / std).transpose(2, 0, 1)
        (logits,) = session.run(None, {session.get_inputs()[0].name: normalised[None]})
        yield _of_logits(image, classes, logits[0])


def _read(image: Path, source: config.DatasetSource) -> NDArray[np.uint8]:
    if not image.is_file():
        raise UserError(f"{image} is not a file: name an image")
    try:
        return decode.read_image(image, source)[0]
    except decode.DamagedImage as error:
        raise UserError(str(error)) from None


def _of_logits(image: Path, classes: Sequence[str], logits: NDArray[np.float32]) -> Prediction:
    shares = np.exp(logits - logits.max())
    best = int(logits.argmax())
    return Prediction(image, classes[best], float(shares[best] / shares.sum()))
