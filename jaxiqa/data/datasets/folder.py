"""Your own pictures: a folder with a csv."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxiqa.core.checks import check_number
from jaxiqa.data.split import Split
from jaxiqa.data.table import PARTS, Row, read_splits


def folder(
    source: Path,
    *,
    csv: str = "scores.csv",
    image_column: str = "image",
    score_column: str | None = "mos",
    split_column: str | None = None,
    split: Sequence[float | int] = (0.8, 0.1, 0.1),
    seed: int = 0,
    mos_range: Sequence[float | int] | None = None,
) -> dict[str, Split]:
    """Pictures and scores that a csv lists.

    Args:
        source: folder of the csv; picture names are relative to it.
        csv: name of the csv.
        image_column: column of file names.
        score_column: column of scores, higher is better; None for pictures without, all in the split ``test``.
        split_column: column with ``train``, ``val`` and ``test``; None takes the column ``split`` where the csv has
            one, and splits at random where it has none.
        split: shares of train, val and test in a random split; they sum to 1.
        seed: of the random split, which depends on the order of rows alone.
        mos_range: the scale's ends; scores outside are errors.
    """
    if len(split) != 3 or not min(split) >= 0 or abs(sum(split) - 1) > 1e-6:
        raise ValueError(f"split={tuple(split)}; give the shares of train, val and test, which sum to 1")
    check_number("seed", seed, 0)
    ends = None if mos_range is None else tuple(map(float, mos_range))
    if ends and (len(ends) != 2 or not ends[0] < ends[1]):
        raise ValueError(f"mos_range={mos_range}; give (lowest, highest)")

    def assign(rows: list[Row]) -> list[str]:
        if column := split_column or ("split" if "split" in rows[0] else None):
            return [row[column] for row in rows]
        if score_column is None:
            return ["test"] * len(rows)
        place = np.random.default_rng(seed).permutation(len(rows))
        bounds = np.round(np.cumsum(split[:2]) * len(rows))
        return [PARTS[i] for i in np.searchsorted(bounds, place, side="right")]

    return read_splits(
        source / csv,
        name="folder",
        origin="It lists your pictures and their scores, one per row.",
        image_column=image_column,
        score_column=score_column,
        assign=assign,
        columns=[split_column] if split_column else [],
        mos_range=ends,
    )
