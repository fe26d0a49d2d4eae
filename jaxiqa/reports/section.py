"""The parts of a report's page."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxiqa.reports.drawing import DPI
from jaxiqa.reports.table import Table


@dataclass(frozen=True)
class Drawing:
    """One figure.

    Attributes:
        title: its heading.
        alt: what it shows, with numbers, for readers who do not see it.
        caption: what its marks mean.
        png: the file's bytes.
    """

    title: str
    alt: str
    caption: str
    png: bytes

    @property
    def width(self) -> int:
        """Return the width in pixels of a page at which its letters have their size: 100 to an inch.

        >>> from matplotlib.figure import Figure
        >>> from jaxiqa.reports.drawing import png
        >>> Drawing("", "", "", png(Figure(figsize=(2, 1)))).width
        200
        """
        return round(100 / DPI * int.from_bytes(self.png[16:20], "big"))  # the first field of a PNG file's header


@dataclass(frozen=True)
class Section:
    """A heading with an anchor, and what belongs below it.

    Attributes:
        title: the heading.
        tables: a table with the title of its section has no heading of its own.
        drawings: figures, after the tables.
        files: names of the files with the same numbers, in the folder of the page.
    """

    title: str
    tables: Sequence[Table] = ()
    drawings: Sequence[Drawing] = ()
    files: Sequence[str] = ()
