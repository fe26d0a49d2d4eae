"""Measure classical purifiers against the same calls of PyTorch and torchvision.

    pip install -e '.[bench]' torchvision
    python benchmarks/defenses.py                            # all rows: some minutes on two cores
    python benchmarks/defenses.py --rows flip median_blur    # only these

Each row is stored in benchmarks/defenses.json as soon as it is measured. benchmarks/README.md shows all stored rows.

Both sides purify the same images, in their own layout, with the same number of threads, at the weakest and the
strongest published preset. jaxiqa's purifier is compiled, as inside a compiled metric or attack. The outputs of
deterministic purifiers are compared before anything is timed. jaxiqa draws one set of random numbers per call for all
images; PyTorch draws its noise for each image.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from timing import measure

sys.path.insert(0, str(Path(__file__).parent.parent))
import history
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_purifiers
import torchvision

from jaxiqa.data.synthetic.scenes import scene
from jaxiqa.defenses.purify import PRESETS, PURIFIERS, make

FOLDER = Path(__file__).parent
BATCH, SIZE = 16, (384, 512)
KEY = jax.random.key(0)
SAME_AS = {"upscale": "resize"}
"""Purifier -> the function in torch_purifiers, if its name differs."""
ROWS = [name for name in PURIFIERS if hasattr(torch_purifiers, SAME_AS.get(name, name))]
TOLERATED = {"jpeg": 1 / 255, "diffjpeg": 0.02}
"""Allowed mean difference between the two sides; 1e-5 for all others."""


SLOW = ("median_blur",)


class Result(NamedTuple):
    """Seconds of a batch, by program."""

    device: str
    purifier: str
    options: dict[str, float]
    seconds: dict[str, float]


def make_images() -> np.ndarray:
    random = np.random.default_rng(0)
    few = np.stack([scene(random, SIZE) for _ in range(4)]).clip(0, 1).astype(np.float32)
    return np.tile(np.round(255 * few) / np.float32(255), (BATCH // 4, 1, 1, 1))


def device() -> str:
    chip = jax.devices()[0]
    name = chip.device_kind if chip.platform != "cpu" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{name}, jax {jax.__version__}, torch {torch.__version__}, torchvision {torchvision.__version__}"


def programs(name: str, options: dict[str, float], images: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return both programs, which wait for their results; compare the outputs first if nothing is random."""
    purifier, call = make(name, **options), getattr(torch_purifiers, SAME_AS.get(name, name))
    ours, theirs = jax.jit(purifier), torch.inference_mode()(lambda x: call(x, **options))
    x, y = jnp.asarray(images), torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    if not purifier.random:
        difference = np.abs(np.asarray(ours(x, KEY)) - theirs(y).numpy().transpose(0, 2, 3, 1)).mean()
        if difference > TOLERATED.get(name, 1e-5):
            raise SystemExit(f"{name}: jaxiqa and PyTorch differ by {difference} on average")
    return {"jaxiqa": lambda: jax.block_until_ready(ours(x, KEY)), "PyTorch": lambda: theirs(y)}


def run(name: str, images: np.ndarray) -> list[Result]:
    presets = PRESETS[name]
    ends = presets if len(presets) == 1 else (presets[0], presets[-1])
    rounds = {"keep": 2, "most": 4} if name in SLOW else {"keep": 3, "most": 8}
    return [
        Result(device(), name, options, measure(programs(name, options, images), **rounds).seconds) for options in ends
    ]


def table(results: list[Result]) -> str:
    lines = ["| purifier | jaxiqa, ms | PyTorch, ms | times faster |", "|---|---:|---:|---:|"]
    for result in results:
        ours, theirs = (1000 * result.seconds[side] for side in ("jaxiqa", "PyTorch"))
        options = ", ".join(f"{option} {value}" for option, value in result.options.items())
        lines.append(f"| {result.purifier} {options} | {ours:.0f} | {theirs:.0f} | {theirs / ours:.2f} |")
    return "\n".join(lines)


def show(results: list[Result]) -> str:
    """Return a Markdown table per device."""
    parts = []
    for name in dict.fromkeys(result.device for result in results):
        found = [result for result in results if result.device == name]
        parts.append(f"### {BATCH} × {SIZE[0]}x{SIZE[1]}\n\n{name}\n\n{table(found)}\n")
    return "\n".join(parts)


def keep(new: list[Result]) -> None:
    """Add the results of one purifier to the JSON file and write all results to the README."""
    store, page = FOLDER / "defenses.json", FOLDER / "README.md"
    read = [Result(*old) for old in json.loads(store.read_text())] if store.exists() else []
    measured = {(result.device, result.purifier) for result in new}
    results = [old for old in read if (old.device, old.purifier) not in measured] + new
    results.sort(key=lambda result: (result.device, ROWS.index(result.purifier)))
    store.write_text(json.dumps(results, indent=1) + "\n")
    for result in new:
        case = " ".join([result.purifier, *(f"{name}={value:g}" for name, value in result.options.items())])
        history.append("defenses", result.device, case, result.seconds)
    start, end = "<!-- purifiers -->\n", "<!-- /purifiers -->"
    before, _, rest = page.read_text().partition(start)
    page.write_text(f"{before}{start}{show(results)}{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="*", choices=ROWS, metavar="NAME", help=f"of {', '.join(ROWS)}; all by default")
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    images = make_images()
    for name in arguments.rows or ROWS:
        new = run(name, images)
        print(table(new), flush=True)
        keep(new)


if __name__ == "__main__":
    main()
