"""Values on the command line: numbers, which may be fractions, and Python literals."""

import ast
import re
from typing import Any

_FRACTION = re.compile(r"\s*([^/\s]+)\s*/\s*([^/\s]+)\s*")


def parse_number(text: str) -> float:
    """Parse a number or a fraction, such as the strength of an attack.

    >>> parse_number("8/255") == 8 / 255, parse_number("1e-3")
    (True, 0.001)
    >>> parse_number("8/0")
    Traceback (most recent call last):
    ValueError: '8/0' is not a number; write a number such as 0.03 or 8/255
    """
    fraction = _FRACTION.fullmatch(text)
    try:
        return float(fraction[1]) / float(fraction[2]) if fraction else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a number; write a number such as 0.03 or 8/255") from None


def show_number(value: float) -> str:
    """Write a number so that `parse_number` reads it: as a fraction of 255 if it is one.

    >>> show_number(8 / 255), show_number(0.2), show_number(0.001)
    ('8/255', '0.2', '0.001')
    """
    plain, steps = repr(value), round(255 * value) if abs(value) < 1 else 0
    return f"{steps}/255" if steps and steps / 255 == value and len(plain) > 6 else plain


def parse_value(text: str) -> Any:
    """Parse a Python literal or a fraction; return any other text unchanged.

    >>> parse_value("96,128"), parse_value("2/255") == 2 / 255, parse_value("labels.csv"), parse_value("a/b")
    ((96, 128), True, 'labels.csv', 'a/b')
    """
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    try:
        return parse_number(text) if "/" in text else text
    except ValueError:
        return text
