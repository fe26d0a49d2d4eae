"""Supported image formats, and checks of file headers before anything is decoded.

Pillow finds the format from the content of a file. It may use only the formats of `FORMATS`: others may run another
program (EPS runs Ghostscript) or hold images of any size (ICO, ICNS).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_PIXELS = 89_000_000
"""Largest number of pixels, since a small file can unpack to gigabytes. Pillow has the same limit."""

MAX_MEMORY = 2**30
"""Most bytes of memory for decoding one image, without its file."""

MAX_SCANS = 16 * MAX_PIXELS
"""Most scans × pixels of a JPEG: a progressive file of a few kilobytes can have scans that take minutes."""


@dataclass(frozen=True)
class Format:
    """Name suffixes of a format, and the bytes per pixel that decoding needs, measured with Pillow 13."""

    suffixes: str
    bytes_per_pixel: int


FORMATS = {
    "AVIF": Format(".avif .avifs", 16),
    "BMP": Format(".bmp", 12),
    "DIB": Format(".dib", 12),
    "GIF": Format(".gif", 12),
    "JPEG": Format(".jpg .jpeg .jpe .jfif .jif .mpo", 12),
    "JPEG2000": Format(".jp2 .j2k .j2c .jpc .jpf .jpx", 44),
    "PNG": Format(".png .apng", 12),
    "PPM": Format(".ppm .pgm .pbm .pnm", 12),
    "TGA": Format(".tga .icb .vda .vst", 12),
    "TIFF": Format(".tif .tiff", 12),
    "WEBP": Format(".webp", 20),
}
"""Formats by their names in Pillow. An MPO (several JPEGs in one file) is opened as a JPEG."""

SUFFIXES = frozenset(suffix for known in FORMATS.values() for suffix in known.suffixes.split())
"""Suffixes of image files in a folder. A file that is given by its path is read with any suffix."""

OTHERS = {
    rb"%!PS|\xc5\xd0\xd3\xc6": "EPS or PostScript",
    rb"%PDF": "PDF",
    rb"8BPS": "Photoshop",
    rb"\x00\x00[\x01\x02]\x00": "ICO or CUR",
    rb"icns": "ICNS",
    rb"DDS ": "DDS",
    rb"....ftyp(hei[csmx]|hevc|mif1|msf1)": "HEIF",
    rb"\s*(<\?xml|<svg|<!DOCTYPE)": "XML, SVG or HTML",
    rb"\xff\x0a|\x00\x00\x00\x0cJXL ": "JPEG XL",
    rb"\x76\x2f\x31\x01": "OpenEXR",
    rb"PK\x03\x04": "a zip archive",
    rb"II\*\x00|MM\x00\*": "a TIFF that is damaged, or of a bit depth or layout that Pillow cannot read",
}
"""First bytes of other file formats, for the message."""


def describe_other(content: bytes) -> str:
    """Return why a file is in none of the supported formats.

    >>> describe_other(b"%!PS-Adobe-3.0 EPSF-3.0")
    'its content is EPS or PostScript; supported are AVIF, BMP, DIB, GIF, JPEG, JPEG2000, PNG, PPM, TGA, TIFF, WEBP'
    """
    found = next((name for start, name in OTHERS.items() if re.match(start, content, re.DOTALL)), None)
    what = f"its content is {found}" if found else "its content is damaged or of another format"
    return f"{what}; supported are {', '.join(FORMATS)}"


def check_size(width: int, height: int, max_pixels: int, kind: str | None = None) -> None:
    """Check that the pixels are not more than allowed and fit in `MAX_MEMORY` in this format; else ``ValueError``.

    >>> check_size(9000, 9000, MAX_PIXELS, "WEBP")
    Traceback (most recent call last):
    ValueError: 9000x9000 pixels, more than the 53687091 allowed for WEBP
    """
    allowed = min(max_pixels, MAX_MEMORY // FORMATS[kind].bytes_per_pixel) if kind else max_pixels
    if width * height > allowed:
        extra = f" for {kind}" if allowed < max_pixels else ""
        raise ValueError(f"{width}x{height} pixels, more than the {allowed} allowed{extra}")


def check_header(content: bytes, max_pixels: int) -> None:
    """Check the size in a WebP or JPEG 2000 header, where Pillow would allocate memory first; else ``ValueError``.

    The WebP decoder allocates its canvas when a file is opened. The container of a JPEG 2000 file may give another size
    than the stream inside it.
    """
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        for size in _webp_sizes(content):
            check_size(*size, max_pixels, "WEBP")
    elif content[:4] == b"\xff\x4f\xff\x51" or content[4:8] == b"jP  ":
        for stream in re.finditer(rb"(?:^|jp2c(?:.{8})?)\xff\x4f\xff\x51", content, re.DOTALL):
            codestream = Codestream.read(content, stream.end())
            check_size(codestream.width, codestream.height, max_pixels, "JPEG2000")
            if len(codestream.bits) > 4:
                raise ValueError(f"{len(codestream.bits)} channels, more than 4")


def check_scans(content: bytes, width: int, height: int) -> None:
    """Check that the scans of a JPEG do not take too long to decode; else ``ValueError``."""
    scans = content.count(b"\xff\xda")
    if scans * width * height > MAX_SCANS:
        raise ValueError(f"{scans} scans of {width}x{height} pixels would take too long to decode; save the file again")


def _webp_sizes(content: bytes) -> Iterator[tuple[int, int]]:
    """Yield the sizes of canvas and frames in the headers."""
    for chunk in re.finditer(rb"VP8X.{8}(.{6})|VP8 .{7}\x9d\x01\x2a(.{4})|VP8L.{4}\x2f(.{4})", content, re.DOTALL):
        canvas, lossy, lossless = chunk.groups()
        if canvas:
            yield int.from_bytes(canvas[:3], "little") + 1, int.from_bytes(canvas[3:], "little") + 1
        elif lossy:
            width, height = struct.unpack("<HH", lossy)
            yield width & 0x3FFF, height & 0x3FFF
        else:
            both = int.from_bytes(lossless, "little")
            yield (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1


@dataclass(frozen=True)
class Codestream:
    """The SIZ segment of a JPEG 2000 stream."""

    width: int
    height: int
    bits: tuple[int, ...]
    """Bits of each channel."""

    @staticmethod
    def read(content: bytes, place: int) -> "Codestream":
        """Read the segment after the SIZ marker at ``place``."""
        try:
            _, _, right, bottom, left, top, *_, count = struct.unpack_from(">HH8IH", content, place)
        except struct.error:
            raise ValueError("the JPEG 2000 stream is truncated") from None
        bits = tuple((depth & 0x7F) + 1 for depth in content[place + 38 : place + 38 + 3 * min(count, 5) : 3])
        return Codestream(max(0, right - left), max(0, bottom - top), bits)

    @staticmethod
    def find(content: bytes) -> "Codestream":
        """Find the stream that OpenJPEG decodes."""
        stream = re.search(rb"(?:^|jp2c(?:.{8})?)\xff\x4f\xff\x51", content, re.DOTALL)
        if stream is None:
            raise ValueError("there is no JPEG 2000 stream")
        return Codestream.read(content, stream.end())
