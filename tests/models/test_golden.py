"""Scores that the authors or pyiqa published for images in their repositories, with the real weights.

Set JAXIQA_GOLDEN to a folder with the files named below. Tests of missing files are skipped.
"""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxiqa
from jaxiqa.data import read_image
from jaxiqa.models import MODELS

LINEARITY_SPEC = {"p1q2.pth": 10.430044178601875, "p1q2plus0.1variant.pth": 16.726127839961094}
PAQ2PIQ_SPEC = "RoIPoolModel-fit.10.bs.120.pth"
CALIBRATION = {"I03.bmp": 44.1340, "I04.bmp": 73.6015, "I06.bmp": 74.3297, "I08.bmp": 76.8748, "I19.bmp": 70.9153}
MANIQA_SPEC = {"bird.jpg": 0.2612, "dog.jpg": 0.3078, "ball.jpg": 0.3716, "people.jpg": 0.3581}


def golden(name: str) -> Path:
    folder = os.environ.get("JAXIQA_GOLDEN")
    if not folder:
        pytest.skip("JAXIQA_GOLDEN does not name a folder with published checkpoints and images")
    if not (Path(folder) / name).is_file():
        pytest.skip(f"JAXIQA_GOLDEN has no {name}")
    return Path(folder) / name


def load(name: str, file: str):
    if name not in MODELS:
        pytest.skip(f"{name} is not registered")
    return jaxiqa.load(name, weights=golden(file))


def score(model, pixels) -> float:
    return float(model(jnp.asarray(np.asarray(pixels), jnp.float32)[None] / 255)[0])


@pytest.mark.parametrize("file", LINEARITY_SPEC)
def test_linearity_on_its_demo_image(file):
    model, path = load("linearity", file), golden("1000.JPG")
    # The original resizes 8-bit images; `prepare` does not round, so images are rounded here first.
    resized = Image.fromarray(read_image(path)).resize((664, 498), Image.Resampling.BILINEAR)
    assert score(model, resized) == pytest.approx(LINEARITY_SPEC[file], rel=1e-3)


def test_paq2piq_on_its_demo_image():
    model = load("paq2piq", PAQ2PIQ_SPEC)
    assert score(model, read_image(golden("Picture1.jpg"))) == pytest.approx(78.962646484375, rel=1e-3)


@pytest.mark.parametrize("name", CALIBRATION)
def test_paq2piq_agrees_with_pyiqas_calibration(name):
    model = load("paq2piq", PAQ2PIQ_SPEC)
    np.testing.assert_allclose(score(model, read_image(golden(name))), CALIBRATION[name], atol=1e-2, rtol=1e-2)


def test_maniqa_orders_its_demo_images():
    """The published numbers come from random crops and unnamed weights, so only their order is checked."""
    model = load("maniqa", "ckpt_koniq10k.pt")
    scores = {name: score(model, read_image(golden(name))) for name in MANIQA_SPEC}
    assert all(np.isfinite(value) and 0 <= value <= 1.5 for value in scores.values())
    assert scores["bird.jpg"] < scores["dog.jpg"] < min(scores["people.jpg"], scores["ball.jpg"])
