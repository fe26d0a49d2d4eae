"""Damaged files for fuzzing, and a worker process that reads many of them under limits of time and memory.

    python tests/fuzz/test_images.py 2000        the full count; pytest -m slow runs some of each

A reader is named "module:function". It takes the content of a file (bytes). It may return anything, or raise
``ValueError``, ``FileNotFoundError`` or ``OSError`` whose message is for the user; every other exception is a finding.
"""

import importlib
import os
import resource
import selectors
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

SECONDS = 10.0
"""Seconds; a file that takes longer counts as a hang."""

MEMORY = 2**30
"""Bytes by which the worker may grow beyond its size after all imports."""

REFUSALS = (ValueError, FileNotFoundError, OSError)
EDGES = (0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def flip_bits(content: bytearray, random: np.random.Generator, other: bytes) -> bytearray:
    for place in random.integers(0, len(content), 1 + random.integers(8)):
        content[place] ^= 1 << random.integers(8)
    return content


def set_bytes(content: bytearray, random: np.random.Generator, other: bytes) -> bytearray:
    place, length = int(random.integers(len(content))), int(random.integers(1, 17))
    content[place : place + length] = random.integers(0, 256, length, np.uint8).tobytes()
    return content


def truncate(content: bytearray, random: np.random.Generator, other: bytes) -> bytearray:
    cut = int(random.integers(len(content)))
    return content[:cut] if random.random() < 0.5 else content[:cut] + bytes(len(content) - cut)


def duplicate(content: bytearray, random: np.random.Generator, other: bytes) -> bytearray:
    first, last = sorted(int(place) for place in random.integers(0, len(content), 2))
    block = content[first : min(last, first + 4096)]
    return content[:last] + block * int(random.integers(1, 9)) + content[last:]


def delete(content: bytearray, random: np.random.Generator, other: bytes) -> bytearray:
    place = int(random.integers(len(content)))
    del content[place : place + int(random.integers(1, 65))]
    return content


def splice(content: bytearray, random: np.random.Generator, other: bytes) -> bytearray:
    cut, start = int(random.integers(len(content))), int(random.integers(len(other) or 1))
    return content[:cut] + other[start:]


def set_length(content: bytearray, random: np.random.Generator, other: bytes) -> bytearray:
    """Write an extreme or slightly wrong number over 1, 2, 4 or 8 bytes, mostly near the beginning (headers)."""
    near = len(content) if random.random() < 0.3 else min(len(content), 512)
    place, kind = int(random.integers(near)), "BHIQ"[random.integers(4)]
    order = "<>"[random.integers(2)]
    size = struct.calcsize(order + kind)
    if len(content) < place + size:
        return content
    value = struct.unpack_from(order + kind, content, place)[0]
    value = EDGES[random.integers(len(EDGES))] if random.random() < 0.6 else value + int(random.integers(-4, 5))
    struct.pack_into(order + kind, content, place, value % 256**size)
    return content


MUTATIONS = (flip_bits, set_bytes, truncate, duplicate, delete, splice, set_length, set_length)


def mutated(content: bytes, random: np.random.Generator, other: bytes = b"") -> bytes:
    """Return ``content`` after one to three mutations; `splice` takes its second half from ``other``."""
    damaged = bytearray(content)
    for _ in range(random.integers(1, 4)):
        if damaged:
            damaged = MUTATIONS[random.integers(len(MUTATIONS))](damaged, random, other)
    return bytes(damaged)


def mutations(seeds: Sequence[bytes], count: int, seed: int) -> Iterable[bytes]:
    """Yield ``count`` damaged files, each from one of the sound ones; the same files for the same arguments."""
    for number in range(count):
        random = np.random.default_rng([seed, number])
        content, other = (seeds[random.integers(len(seeds))] for _ in range(2))
        yield mutated(content, random, other)


@dataclass
class Outcome:
    """Counts of files read and refused, the largest time and memory, and the findings."""

    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    largest: int = 0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.read} read, {self.refused} refused, {len(self.findings)} findings; "
            f"slowest {self.slowest:.2f} s, largest growth {self.largest / 2**20:.0f} MiB"
        )


def run(reader: str, files: Iterable[bytes], *, keep: Path | None = None) -> Outcome:
    """Read every file in a worker; a worker that hangs or dies is a finding, and is replaced.

    Args:
        reader: "module:function"; the module may lie in this folder.
        files: contents.
        keep: folder that files of findings are written to.
    """
    outcome, worker = Outcome(), None
    for number, content in enumerate(files):
        worker = worker or _Worker(reader)
        began = time.monotonic()
        kind, growth, message = worker.ask(content)
        outcome.slowest = max(outcome.slowest, time.monotonic() - began)
        outcome.largest = max(outcome.largest, growth)
        if kind in ("hang", "died"):
            worker = None
        if growth > MEMORY:
            kind, message = "memory", f"{growth} bytes; {kind} {message}"
        if kind in ("read", "refused"):
            setattr(outcome, kind, getattr(outcome, kind) + 1)
            continue
        outcome.findings.append(f"file {number} ({len(content)} bytes): {kind}: {message}")
        if keep:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{number}-{kind}.bin").write_bytes(content)
    if worker:
        worker.process.kill()
        worker.process.wait()
    return outcome


class _Worker:
    """A process that reads one file after another, see `_serve`."""

    def __init__(self, reader: str) -> None:
        command = [sys.executable, __file__, reader]
        paths = os.pathsep.join([*sys.path, str(Path(__file__).parents[2])])
        environment = {**os.environ, "PYTHONPATH": paths}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        assert self.answer(120)[0] == "ready", f"the worker for {reader} did not start"

    def ask(self, content: bytes) -> tuple[str, int, str]:
        self.process.stdin.write(struct.pack("<Q", len(content)) + content)
        self.process.stdin.flush()
        return self.answer(SECONDS)

    def answer(self, seconds: float) -> tuple[str, int, str]:
        if not self.selector.select(seconds):
            self.process.kill()
            self.process.wait()
            return "hang", 0, f"after {seconds:.0f} s"
        line = self.process.stdout.readline().decode()
        if not line:
            return "died", 0, f"exit status {self.process.wait()}"
        kind, growth, message = line.rstrip("\n").split("\t", 2)
        return kind, int(growth), message.encode().decode("unicode_escape")


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return 0


def _serve(reader: str) -> None:
    """Read length-prefixed files from standard input; answer each with its kind, growth in memory and message."""
    module, _, function = reader.partition(":")
    read = getattr(importlib.import_module(module), function)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # keep prints of the reader out of the answers
    held = _status("VmRSS")
    limit = _status("VmSize") + 2 * MEMORY  # growth above 1 GiB is measured; far larger growth is stopped
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    answers.write("ready\t0\t\n")
    while head := sys.stdin.buffer.read(8):
        content = sys.stdin.buffer.read(struct.unpack("<Q", head)[0])
        Path("/proc/self/clear_refs").write_text("5")  # reset the peak
        try:
            read(content)
            kind, message = "read", ""
        except REFUSALS as error:
            kind, message = ("memory" if _out_of_memory(error) else "refused"), str(error)
        except BaseException:
            kind, message = "uncaught", traceback.format_exc(limit=-4)
        growth = max(0, _status("VmHWM") - held)
        answers.write(f"{kind}\t{growth}\t{message.encode('unicode_escape').decode()}\n")


def _out_of_memory(error: BaseException | None) -> bool:
    """Return whether an error means a failed allocation above the limit."""
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


if __name__ == "__main__":
    _serve(sys.argv[1])
