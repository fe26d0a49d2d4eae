"""What all plots share: colours, markers, and labels that fonts and mathtext take."""

from functools import cache

from matplotlib import font_manager

COLOURS = ("#1f6f8b", "#d1495b", "#e0a030", "#5b8c5a", "#7d5ba6", "#444444", "#c77dba", "#3bb0c9", "#9c6b30", "#8a8a8a")


MARKERS = "osD^vP*Xh"  # one fewer than colours, so that a style repeats only after 90 models


LONGEST = 32
"""Characters of a name in a plot; of a longer one the middle is left out."""


def plain(name: str) -> str:
    """A name as a plot can show it: no formula, no entry that a legend hides, letters that the font lacks as codes.

    >>> plain("$x$"), plain("_a"), plain("城"), plain("n" * 50) == "n" * 16 + "…" + "n" * 15
    ('\\\\$x\\\\$', ' _a', '\\\\u57ce', True)
    """
    known = _letters()
    shown = "".join(c if ord(c) in known else c.encode("ascii", "backslashreplace").decode() for c in name)
    if len(shown) > LONGEST:
        shown = f"{shown[: LONGEST // 2]}…{shown[1 - LONGEST // 2 :]}"
    shown = f" {shown}" if shown.startswith("_") else shown
    return shown.replace("$", r"\$")


@cache
def _letters() -> frozenset[int]:
    """The characters of the font that plots are written in."""
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())
