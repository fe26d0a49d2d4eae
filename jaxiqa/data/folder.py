"""Your own pictures: a folder with a csv."""

from pathlib import Path

import numpy as np

from jaxiqa.checks import check_number
from jaxiqa.data.split import Split
from jaxiqa.data.table import read_splits


def folder(
    source: Path,
    *,
    csv: str = "scores.csv",
    image_column: str = "image",
    score_column: str | None = "mos",
    split_column: str | None = None,
    fractions: tuple[float, float] = (0.8, 0.1),
    seed: int = 0,
    mos_range: tuple[float, float] | None = None,
) -> dict[str, Split]:
    """Pictures and scores that a csv lists.

    Args:
        source: folder of the csv; picture names are relative to it.
        csv: name of the csv.
        image_column: column of file names.
        score_column: column of scores, higher is better; None for pictures without, all in the split ``test``.
        split_column: column with ``train``, ``val`` and ``test``; None splits at random.
        fractions: shares of ``train`` and ``val`` in a random split; the rest is ``test``.
        seed: of the random split, which depends on the order of rows alone.
        mos_range: the scale's ends; scores outside are errors.
    """
    for part, fraction in zip(("train", "val"), fractions, strict=True):
        check_number(f"fractions ({part})", fraction, 0.0, 1.0)
    check_number("fractions (sum)", sum(fractions), 0.0, 1.0)
    path = source / csv
    count = max(len(path.read_text(encoding="utf-8").splitlines()) - 1, 0) if path.is_file() else 0
    place = np.random.default_rng(seed).permutation(count)
    bounds = np.round(np.cumsum(fractions) * count)

    def split_of(row: dict[str, str], number: int) -> str:
        if score_column is None:
            return "test"
        if split_column:
            return row[split_column]
        return ("train", "val", "test")[int(np.searchsorted(bounds, place[number], side="right"))]

    return read_splits(
        path,
        name="folder",
        image_column=image_column,
        score_column=score_column,
        split_of=split_of,
        columns=[split_column] if split_column else [],
        mos_range=mos_range,
    )
