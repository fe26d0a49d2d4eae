"""Read a program that XLA has optimised, from its text: what it calls, what it moves, and what it costs at least.

All functions are pure. Instructions of fusions are read too, but counted as part of their fusion.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8, "u64": 8, "c64": 8}
BYTES |= {"c128": 16}
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"}
"""Operations that move nothing themselves."""
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast")
HOST = ("infeed", "outfeed", "send", "recv")


@dataclass(frozen=True)
class Array:
    """Type and sides of an array; ``near``: it lies in the fast memory of a TPU's core."""

    dtype: str
    sides: tuple[int, ...]
    near: bool = False

    @property
    def size(self) -> int:
        return math.prod(self.sides)

    @property
    def bytes(self) -> int:
        return 0 if self.near else self.size * BYTES.get(self.dtype, 4)


@dataclass(frozen=True)
class Instruction:
    """One line; ``arrays`` are its results, ``given`` the text in its brackets, ``operands`` the names there."""

    name: str
    operation: str
    arrays: tuple[Array, ...]
    given: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @property
    def target(self) -> str:
        """The library function of a custom call."""
        found = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return found[1] if found else ""

    def called(self, *roles: str) -> list[str]:
        """Return the computations under ``roles``, such as ``"calls"`` or ``"body"``."""
        found = re.findall(rf"\b(?:{'|'.join(roles)})=(?:%([\w.\-]+)|\{{([^}}]*)\}})", self.attributes)
        return [name.strip().lstrip("%") for one, several in found for name in (one or several).split(",")]


@dataclass(frozen=True)
class Program:
    """Computations by name, and the one that runs first."""

    computations: dict[str, tuple[Instruction, ...]]
    entry: str


def arrays(text: str) -> tuple[Array, ...]:
    """Return the arrays of a type.

    >>> arrays("(f32[2,3]{1,0:T(8,128)S(1)}, pred[])")
    (Array(dtype='f32', sides=(2, 3), near=True), Array(dtype='pred', sides=(), near=False))
    """
    found = re.findall(r"\b([a-z]+\d*\w*)\[([\d,<=]*)\](\{[^}]*\})?", text)
    sides = lambda given: tuple(int(side.strip("<=")) for side in given.split(",") if side)  # noqa: E731
    return tuple(Array(dtype, sides(given), "S(1)" in layout) for dtype, given, layout in found)


def closing(text: str, start: int) -> int:
    """Return the place of the bracket that closes the one at ``start``."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if not depth:
            return place
    raise ValueError(f"no closing bracket in {text[:80]!r}")


def instruction(line: str) -> Instruction | None:
    """Read a line; None if it is not an instruction.

    >>> instruction("  ROOT %y.1 = f32[2]{0} add(%a, %b), metadata={op_name=\\"x\\"}").operands
    ('a', 'b')
    """
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if not head:
        return None
    rest = line[head.end() :]
    end = closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    opened = rest.index("(")
    closed = closing(rest, opened)
    given = rest[opened + 1 : closed]
    operands = tuple(re.findall(r"%([\w.\-]+)", given))
    return Instruction(head[2], rest[:opened], arrays(kind), given, operands, rest[closed + 1 :], bool(head[1]))


def parse(text: str) -> Program:
    """Read the text of a compiled program (``compiled.as_text()``).

    Raises:
        ValueError: it has no entry.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (found := instruction(line)):
            current.append(found)
    if not entry:
        raise ValueError("the text has no ENTRY: it is not a compiled program")
    return Program({name: tuple(lines) for name, lines in computations.items()}, entry)


def trips(program: Program, loop: Instruction) -> int | None:
    """Return how often a loop's body runs; None if the text does not say so.

    It is what XLA wrote, or the only whole number in a condition "counter < number".
    """
    known = re.search(r'known_trip_count"?[:=]\s*\{"?n"?:"?(\d+)', loop.attributes)
    if known:
        return int(known[1])
    lines = [line for name in loop.called("condition") for line in inside(program, name)]
    compared = [line for line in lines if line.operation == "compare" and "direction=LT" in line.attributes]
    values = [int(line.given) for line in lines if line.operation == "constant" and line.given.isdecimal()]
    return values[0] if len(compared) == len(values) == 1 else None


def inside(program: Program, name: str) -> list[Instruction]:
    """Return the instructions of a computation and of the fusions in it."""
    found = []
    for line in program.computations.get(name, ()):
        found.append(line)
        for part in line.called("calls"):
            found += inside(program, part)
    return found


