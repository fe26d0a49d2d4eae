"""Read the parameters of a config's ``get_config`` from the command line."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from jaxiqa.cli.values import parse_value, show_number
from jaxiqa.config.parameters import Parameter


def take_parameters(
    known: Mapping[str, Parameter], arguments: Sequence[str], where: str
) -> tuple[dict[str, Any], list[str]]:
    """Remove ``--NAME VALUE`` and ``--NAME=VALUE`` of the known parameters from a command line.

    Args:
        known: parameters by name; underscores may be written as dashes. If one is given twice, the last counts.
        arguments: the command line.
        where: the config, for messages.

    Returns:
        The values by name, not yet checked, and the other words.

    Raises:
        ValueError: the last word is a parameter without its value.

    >>> known = {"scale": Parameter(Literal["paper", "small"], "paper"), "count": Parameter(int, 1)}
    >>> take_parameters(known, ["--seeds", "0", "--scale=small", "--count", "3"], "mine.py")
    ({'scale': 'small', 'count': 3}, ['--seeds', '0'])
    """
    flags = {f"--{name.replace('_', mark)}": name for name in known for mark in "-_"}
    values: dict[str, Any] = {}
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        flag, equals, text = word.partition("=")
        if flag not in flags:
            rest.append(word)
            continue
        name = flags[flag]
        if not equals:
            try:
                text = next(words)
            except StopIteration:
                raise ValueError(f"--config {where}: {flag} needs a value: {known[name].allowed}") from None
        values[name] = _parsed(known[name].kind, text)
    return values, rest


def parameters_help(known: Mapping[str, Parameter]) -> str:
    """Return a paragraph for a help text; empty without parameters.

    >>> print(parameters_help({"scale": Parameter(Literal["paper", "small"], "paper")}))
    Options of this config: --scale {paper,small} (default: paper)
    """
    lines = [
        f"--{name.replace('_', '-')} {one.allowed} (default: "
        f"{show_number(one.default) if isinstance(one.default, float) else one.default})"
        for name, one in known.items()
    ]
    return f"Options of this config: {', '.join(lines)}" if lines else ""


def _parsed(kind: Any, text: str) -> Any:
    """Return the choice of this name, the text itself, or the number or other value that it is."""
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    return text if kind is str else parse_value(text)
