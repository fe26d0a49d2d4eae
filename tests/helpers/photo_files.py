"""Random image files."""

import numpy as np
from PIL import Image

GENERATOR = np.random.default_rng(0)


def make_image(height, width, channels=3, dtype=np.uint8):
    values = GENERATOR.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype)
    return Image.fromarray(values if channels > 1 else values[..., 0])
