"""Only listed formats are decoded, and never more pixels than allowed, embedded streams included."""

import io
import struct

import image_files as files
import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from jaxiqa.data import decode as decoding
from jaxiqa.data.decode import decode, read_image
from jaxiqa.data.formats import FORMATS, SUFFIXES


def saved(kind, size=(40, 24), mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, size, 120).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
def test_every_listed_format_is_read_under_any_file_name(kind):
    assert decode(saved(kind), "a.png").shape == (24, 40, 3)
    with pytest.raises(ValueError, match=r"40x24 pixels, more than the 959 allowed"):
        decode(saved(kind), "a.png", max_pixels=959)


@pytest.mark.parametrize("suffix", [".avif", ".jpe", ".mpo", ".pnm", ".apng", ".tga", ".j2k", ".jpx", ".dib", ".jfif"])
def test_names_of_listed_formats_are_found_in_folders(suffix):
    assert suffix in SUFFIXES


@pytest.mark.parametrize("kind", ["EPS", "ICO", "ICNS", "DDS", "PCX", "SGI", "PDF"])
def test_other_formats_are_refused_by_content_and_run_nothing(kind, monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", None)
    content = saved(kind, (32, 32)) if kind != "ICNS" else saved(kind, (128, 128))
    with pytest.raises(ValueError, match=r"photo\.png: cannot be decoded: its content is .*; supported are AVIF"):
        decode(content, "photo.png")


def test_the_size_of_the_stream_counts_not_that_of_the_container():
    """A JPEG 2000 stream, a WebP frame and a TIFF tile that are larger than their container states."""
    stream = bytearray(saved("JPEG2000"))
    struct.pack_into(">II", stream, stream.index(b"jp2c\xff\x4f\xff\x51") + 12, 60000, 60000)
    webp = saved("WEBP", exif=b"Exif\0\0" + bytes(10))
    canvas = bytearray(webp)
    canvas[24:30] = b"\xff\x3f\0\xff\x3f\0"
    tile = files.tiff(np.zeros((4, 4, 1), int), bits=8, photometric=1, extra=((322, 4, [65520]), (323, 4, [65520])))
    for content, size in ((stream, "60000x60000"), (canvas, "16384x16384"), (tile, "65520x65520")):
        with pytest.raises(ValueError, match=f"{size} pixels, more than"):
            decode(bytes(content), "a")


def test_a_jpeg_with_more_scans_than_can_be_decoded_in_seconds_is_refused(monkeypatch):
    content = saved("JPEG", progressive=True)
    assert decode(content, "a").shape == (24, 40, 3)
    monkeypatch.setattr("jaxiqa.data.formats.MAX_SCANS", 2000)
    with pytest.raises(ValueError, match="scans of 40x24 pixels"):
        decode(content, "a")


def test_a_file_larger_than_the_limit_is_not_read_in_full(tmp_path, monkeypatch):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(2**34)  # sparse
    monkeypatch.setattr(decoding, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="larger than the 1000 bytes allowed"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "AVIF", "WEBP", "TIFF", "GIF", "JPEG2000", "BMP", "TGA", "PPM"])
def test_a_file_cut_anywhere_is_read_or_refused(kind):
    content = saved(kind)
    for cut in range(1, len(content), max(1, len(content) // 40)):
        for damaged in (content[:cut], content[:cut].ljust(len(content), b"\0")):
            message = "a.png: "
            try:
                decode(damaged, "a.png")
            except ValueError as error:
                message = str(error)
            assert message.startswith("a.png: ")


@pytest.mark.parametrize("entry", [(282, 2, 3, b"72\0\0"), (282, 5, 1, b"\xff\xff\xff\xff"), (700, 99, 1, b"\0\0\0\0")])
def test_a_damaged_tag_does_not_affect_the_rotation(entry):
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95)
    content = buffer.getvalue()
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in ((274, 3, 1, b"\6\0\0\0"), entry))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries + bytes(4)
    turned = decode(content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:], "a.jpg")
    np.testing.assert_array_equal(turned, np.rot90(decode(content, "a"), -1))
