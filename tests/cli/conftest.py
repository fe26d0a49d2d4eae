"""What the tests of programs that read image files share."""

import numpy as np
import pytest
import tiny
from photo_files import make_image
from PIL import Image

from jaxiqa import models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of all kinds, two damaged ones, and a file that is not named as an image."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "inner").mkdir()
    for i in range(5):
        make_image(40, 56).save(folder / f"same{i}.png")
    make_image(44, 40).save(folder / "other.jpg", quality=95)
    make_image(40, 44, 1).save(folder / "grey.png")
    make_image(40, 44, 4).save(folder / "alpha.png")
    make_image(40, 44, 1, np.uint16).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    make_image(40, 44).save(folder / "inner" / "turned.jpg", exif=exif)
    (folder / "broken.png").write_bytes((folder / "same0.png").read_bytes()[:300])
    (folder / "text.jpg").write_text("not an image")
    (folder / "notes.txt").write_text("none either")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained metric that does not resize images, and one that does."""
    folder = tmp_path_factory.mktemp("runs")
    for name, size in (("native", None), ("resized", (40, 56))):
        model = tiny.metric(input_size=size)
        model.calibrate(k=1.0, b=0.0, score_range=(-10.0, 10.0))
        models.save(model, folder / name)
    return folder
