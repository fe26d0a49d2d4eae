"""Which images."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Data:
    """A labelled or unlabelled image set; `jaxiqa.data.DATASETS` lists the names."""

    name: str
    source: str | None = None
    """Folder of the images. A relative one is looked up under $JAXIQA_DATA (default: ./data)."""
    limit: int | None = None
    """Use only the first so many images of each split."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the data set's loader."""
