"""Pictures of the NIPS 2017 adversarial competition's development set (Kurakin et al., arXiv:1804.00097): no scores."""

from pathlib import Path

from jaxiqa.data.split import Split
from jaxiqa.data.table import read_splits


def nips2017(source: Path) -> dict[str, Split]:
    """The pictures that ``images.csv`` lists (columns image, sha256), 299×299, as the split ``test``."""
    return read_splits(
        source / "images.csv",
        name="nips2017",
        image_column="image",
        score_column=None,
        split_of=lambda row, _: "test",
        columns=("sha256",),
        digest_column="sha256",
    )
