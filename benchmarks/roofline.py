"""The least seconds that a compiled program can take on a device: its products and its traffic against the peaks.

The model: every instruction (a fusion is one) reads its operands and writes its results once, from and to the main
memory, and takes the longer of its operations / peak and its bytes / bandwidth; instructions run one after another.
Only convolutions, matrix products and Fourier transforms have operations: all others are limited by memory. The time
of starting kernels, caches, and how near a library comes to a peak are not in it, so real programs are slower.
"""

import math
import re
from dataclasses import dataclass, field

from hlo import FREE, Instruction, Program, inside, scheduled

SLICING = ("slice", "dynamic-slice", "gather")


@dataclass(frozen=True)
class Peaks:
    """Operations per second of products by type, bytes per second of the main memory, and its bytes."""

    products: dict[str, float] = field(hash=False)
    """"f32": products of float32 as the device does them by default; "highest": with all digits; "bf16"."""
    bandwidth: float
    memory: int


@dataclass(frozen=True)
class Cost:
    """Of a whole run: operations of products, bytes, least seconds, and the share of these that products limit."""

    operations: float
    bytes: float
    seconds: float
    bound: float


def operations(line: Instruction, known: dict[str, Instruction]) -> float:
    """Return the real operations of a convolution, product or transform; 0 for any other instruction.

    Args:
        line: the instruction.
        known: the instructions of its computation by name, for the sides of its operands.
    """
    given = [known[name].arrays[0] for name in line.operands if name in known]
    if line.target.startswith("__cudnn$conv") or line.operation == "convolution":
        return _convolution(line, [array.sides for array in given])
    if line.operation == "dot" or line.target.startswith("__cublas"):
        found = re.search(r"lhs_contracting_dim(?:ension)?s\"?[=:][{\[]([\d,\"]*)", line.attributes)
        axes = [int(axis) for axis in re.findall(r"\d+", found[1])] if found else []
        factor = 8 if line.arrays[0].dtype.startswith("c") else 2
        return factor * line.arrays[0].size * math.prod(given[0].sides[axis] for axis in axes) if given else 0.0
    if line.operation == "fft" and given:
        lengths = re.search(r"fft_length=\{([\d,]*)\}", line.attributes)
        side = math.prod(int(n) for n in lengths[1].split(",")) if lengths else 1
        real = "f32" in (given[0].dtype, line.arrays[0].dtype)
        return (2.5 if real else 5) * max(given[0].size, line.arrays[0].size) * math.log2(max(2, side))
    return 0.0


def _convolution(line: Instruction, given: list[tuple[int, ...]]) -> float:
    """Two operations for each output, tap and input channel; taps on padding count."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", line.attributes)
    if not labels or len(given) < 2:
        return 0.0
    result = line.arrays[0].sides
    if "BackwardFilter" in line.target:
        kernel, outputs = result, given[1]
    elif "BackwardInput" in line.target:
        kernel, outputs = given[1], given[0]
    else:
        kernel, outputs = given[1], result
    dilated = re.search(r"lhs_dilate=([\dx]+)", line.attributes)
    zeros = math.prod(int(n) for n in dilated[1].split("x")) if dilated else 1
    return 2 * math.prod(outputs) * math.prod(kernel) / kernel[labels[2].index("o")] / zeros


def traffic(line: Instruction, known: dict[str, Instruction], program: Program) -> int:
    """Return the bytes that an instruction reads and writes; of a fusion's operand that it slices, only the slices."""
    if line.operation in FREE or line.operation.endswith(("-done", "-update")):
        return 0
    written = sum(array.bytes for array in line.arrays)
    if line.operation.endswith("-start"):
        return written
    sliced: dict[int, int] = {}
    for name in line.called("calls") if line.operation == "fusion" else ():
        lines = program.computations.get(name, ())
        for one in lines:
            if one.operation == "parameter":
                users = [other for other in lines if one.name in other.operands]
                if users and all(u.operation in SLICING and u.operands.index(one.name) == 0 for u in users):
                    sliced[int(one.given)] = sum(user.arrays[0].bytes for user in users)
    read = 0
    for place, operand in enumerate(line.operands):
        if operand in known:
            read += sliced.get(place, sum(array.bytes for array in known[operand].arrays))
    return read + written


def cost(program: Program, peaks: Peaks) -> Cost:
    """Return what one run of a program costs at least; loops count as often as they run (`hlo.runs`)."""
    total_operations = total_bytes = seconds = bound = 0.0
    tables = {name: {line.name: line for line in lines} for name, lines in program.computations.items()}
    home = {id(line): table for table in tables.values() for line in table.values()}
    for line, times in scheduled(program):
        parts = [line, *[part for name in line.called("calls") for part in inside(program, name)]]
        computing = 0.0
        for part in parts:
            count = operations(part, home[id(part)])
            total_operations += times * count
            computing += count / peaks.products[_type(part)]
        moved = traffic(line, home[id(line)], program)
        total_bytes += times * moved
        longest = max(computing, moved / peaks.bandwidth)
        seconds += times * longest
        bound += times * longest if computing >= moved / peaks.bandwidth else 0
    return Cost(total_operations, total_bytes, seconds, bound / seconds if seconds else 0.0)


def _type(line: Instruction) -> str:
    if line.arrays and line.arrays[0].dtype == "bf16":
        return "bf16"
    exact = re.search(r"operand_precision\W+highest", line.attributes, re.IGNORECASE)
    return "highest" if exact or line.operation == "fft" else "f32"