def runs(program: Program) -> tuple[dict[str, int], int]:
    """Return how often each computation runs, without those of fusions; and the number of loops of unknown length.

    A loop of unknown length counts as one run; of a conditional's branches, each counts.
    """
    found: Counter[str] = Counter()
    unknown = 0

    def visit(name: str, times: int) -> None:
        nonlocal unknown
        found[name] += times
        for line in program.computations.get(name, ()):
            repeats = times
            if line.operation == "while":
                count = trips(program, line)
                unknown += count is None
                repeats = times * (1 if count is None else count)
            if line.operation in ("while", "call", "conditional", "async-start"):
                roles = ("body", "to_apply", "calls", "branch_computations", "true_computation", "false_computation")
                for part in line.called(*roles):
                    visit(part, repeats)

    visit(program.entry, 1)
    return dict(found), unknown


def scheduled(program: Program) -> list[tuple[Instruction, int]]:
    """Return the instructions that run as they are written, fusions as one, and how often each runs."""
    return [(line, times) for name, times in runs(program)[0].items() for line in program.computations.get(name, ())]


def holds(program: Program, line: Instruction, operation: str) -> bool:
    """Return whether an instruction is this operation, or a fusion that contains it."""
    parts = [part for name in line.called("calls") for part in inside(program, name)]
    return any(part.operation == operation for part in [line, *parts])


def is_convolution(program: Program, line: Instruction) -> bool:
    return line.target.startswith("__cudnn$conv") or holds(program, line, "convolution")


def is_product(program: Program, line: Instruction) -> bool:
    return line.target.startswith("__cublas") or holds(program, line, "dot")


def moves(program: Program, line: Instruction) -> bool:
    """Return whether an instruction only changes the order of the axes of a map (four axes) in memory."""
    if line.operation == "fusion":
        roots = [part for name in line.called("calls") for part in program.computations.get(name, ()) if part.root]
        return bool(roots) and all(moves(program, part) for part in roots)
    return line.operation in ("transpose", "copy") and len(line.arrays[0].sides) == 4


def transposed_around(program: Program) -> int:
    """Return the number of convolutions whose image is transposed just before or whose result just after the call.

    Kernels (the second operand) do not count: their transposition is small, and XLA takes it out of loops.
    """
    count = 0
    for name in runs(program)[0]:
        lines = {line.name: line for line in program.computations.get(name, ())}
        through = ("bitcast", "get-tuple-element")
        used: dict[str, list[Instruction]] = {}
        for line in lines.values():
            for operand in line.operands:
                used.setdefault(operand, []).append(line)

        def makers(line: Instruction, lines: dict = lines, through: tuple = through) -> list[Instruction]:
            found = [lines[name] for name in line.operands[:1] if name in lines]
            return [deep for one in found for deep in (makers(one) if one.operation in through else [one])]

        def users(line: Instruction, used: dict = used, through: tuple = through) -> list[Instruction]:
            found = used.get(line.name, [])
            return [deep for one in found for deep in (users(one) if one.operation in through else [one])]

        for line in lines.values():
            if is_convolution(program, line):
                count += any(moves(program, other) for other in [*makers(line), *users(line)])
    return count


def collectives(program: Program) -> dict[str, list[int]]:
    """Return kind -> numbers of elements of each exchange between devices, the largest array of each first."""
    found: dict[str, list[int]] = {}
    for line, _ in scheduled(program):
        kind = line.operation.removesuffix("-start")
        if kind in COLLECTIVES:
            sizes = sorted((array.size for array in line.arrays), reverse=True)
            found.setdefault(kind, []).append(sizes[0] if line.operation != kind else sum(sizes))
    return found


def transfers(program: Program) -> list[str]:
    """Return the operations and calls that involve the host."""
    lines = [line for line, _ in scheduled(program)]
    named = [line.operation for line in lines if line.operation in HOST]
    return named + [line.target for line in lines if re.search("callback|host", line.target, re.IGNORECASE)]


def counts(program: Program) -> dict[str, int]:
    """Return how many lines of the program are of each kind; a loop's body counts once.

    ``transposes`` are of maps, in fusions or alone, of which ``around`` stand at a convolution; ``roots`` are
    reciprocal square roots, of which a program with folded batch norms has none.
    """
    lines = [line for line, _ in scheduled(program)]
    every = [part for line in lines for part in [line, *[p for n in line.called("calls") for p in inside(program, n)]]]
    return {
        "convolutions": sum(is_convolution(program, line) for line in lines),
        "products": sum(is_product(program, line) for line in lines),
        "transforms": sum(line.operation == "fft" for line in every),
        "fusions": sum(line.operation == "fusion" for line in lines),
        "loops": sum(line.operation == "while" for line in lines),
        "transposes": sum(part.operation == "transpose" and len(part.arrays[0].sides) >= 4 for part in every),
        "around": transposed_around(program),
        "roots": sum(part.operation == "rsqrt" for part in every),
        "transfers": len(transfers(program)),
    }
