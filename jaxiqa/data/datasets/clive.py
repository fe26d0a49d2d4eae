"""LIVE In the Wild Image Quality Challenge: photographs scored by people (Ghadiyaram and Bovik, 2015)."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxiqa.core.checks import check_count, check_number
from jaxiqa.data.split import Split
from jaxiqa.data.table import read_splits


def clive(source: Path, *, test_fraction: float = 0.0, seed: int = 0, verify: bool = True) -> dict[str, Split]:
    """Load the splits of ``scores.csv`` (columns image, mos, split, optionally sha256), scores 0 to 100.

    The table has ``train`` and ``val``. ``val`` chooses the best epoch; for test images that do not, set a part of
    ``train`` aside by ``test_fraction``.

    Args:
        source: folder with ``scores.csv`` and the images.
        test_fraction: share of the training images that becomes ``test``, in [0, 1).
        seed: seed of the random choice of these images.
        verify: check every file against its SHA-256, if the table has it.
    """
    check_number("test_fraction", test_fraction, 0)
    if not test_fraction < 1:
        raise ValueError(f"test_fraction={test_fraction} is outside [0, 1)")
    check_count("seed", seed, 0)
    splits = read_splits(
        Path(source) / "scores.csv",
        name="clive",
        origin="The photographs and scores: https://live.ece.utexas.edu/research/ChallengeDB/; "
        "scores.csv has the columns image, mos, split.",
        image_column="image",
        score_column="mos",
        assign=lambda rows: [row["split"] for row in rows],
        columns=["split"],
        digest_column="sha256" if verify else None,
        mos_range=(0.0, 100.0),
    )
    if test_fraction:
        if "test" in splits or "train" not in splits:
            raise ValueError(
                f"test_fraction={test_fraction} needs a table with split 'train' and without 'test'; got {[*splits]}"
            )
        order = np.random.default_rng(seed).permutation(len(splits["train"]))
        cut = round(test_fraction * len(order))
        if not 0 < cut < len(order):
            raise ValueError(f"test_fraction={test_fraction} gives {cut} of {len(order)} images to test; expected some")
        splits["test"] = replace(splits["train"].select(np.sort(order[:cut])), name="clive/test")
        splits["train"] = splits["train"].select(np.sort(order[cut:]))
    return splits
