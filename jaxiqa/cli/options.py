"""Parse options of the command line: ``key=value``, fields of a config, defenses."""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jaxiqa.cli.config_options import parameters_help, take_parameters
from jaxiqa.cli.values import parse_number, parse_value, show_number
from jaxiqa.config.evaluation import Defense, Network
from jaxiqa.config.experiment import Experiment
from jaxiqa.config.loading import find_config, open_config, shipped


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """Parse ``KEY=VALUE`` texts; values are read by `parse_value`.

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
    """Move the flag to the end of a command line, with only the ``key=value`` words after it.

    tyro gives a flag with several values all words up to the next flag, including files to score.

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


FRACTIONS = "Numbers may be written as fractions: --...epsilon 2/255."


def from_command_line(
    description: str, arguments: Sequence[str] | None = None, *, program: str | None = None
) -> Experiment:
    """Read ``--config NAME`` or ``--config FILE.py``, then override its fields by ``--field value``.

    The parameters of the config's ``get_config`` are options too, such as ``--scale small``.
    An unknown field is an error with a suggestion. Without ``--config``, ``--help`` prints usage and configs.

    Raises:
        FileNotFoundError, ValueError: the config has a fault (`jaxiqa.config.load_config`).
        SystemExit: bad usage; the message says what is allowed.
    """
    import tyro

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program = program or Path(sys.argv[0]).name
    if "--config" in arguments[:-1]:
        at = arguments.index("--config")
        name = arguments[at + 1]
        del arguments[at : at + 2]
    elif any(argument.startswith("--config=") for argument in arguments):
        text = next(argument for argument in arguments if argument.startswith("--config="))
        arguments.remove(text)
        name = text.removeprefix("--config=")
    else:
        usage = f"usage: {program} --config NAME-OR-FILE.py [--field value ...]\n\n{description}\n\nconfigs:\n"
        usage += "".join(f"  {name}\n" for name in shipped())
        usage += f"\n{program} --config NAME --help lists every field and its value. {FRACTIONS}"
        if {"-h", "--help"} & set(arguments):
            print(usage)
            raise SystemExit(0)
        raise SystemExit(usage)
    path = find_config(name)
    build, known = open_config(path)
    parameters, arguments = take_parameters(known, arguments, str(path))
    experiment = build(parameters)
    paragraphs = [description.rstrip(), parameters_help(known), FRACTIONS]
    return tyro.cli(
        Experiment,
        args=arguments,
        default=experiment,
        description="\n\n".join(filter(None, paragraphs)),
        prog=program,
        # A block or pruning that a config does not have is not a sub-command; add it in the config.
        config=(tyro.conf.AvoidSubcommands,),
        registry=_numbers(),
    )


def _numbers() -> Any:
    """Return the rules by which tyro reads and shows numbers, including fractions, and options of any type."""
    from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec

    registry = ConstructorRegistry()

    @registry.primitive_rule
    def number(info: Any) -> Any:
        if info.type is not float:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="FLOAT|A/B",
            instance_from_str=lambda texts: parse_number(texts[0]),
            is_instance=lambda value: isinstance(value, float | int) and not isinstance(value, bool),
            str_from_instance=lambda value: [show_number(float(value))],
        )

    @registry.primitive_rule
    def anything(info: Any) -> Any:
        if info.type is not Any:
            return None
        return PrimitiveConstructorSpec(
            nargs=1,
            metavar="VALUE",
            instance_from_str=lambda texts: parse_value(texts[0]),
            is_instance=lambda value: True,
            str_from_instance=lambda value: [show_number(value) if isinstance(value, float) else str(value)],
        )

    return registry


NETWORK = {"diffpure": "adm"}
"""Purifier -> its network in `jaxiqa.networks.NETWORKS`, where the names differ."""


def take_defenses(arguments: list[str]) -> tuple[list[str], dict[str, Defense]]:
    """Remove every ``--defense X`` from a command line; return the other words and the defenses by label.

    X is [LABEL=]NAME[,OPTION=VALUE...], where NAME is a key of `jaxiqa.defenses.purify.PURIFIERS`, or FILE.py:CLASS.
    The option ``weights`` names the file of the purifier's network, such as one that ``jaxiqa train-filter`` made.

    >>> rest, found = take_defenses(["--seeds", "0", "--defense", "mild=jpeg,quality=90"])
    >>> print(rest, found["mild"])
    ['--seeds', '0'] Defense(name='jpeg', options={'quality': 90}, preset=None, networks={})
    >>> take_defenses(["--defense", "dncnn,weights=dncnn.safetensors"])[1].popitem()[1].networks["network"]
    Network(name='dncnn', weights='dncnn.safetensors', backbone_weights=None)

    Raises:
        ValueError: a value is missing or cannot be read, or a label is given twice.
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
        weights = values.pop("weights", None) if ".py:" not in name else None  # a class of a user may have this option
        networks = {"network": Network(NETWORK.get(name, name), str(weights))} if weights is not None else {}
        found[label] = Defense(name, preset=values.pop("preset", None), options=values, networks=networks)
    return rest, found
