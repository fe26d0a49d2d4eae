"""The report of a network: a row per layer, the bound of the whole, and how to show them."""

import csv
import math
from dataclasses import astuple, dataclass, fields
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: of the layer, from the path of its weights; of the operation if there are none.
        shape: of its output, for one image.
        method: how its own bound was found, or why there is none.
        lower, upper: bounds of its own Lipschitz constant.
        exact: whether ``upper`` is the constant itself, up to 1e-9.
        seconds: time spent on the bounds.
        bound: of everything from the image to this layer.
    """

    name: str
    shape: tuple[int, ...]
    method: str
    lower: float
    upper: float
    exact: bool
    seconds: float
    bound: float


@dataclass(frozen=True)
class Report:
    """The result of `report`; print it, or read its rows.

    Attributes:
        rows: one per layer, in order of execution.
        bound: of the whole: |f(x) − f(y)| ≤ bound · ‖x − y‖₂ for images in [0, 1], in real arithmetic.
        image_shape: of the images for which it holds.
    """

    rows: tuple[Row, ...]
    bound: float
    image_shape: tuple[int, ...]

    def __str__(self) -> str:
        head = ("layer", "output", "lower", "upper", "exact", "s", "up to here", "method")
        lines = [
            (
                row.name,
                "x".join(map(str, row.shape)),
                f"{row.lower:.5g}",
                f"{row.upper:.5g}",
                "yes" if row.exact else "",
                f"{row.seconds:.2f}",
                f"{row.bound:.3e}",
                row.method,
            )
            for row in self.rows
        ]
        widths = [max(len(line[i]) for line in (head, *lines)) for i in range(len(head) - 1)]
        text = "\n".join(
            "  ".join([*(cell.ljust(width) for cell, width in zip(line, widths, strict=False)), line[-1]])
            for line in (head, *lines)
        )
        return f"{text}\nLipschitz bound of the whole: {self.bound:.6g}"

    def save_csv(self, path: str | Path) -> None:
        """Write the rows, and the whole as the last row."""
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([field.name for field in fields(Row)])
            writer.writerows(astuple(row) for row in self.rows)
            writer.writerow(["whole", "", "composed", "", self.bound, False, "", self.bound])

    def plot(self, path: str | Path) -> None:
        """Draw every layer's bounds as bars on a logarithmic axis.

        Layers whose constant is 1 by construction are not drawn; the title gives their number.
        """
        from matplotlib.figure import Figure

        drawn = [row for row in self.rows if row.upper != 1 or row.lower != 1]
        figure = Figure(figsize=(8, 1 + 0.22 * max(len(drawn), 4)), layout="constrained")
        axes = figure.add_subplot()
        places = np.arange(len(drawn))
        finite = [row.upper if math.isfinite(row.upper) else np.nan for row in drawn]
        axes.barh(places, finite, color="#4878a8", label="upper bound")
        axes.barh(places, [row.lower for row in drawn], height=0.35, color="#f0a050", label="lower bound")
        for place, row in enumerate(drawn):
            if not math.isfinite(row.upper):
                axes.text(1, place, f" unbounded: {row.method}", va="center", fontsize=7)
        axes.axvline(1, color="black", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_yticks(places, [row.name for row in drawn], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("Lipschitz constant (Euclidean norm)")
        left_out = len(self.rows) - len(drawn)
        axes.set_title(f"whole: {self.bound:.3g}; {left_out} layers of constant 1 not drawn", fontsize=9)
        axes.legend(fontsize=7)
        figure.savefig(path, dpi=150)
