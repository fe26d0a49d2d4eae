"""KonIQ-10k: 10,073 photographs scored by people (Hosu et al., arXiv:1910.06180), with the official split."""

from pathlib import Path

from jaxiqa.data.split import Split
from jaxiqa.data.table import read_splits

PARTS = {"training": "train", "validation": "val", "test": "test"}


def koniq10k(source: Path, *, images: str = "1024x768") -> dict[str, Split]:
    """The splits of ``koniq10k_distributions_sets.csv``, scores 0 to 100.

    Args:
        source: folder with the csv and a folder of pictures.
        images: that folder's name, such as ``"1024x768"`` or ``"512x384"``.
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
