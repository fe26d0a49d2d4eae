"""Csv files in which a spreadsheet finds text and numbers, and no formula."""

import csv
import io
from collections.abc import Sequence

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", " ")
"""A spreadsheet may take text for a formula that begins with one of these."""


def as_csv(lines: Sequence[Sequence[object]]) -> str:
    """Lines of a csv file.

    Text that begins with one of `FORMULA_STARTS` gets an apostrophe before it, which spreadsheets do not show. Numbers
    stay as they are, also those given as text.

    >>> print(as_csv([["a, b", 1.5, "-2.5", "=1+1"]]), end="")
    "a, b",1.5,-2.5,'=1+1
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([[_no_formula(item) for item in line] for line in lines])
    return buffer.getvalue()


def _no_formula(item: object) -> object:
    if not isinstance(item, str) or not item.startswith(FORMULA_STARTS):
        return item
    try:
        float(item)
    except ValueError:
        return f"'{item}"
    return item
