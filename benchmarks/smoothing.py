"""Measure median smoothing against plain scoring: the cost of drawing noise and collecting samples.

    python benchmarks/smoothing.py                        # MobileNetV2, 1,000 samples at 224x224
    python benchmarks/smoothing.py --models mobilenet_v2 resnet18

Both score 1,000 images with the same metric in batches of the same size. Plain scoring takes images that are already on
the device. Median smoothing draws noisy copies of one image. The row is stored in benchmarks/smoothing.json and shown
in benchmarks/README.md.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from timing import measure

sys.path.insert(0, str(Path(__file__).parent.parent))
import history
import jax
import numpy as np

from jaxiqa import models
from jaxiqa.defenses.smoothing import MS
from jaxiqa.defenses.smoothing.noisy_copies import Noisy
from jaxiqa.defenses.smoothing.sampling import sampler

FOLDER = Path(__file__).parent
N, SIDE = 1000, 224
KEY = jax.random.key(0)


class Result(NamedTuple):
    """Milliseconds per sample."""

    device: str
    model: str
    chunk: int
    smoothing: float
    scoring: float


@jax.jit
def score_batch(score: Callable, images: jax.Array) -> jax.Array:
    return score(images)


def plain(score: Callable, images: jax.Array, count: int) -> np.ndarray:
    """Score batches until there are ``count`` scores; as in `MS`, start the next batch before reading the last."""
    found, pending = [], None
    for _ in range(-(-count // len(images))):
        ahead = score_batch(score, images)
        if pending is not None:
            found.append(np.asarray(pending))
        pending = ahead
    return np.concatenate([*found, np.asarray(pending)])


def run(backbone: str, n: int) -> Result:
    score = models.score_fn(models.build(backbone, seed=0), (SIDE, SIDE))
    image = jax.random.uniform(jax.random.key(1), (1, SIDE, SIDE, 3))
    held = sampler(Noisy(0.12), score, image, KEY, n, None)
    batch = jax.device_put(jax.random.uniform(jax.random.key(2), (held.chunk, SIDE, SIDE, 3)), held.divided)
    certify = MS(n=n)
    programs = {
        "smoothing": lambda: certify(score, image, KEY),
        "scoring": lambda: plain(held.score_fn, batch, n),
    }
    seconds = measure(programs, keep=3, most=8).seconds
    chip = jax.devices()[0]
    name = chip.device_kind if chip.platform != "cpu" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    device = f"{name}, jax {jax.__version__}"
    return Result(device, backbone, held.chunk, 1000 * seconds["smoothing"] / n, 1000 * seconds["scoring"] / n)


def table(results: list[Result]) -> str:
    """Return a Markdown table; the last column should be at least 0.90."""
    lines = [
        "| device | metric | chunk | median smoothing, ms a sample | plain scoring, ms an image | plain / smoothing |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for one in results:
        lines.append(
            f"| {one.device} | {one.model} | {one.chunk} | {one.smoothing:.2f} | {one.scoring:.2f} | "
            f"{one.scoring / one.smoothing:.2f} |"
        )
    return "\n".join(lines)


def keep(new: Result) -> None:
    """Add one result to the JSON file and write all results to the README."""
    store = FOLDER / "smoothing.json"
    read = [Result(*old) for old in json.loads(store.read_text())] if store.exists() else []
    results = [old for old in read if (old.device, old.model) != (new.device, new.model)] + [new]
    store.write_text(json.dumps(sorted(results), indent=1) + "\n")
    numbers = {"smoothing": new.smoothing / 1000, "scoring": new.scoring / 1000}
    history.append("smoothing", new.device, f"{new.model}, chunk {new.chunk}", numbers)
    start, end, page = "<!-- smoothing -->\n", "<!-- /smoothing -->", FOLDER / "README.md"
    before, _, rest = page.read_text().partition(start)
    page.write_text(f"{before}{start}{table(sorted(results))}\n{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["mobilenet_v2"], metavar="NAME", help="backbones")
    parser.add_argument("--n", type=int, default=N, help="samples")
    arguments = parser.parse_args()
    for backbone in arguments.models:
        began = time.perf_counter()
        new = run(backbone, arguments.n)
        print(table([new]), f"\n{time.perf_counter() - began:.0f} s", flush=True)
        if arguments.n == N:
            keep(new)


if __name__ == "__main__":
    main()
