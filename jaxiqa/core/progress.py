"""Output of the programs: consoles, messages and progress bars."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxiqa.core.interrupts import raise_if_lost

console = Console(emoji=False)
"""For results, on standard output. Text such as a:x:b is not replaced by an emoji."""

messages = Console(stderr=True, emoji=False)
"""For progress, counts and errors, on standard error."""

LINE_SECONDS = 60.0


def say(text: str) -> None:
    """Print a line of results unchanged: brackets in names are no markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line unchanged on standard error."""
    messages.print(text, markup=False, highlight=False, soft_wrap=True)


def shown(name: object) -> str:
    """Return a name as one printable line: control characters and invalid encodings are escaped.

    >>> shown("a\\nb.png")
    'a\\\\nb.png'
    """
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def so_far(loss: float, best: float, select: str) -> str:
    """Return what a training's progress says: the last loss, and the best correlation so far; a dash before the first.

    Args:
        loss: nan before the first.
        best: -inf before the first.
        select: the correlation that decides the best epoch: "srocc", "plcc", or "sum" for both; or "last".

    >>> so_far(float("nan"), float("-inf"), "srocc"), so_far(0.5, 0.81, "last")
    ('loss –, best SROCC –', 'loss 0.500, SROCC of the last epoch 0.810')
    """
    name = {"sum": "best SROCC + PLCC", "last": "SROCC of the last epoch"}.get(select, f"best {select.upper()}")
    shown_loss, shown_best = (f"{value:.3f}" if math.isfinite(value) else "–" for value in (loss, best))
    return f"loss {shown_loss}, {name} {shown_best}"


@runtime_checkable
class Update(Protocol):
    """What a progress bar is told: how much is done of how much, and a word on it."""

    def __call__(self, done: float | int, total: float | int, note: str = "") -> None: ...


@contextmanager
def progress_bar(what: str, unit: str = "") -> Iterator[Update]:
    """Show a bar with the time left; in a log file, one line per minute. Yield ``update(done, total, note)``.

    An update raises ``KeyboardInterrupt`` if Ctrl-C was lost (`jaxiqa.core.interrupts.raise_if_lost`).
    """
    if not messages.is_terminal:
        yield _lines(what, unit)
        return
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn()]
    columns += [TextColumn(unit, markup=False), TextColumn("{task.fields[note]}", markup=False)]
    columns += [TimeRemainingColumn(compact=True)]
    with Progress(*columns, console=messages, transient=True) as progress:
        task = progress.add_task(what, total=None, note="")

        def update(done: float | int, total: float | int, note: str = "") -> None:
            raise_if_lost()
            progress.update(task, completed=done, total=total, note=note)

        yield update


def _lines(what: str, unit: str) -> Update:
    began = said = time.monotonic()
    first: float | int | None = None  # done by an earlier run, so not part of this run's speed

    def update(done: float | int, total: float | int, note: str = "") -> None:
        nonlocal said, first
        raise_if_lost()
        now = time.monotonic()
        first = done if first is None else first
        if now - said < LINE_SECONDS or done >= total:
            return
        said = now
        left = f", {(now - began) / (done - first) * (total - done) / 60:.0f} minutes left" if done > first else ""
        line = f"{what}: {done} of {total} {unit}{left}{note and f', {note}'}"
        messages.print(line, highlight=False, markup=False, soft_wrap=True)

    return update
