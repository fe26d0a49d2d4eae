"""Channels of 2 to 16 bits: every value v of at most m becomes round(255 v / m), in every format and layout."""

import io

import image_files as files
import numpy as np
import pytest
from PIL import Image

from jaxiqa.data.decode import decode

RANDOM = np.random.default_rng(0)
EDGES = [0, 127, 128, 129, 511, 1000, 32896, 65407, 65535]


def samples(channels, maximum=65535, shape=(7, 11)):
    values = RANDOM.integers(0, maximum + 1, (*shape, channels))
    edges = np.minimum(EDGES, maximum)[: shape[1]]
    values[0, : len(edges), 0] = edges
    return values


def exact(values, maximum=65535):
    return np.round(255 * np.asarray(values, np.float64) / maximum).astype(int)


def on_white(values, maximum=65535):
    colours, alpha = values[..., :-1].astype(float), values[..., -1:] / maximum
    return 255 * (colours * alpha + maximum * (1 - alpha)) / maximum


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("channels", "colour_type"), [(1, 0), (3, 2)])
def test_png_of_16_bits(channels, colour_type, interlaced):
    values = samples(channels)
    content = files.png(values, bits=16, colour_type=colour_type, interlaced=interlaced)
    np.testing.assert_array_equal(decode(content, "a"), np.broadcast_to(exact(values), (7, 11, 3)))


@pytest.mark.parametrize(("channels", "colour_type"), [(2, 4), (4, 6)])
def test_png_of_16_bits_with_transparency(channels, colour_type):
    values = samples(channels)
    found = decode(files.png(values, bits=16, colour_type=colour_type), "a")
    assert np.abs(found - on_white(values)).max() < 0.51


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_is_the_one_that_the_file_names(bits):
    values = np.arange(12).reshape(3, 4, 1) % 2**bits if bits < 16 else 257 * np.arange(12).reshape(3, 4, 1) + 1
    key = int(values[0, 1, 0])
    found = decode(files.png(values, bits=bits, colour_type=0, extra=files.transparent_colour(key)), "a")
    expected = np.where(values == key, 255, exact(values, 2**bits - 1))
    np.testing.assert_array_equal(found, np.broadcast_to(expected, (3, 4, 3)))


def test_a_transparent_colour_of_16_bits_is_compared_in_full():
    values = np.array([[[1000, 2000, 3000], [1000, 2000, 3001]]])
    found = decode(files.png(values, bits=16, colour_type=2, extra=files.transparent_colour(1000, 2000, 3000)), "a")
    assert found[0].tolist() == [[255, 255, 255], exact(values[0, 1]).tolist()]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("channels", "photometric", "extra"),
    [(1, 1, ()), (3, 2, ()), (4, 2, ((338, 3, [0]),))],
)
def test_tiff_of_16_bits(channels, photometric, extra, order):
    values = samples(channels)
    content = files.tiff(values, bits=16, photometric=photometric, order=order, extra=extra)
    np.testing.assert_array_equal(decode(content, "a"), np.broadcast_to(exact(values[..., :3]), (7, 11, 3)))


