"""Pictures of the NIPS 2017 adversarial competition's development set (Kurakin et al., arXiv:1804.00097): no scores."""

from pathlib import Path

from jaxiqa.data.split import Split
from jaxiqa.data.table import read_splits


def nips2017(source: Path, *, verify: bool = True) -> dict[str, Split]:
    """The pictures that ``images.csv`` lists (columns image, and sha256 if you like), 299×299, as the split ``test``.

    Args:
        source: folder with ``images.csv`` and the pictures.
        verify: check every file against its SHA-256, where the table has it.
    """
    return read_splits(
        source / "images.csv",
        name="nips2017",
        origin="The pictures: https://www.kaggle.com/datasets/google-brain/nips-2017-adversarial-learning-development-set;"
        " images.csv has the column image.",
        image_column="image",
        score_column=None,
        assign=lambda rows: ["test"] * len(rows),
        digest_column="sha256" if verify else None,
    )
