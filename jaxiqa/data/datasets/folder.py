"""Your own images: a folder with a csv."""

from collections.abc import Sequence
from numbers import Real
from pathlib import Path

import numpy as np

from jaxiqa.core.checks import check_count
from jaxiqa.data.split import Split
from jaxiqa.data.table import PARTS, Row, read_splits

SHARES = (0.8, 0.1, 0.1)


def folder(
    source: Path,
    *,
    csv: str = "scores.csv",
    image_column: str = "image",
    score_column: str | None = "mos",
    split_column: str | None = None,
    split: Sequence[float | int] = SHARES,
    seed: int = 0,
    mos_range: Sequence[float | int] | None = None,
) -> dict[str, Split]:
    """Load the images and scores that a csv lists.

    Args:
        source: folder of the csv; image names are relative to it.
        csv: name of the csv.
        image_column: column of file names.
        score_column: column of scores, higher is better; None: images without scores, all in the split ``test``.
        split_column: column with ``train``, ``val`` and ``test``; None: the column ``split`` if the csv has it,
            otherwise a random split.
        split: shares of train, val and test in a random split; they sum to 1. With shares other than the default, a
            split whose share is not 0 must not be empty; with the default, small data sets may have no val or test.
        seed: seed of the random split; apart from it, the split depends only on the order of rows.
        mos_range: lowest and highest value of the scale; scores outside are errors.
    """
    for name, text in (("csv", csv), ("image_column", image_column)):
        if not isinstance(text, str) or not text:
            raise ValueError(
                f"{name}={text!r} is not allowed; expected a name, such as {name.replace('csv', 'scores.csv')!r}"
            )
    if not _numbers(split, 3) or not min(split) >= 0 or not abs(sum(split) - 1) <= 1e-6:
        raise ValueError(f"split={split!r} is not allowed; expected shares of train, val and test that sum to 1")
    check_count("seed", seed, 0)
    if mos_range is not None and not (_numbers(mos_range, 2) and mos_range[0] < mos_range[1]):
        raise ValueError(f"mos_range={mos_range!r} is not allowed; expected (lowest, highest)")
    ends = None if mos_range is None else (float(mos_range[0]), float(mos_range[1]))

    def assign(rows: list[Row]) -> list[str]:
        if column := split_column or ("split" if "split" in rows[0] else None):
            return [row[column] for row in rows]
        if score_column is None:
            return ["test"] * len(rows)
        place = np.random.default_rng(seed).permutation(len(rows))
        bounds = np.round(np.cumsum(split[:2]) * len(rows))
        counts = np.diff([0, *bounds, len(rows)])
        if tuple(split) != SHARES and (
            empty := [part for part, share, count in zip(PARTS, split, counts, strict=True) if share and not count]
        ):
            raise ValueError(
                f"split={split!r} leaves none of {len(rows)} images for {' and '.join(empty)}; "
                "give larger shares, or 0 for a split that you do not want"
            )
        return [PARTS[i] for i in np.searchsorted(bounds, place, side="right")]

    return read_splits(
        Path(source) / csv,
        name="folder",
        origin="It lists your images and their scores, one per row.",
        image_column=image_column,
        score_column=score_column,
        assign=assign,
        columns=[split_column] if split_column else [],
        mos_range=ends,
    )


def _numbers(values: object, count: int) -> bool:
    """Return whether these are ``count`` real numbers."""
    return (
        isinstance(values, Sequence | np.ndarray)
        and len(values) == count
        and all(isinstance(value, Real) and not isinstance(value, bool) for value in values)
    )
