"""Options that are written on a command line, as ``key=value``."""

import ast
from collections.abc import Iterable
from typing import Any


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Each value read as Python where it is Python, else as text.

    >>> parse_options(["size=96,128", "csv=labels.csv", "split_column=None"])
    {'size': (96, 128), 'csv': 'labels.csv', 'split_column': None}
    >>> parse_options(["size"])
    Traceback (most recent call last):
    ValueError: options='size'; write KEY=VALUE
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"options={text!r}; write KEY=VALUE")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = value
    return options
