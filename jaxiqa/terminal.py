"""What the scripts show and set up: the console, progress bars, and JAX's compilation cache."""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console()
LINE_SECONDS = 60.0


@contextmanager
def explained() -> Iterator[None]:
    """End with the message alone where the message says what is wrong; other errors keep their traceback."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("JAXIQA_TRACEBACK"):
            raise
        raise SystemExit(f"error: {error}\n(set JAXIQA_TRACEBACK=1 to see where)") from None


def start_jax() -> None:
    """Keep compiled programs between runs, under $JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    import jax

    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=Console(stderr=True))]
    )
    # Orbax remarks on every save that is waited for, and prints the traceback of each error that it also raises.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(caches / "jaxiqa" / "xla"))


def device_name() -> str:
    """What the numbers were measured on, such as "2 x NVIDIA H100" or "CPU, 8 cores"."""
    import jax

    devices = jax.local_devices()
    if devices[0].platform == "cpu":
        return f"CPU, {os.cpu_count()} cores, jax {jax.__version__}"
    return f"{len(devices)} x {devices[0].device_kind}, jax {jax.__version__}"


@contextmanager
def progress_bar(what: str, unit: str = "") -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the time left; in a log file, a line a minute. Yields ``update(done, total, note)``."""
    if not console.is_terminal:
        yield _lines(what, unit)
        return
    columns = [TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TextColumn(unit)]
    columns += [TextColumn("{task.fields[note]}", markup=False), TimeRemainingColumn(compact=True)]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None, note="")
        yield lambda done, total, note="": progress.update(task, completed=done, total=total, note=note)


def _lines(what: str, unit: str) -> Callable[[int, int, str], None]:
    began = said = time.monotonic()
    first: int | None = None  # what an earlier run had done says nothing of this one's pace

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal said, first
        now = time.monotonic()
        first = done if first is None else first
        if now - said < LINE_SECONDS or done >= total:
            return
        said = now
        left = f", {(now - began) / (done - first) * (total - done) / 60:.0f} minutes left" if done > first else ""
        line = f"{what}: {done} of {total} {unit}{left}{note and f', {note}'}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    return update
