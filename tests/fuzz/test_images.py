"""Damaged images: any bytes give an array or an error that names the file, within 10 s and 1 GiB.

python tests/fuzz/test_images.py 2000
"""

import io
import os
import sys
from pathlib import Path

import image_files as files
import mutate
import numpy as np
import pytest
from PIL import Image


def read(content):
    """Read a file in the worker."""
    from jaxiqa.data.decode import decode

    pixels = decode(content, "a.png")
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3


def seeds():
    """Return a sound file of every format and depth, and real photographs if available."""
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (24, 40, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    formats = {"PNG": {"exif": exif}, "JPEG": {"exif": exif}, "GIF": {}, "BMP": {}, "WEBP": {}, "AVIF": {}, "TGA": {},
               "PPM": {}, "JPEG2000": {}, "TIFF": {"compression": "tiff_lzw"}, "ICO": {}, "EPS": {}}  # fmt: skip
    found = []
    for kind, options in formats.items():
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append(buffer.getvalue())
    buffer = io.BytesIO()
    image.convert("1").save(buffer, "TIFF", compression="group4")
    found.append(buffer.getvalue())
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", progressive=True)
    found.append(buffer.getvalue())
    deep = random.integers(0, 65536, (9, 11, 4))
    found += [
        files.png(deep, bits=16, colour_type=6),
        files.png(deep[..., :3], bits=16, colour_type=2, interlaced=True),
    ]
    found += [files.tiff(deep, bits=16, photometric=2, extra=((338, 3, [2]),))]
    found += [files.tiff(deep[..., :1] >> 4, bits=12, photometric=1)]
    if shared := os.environ.get("JAXIQA_SHARED"):
        photographs = [*sorted(Path(shared, "data", "clive").glob("*.jpg")), *Path(shared, "data").glob("*/*.png")]
        found += [path.read_bytes() for path in photographs[:: max(1, len(photographs) // 12)]]
    return found


def fuzz(count, seed=0, keep=None):
    return mutate.run("test_images:read", mutate.mutations(seeds(), count, seed), keep=keep)


@pytest.mark.slow
def test_damaged_images_are_read_or_refused():
    outcome = fuzz(300)
    assert outcome.findings == []
    assert outcome.read > 10
    assert outcome.refused > 10


if __name__ == "__main__":
    print(*(outcome := fuzz(int(sys.argv[1]), seed=1, keep=Path("findings"))).findings, outcome, sep="\n")
