"""The code of a registered model: it names the classes of encoded images by an ONNX file, in ONNX Runtime.

MLflow copies this file into the model and runs it where trimlab is not installed. So it imports MLflow, numpy,
onnxruntime and Pillow alone.
"""

import base64
import io
import json
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from PIL import Image, ImageOps, UnidentifiedImageError

MOST = 5
"""Classes that an answer lists."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's modes that it converts to RGB without a guess."""


class Classifier(PythonModel):
    """An ONNX file that holds its class names, mean and standard deviation."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the file, once a process."""
        self.session = onnxruntime.InferenceSession(context.artifacts["onnx"], providers=["CPUExecutionProvider"])
        about = self.session.get_modelmeta().custom_metadata_map
        self.mean, self.std = (np.asarray(json.loads(about[key]), np.float32) for key in ("mean", "std"))
        self.classes: list[str] = json.loads(about["classes"])
        [self.input] = self.session.get_inputs()
        self.resize: str = context.model_config["resize"]

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> list[dict[str, Any]]:
        """Return for each image its class, the class's probability, and the most probable classes.

        Args:
            context: of MLflow.
            model_input: a column `image` of image files in base64, PNG or JPEG.
            params: none.

        Raises:
            MlflowException: an image cannot be read; an HTTP client gets it as a bad request.
        """
        return [self._classified(row, encoded) for row, encoded in enumerate(model_input["image"])]

    def _classified(self, row: int, encoded: str) -> dict[str, Any]:
        try:
            image = _opened(encoded)
        except Exception as error:  # Pillow raises whatever the bytes provoke
            why = "not an image" if isinstance(error, UnidentifiedImageError) else error
            raise MlflowException.invalid_parameter_value(
                f"image {row} cannot be read ({why}): send a PNG or JPEG file of 8 bits a channel, in base64"
            ) from None
        pixels = np.asarray(self._framed(image), np.float32) / 255
        # A grey image's three channels are equal.
        normalised = ((pixels[..., : len(self.mean)] - self.mean) / self.std).transpose(2, 0, 1)
        (logits,) = self.session.run(None, {self.input.name: normalised[None]})
        shares = np.exp(logits[0] - logits[0].max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:MOST]
        top = [{"class": self.classes[index], "probability": float(shares[index])} for index in best]
        return {**top[0], "top": top}

    def _framed(self, image: Image.Image) -> Image.Image:
        height, width = self.input.shape[2:]
        size, bilinear = (width, height), Image.Resampling.BILINEAR
        if self.resize == "stretch":
            return image.resize(size, bilinear)
        return (ImageOps.pad if self.resize == "pad" else ImageOps.fit)(image, size, bilinear)


def _opened(encoded: str) -> Image.Image:
    """Decode an image, upright and in RGB."""
    image = Image.open(io.BytesIO(base64.b64decode(encoded)), formats=_FORMATS)
    if image.mode not in _EIGHT_BIT:
        raise ValueError(f"its mode is {image.mode}")
    upright = ImageOps.exif_transpose(image)
    # By way of RGBA, because Pillow warns of palettes with transparency otherwise.
    return (upright.convert("RGBA") if upright.mode == "P" else upright).convert("RGB")


set_model(Classifier())
