"""The parameters of a config's ``get_config``: options of the command line, such as ``--scale small``."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jaxiqa.config.experiment import Experiment
from jaxiqa.config.suggest import suggestion
from jaxiqa.config.values import check_values


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a ``get_config``.

    Attributes:
        kind: its annotation; without one, the type of its default.
        default: its value if the command line does not set it.
    """

    kind: Any
    default: Any

    @property
    def allowed(self) -> str:
        """Return what is allowed, for a help text.

        >>> Parameter(Literal["paper", "small"], "paper").allowed, Parameter(int, 3).allowed
        ('{paper,small}', 'INT')
        """
        if get_origin(self.kind) is Literal:
            return f"{{{','.join(map(str, get_args(self.kind)))}}}"
        return getattr(self.kind, "__name__", str(self.kind)).upper()


def parameters_of(get_config: Callable[..., Any]) -> dict[str, Parameter]:
    """Return the parameters of a ``get_config`` by name; ``*args`` and ``**kwargs`` are none.

    Raises:
        ValueError: a parameter has no default, or the name of a field of `jaxiqa.config.Experiment`.

    >>> def get_config(scale: Literal["paper", "small"] = "paper"): ...
    >>> parameters_of(get_config)["scale"].default
    'paper'
    """
    hints, found = get_type_hints(get_config), {}
    fields = {field.name for field in dataclasses.fields(Experiment)}
    for name, one in inspect.signature(get_config).parameters.items():
        if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            continue
        if one.default is one.empty or one.kind is one.POSITIONAL_ONLY:
            raise ValueError(f"get_config() needs a keyword parameter with a default: {name!r} is none")
        if name in fields:
            raise ValueError(f"get_config() has the parameter {name!r}, which is a field of Experiment too; rename it")
        inferred = Any if one.default is None else type(one.default)
        found[name] = Parameter(hints.get(name, inferred), one.default)
    return found


def check_parameters(known: Mapping[str, Parameter], given: Mapping[str, Any]) -> None:
    """Check names and values of parameters.

    Raises:
        ValueError: an unknown name, or a value that is not allowed; the message says what is.

    >>> scale = {"scale": Parameter(Literal["paper", "small"], "paper")}
    >>> check_parameters(scale, {"scale": "smal"})
    Traceback (most recent call last):
    ValueError: scale='smal'; did you mean 'small'? There are 'paper', 'small'
    >>> check_parameters(scale, {"size": 3})
    Traceback (most recent call last):
    ValueError: get_config() has no parameter 'size'; there are 'scale'
    """
    for name in given:
        if name not in known:
            raise ValueError(f"get_config() has no parameter {name!r}{suggestion(name, known)}")
    values = {name: given.get(name, one.default) for name, one in known.items()}
    kinds = dataclasses.make_dataclass("Parameters", [(name, one.kind) for name, one in known.items()])
    check_values(kinds(**values))
