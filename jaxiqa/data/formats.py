"""The image formats that are read, and what a file's header says of the memory that it takes. Nothing is decoded here.

Pillow knows a format by a file's content. Only the formats of `FORMATS` are offered to it: others may run another
program (EPS runs Ghostscript) or hold images of any size (ICO, ICNS).
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MAX_PIXELS = 89_000_000
"""Larger images are refused: a small file can unpack to gigabytes. Pillow too draws its line here."""

MAX_MEMORY = 2**30
"""Bytes that decoding one image may take, its file not counted."""

MAX_SCANS = 16 * MAX_PIXELS
"""Scans × pixels of a JPEG: a progressive file of a few kilobytes can hold scans that take minutes."""


@dataclass(frozen=True)
class Format:
    """Name suffixes of a format, and the bytes that decoding takes per pixel, as measured with Pillow 13."""

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
"""Formats by Pillow's names. An MPO (several JPEGs in a file) is opened as a JPEG."""

SUFFIXES = frozenset(suffix for known in FORMATS.values() for suffix in known.suffixes.split())
"""What counts as an image in a folder. A file that is named itself is read whatever it is called."""

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
    rb"II\*\x00|MM\x00\*": "a TIFF that is damaged, or of a depth or arrangement that Pillow cannot read",
}
"""Beginnings of files that are often taken for images, for the message."""


def describe_other(content: bytes) -> str:
    """Why no listed format can read a file.

    >>> describe_other(b"%!PS-Adobe-3.0 EPSF-3.0")
    'its content is EPS or PostScript; read are AVIF, BMP, DIB, GIF, JPEG, JPEG2000, PNG, PPM, TGA, TIFF, WEBP'
    """
    found = next((name for start, name in OTHERS.items() if re.match(start, content, re.DOTALL)), None)
    what = f"its content is {found}" if found else "its content is damaged or of another format"
    return f"{what}; read are {', '.join(FORMATS)}"


def check_size(width: int, height: int, max_pixels: int, kind: str | None = None) -> None:
    """Raise ``ValueError`` for more pixels than allowed, or than fit in `MAX_MEMORY` in this format.

    >>> check_size(9000, 9000, MAX_PIXELS, "WEBP")
    Traceback (most recent call last):
    ValueError: 9000x9000 pixels, more than the 53687091 allowed for WEBP
    """
    allowed = min(max_pixels, MAX_MEMORY // FORMATS[kind].bytes_per_pixel) if kind else max_pixels
    if width * height > allowed:
        extra = f" for {kind}" if allowed < max_pixels else ""
        raise ValueError(f"{width}x{height} pixels, more than the {allowed} allowed{extra}")


def check_header(content: bytes, max_pixels: int) -> None:
    """Raise ``ValueError`` where Pillow would take memory before it can be asked for the size, or for another size.

    WebP's decoder takes memory for its canvas when a file is opened; a JPEG 2000 container names one size and the
    stream inside it another; a JPEG may hold any number of scans.
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
    """Raise ``ValueError`` for a JPEG whose scans take too long together."""
    scans = content.count(b"\xff\xda")
    if scans * width * height > MAX_SCANS:
        raise ValueError(f"{scans} scans of {width}x{height} pixels, more than are decoded in seconds")


def _webp_sizes(content: bytes) -> Iterator[tuple[int, int]]:
    """Canvas and frames, as their headers say."""
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
    """What the SIZ segment of a JPEG 2000 stream says."""

    width: int
    height: int
    bits: tuple[int, ...]
    """Of each channel."""

    @staticmethod
    def read(content: bytes, place: int) -> "Codestream":
        """From the bytes behind the SIZ marker at ``place``."""
        try:
            _, _, right, bottom, left, top, *_, count = struct.unpack_from(">HH8IH", content, place)
        except struct.error:
            raise ValueError("the JPEG 2000 stream is truncated") from None
        bits = tuple((depth & 0x7F) + 1 for depth in content[place + 38 : place + 38 + 3 * min(count, 5) : 3])
        return Codestream(max(0, right - left), max(0, bottom - top), bits)

    @staticmethod
    def find(content: bytes) -> "Codestream":
        """The one that OpenJPEG decodes."""
        stream = re.search(rb"(?:^|jp2c(?:.{8})?)\xff\x4f\xff\x51", content, re.DOTALL)
        if stream is None:
            raise ValueError("there is no JPEG 2000 stream")
        return Codestream.read(content, stream.end())
