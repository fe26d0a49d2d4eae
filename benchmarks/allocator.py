"""What it saves on a CPU that a program keeps freed memory (`jaxiqa.core.allocator`).

    python benchmarks/allocator.py

Every case runs in two processes of its own, which differ in this setting alone; they take turns. The table is stored in
benchmarks/README.md, the numbers in history/allocator.jsonl.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
from jaxiqa.core.allocator import keep_freed_memory

if sys.argv[-1] == "kept" and not keep_freed_memory():  # before the imports below, which start JAX
    raise SystemExit("the environment sets the allocator, or this system has another one")

import history
import jax
import jax.numpy as jnp
from flax import nnx
from timing import chip, measure

from jaxiqa import attacks, models

CASES = ("training step", "PGD-8", "scoring")
SIDE, BATCH = 224, 8


def program(case: str) -> Callable[[], object]:
    """Return one case of Linearity over EfficientNet-Lite0 with random weights, compiled."""
    images = jax.random.uniform(jax.random.key(0), (BATCH, SIDE, SIDE, 3))
    if case == "training step":
        model = models.build("efficientnet_lite0")
        model.train()
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        loss = lambda params, x: jnp.mean(nnx.merge(graphdef, params, rest, copy=True)(x) ** 2)  # noqa: E731
        run, given = jax.jit(jax.grad(loss)), (params, images)
    else:
        score = models.score_fn(models.build("efficientnet_lite0", seed=0), (SIDE, SIDE))
        attack = attacks.PGD(epsilon=2 / 255, steps=8)
        run = jax.jit(lambda x: attack(score, x, jax.random.key(1)) if case == "PGD-8" else score(x))
        given = (images,)
    compiled = run.lower(*given).compile()
    return lambda: jax.block_until_ready(compiled(*given))


def serve(case: str) -> None:
    """Run the case once for each line of the standard input; then print page faults and the peak of memory in MiB."""
    run = program(case)
    run()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    print("ready", flush=True)
    runs = 0
    for _ in iter(sys.stdin.readline, "end\n"):
        run()
        runs += 1
        print("done", flush=True)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    print((spent.ru_minflt - before) // max(1, runs), spent.ru_maxrss // 1024, flush=True)


@contextmanager
def served(case: str, setting: str) -> Iterator[subprocess.Popen]:
    """Start a process that serves a case."""
    command = [sys.executable, __file__, "--serve", case, setting]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit(f"{case}, {setting}: the process ended; see its error above")
        yield process
    finally:
        process.kill()
        process.communicate()


def asked(process: subprocess.Popen, word: str) -> str:
    """Send a word; return the answer."""
    process.stdin.write(f"{word}\n")
    process.stdin.flush()
    return process.stdout.readline()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", nargs=2, metavar=("CASE", "SETTING"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        return serve(arguments.serve[0])
    rows = []
    for case in CASES:
        began = time.perf_counter()
        with served(case, "usual") as usual, served(case, "kept") as kept:
            pair = {"usual": usual, "kept": kept}
            seconds = measure({name: partial(asked, process, "go") for name, process in pair.items()}).seconds
            faults, peak = zip(*(map(int, asked(process, "end").split()) for process in pair.values()), strict=True)
        history.append("allocator", f"{chip()}, jax {jax.__version__}", case, seconds)
        ratio = seconds["usual"] / seconds["kept"]
        rows.append(
            f"| {case} | {seconds['usual']:.3f} | {seconds['kept']:.3f} | {ratio:.2f} | "
            f"{faults[0]:,} | {faults[1]:,} | {peak[0]:,} | {peak[1]:,} |"
        )
        print(rows[-1], f"({time.perf_counter() - began:.0f} s)", flush=True)
    head = [
        f"{chip()}, jax {jax.__version__}; Linearity over EfficientNet-Lite0, {BATCH} × {SIDE}x{SIDE}",
        "",
        "| program | usual, s | kept, s | usual / kept | page faults | kept | peak, MiB | kept |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    start, end, page = "<!-- allocator -->\n", "<!-- /allocator -->", Path(__file__).parent / "README.md"
    before, _, rest = page.read_text().partition(start)
    page.write_text(before + start + "\n".join(head + rows) + f"\n{end}" + rest.partition(end)[2])


if __name__ == "__main__":
    main()
