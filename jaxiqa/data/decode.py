"""Any picture file as 8-bit RGB, or an error that names it."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from jaxiqa.checks import check_number

MAX_PIXELS = 89_000_000
"""Larger pictures are refused: a small file can unpack to gigabytes. Pillow too draws its line here."""

RGB = UInt8[np.ndarray, "h w 3"]


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """Decode a picture file.

    Grey becomes three equal channels; transparency is composited onto white; palette and CMYK are converted; 16-bit
    values are scaled to 8 bits; an EXIF rotation is applied. Of an animation, the first picture counts.

    Args:
        path: the file.
        max_pixels: largest width × height accepted, at most `MAX_PIXELS`.

    Raises:
        ValueError: missing, a folder, unreadable, empty, truncated, not a picture, without pixels, or too large; names
            the file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    return decode(content, str(path), max_pixels=max_pixels)


def decode(content: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> RGB:
    """`read_image` for a file's content; ``name`` is what errors call it.

    >>> decode(b"", "a.png")
    Traceback (most recent call last):
    ValueError: a.png: the file is empty
    """
    check_number("max_pixels", max_pixels, 1, MAX_PIXELS)
    if not content:
        raise ValueError(f"{name}: the file is empty")
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > max_pixels:
                raise ValueError(f"{image.width}x{image.height} pixels, more than the {max_pixels} allowed")
            image.load()
            pixels = _to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: more than the {max_pixels} pixels allowed") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error) as error:
        raise ValueError(f"{name}: cannot be decoded: {error}") from error
    if pixels.size == 0:
        raise ValueError(f"{name}: has no pixels ({pixels.shape[1]}x{pixels.shape[0]})")
    return pixels


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        raise ValueError("floating-point pixels have no fixed range; convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits, whichever way Pillow unpacks them
        values = np.asarray(image).astype(np.int64)
        if values.size and not (values.min() >= 0 and values.max() <= 65535):
            raise ValueError("integer pixels outside the 16-bit range")
        return np.repeat(np.round(values / 257).astype(np.uint8)[..., None], 3, axis=2)
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.asarray(image.convert("RGB"))
