"""Read image files as 8-bit RGB."""

import io
import logging
import os
import stat
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from jaxiqa.core.checks import check_number
from jaxiqa.data.deep import read_deep, strips
from jaxiqa.data.formats import FORMATS, MAX_PIXELS, check_header, check_scans, check_size, describe_other

MAX_BYTES = 2**29
"""Largest file; larger files raise an error. An uncompressed 16-bit colour image of `MAX_PIXELS` just fits."""

RGB = UInt8[np.ndarray, "h w 3"]

_log = logging.getLogger(__name__)

_ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 274, 322, 323


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """Decode an image file in one of the formats of `jaxiqa.data.formats.FORMATS`; its content decides the format.

    Grey becomes three equal channels. Transparency is composited onto white. Palette and CMYK are converted. A value v
    with maximum m (65535 for 16 bits, 4095 for 12) becomes ``round(255 v / m)``. An EXIF rotation is applied; if the
    EXIF data cannot be read, a warning is logged. Of an animation, the first image is returned.

    Args:
        path: the file.
        max_pixels: largest width × height, at most `MAX_PIXELS`; the limit is lower for formats that need more memory.

    Returns:
        The pixels, uint8, ``h w 3``.

    Raises:
        ValueError: the file is missing, not a regular file, unreadable, empty, truncated, of another format, without
            pixels, too large, or its values have no fixed range; the message names the file.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "grey.png"
    >>> Image.new("L", (4, 2), 128).save(path)
    >>> read_image(path).shape, read_image(path)[0, 0].tolist()
    ((2, 4, 3), [128, 128, 128])
    """
    path = Path(path)
    if fault := file_fault(path):
        raise ValueError(f"{path}: {fault}")
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise ValueError(f"{path}: not enough memory to read it") from error
    return decode(content, str(path), max_pixels=max_pixels)


def file_fault(path: Path) -> str | None:
    """Return why a path is not a readable file (missing, a folder, a broken link, a device, a FIFO), or None.

    >>> file_fault(Path("/dev/null"))
    'is a device, not a file'
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:
        if os.path.islink(path):
            return f"is a broken link (to {os.readlink(path)})"
        if isinstance(error, FileNotFoundError | NotADirectoryError | ValueError):
            return "no such file"
        return f"cannot be read: {error.strerror}"
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "FIFO", stat.S_ISSOCK: "socket"}
    return f"is a {next((kind for test, kind in kinds.items() if test(mode)), 'device')}, not a file"


def decode(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """Decode the content of a file as `read_image` does; ``name`` is its name in error messages.

    >>> decode(b"", "a.png")
    Traceback (most recent call last):
    ValueError: a.png: the file is empty
    """
    check_number("max_pixels", max_pixels, 1, MAX_PIXELS)
    if not content:
        raise ValueError(f"{name}: the file is empty")
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"the file is larger than the {MAX_BYTES} bytes allowed")
        check_header(content, max_pixels)
        pixels = _decode(content, name, max_pixels)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: cannot be decoded: {describe_other(content)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: cannot be decoded: more than the {max_pixels} pixels allowed") from error
    except MemoryError as error:
        raise ValueError(f"{name}: cannot be decoded: not enough memory") from error
    except Exception as error:  # for damaged files Pillow raises errors of any type
        raise ValueError(f"{name}: cannot be decoded: {error or type(error).__name__}") from error
    if pixels.size == 0:
        raise ValueError(f"{name}: has no pixels ({pixels.shape[1]}x{pixels.shape[0]})")
    return pixels


@cache
def _available() -> tuple[str, ...]:
    """Return the formats of `FORMATS` that this Pillow supports."""
    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)


def _decode(content: bytes, name: str, max_pixels: int) -> np.ndarray:
    with Image.open(io.BytesIO(content), formats=_available()) as image:
        kind = "JPEG" if image.format == "MPO" else image.format
        check_size(image.width, image.height, max_pixels, kind)
        if kind == "JPEG":
            check_scans(content, image.width, image.height)
        if kind == "TIFF":
            tags = getattr(image, "tag_v2", {})
            check_size(tags.get(_TILE_WIDTH, 0), tags.get(_TILE_HEIGHT, 0), max_pixels, "TIFF")
        pixels = read_deep(image, content)
        if pixels is None:
            _scale_key(image)
            image.load()
            pixels = _to_rgb(image)
        orientation = _orientation(image, name)
    return _upright(pixels, orientation)


def _to_rgb(image: Any) -> np.ndarray:
    """Convert to 8-bit RGB pixels, strip by strip."""
    transparent = "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info
    out = np.empty((image.height, image.width, 3), np.uint8)
    for rows in strips(image.height, image.width):
        strip = image.crop((0, rows.start, image.width, rows.stop))
        if transparent:
            strip = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        out[rows] = np.asarray(strip.convert("RGB"))
    return out


def _scale_key(image: Any) -> None:
    """Scale the transparent value of grey PNGs of 2 and 4 bits to 8 bits: Pillow scales only the pixels."""
    key = image.info.get("transparency")
    rawmode = image.tile[0][3] if image.format == "PNG" and image.tile else None
    if isinstance(key, int) and rawmode in ("L;2", "L;4"):
        image.info["transparency"] = key * {"L;2": 85, "L;4": 17}[rawmode]


def _orientation(image: Any, name: str) -> Any:
    """Return the orientation tag; other tags are not read, since they may be invalid."""
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # Pillow's EXIF reader raises errors of any type
        _log.warning("%s: cannot read the EXIF data (%s); the image is not rotated", name, error)
        return 1


def _upright(pixels: np.ndarray, orientation: Any) -> np.ndarray:
    turned = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x.swapaxes(0, 1)[:, ::-1],
        7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
        8: lambda x: x.swapaxes(0, 1)[::-1],
    }
    turn = turned.get(orientation) if isinstance(orientation, int) else None
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))
