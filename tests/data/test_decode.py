"""Image files become RGB of 8 bits, upright and of the asked size; what cannot is refused in one line."""

import struct

import numpy as np
import pytest
from PIL import Image

from photographs import png
from trimlab import config
from trimlab.data import decode


def source(**options):
    return config.DatasetSource(source="folder", path="pets", **options)


def read(file, **options):
    decode.set_up_pillow()
    return decode.read_image(file, source(**options))[0]


def refusal(file):
    with pytest.raises(decode.DamagedImage) as error:
        read(file)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def saved(tmp_path, image, suffix="png", **options):
    image.save(tmp_path / f"image.{suffix}", **options)
    return tmp_path / f"image.{suffix}"


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_16_bit_greys_are_scaled_to_8_bits_and_rounded(suffix, tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    found = read(saved(tmp_path, Image.fromarray(values), suffix))
    expected = np.array([round(int(value) / 257) for value in values.flat], np.uint8).reshape(256, 256)
    assert found.shape == (256, 256, 3)
    assert all((found[..., channel] == expected).all() for channel in range(3))


def test_16_bit_greys_of_a_pgm_are_scaled(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"P5 2 1 65535 " + struct.pack(">HH", 257, 65535))
    assert read(tmp_path / "a.pgm")[0, :, 0].tolist() == [1, 255]


def test_16_bit_colours_keep_their_upper_bits(tmp_path):
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    rows = b"\0" + struct.pack(">6H", 0, 257 * 8, 65535, 0x0100, 0x8000, 0xFF00)
    (tmp_path / "a.png").write_bytes(png(header, rows))
    assert read(tmp_path / "a.png").tolist() == [[[0, 8, 255], [1, 128, 255]]]


def test_transparency_is_dropped(tmp_path):
    assert (read(saved(tmp_path, Image.new("RGBA", (4, 4), (10, 20, 30, 0)))) == (10, 20, 30)).all()


def test_cmyk_is_converted(tmp_path):
    assert (read(saved(tmp_path, Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "tif")) == (255, 0, 0)).all()


def test_palettes_greys_and_two_tones_are_read(tmp_path):
    colours = Image.new("RGB", (4, 4), (255, 0, 0))
    palette = colours.convert("P")
    palette.info["transparency"] = bytes([0] * 256)
    assert (read(saved(tmp_path, palette)) == (255, 0, 0)).all()
    assert (read(saved(tmp_path, Image.new("L", (4, 4), 77))) == 77).all()
    assert (read(saved(tmp_path, Image.new("1", (4, 4), 1))) == 255).all()


@pytest.mark.parametrize(("mode", "value"), [("F", 0.5), ("I", 70000)])
def test_pixels_without_a_known_range_are_refused(mode, value, tmp_path):
    said = refusal(saved(tmp_path, Image.new(mode, (4, 4), value), "tiff"))
    assert f"has pixels of mode {mode}, whose range is unknown: convert it to 8-bit RGB or grey" in said


PHOTOGRAPH = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tif", "gif"])
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_a_file_that_ends_early_is_refused(share, suffix, tmp_path):
    file = saved(tmp_path, PHOTOGRAPH, suffix)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    said = refusal(file)
    assert said.endswith(": replace or remove it")
    assert ("is empty" in said) == (share == 0)


def test_a_truncated_jpeg_is_called_so(tmp_path):
    file = saved(tmp_path, PHOTOGRAPH, "jpg")
    file.write_bytes(file.read_bytes()[:-200])
    assert refusal(file) == f"{file} is truncated: replace or remove it"


def test_a_file_that_would_start_another_program_is_not_opened(tmp_path):
    PHOTOGRAPH.save(tmp_path / "page.eps")
    (tmp_path / "page.eps").rename(tmp_path / "page.png")
    assert "page.png is not a readable image" in refusal(tmp_path / "page.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(orientation, suffix, tmp_path):
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that the orientation undoes
    upright = Image.new("RGB", (32, 48))
    upright.paste((255, 0, 0), (0, 0, 16, 16))
    stored = upright.transpose(Image.Transpose(back[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = read(saved(tmp_path, stored, suffix, exif=exif))
    assert found.shape == (48, 32, 3)
    assert found[:12, :12, 0].min() > 200
    assert found[20:].max() < 60


def test_a_photograph_with_damaged_exif_data_is_read(tmp_path):
    file = saved(tmp_path, PHOTOGRAPH, "jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x01")
    assert read(file).shape == (40, 60, 3)


def stripes(width, height):
    """Black, with a white stripe at the left and one at the right of a wide image, or at the top and the bottom."""
    pixels = np.zeros((height, width, 3), np.uint8)
    edge = max(width, height) // 8
    for part in (slice(0, edge), slice(-edge, None)):
        pixels[(slice(None), part) if width > height else part] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("width", "height"), [(64, 32), (32, 64)])
def test_resizing_crops_stretches_or_pads(width, height, tmp_path):
    file = saved(tmp_path, stripes(width, height))
    cropped, stretched, padded = (
        read(file, image_size=16, resize=resize).mean(2) for resize in ("shorter-side", "stretch", "pad")
    )
    if width < height:
        cropped, stretched, padded = cropped.T, stretched.T, padded.T
    assert cropped.shape == stretched.shape == padded.shape == (16, 16)
    assert cropped.max() == 0
    assert stretched[:, 0].min() == 255 and stretched[:, -1].min() == 255
    assert padded[:4].max() == padded[-4:].max() == 0
    assert padded[4:-4, 0].min() == 255 and padded[4:-4, -1].min() == 255


def test_shrinking_is_antialiased(tmp_path):
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, ::2] = 255
    found = read(saved(tmp_path, Image.fromarray(pixels)), image_size=16)[:, 2:-2].astype(int)
    assert abs(found - 128).max() < 8


def test_a_large_jpeg_decoded_at_a_fraction_looks_the_same(tmp_path):
    # A smooth picture with edges, as photographs are.
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8))
    file = saved(tmp_path, small.resize((1600, 1200), Image.Resampling.BICUBIC), "jpg", quality=95)
    with Image.open(file) as image:
        image.load()
        whole = np.asarray(decode.framed(image.convert("RGB"), source(image_size=64))).astype(int)
    assert np.abs(read(file, image_size=64) - whole).mean() < 1


@pytest.mark.parametrize("width", [1, 3])
def test_a_tiny_image_is_enlarged(width, tmp_path):
    for resize in ("shorter-side", "stretch", "pad"):
        found = read(saved(tmp_path, Image.new("RGB", (width, 2), (9, 8, 7))), image_size=32, resize=resize)
        assert found.shape == (32, 32, 3)


def test_the_frames_of_an_image_are_noticed(tmp_path):
    decode.set_up_pillow()
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (50, 200)]
    kinds = {"gif": "GIF", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "jpg": "MPO"}
    for suffix, kind in kinds.items():
        frames[0].save(tmp_path / f"a.{suffix}", kind, save_all=True, append_images=frames[1:])
        pixels, animated = decode.read_image(tmp_path / f"a.{suffix}", source())
        assert animated
        assert np.abs(pixels[..., 0].astype(int) - 50).max() <= 3
        assert not decode.read_image(saved(tmp_path, frames[0], suffix), source())[1]