@pytest.mark.parametrize("premultiplied", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_16_bits_with_transparency(order, premultiplied):
    values = samples(4)
    stored = values.copy()
    if premultiplied:
        stored[..., :3] = np.round(values[..., :3] * (values[..., 3:] / 65535))
    extra = ((338, 3, [1 if premultiplied else 2]),)
    found = decode(files.tiff(stored, bits=16, photometric=2, order=order, extra=extra), "a")
    assert np.abs(found - on_white(values)).max() < 0.52


def test_tiff_of_16_bits_in_cmyk():
    values = samples(4)
    found = decode(files.tiff(values, bits=16, photometric=5), "a")
    expected = 255 * (1 - values[..., :3] / 65535) * (1 - values[..., 3:] / 65535)
    assert np.abs(found - expected).max() < 0.51


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_compressed_tiff_of_16_bits(compression):
    """Pillow writes it from grey; then its tags are changed to three samples per pixel."""
    values = samples(3)
    buffer = io.BytesIO()
    Image.fromarray(values.reshape(7, 33).astype(np.uint16)).save(buffer, "TIFF", compression=compression)
    np.testing.assert_array_equal(decode(buffer.getvalue(), "a")[..., 0], exact(values).reshape(7, 33))


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("width", [4, 5])
def test_white_is_the_largest_value_of_the_files_depth(bits, width):
    values = samples(1, 2**bits - 1, (3, width))
    found = decode(files.tiff(values, bits=bits, photometric=1), "a")
    np.testing.assert_array_equal(found[..., :1], exact(values, 2**bits - 1))


@pytest.mark.parametrize("bits", [8, 16])
def test_white_may_be_zero(bits):
    values = samples(1, 2**bits - 1)
    found = decode(files.tiff(values, bits=bits, photometric=0), "a")
    np.testing.assert_array_equal(found[..., :1], exact(2**bits - 1 - values, 2**bits - 1))


@pytest.mark.parametrize("maximum", [1, 15, 100, 1023, 4095, 65535])
@pytest.mark.parametrize(("magic", "channels"), [("P5", 1), ("P6", 3), ("P2", 1), ("P3", 3)])
def test_ppm_of_any_maximum(magic, channels, maximum):
    values = samples(channels, maximum)
    text = " ".join(map(str, values.ravel())).encode()
    raw = values.astype(np.uint8 if maximum < 256 else ">u2").tobytes()
    content = f"{magic}\n# made here\n11 7\n{maximum}\n".encode() + (raw if magic in ("P5", "P6") else text)
    found = decode(content, "a")
    tolerance = 1 if magic == "P2" and maximum > 255 else 0  # Pillow rounds to 16 bits first
    assert np.abs(found - exact(values, maximum)).max() <= tolerance


def test_a_truncated_ppm_is_an_error():
    with pytest.raises(ValueError, match=r"a\.ppm: cannot be decoded: the file is truncated"):
        decode(b"P6 4 4 1023\n" + bytes(90), "a.ppm")


@pytest.mark.parametrize("suffix", ["j2k", "jp2"])
def test_jpeg_2000_of_16_bits(suffix):
    values = samples(1, shape=(40, 44))
    buffer = io.BytesIO()
    Image.fromarray(values[..., 0].astype(np.uint16)).save(buffer, "JPEG2000", no_jp2=suffix == "j2k")
    np.testing.assert_array_equal(decode(buffer.getvalue(), "a")[..., :1], exact(values))


def test_jpeg_2000_colour_deeper_than_8_bits_is_refused():
    """Pillow would truncate it; the depth is that of the stream inside the container."""
    buffer = io.BytesIO()
    Image.fromarray(RANDOM.integers(0, 256, (40, 44, 3), np.uint8)).save(buffer, "JPEG2000")
    content = bytearray(buffer.getvalue())
    place = content.index(b"jp2c\xff\x4f\xff\x51") + 8 + 38
    content[place : place + 9] = bytes([11, 1, 1] * 3)
    with pytest.raises(ValueError, match="channels of 12, 12, 12 bits cannot be read exactly"):
        decode(bytes(content), "a")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (files.tiff(samples(1) - 100, bits=16, photometric=1, extra=((339, 3, [2]),)), "signed 16-bit"),
        (files.tiff(samples(3), bits=16, photometric=2, extra=((284, 3, [2]),)), "separate planes"),
        (files.tiff(samples(1), bits=14, photometric=1), "cannot be decoded"),
        (files.tiff(samples(3, 4095), bits=12, photometric=2), "cannot be decoded"),
        (b"Pf 2 2 -1.0\n" + bytes(16), "floating-point"),
    ],
)
def test_formats_that_lose_precision_are_refused(content, message):
    with pytest.raises(ValueError, match=rf"a\.tif: .*{message}"):
        decode(content, "a.tif")
