"""FLIVE: 39,810 photographs, each scored by people, with three patches that are scored too.

Reference: Ying et al., "From Patches to Pictures (PaQ-2-PiQ): Mapping the Perceptual Space of Picture Quality",
arXiv:1912.10088. The names of tables and columns are those of the authors' code, https://github.com/baidut/PaQ-2-PiQ.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxiqa.data.regions import TableRegions
from jaxiqa.data.split import Split
from jaxiqa.data.table import Row, number, read_splits

BOX = ("left", "top", "right", "bottom")
PATCHES = ("patch_1", "patch_2", "patch_3")
COLUMNS = (*(f"{side}_{of}" for of in ("image", *PATCHES) for side in BOX), *(f"mos_{patch}" for patch in PATCHES))


def flive(
    source: Path,
    *,
    train: str = "labels=640_padded.csv",
    test: str = "labels640.csv",
    patches: bool = False,
) -> dict[str, Split]:
    """Load the splits of the authors' tables, scores 0 to 100: images with a side above 640 pixels are ``test``.

    Args:
        source: folder with both tables; the names of images (column name_image) are relative to it.
        train: the table of ``train`` and ``val`` (is_valid=True).
        test: the table of ``test``.
        patches: also load boxes and scores of the three patches of each image, on which paq2piq trains. Boxes of padded
            images are moved to the image (left_image and top_image are subtracted); images must have the table's size.
    """
    parts = {"False": "train", "True": "val"}

    def read(table: str, assign: Callable[[list[Row]], Sequence[str]], *needed: str) -> dict[str, Split]:
        return read_splits(
            Path(source) / table,
            name="flive",
            origin="Photographs and tables: https://github.com/niu-haoran/FLIVE_Database and "
            "https://github.com/baidut/PaQ-2-PiQ.",
            image_column="name_image",
            score_column="mos_image",
            assign=assign,
            columns=[*needed, *(COLUMNS if patches else ())],
            mos_range=(0.0, 100.0),
            regions=_patches if patches else None,
        )

    splits = read(train, lambda rows: [parts.get(part := str(row["is_valid"]), part) for row in rows], "is_valid")
    splits |= read(test, lambda rows: ["test"] * len(rows))
    known = {image for part in ("train", "val") if part in splits for image in splits[part].ids}
    if both := [image for image in splits["test"].ids if image in known]:
        raise ValueError(f"{train!r} and {test!r} share {len(both)} image{'s' * (len(both) > 1)}, such as {both[0]}")
    return splits


def _patches(row: Row) -> TableRegions:
    def box(of: str) -> list[float]:
        return [number(row[f"{side}_{of}"]) for side in BOX]

    left, top, right, bottom = box("image")
    moved = [(a - left, b - top, c - left, d - top) for a, b, c, d in map(box, PATCHES)]
    return TableRegions((bottom - top, right - left), moved, [number(row[f"mos_{patch}"]) for patch in PATCHES])
