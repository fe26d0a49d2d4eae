"""Write image files that Pillow cannot write, byte by byte."""

import struct
import zlib

import numpy as np


def png(samples, *, bits, colour_type, extra=b"", interlaced=False):
    """Encode ``h w c`` samples as PNG; colour types: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    def packed(rows):
        if bits < 8:
            return b"".join(b"\0" + bytes(np.packbits(_bits(row.ravel(), bits))) for row in rows)
        return b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in rows)

    height, width = samples.shape[:2]
    passes = [samples]
    if interlaced:  # Adam7
        starts = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        passes = [samples[row::down, column::right] for row, column, down, right in starts]
        passes = [part for part in passes if part.size]
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, interlaced)
    data = zlib.compress(b"".join(packed(part) for part in passes))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def transparent_colour(*values):
    body = struct.pack(f">{len(values)}H", *values)
    return struct.pack(">I", len(body)) + b"tRNS" + body + struct.pack(">I", zlib.crc32(b"tRNS" + body))


def tiff(samples, *, bits, photometric, order="<", extra=(), size=None, data=None):
    """Encode ``h w c`` samples as an uncompressed TIFF of one strip; ``extra`` holds further (tag, type, values)."""
    height, width = size or samples.shape[:2]
    channels = 1 if samples is None else samples.shape[2]
    if data is None and bits % 8:
        data = b"".join(bytes(np.packbits(_bits(row.ravel(), bits))) for row in samples)
    elif data is None:
        data = samples.astype(f"{order}{'i' if samples.min() < 0 else 'u'}{bits // 8}").tobytes()
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * channels),
        259: (3, [1]),
        262: (3, [photometric]),
        273: (4, [0]),
        277: (3, [channels]),
        278: (4, [height]),
        279: (4, [len(data)]),
    } | {tag: (kind, values) for tag, kind, values in extra}
    end = 8 + 2 + 12 * len(entries) + 4
    sizes = {3: "H", 4: "I"}
    values_of = {tag: struct.pack(f"{order}{len(v)}{sizes[kind]}", *v) for tag, (kind, v) in entries.items()}
    pool = {tag: end + sum(len(v) for t, v in values_of.items() if t < tag and len(v) > 4) for tag in values_of}
    strip = end + sum(len(v) for v in values_of.values() if len(v) > 4)
    values_of[273] = struct.pack(f"{order}I", strip)
    body = b""
    for tag in sorted(entries):
        value = values_of[tag] if len(values_of[tag]) <= 4 else struct.pack(f"{order}I", pool[tag])
        body += struct.pack(f"{order}HHI", tag, entries[tag][0], len(entries[tag][1])) + value.ljust(4, b"\0")
    far = b"".join(values_of[tag] for tag in sorted(entries) if len(values_of[tag]) > 4)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + body + struct.pack(f"{order}I", 0) + far + data


def _bits(values, bits):
    return (values[:, None].astype(np.uint32) >> np.arange(bits)[::-1] & 1).astype(np.uint8).ravel()
