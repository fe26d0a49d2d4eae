"""The development set of the NIPS 2017 adversarial competition: images without scores.

Reference: Kurakin et al., "Adversarial Attacks and Defences Competition", arXiv:1804.00097.
"""

from pathlib import Path

from jaxiqa.data.split import Split
from jaxiqa.data.table import read_splits


def nips2017(source: Path, *, verify: bool = True) -> dict[str, Split]:
    """Load the images that ``images.csv`` lists (columns image, optionally sha256), 299×299, as the split ``test``.

    Args:
        source: folder with ``images.csv`` and the images.
        verify: check every file against its SHA-256, if the table has it.
    """
    return read_splits(
        source / "images.csv",
        name="nips2017",
        origin="The images: https://www.kaggle.com/datasets/google-brain/nips-2017-adversarial-learning-development-set;"
        " images.csv has the column image.",
        image_column="image",
        score_column=None,
        assign=lambda rows: ["test"] * len(rows),
        digest_column="sha256" if verify else None,
    )
