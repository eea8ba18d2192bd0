"""Small image files for tests, and the refusals of datasets."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from trimlab.errors import UserError


def refusal(prepare, lines=1):
    """The message with which something is refused."""
    with pytest.raises(UserError) as error:
        prepare()
    assert len(str(error.value).splitlines()) == lines
    return str(error.value)


def write_image(file, size=(8, 8), shade=100, **options):
    """Write an image file of one colour, width × height, with the folders that it lies in."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (shade % 256, 255 - shade % 256, 7 * shade % 256)).save(file, **options)


def write_folder(root, size=8, train=30, test=6):
    """Write train/CLASS and test/CLASS: PNGs of two classes and one size."""
    for part, count in (("train", train), ("test", test)):
        for label in ("cat", "dog"):
            for index in range(count):
                write_image(root / part / label / f"{index:02}.png", (size, size), index * 7)


def write_mixed(root, sizes=None):
    """Write class folders alone: photographs of mixed sizes, grey and RGB, of several formats, some in subfolders."""
    endings, rng = ("jpg", "PNG", "jpeg", "bmp", "webp", "TIF", "gif", "pgm"), np.random.default_rng(0)
    for label, count in (sizes or {"cat": 12, "dog": 7, "fox": 3}).items():
        for index in range(count):
            suffix = endings[index % len(endings)]
            file = root / label / ("more" if index % 3 == 2 else "") / f"{index:02}.{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            height, width = rng.integers(20, 60, 2)
            pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
            Image.fromarray(pixels).convert("L" if suffix == "pgm" else "RGB").save(file)


def png(header, rows):
    """A PNG of an IHDR and of raw rows, each with its filter byte."""
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(said)) + kind + said + struct.pack(">I", zlib.crc32(kind + said)) for kind, said in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body
