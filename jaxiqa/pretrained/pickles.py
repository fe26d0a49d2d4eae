"""Read a pickle as plain data: nothing that it names is imported, and nothing that it calls is executed.

Python's unpickler calls any function that a file names. This one executes only the instructions of the stack machine: a
name becomes a `Global`, and a call becomes a `Call`. The reader of the result interprets the few calls that stand for
a tensor or an array, see `jaxiqa.pretrained.torch_values`.
"""

import pickletools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jaxiqa.pretrained.budget import Budget


@dataclass(frozen=True)
class Global:
    """A function or class that the file names; only the name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, repr=False)  # a text of its parts could be endless: they may repeat at every level
class Call:
    """A call that the file asks for, and the state it would set on the result."""

    function: Any
    arguments: Sequence[Any]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    entries: list[Any] = field(default_factory=list)


@dataclass(eq=False, repr=False)
class Persistent:
    """A reference to something outside the pickle."""

    reference: Any


MAPPINGS = {Global("collections", "OrderedDict"), Global("builtins", "dict"), Global("__builtin__", "dict")}
LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
FAULTS = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError, MemoryError, struct.error)


def load(file: Any, persistent: Callable[[Any], Any] = Persistent, budget: Budget | None = None) -> Any:
    """Return the value of the pickle at the position of ``file``; afterwards the position is its end.

    Args:
        file: a binary file, open for reading.
        persistent: returns what replaces a reference to something outside.
        budget: limits on the cost; by default those of a separate file.

    Returns:
        Numbers, texts, bytes, None, lists (sets too), tuples, dicts (``OrderedDict`` too), `Global` and `Call`.

    Raises:
        ValueError: the pickle is damaged, asks for buffers outside itself, or exceeds the budget.

    >>> import io, os, pickle
    >>> class Bomb:
    ...     def __reduce__(self):
    ...         return os.system, ("echo boom",)
    >>> load(io.BytesIO(pickle.dumps({"a": 1, "b": Bomb()}, protocol=4)))["b"].arguments
    ('echo boom',)
    """
    try:
        return _run(file, persistent, budget or Budget(size=0))
    except FAULTS as error:
        raise ValueError(f"not a whole pickle: {error}") from error


def _run(file: Any, persistent: Callable[[Any], Any], budget: Budget) -> Any:
    stack: list[Any] = []
    outer: list[list[Any]] = []  # the stack below each mark
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        nonlocal stack
        above, stack = stack, outer.pop()
        return above

    value: Any  # of the type that goes with the opcode
    for number, (opcode, value, _) in enumerate(pickletools.genops(file)):
        if number % 1000 == 0:
            budget.spend(steps=1000)
        match opcode.name:
            case name if name in LITERALS:
                stack.append(value)
            case name if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "MARK":
                outer.append(stack)
                stack = []
            case "POP":
                if stack:
                    stack.pop()
                else:
                    since_mark()
            case "POP_MARK":
                since_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                memo[value] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(memo[value])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = int(opcode.name[-1])
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE":
                whole = tuple(since_mark())
                stack.append(whole)
            case "LIST" | "FROZENSET":
                items = since_mark()
                stack.append(items)
            case "DICT":
                items = since_mark()
                stack.append(_pairs(items))
            case "APPEND":
                value = stack.pop()
                _extend(stack[-1], [value])
            case "APPENDS" | "ADDITEMS":
                items = since_mark()
                _extend(stack[-1], items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _update(stack[-1], _pairs([key, value]))
            case "SETITEMS":
                items = since_mark()
                _update(stack[-1], _pairs(items))
            case "GLOBAL":
                stack.append(Global(*value.split(" ", 1)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                if not (isinstance(name, str) and isinstance(module, str)):
                    raise ValueError(f"it names a {type(name).__name__} of a {type(module).__name__}, not a text")
                stack.append(Global(module, name))
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(Global("copyreg.extension", str(value)))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments, budget))
            case "NEWOBJ_EX":
                keywords, arguments, function = stack.pop(), stack.pop(), stack.pop()
                budget.spend(steps=len(arguments))
                stack.append(Call(function, (*arguments, keywords)))
            case "INST":
                arguments = since_mark()
                stack.append(_call(Global(*value.split(" ", 1)), arguments, budget))
            case "OBJ":
                function, *arguments = since_mark()
                stack.append(_call(function, arguments, budget))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Call):  # attributes of anything else are not used
                    stack[-1].state = state
            case "PERSID":
                stack.append(persistent(value))
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "PROTO" | "FRAME" | "READONLY_BUFFER":
                pass
            case "STOP":
                return stack.pop()
            case name:
                raise ValueError(f"the instruction {name} is not supported")
    raise ValueError("it ends without a STOP instruction")


def _call(function: Any, arguments: Sequence[Any], budget: Budget) -> Any:
    if isinstance(function, Global) and function in MAPPINGS:
        if not arguments:
            return {}
        budget.spend(steps=len(arguments[0]))  # one long list may be copied many times
        return _dict(arguments[0])
    return Call(function, arguments)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return _dict(zip(items[::2], items[1::2], strict=True))


def _dict(pairs: Any) -> dict[Any, Any]:
    pairs = pairs.items() if isinstance(pairs, dict) else pairs
    plain = (str, bytes, int, float, type(None), Global)
    # A key of another type may not be hashable, or so deeply nested that hashing it crashes the process.
    return {key if isinstance(key, plain) else Persistent(key): value for key, value in pairs}


def _extend(target: Any, items: list[Any]) -> None:
    (target.entries if isinstance(target, Call) else target).extend(items)


def _update(target: Any, items: dict[Any, Any]) -> None:
    (target.items if isinstance(target, Call) else target).update(items)
