"""Read images whose channels are not 8 bits wide; a value v with maximum m becomes ``round(255 v / m)``.

Pillow has no mode for several 16-bit channels and keeps only the high bytes. So such a file is decoded twice: once for
the high bytes, and once with reversed byte order for the low bytes.
"""

import io
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxiqa.data.formats import Codestream

STRIP = 2**18
"""Number of pixels that are converted at once, so that memory never holds a second full image."""

TRANSPARENT = {"LA": 1, "RGBA": 3, "RGBa": 3}
"""Modes with transparency, and the index of its channel."""

_BITS, _PHOTOMETRIC, _PLANAR, _SAMPLE_FORMAT = 258, 262, 284, 339


def strips(height: int, width: int) -> Iterator[slice]:
    """Yield ranges of rows with about `STRIP` pixels.

    >>> list(strips(5, 2**17))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    rows = max(1, STRIP // max(1, width))
    for top in range(0, height, rows):
        yield slice(top, min(top + rows, height))


def read_deep(image: Any, content: bytes) -> np.ndarray | None:
    """Return the image as uint8 ``h w 3``, or None if all channels have at most 8 bits.

    Args:
        image: an image that Pillow has opened but not loaded.
        content: content of its file.

    Raises:
        ValueError: the values have no fixed range (float, signed or 32-bit integers above 65535), or only the high
            bytes of the channels can be read.
    """
    tags = getattr(image, "tag_v2", {})
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; convert the file to 8 or 16 bits")
    if image.format == "JPEG2000":
        return _jpeg2000(image, Codestream.find(content).bits)
    if image.format == "PPM" and image.tile and image.tile[0][0] == "ppm":
        return _ppm(image, content)
    if image.mode.startswith("I"):
        if _first(tags.get(_SAMPLE_FORMAT)) == 2 and _first(tags.get(_BITS)) == 16:
            raise ValueError("signed 16-bit pixels have no fixed range; convert the file to unsigned 16 bits")
        bits = _first(tags.get(_BITS)) or 16
        return _grey(image, 2**bits - 1 if bits < 16 else 65535, inverted=tags.get(_PHOTOMETRIC) == 0)
    if tags.get(_PLANAR, 1) != 1 and max(tags.get(_BITS, (1,))) > 8:
        raise ValueError("channels of over 8 bits in separate planes cannot be read; save them interleaved or as PNG")
    rawmode = _rawmode(image)
    if ";16" not in rawmode:
        return None
    return _colour(image, content, rawmode)


def _first(values: Any) -> Any:
    return values[0] if isinstance(values, tuple) and values else values


def _rawmode(image: Any) -> str:
    """Return the mode in which Pillow unpacks the bytes of the file, such as "RGB;16B"."""
    if not image.tile:
        return ""
    arguments = image.tile[0][3]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _grey(image: Any, maximum: int, *, inverted: bool = False, shift: int = 0) -> np.ndarray:
    key = image.info.get("transparency")
    image.load()
    out = np.empty((image.height, image.width, 3), np.uint8)
    for rows in strips(image.height, image.width):
        values = _strip(image, rows).astype(np.int64) >> shift
        if values.size and not (np.min(values) >= 0 and np.max(values) <= maximum):
            raise ValueError(f"integer pixels outside the {maximum.bit_length()}-bit range")
        scaled = to_8_bits(maximum - values if inverted else values, maximum)
        out[rows] = np.where(values == key, 255, scaled)[..., None] if isinstance(key, int) else scaled[..., None]
    return out


def _colour(image: Any, content: bytes, rawmode: str) -> np.ndarray:
    """Read interleaved 16-bit channels: "LA", "RGB", "RGBX", "RGBA", "RGBa" (premultiplied) or "CMYK"."""
    layout, _, order = rawmode.partition(";16")
    native = "L" if sys.byteorder == "little" else "B"
    order = native if order == "N" else order
    key = image.info.get("transparency")
    unpacked = layout.replace("RGBa", "RGBA")  # premultiplied values are kept unchanged
    if layout == "LA":
        _load(image, "RGBA")  # the four bytes of a pixel, unchanged
        return _combine(image.size, lambda rows: tuple(np.split(_strip(image, rows)[..., [0, 2, 1, 3]], 2, -1)), layout)
    _load(image, f"{unpacked};16{order}")
    with Image.open(io.BytesIO(content), formats=[image.format]) as turned:
        _load(turned, f"{unpacked};16{'L' if order == 'B' else 'B'}")
        return _combine(image.size, lambda rows: (_strip(image, rows), _strip(turned, rows)), layout, key)


def _combine(size: tuple[int, int], read: Callable[[slice], tuple], layout: str, key: Any = None) -> np.ndarray:
    """Combine high and low bytes to 8-bit pixels, strip by strip."""
    out = np.empty((size[1], size[0], 3), np.uint8)
    for rows in strips(size[1], size[0]):
        high, low = (part.astype(np.int64) for part in read(rows))
        out[rows] = to_8_bits(_on_white(256 * high + low, layout, key, 65535), 65535)
    return out


def _load(image: Any, rawmode: str) -> None:
    """Decode the image with this raw mode."""
    tiles = []
    for decoder, box, offset, old in image.tile:
        tiles.append((decoder, box, offset, (rawmode, *old[1:]) if isinstance(old, tuple) else rawmode))
    image.tile = [getattr(type(old), "_make", tuple)(new) for old, new in zip(image.tile, tiles, strict=True)]
    image.load()


def _strip(image: Any, rows: slice) -> np.ndarray:
    return np.asarray(image.crop((0, rows.start, image.width, rows.stop)))


def _on_white(values: np.ndarray, layout: str, key: Any, maximum: int) -> np.ndarray:
    """Return the colours ``h w 3`` of pixels in a layout of Pillow; transparency is composited onto white."""
    if layout == "CMYK":
        return (maximum - values[..., :3]) * (maximum - values[..., 3:]) // maximum
    if layout in TRANSPARENT:
        colours, alpha = values[..., : TRANSPARENT[layout]], values[..., TRANSPARENT[layout], None]
        premultiplied = colours * maximum if layout == "RGBa" else colours * alpha
        return np.minimum(maximum, (premultiplied + maximum * (maximum - alpha) + maximum // 2) // maximum)
    if isinstance(key, tuple):
        return np.where((values == np.array(key)).all(-1, keepdims=True), maximum, values)
    return values


def _jpeg2000(image: Any, bits: tuple[int, ...]) -> np.ndarray | None:
    """Read JPEG 2000. Pillow shifts values to 8 or 16 bits (no exact scaling), and colours over 8 bits down to 8."""
    if set(bits) == {8}:
        return None
    if len(set(bits)) > 1 or (len(bits) > 1 and bits[0] > 8) or image.mode in ("P", "PA"):
        depths = ", ".join(map(str, bits))
        raise ValueError(f"JPEG 2000 channels of {depths} bits cannot be read exactly; save the image as 16-bit PNG")
    if len(bits) == 1:
        return _grey(image, 2 ** bits[0] - 1, shift=(8 if bits[0] < 8 else 16) - bits[0])
    if image.mode not in ("RGB", "LA", "RGBA"):
        raise ValueError(f"JPEG 2000 of {bits[0]} bits in the mode {image.mode} cannot be read exactly; save it as PNG")
    layout, maximum = image.mode, 2 ** bits[0] - 1
    image.load()
    out = np.empty((image.height, image.width, 3), np.uint8)
    for rows in strips(image.height, image.width):
        values = _strip(image, rows).astype(np.int64) >> (8 - bits[0])
        out[rows] = to_8_bits(_on_white(values, layout, None, maximum), maximum)
    return out


def _ppm(image: Any, content: bytes) -> np.ndarray:
    """Read raw values whose maximum is given in the header; Pillow would read them in a Python loop."""
    maximum, channels = image.tile[0][3][-1], 3 if image.mode == "RGB" else 1
    dtype, count = (np.uint8 if maximum < 256 else np.dtype(">u2")), image.width * image.height * channels
    if len(content) < image.tile[0][2] + count * np.dtype(dtype).itemsize:
        raise ValueError("the file is truncated")
    values = np.frombuffer(content, dtype, count, image.tile[0][2]).reshape(image.height, image.width, channels)
    out = np.empty((image.height, image.width, 3), np.uint8)
    for rows in strips(image.height, image.width):
        out[rows] = to_8_bits(np.minimum(values[rows].astype(np.int64), maximum), maximum)
    return out


def to_8_bits(values: np.ndarray, maximum: int) -> np.ndarray:
    """Return exactly ``round(255 v / maximum)``; halves are rounded to even.

    >>> to_8_bits(np.array([0, 511, 65407, 65535]), 65535).tolist()
    [0, 2, 255, 255]
    """
    return np.rint(255 * values / maximum).astype(np.uint8)
