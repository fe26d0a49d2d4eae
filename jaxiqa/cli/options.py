"""Options that are written on a command line: ``key=value``, and numbers that may be fractions."""

import ast
import re
from collections.abc import Iterable, Sequence
from typing import Any

_FRACTION = re.compile(r"\s*([^/\s]+)\s*/\s*([^/\s]+)\s*")


def parse_number(text: str) -> float:
    """A number, or a fraction of two, as strengths of attacks are written.

    >>> parse_number("8/255") == 8 / 255, parse_number("1e-3")
    (True, 0.001)
    >>> parse_number("8/0")
    Traceback (most recent call last):
    ValueError: '8/0' is not a number; write such as 0.03 or 8/255
    """
    fraction = _FRACTION.fullmatch(text)
    try:
        return float(fraction[1]) / float(fraction[2]) if fraction else float(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a number; write such as 0.03 or 8/255") from None


def show_number(value: float) -> str:
    """A number as `parse_number` reads it: as a share of 255 where that is what it is.

    >>> show_number(8 / 255), show_number(0.2), show_number(0.001)
    ('8/255', '0.2', '0.001')
    """
    plain, steps = repr(value), round(255 * value) if abs(value) < 1 else 0
    return f"{steps}/255" if steps and steps / 255 == value and len(plain) > 6 else plain


def parse_value(text: str) -> Any:
    """Python where it is Python, a number where it is a fraction, else the text.

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


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Each value read by `parse_value`.

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
        options[key] = parse_value(value)
    return options


def options_last(arguments: Sequence[str], flag: str = "--options") -> list[str]:
    """A command line on which the flag takes the ``key=value`` words behind it, and nothing else.

    tyro gives a flag of several values every word up to the next flag, files that are to be scored included.

    >>> options_last(["score", "--options", "a=1", "photo.png", "--options", "b=2"])
    ['score', 'photo.png', '--options', 'a=1', 'b=2']
    """
    others, taken, taking = [], [], False
    for word in arguments:
        if word == flag or word.startswith(f"{flag}="):
            taking = True
            taken += [word.removeprefix(f"{flag}=")] if word != flag else []
        elif taking and re.match(r"[A-Za-z_]\w*=", word):
            taken.append(word)
        else:
            taking = False
            others.append(word)
    return [*others, flag, *taken] if taken else others
