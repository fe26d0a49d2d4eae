"""Examples of attacked images."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from jaxiqa.reports.drawing import inches, plain, png
from jaxiqa.reports.strengths import in_255ths
from jaxiqa.results.examples import Example


def amplification(difference: np.ndarray) -> float:
    """Return the power of two, at least 1, that scales all but the largest 1 % of the changes to the whole range.

    Otherwise a few large changes, such as along edges moved by a warp, would leave the rest grey.

    >>> amplification(np.array([8 / 255])), amplification(np.zeros(3))
    (8.0, 1.0)
    """
    size = float(np.quantile(np.abs(difference), 0.99))
    return float(2 ** max(0.0, np.floor(np.log2(0.5 / size)))) if size > 0 else 1.0


def example_grid(examples: Sequence[Example]) -> bytes:
    """Return a PNG: per example the clean image, the attacked one, and their difference.

    The difference is 0.5 + k · (attacked − clean), clipped to [0, 1]; k is `amplification` and is in its title.

    Raises:
        ValueError: no examples.
    """
    if not examples:
        raise ValueError("examples is empty; expected at least one example")
    columns = 2 if len(examples) > 1 else 1
    rows = -(-len(examples) // columns)
    short = partial(plain, longest=24)  # fits above an image
    aspect = max(example.clean.shape[0] / example.clean.shape[1] for example in examples)
    figure = Figure(figsize=(6.6 * columns, rows * (2.15 * aspect + 0.62)), layout="constrained")
    axes = figure.subplots(rows, 3 * columns, squeeze=False).reshape(-1, 3)
    for panels, example in zip(axes, examples, strict=False):
        difference = example.attacked - example.clean
        factor = amplification(difference)
        strength = "" if example.epsilon is None else f" {in_255ths(example.epsilon)}"
        titles = (
            f"{short(example.model)}\n{short(example.image)}\nclean: {example.score:.4g}",
            f"\n{short(example.attack)}{strength}\nattacked: {example.attacked_score:.4g}",
            f"\ndifference × {factor:g}\nlargest {255 * np.abs(difference).max():.1f}/255",
        )
        images = (example.clean, example.attacked, 0.5 + factor * difference)
        for panel, title, image in zip(panels, titles, images, strict=True):
            panel.imshow(np.clip(image, 0, 1), interpolation="nearest")
            panel.set_title(title, fontsize=8 * min(1.0, 2.1 / inches(title.splitlines(), 8)))
    for panel in axes.ravel():
        panel.set_axis_off()
    return png(figure, dpi=110)
