"""A dataset in folders of image files, one a class."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from trimlab.config import Data
from trimlab.data.dataset import Split
from trimlab.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image


def read_folder(path: Path, _: Data) -> tuple[Split, Split, list[str]]:
    """Read train/CLASS/* and test/CLASS/*.

    Raises:
        UserError: the folders are laid out otherwise, or an image cannot be read.
    """
    parts = {part: _class_folders(path / part) for part in ("train", "test")}
    classes = list(parts["train"])
    if not classes:
        raise UserError(f"{path}/train holds no class folders: lay images out as train/CLASS/*.png, test/CLASS/*.png")
    for part, folders in parts.items():
        odd = sorted({name for name, files in folders.items() if files} ^ set(classes))
        if odd:
            raise UserError(
                f"{path / part / odd[0]}: train and test must hold images of the same classes: "
                "add the missing images, or remove the class"
            )
    return _read_images(parts["train"]), _read_images(parts["test"]), classes


_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx"}
"""What desktops leave in folders, besides hidden files."""


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, in order, without hidden and desktop files; nothing if it does not exist."""
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): change its permissions") from None
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _LEFT_BEHIND]


def _class_folders(folder: Path) -> dict[str, list[Path]]:
    """Return the image files of each class in order, by the class's name.

    Raises:
        UserError: something is neither: an image beside the class folders, a folder within one, a pipe.
    """
    classes = {}
    for entry in _entries(folder):
        if not entry.is_dir():
            raise UserError(f"{entry} is not a class folder: lay images out as {folder}/CLASS/*.png, remove all else")
        classes[entry.name] = _entries(entry)
        for file in classes[entry.name]:
            if not file.is_file():
                what = "a folder" if file.is_dir() else "not a regular file"
                raise UserError(f"{file} is {what}: put images directly into {entry}, remove all else")
    return classes


def _read_images(classes: dict[str, list[Path]]) -> Split:
    files = [(file, label) for label, name in enumerate(classes) for file in classes[name]]
    arrays: list[NDArray[np.uint8]] = []
    for file, _ in files:
        arrays.append(_read_image(file))
        height, width = arrays[-1].shape[:2]
        if arrays[-1].shape != arrays[0].shape:
            first = "{}×{}".format(*arrays[0].shape[:2])
            raise UserError(
                f"{file} is {height}×{width} pixels (height × width), {files[0][0]} {first}: make them one size"
            )
    images = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor([label for _, label in files])


def _read_image(file: Path) -> NDArray[np.uint8]:
    """Read an image file as (H, W, 3) uint8.

    Grey is repeated, and transparency dropped, as torchvision's ImageFolder does. 16-bit grey is scaled and
    rounded; of 16-bit colours Pillow gives only the upper 8 bits, at most one level lower.

    Raises:
        UserError: it is damaged, huge, or has values without a known range (32 bits, floating-point).
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                mode, pixels = image.mode, _rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UserError(f"{file} has more than {Image.MAX_IMAGE_PIXELS} pixels: make it smaller") from None
    except Exception:  # Pillow raises whatever the bytes provoke
        raise UserError(f"{file} is not a readable image: replace or remove it") from None
    if pixels is None:
        raise UserError(f"{file} has pixels of mode {mode}, whose range is unknown: convert it to 8-bit RGB or grey")
    return pixels


_EIGHT_BIT = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Pillow's modes that it converts to RGB without a guess."""


def _rgb(image: "Image") -> NDArray[np.uint8] | None:
    """Return an opened image's pixels, (H, W, 3); None where their range is unknown."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide + 128) // 257).astype(np.uint8)  # 65535 = 257 · 255
        return np.repeat(grey[:, :, None], 3, axis=2)
    if image.mode not in _EIGHT_BIT:
        return None
    # By way of RGBA, because Pillow warns of palettes with transparency otherwise.
    return np.asarray((image.convert("RGBA") if image.mode == "P" else image).convert("RGB"))
