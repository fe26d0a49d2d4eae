"""The data set of an experiment."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Data:
    """A labelled or unlabelled image set; `jaxiqa.data.DATASETS` lists the names."""

    name: str
    """A key of `jaxiqa.data.DATASETS`, such as clive or folder."""
    source: str | None = None
    """Folder of the images; relative paths are below $JAXIQA_DATA (default: ./data)."""
    limit: int | None = None
    """Number of images to use of each split, the first ones; None: all."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the data set's loader."""
    folds: int | None = None
    """Number of folds of a cross-validation over all images; None: the splits of the data set."""
    fold: int = 0
    """The fold that is the test set, from 0 on."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `jaxiqa.data.load` after the name.

        >>> Data("builtin", limit=2, options={"train": 8}).arguments
        {'source': None, 'limit': 2, 'folds': None, 'fold': 0, 'train': 8}
        """
        chosen = {"source": self.source, "limit": self.limit, "folds": self.folds, "fold": self.fold}
        return chosen | self.options
