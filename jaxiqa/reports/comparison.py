"""Attacked images beside their clean ones, for a page that compares them."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jaxiqa.reports.examples import amplification
from jaxiqa.reports.strengths import in_255ths
from jaxiqa.results.examples import Example


@dataclass(frozen=True)
class Attacked:
    """One attacked version of an image.

    Attributes:
        name: model, attack and strength.
        told: the scores before and after, and the largest change of a pixel.
        factor: that makes the difference visible.
        data: the file as base64.
    """

    name: str
    told: str
    factor: float
    data: str


@dataclass(frozen=True)
class Comparison:
    """A clean image and its attacked versions.

    Attributes:
        image: its name.
        width, height: in pixels.
        data: the clean file as base64.
        attacked: its versions.
    """

    image: str
    width: int
    height: int
    data: str
    attacked: tuple[Attacked, ...]


def compare(examples: Sequence[Example]) -> list[Comparison]:
    """Return one comparison per image, in the order of the examples; the clean image is in it once.

    >>> grey = np.full((4, 6, 3), 0.5)
    >>> found = compare([Example("i.png", "base", "PGD", 8 / 255, 40.0, 70.0, grey, grey + 8 / 255)])
    >>> found[0].width, found[0].attacked[0].name, found[0].attacked[0].told
    (6, 'base, PGD 8/255', 'score 40 → 70, largest change 8.0/255')
    """
    found: dict[tuple[str, str], list[Example]] = {}
    for example in examples:
        found.setdefault((example.image, encoded(example.clean)), []).append(example)
    return [
        Comparison(image, group[0].clean.shape[1], group[0].clean.shape[0], data, tuple(map(_attacked, group)))
        for (image, data), group in found.items()
    ]


def _attacked(example: Example) -> Attacked:
    difference = example.attacked - example.clean
    strength = "" if example.epsilon is None else f" {in_255ths(example.epsilon)}"
    return Attacked(
        f"{example.model}, {example.attack}{strength}",
        f"score {example.score:.4g} → {example.attacked_score:.4g}, "
        f"largest change {255 * np.abs(difference).max():.1f}/255",
        2 * amplification(difference),  # of the absolute value, which has the whole range
        encoded(example.attacked),
    )


def encoded(pixels: np.ndarray) -> str:
    """Return pixels in [0, 1], ``h w 3``, as a PNG file in base64: without loss, since the changes are small.

    >>> encoded(np.zeros((1, 1, 3)))[:11]
    'iVBORw0KGgo'
    """
    buffer = io.BytesIO()
    Image.fromarray(np.rint(255 * np.clip(pixels, 0, 1)).astype(np.uint8)).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
