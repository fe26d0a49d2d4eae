"""Data sets: `DATASETS` maps a name to a function ``(source, **options) -> {"train" | "val" | "test": Split}``."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxiqa.core.checks import check_choice
from jaxiqa.core.registry import check_options
from jaxiqa.data import array_record
from jaxiqa.data.datasets.clive import clive
from jaxiqa.data.datasets.flive import flive
from jaxiqa.data.datasets.folder import folder
from jaxiqa.data.datasets.koniq10k import koniq10k
from jaxiqa.data.datasets.nips2017 import nips2017
from jaxiqa.data.decode import read_image
from jaxiqa.data.folds import fold as one_fold
from jaxiqa.data.pipeline import resized
from jaxiqa.data.split import Split
from jaxiqa.data.subset import select_subset
from jaxiqa.data.synthetic.dataset import builtin
from jaxiqa.data.synthetic.distorted import distorted
from jaxiqa.data.validate import validate

DATASETS: dict[str, Callable[..., dict[str, Split]]] = {
    "builtin": builtin,
    "clive": clive,
    "flive": flive,
    "koniq10k": koniq10k,
    "nips2017": nips2017,
    "folder": folder,
}

__all__ = ["DATASETS", "Split", "distorted", "load", "read_image", "resized", "resolve", "select_subset", "validate"]


def resolve(path: str | Path) -> Path:
    """Resolve a path: absolute paths are unchanged, others are relative to ``$JAXIQA_DATA`` (``./data`` if not set).

    >>> resolve("/photographs/clive").as_posix()
    '/photographs/clive'
    >>> resolve("clive").name
    'clive'
    """
    return Path(os.environ.get("JAXIQA_DATA") or "data") / path


def load(
    name: str,
    *,
    source: str | None = None,
    limit: int | None = None,
    folds: int | None = None,
    fold: int = 0,
    **options: Any,
) -> dict[str, Split]:
    """Load the splits of a data set.

    Args:
        name: a key of `DATASETS`.
        source: folder of the data set, resolved by `resolve`; the name of the data set by default. A folder that
            ``jaxiqa prepare`` wrote is detected and read. The data set builtin is made in memory if there is no source.
        limit: number of images to keep of each split, the first ones, at least 1.
        folds, fold: number of folds, and the one to return as ``test``: `jaxiqa.data.folds.fold`. None: the splits of
            the data set.
        **options: options of the data set; a prepared data set takes none, since they were given to ``prepare``.

    Raises:
        ValueError: unknown name or option, missing folder, or errors in the table.

    >>> splits = load("builtin", limit=2, size=(24, 32), train=8, val=8, test=8)
    >>> splits["train"][0]["image"].shape
    (24, 32, 3)
    """
    check_choice("data set", name, DATASETS)
    loader = DATASETS[name]
    check_options(f"data set {name!r}", loader, options, hidden=("source",))
    folder = resolve(source or name)
    made_in_memory = name == "builtin" and source is None
    if not made_in_memory and array_record.is_prepared(folder, name):
        if options:
            raise ValueError(
                f"data set {name!r} in {folder} is prepared and takes no options, but got "
                f"{', '.join(options)}; give them to `jaxiqa prepare`"
            )
        splits = array_record.read(folder, name)
    elif name == "builtin" and not made_in_memory:
        raise ValueError(f"data set 'builtin': {folder} holds no prepared data set; omit source to make it in memory")
    else:
        splits = loader(folder, **options)
    if folds is None and fold:
        raise ValueError(f"fold={fold} has no effect without folds, the number of folds")
    if folds is not None:
        splits = one_fold(splits, folds, fold)
    return {part: split.take(limit) for part, split in splits.items()}
