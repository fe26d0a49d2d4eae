"""Defenses that are named on the command line. Nothing heavy is imported here: ``--help`` answers at once."""

import re

from jaxiqa.config.evaluation import Defense
from jaxiqa.options import parse_options


def take_defenses(arguments: list[str]) -> tuple[list[str], dict[str, Defense]]:
    """Take every ``--defense X`` out of a command line.

    X is [LABEL=]NAME[,OPTION=VALUE...], where NAME is a key of `jaxiqa.defenses.purify.PURIFIERS`, or FILE.py:CLASS.

    >>> rest, found = take_defenses(["--seeds", "0", "--defense", "mild=jpeg,quality=90"])
    >>> print(rest, found["mild"])
    ['--seeds', '0'] Defense(name='jpeg', options={'quality': 90}, preset=None, networks={})

    Raises:
        ValueError: one without a value, one that cannot be read, or one label twice.
    """
    rest, found = [], {}
    remaining = iter(arguments)
    for argument in remaining:
        name, equals, text = argument.partition("=")
        if name != "--defense":
            rest.append(argument)
            continue
        text = text if equals else next(remaining, "")
        head, *options = re.split(r",(?![^(\[]*[)\]])", text)
        label, equals, name = head.rpartition("=")
        if not name:
            raise ValueError(f"--defense {text!r}; write --defense [LABEL=]NAME[,OPTION=VALUE...]")
        label = label if equals else " ".join([name.rpartition(":")[2], *options])
        if label in found:
            raise ValueError(f"--defense {label!r} is given twice; write LABEL= before one of them")
        values = parse_options(options)
        found[label] = Defense(name, preset=values.pop("preset", None), options=values)
    return rest, found
