"""An experiment from a command line. Nothing heavy is imported here: ``--help`` answers at once."""

import re
import sys
from pathlib import Path
from typing import Any

from jaxiqa.cli.options import parse_number, parse_options, parse_value, show_number
from jaxiqa.config.evaluation import Defense
from jaxiqa.config.experiment import Experiment
from jaxiqa.config.loading import load_config

FRACTIONS = "Numbers may be written as fractions: --...epsilon 2/255."


def from_command_line(description: str, arguments: list[str] | None = None) -> Experiment:
    """Read ``--config configs/NAME.py``, then override its fields by ``--field value``.

    A mistyped field is an error with a suggestion. Without ``--config``, ``--help`` explains and lists the configs.

    Raises:
        SystemExit: bad usage; the message says what is allowed.
    """
    import tyro

    arguments = list(sys.argv[1:] if arguments is None else arguments)
    program = Path(sys.argv[0]).name
    if "--config" in arguments[:-1]:
        at = arguments.index("--config")
        path = Path(arguments[at + 1])
        del arguments[at : at + 2]
        experiment = load_config(path)
    elif any(argument.startswith("--config=") for argument in arguments):
        text = next(argument for argument in arguments if argument.startswith("--config="))
        arguments.remove(text)
        experiment = load_config(Path(text.removeprefix("--config=")))
    else:
        usage = f"usage: {program} --config configs/NAME.py [--field value ...]\n\n{description}\n\nconfigs:\n"
        folder = Path(__file__).parent.parent.parent / "configs"
        usage += "".join(f"  configs/{path.name}\n" for path in sorted(folder.glob("*.py")))
        usage += f"\n{program} --config configs/NAME.py --help lists every field and its value. {FRACTIONS}"
        if {"-h", "--help"} & set(arguments):
            print(usage)
            raise SystemExit(0)
        raise SystemExit(usage)
    return tyro.cli(
        Experiment,
        args=arguments,
        default=experiment,
        description=f"{description.rstrip()}\n\n{FRACTIONS}",
        prog=program,
        # A block or a pruning that a config leaves out is no sub-command; it can only be added in the config.
        config=(tyro.conf.AvoidSubcommands,),
        registry=_numbers(),
    )


def _numbers() -> Any:
    """How tyro reads and shows numbers: as fractions too, also where an option may be anything."""
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
