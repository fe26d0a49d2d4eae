"""LIVE In the Wild Image Quality Challenge: photographs scored by people (Ghadiyaram and Bovik, 2015)."""

from pathlib import Path

import numpy as np

from jaxiqa.data.split import Split
from jaxiqa.data.table import read_splits


def clive(source: Path, *, test_fraction: float = 0.0, seed: int = 0) -> dict[str, Split]:
    """The splits of ``scores.csv`` (columns image, mos, split, sha256), scores 0 to 100.

    Args:
        source: folder with ``scores.csv`` and the pictures; every file is checked against its digest.
        test_fraction: share of the training pictures that is set aside as ``test``, in [0, 1).
        seed: which ones.
    """
    splits = read_splits(
        source / "scores.csv",
        name="clive",
        image_column="image",
        score_column="mos",
        split_of=lambda row, _: row["split"],
        columns=("split", "sha256"),
        digest_column="sha256",
        mos_range=(0.0, 100.0),
    )
    if test_fraction:
        order = np.random.default_rng(seed).permutation(len(splits["train"]))
        cut = round(test_fraction * len(order))
        splits["test"] = splits["train"].select(np.sort(order[:cut]))
        splits["train"] = splits["train"].select(np.sort(order[cut:]))
    return splits
