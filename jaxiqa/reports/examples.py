"""Attacked pictures to look at."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxiqa.reports.summary import in_255ths


@dataclass(frozen=True)
class Example:
    """One attacked picture; pixels are float ``h w c`` in [0, 1]."""

    image: str
    model: str
    attack: str
    epsilon: float | None
    score: float
    attacked_score: float
    clean: np.ndarray
    attacked: np.ndarray


def save(example: Example, path: Path) -> None:
    """Write one example to an ``.npz`` file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = dict(vars(example), epsilon=np.nan if example.epsilon is None else example.epsilon)
    np.savez_compressed(path, **values)


def load(path: Path) -> Example:
    """Read what `save` wrote."""
    with np.load(path) as file:
        epsilon = float(file["epsilon"])
        return Example(
            *(str(file[name]) for name in ("image", "model", "attack")),
            None if np.isnan(epsilon) else epsilon,
            *(float(file[name]) for name in ("score", "attacked_score")),
            file["clean"],
            file["attacked"],
        )


def amplification(difference: np.ndarray) -> float:
    """The power of two that makes the largest change just visible over the whole range.

    >>> amplification(np.array([8 / 255]))
    8.0
    """
    return float(2 ** np.floor(np.log2(0.5 / max(float(np.abs(difference).max()), 1e-6))))


def sheet(examples: Sequence[Example]) -> bytes:
    """PNG: per example the clean picture, the attacked one, and their difference around grey, amplified as stated."""
    columns = 2 if len(examples) > 1 else 1
    rows = -(-len(examples) // columns)
    height, width = examples[0].clean.shape[:2]
    figure = Figure(figsize=(6.6 * columns, rows * (2.15 * height / width + 0.5)), layout="constrained")
    axes = figure.subplots(rows, 3 * columns, squeeze=False).reshape(-1, 3)
    for panels, example in zip(axes, examples, strict=False):
        difference = example.attacked - example.clean
        factor = amplification(difference)
        strength = "" if example.epsilon is None else f" {in_255ths(example.epsilon)}"
        titles = (
            f"{example.model}\nclean: {example.score:.1f}",
            f"{example.attack}{strength}\nattacked: {example.attacked_score:.1f}",
            f"difference ×{factor:g}\nlargest {255 * np.abs(difference).max():.1f}/255",
        )
        pictures = (example.clean, example.attacked, 0.5 + factor * difference)
        for panel, title, picture in zip(panels, titles, pictures, strict=True):
            panel.imshow(np.clip(picture, 0, 1), interpolation="nearest")
            panel.set_title(title, fontsize=8)
    for panel in axes.ravel():
        panel.set_axis_off()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
