import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from jaxiqa.data.decode import decode, read_image

GREY = np.linspace(0, 255, 60).round().astype(np.uint8).reshape(6, 10)
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8)


def raw_png(width, height, *, bits, colour_type, data):
    """Encode a PNG file that Pillow cannot write."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_grey_is_three_equal_channels(tmp_path):
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(GREY)))
    np.testing.assert_array_equal(pixels, np.repeat(GREY[..., None], 3, 2))


def test_transparency_is_composited_onto_white(tmp_path):
    rgba = np.dstack([COLOUR, np.full((6, 10), 128, np.uint8)])
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(rgba)))
    expected = (COLOUR.astype(float) * 128 + 255.0 * 127) / 255
    assert np.abs(pixels - expected).max() <= 1


def test_a_palette_with_a_transparent_entry(tmp_path):
    image = Image.fromarray((np.arange(60).reshape(6, 10) % 2).astype(np.uint8), "P")
    image.putpalette([10, 20, 30, 200, 100, 50])
    pixels = read_image(save(tmp_path / "a.png", image, transparency=0))
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[0, 1].tolist() == [200, 100, 50]


def test_cmyk_is_converted(tmp_path):
    image = Image.new("CMYK", (5, 4), (0, 0, 0, 255))
    assert read_image(save(tmp_path / "a.jpg", image)).max() < 10


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix):
    values = (GREY.astype(np.uint16) * 257).reshape(6, 10)
    pixels = read_image(save(tmp_path / f"a.{suffix}", Image.fromarray(values)))
    np.testing.assert_array_equal(pixels[..., 0], GREY)


def test_integer_pixels_are_scaled_as_16_bit_and_refused_beyond(tmp_path):
    values = GREY.astype(np.int32) * 257
    pixels = read_image(save(tmp_path / "a.tif", Image.fromarray(values)))
    np.testing.assert_array_equal(pixels[..., 1], GREY)
    with pytest.raises(ValueError, match="16-bit range"):
        read_image(save(tmp_path / "b.tif", Image.fromarray(values + 1)))


@pytest.mark.parametrize("mode", ["1", "LA"])
def test_two_tone_and_grey_with_transparency(tmp_path, mode):
    image = Image.new("L", (10, 6), 0).convert(mode)
    if mode == "LA":
        image.putalpha(0)
    expected = 255 if mode == "LA" else 0
    assert (read_image(save(tmp_path / "a.png", image)) == expected).all()


def test_sixteen_bit_colour(tmp_path):
    """Pillow cannot write it, so the test builds the file."""
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in COLOUR)
    (tmp_path / "a.png").write_bytes(raw_png(10, 6, bits=16, colour_type=2, data=zlib.compress(rows)))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR)


def test_an_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90° clockwise
    pixels = read_image(save(tmp_path / "a.png", Image.fromarray(COLOUR), exif=exif))
    np.testing.assert_array_equal(pixels, np.rot90(COLOUR, -1))


def test_progressive_and_baseline_jpeg_agree(tmp_path):
    image = Image.fromarray(COLOUR)
    plain = read_image(save(tmp_path / "a.jpg", image, quality=90))
    progressive = read_image(save(tmp_path / "b.jpg", image, quality=90, progressive=True))
    assert np.abs(plain.astype(int) - progressive).max() <= 1


def png():
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"not an image", "cannot be decoded"),
        (png()[:-5000], "cannot be decoded"),
        (png()[:20], "cannot be decoded"),
        (b"GIF89a\0\0\0\0\0\0\0;", "cannot be decoded|no pixels"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_image(path)
    assert str(path) in str(error.value)


def test_a_truncated_jpeg_is_named(tmp_path):
    path = save(tmp_path / "a.jpg", Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)))
    path.write_bytes(path.read_bytes()[:-1500])
    with pytest.raises(ValueError, match=str(path)):
        read_image(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(ValueError, match="is a folder"):
        read_image(tmp_path)


def test_a_huge_image_is_refused_before_decoding(tmp_path):
    content = raw_png(50000, 50000, bits=1, colour_type=0, data=zlib.compress(b"\0" * 100))
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(ValueError, match="pixels allowed"):
        read_image(tmp_path / "bomb.png")
    small = save(tmp_path / "small.png", Image.fromarray(COLOUR))
    with pytest.raises(ValueError, match="more than the 59 allowed"):
        read_image(small, max_pixels=59)
    with pytest.raises(ValueError, match="max_pixels"):
        read_image(small, max_pixels=10**9)


TURNED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: np.rot90(x, 2),
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x),
    0: lambda x: x,
    9: lambda x: x,
}
"""All EXIF orientations, and two invalid ones."""


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize(
    ("kind", "options", "close"),
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 100, "subsampling": 0}, 6),
        ("MPO", {"quality": 100, "subsampling": 0}, 6),
    ],
)
def test_every_orientation_of_every_format_that_has_exif(kind, options, close, orientation):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8, :8], pixels[8:, 16:] = (200, 40, 40), (40, 200, 40)
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(buffer, kind, exif=exif, **options)
    found, wanted = decode(buffer.getvalue(), kind), TURNED[orientation](pixels)
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= close
