"""Image files, decoded by Pillow to RGB of one size."""

import contextlib
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from trimlab.config import DatasetSource

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is tried, whatever a file's suffix: Pillow also knows formats for which it starts other programs."""

SUFFIXES = frozenset(["bmp", "gif", "jfif", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp"])
"""Of the files that are images, in lower case without the dot."""


class DamagedImage(ValueError):
    """An image file that cannot be read. The message is one line: file, reason, remedy."""


def set_up_pillow() -> None:
    """Load Pillow's plugins, before threads do so at once, and silence its warnings: each refusal is one line."""
    Image.init()
    warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(file: Path, source: DatasetSource) -> tuple[NDArray[np.uint8], bool]:
    """Read an image file, upright and resized where the source says so: (H, W, 3).

    Grey is repeated, and transparency dropped, as torchvision's ImageFolder does. CMYK is converted without a colour
    profile. 16-bit grey is scaled and rounded; of 16-bit colours Pillow gives only the upper 8 bits, at most one level
    lower. Of several frames or pages the first is read, and the second result is true.

    Raises:
        DamagedImage: it is damaged, huge, or has values without a known range (32 bits, floating-point).
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            _refuse_huge(file, image)
            if source.image_size:
                # Decodes a large JPEG at 1/2, 1/4 or 1/8. Resizing then still halves its sides at least.
                image.draft(None, (2 * source.image_size, 2 * source.image_size))
            mode, upright, animated = image.mode, _upright(image), bool(getattr(image, "is_animated", False))
            colours = _rgb(upright)
            if colours:
                return np.asarray(framed(colours, source)), animated
    except DamagedImage:
        raise
    except Image.DecompressionBombError:
        raise _huge(file) from None
    except Exception as error:  # Pillow raises whatever the bytes provoke
        raise DamagedImage(f"{file} {_reason(file, error)}: replace or remove it") from None
    raise DamagedImage(f"{file} has pixels of mode {mode}, whose range is unknown: convert it to 8-bit RGB or grey")


def _refuse_huge(file: Path, image: Image.Image) -> None:
    if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise _huge(file)


def _huge(file: Path) -> DamagedImage:
    return DamagedImage(f"{file} has more than {Image.MAX_IMAGE_PIXELS} pixels: make it smaller")


def _reason(file: Path, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    if not file.stat().st_size:
        return "is empty"
    return "is truncated" if "truncated" in str(error) else "is not a readable image"


def _upright(image: Image.Image) -> Image.Image:
    """Decode an opened image, and turn it as its EXIF orientation says."""
    image.load()
    with contextlib.suppress(Exception):  # orientation that cannot be read is none; the pixels are whole
        ImageOps.exif_transpose(image, in_place=True)
    return image


_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's modes that it converts to RGB without a guess."""


def _rgb(image: Image.Image) -> Image.Image | None:
    """Return an image in RGB; None where its values' range is unknown."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide + 128) // 257).astype(np.uint8)  # 65535 = 257 · 255
        return Image.fromarray(grey).convert("RGB")
    if image.mode not in _EIGHT_BIT:
        return None
    # By way of RGBA, because Pillow warns of palettes with transparency otherwise.
    return (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")


def framed(image: Image.Image, source: DatasetSource) -> Image.Image:
    """Return an RGB image at the source's `image_size`, if it has one: bilinear, antialiased where it shrinks."""
    if not source.image_size:
        return image
    size, bilinear = (source.image_size, source.image_size), Image.Resampling.BILINEAR
    if source.resize == "stretch":
        return image.resize(size, bilinear)
    if source.resize == "pad":
        return ImageOps.pad(image, size, bilinear)
    return ImageOps.fit(image, size, bilinear)
