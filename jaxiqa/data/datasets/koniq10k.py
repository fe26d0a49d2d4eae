"""KonIQ-10k: 10,073 photographs scored by people, with the official split.

Reference: Hosu et al., "KonIQ-10k: An ecologically valid database for deep learning of blind image quality assessment",
arXiv:1910.06180.
"""

from pathlib import Path

from jaxiqa.data.split import Split
from jaxiqa.data.table import read_splits

PARTS = {"training": "train", "validation": "val", "test": "test"}


def koniq10k(source: Path, *, images: str = "1024x768") -> dict[str, Split]:
    """Load the splits of ``koniq10k_distributions_sets.csv``, scores 0 to 100.

    Args:
        source: folder with the csv and a folder of images.
        images: name of the folder of images, such as ``"1024x768"`` or ``"512x384"``.
    """
    return read_splits(
        Path(source) / "koniq10k_distributions_sets.csv",
        name="koniq10k",
        origin="The photographs and the table: https://database.mmsp-kn.de/koniq-10k-database.html.",
        image_column="image_name",
        score_column="MOS",
        assign=lambda rows: [PARTS[row["set"]] if row["set"] in PARTS else row["set"] for row in rows],
        columns=["set"],
        image_folder=Path(source) / images,
        mos_range=(0.0, 100.0),
    )
