"""Create entries of registries (attacks, purifiers, certifiers, metrics, networks, data sets) from name and options."""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from jaxiqa.core.checks import check_choice


def build(registry: Mapping[str, Callable[..., Any]], kind: str, name: str, options: Mapping[str, Any]) -> Any:
    """Check name and options, then return ``registry[name](**options)``.

    Args:
        registry: name -> class or function.
        kind: kind of the entries, for messages.
        name: a key of ``registry``.
        options: keyword arguments.

    Raises:
        ValueError: the name or an option is unknown, or an option is missing; the message lists what is allowed.

    >>> build({"pair": complex}, "number", "triple", {})
    Traceback (most recent call last):
    ValueError: number='triple' is not allowed; choose from 'pair'
    """
    check_choice(kind, name, registry)
    check_options(name, registry[name], options)
    return registry[name](**options)


def check_options(
    name: str, function: Callable[..., Any], options: Mapping[str, Any], *, hidden: Collection[str] = ()
) -> None:
    """Check that ``options`` are arguments of ``function`` and that no required one is missing; else ``ValueError``.

    Args:
        name: name for messages.
        function: a class or function; if it takes ``**kwargs``, nothing is checked here.
        options: keyword arguments.
        hidden: arguments that the library sets itself.

    >>> check_options("power", lambda base, exponent=2: base**exponent, {"exponent": 3})
    Traceback (most recent call last):
    ValueError: power needs base...
    """
    known = {key: one for key, one in parameters(function).items() if key not in hidden}
    if any(one.kind is one.VAR_KEYWORD for one in known.values()):
        return
    for option in options:
        check_choice(f"option of {name}", option, list(known))
    for key, one in known.items():
        if one.default is one.empty and key not in options:
            room = getattr(function, "__module__", "").rpartition(".")[0]
            raise ValueError(f"{name} needs {key}; see {room}.{getattr(function, '__qualname__', name)}")


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return parameters by name; for a class those of ``__init__``, since Flax hides them behind a metaclass.

    Those that a `functools.partial` has set, by position or by name, are left out.

    >>> list(parameters(partial(lambda base, exponent, *, digits=3: round(base**exponent, digits), 2)))
    ['exponent', 'digits']
    """
    first, bound = (function.args, function.keywords) if isinstance(function, partial) else ((), {})
    inner = function.func if isinstance(function, partial) else function
    asked = inner.__init__ if isinstance(inner, type) else inner  # type: ignore[misc]  # a class, not an instance
    found = [(key, one) for key, one in inspect.signature(asked).parameters.items() if key != "self"]
    return {key: one for key, one in found[len(first) :] if key not in bound}
