"""One process of the tests of training over processes, with a backbone of two layers, which compiles in seconds.

python process_worker.py fit FOLDER COORDINATOR COUNT INDEX PAUSE    ten steps of `fit` in float64
python process_worker.py train --config FILE ...                     the program train.py
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import tiny
from flax import nnx

from jaxiqa.cli import train
from jaxiqa.cli.processes import Place, processes
from jaxiqa.cli.runtime import explained
from jaxiqa.config import Training
from jaxiqa.core.processes import is_first
from jaxiqa.nn.backbones import BACKBONES, RESNET18
from jaxiqa.nn.stages import Stages
from jaxiqa.train.examples import Examples
from jaxiqa.train.loop import fit
from jaxiqa.train.optimizer import make_optimizer
from jaxiqa.train.state import split_model

COUNT, BATCH, EPOCHS = 40, 8, 2


class Layer(nnx.Module):
    """A convolution with stride two, a batch norm and a smooth activation."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs):
        self.conv = nnx.Conv(inputs, outputs, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(outputs, use_running_average=True, momentum=0.9, rngs=rngs)

    def __call__(self, x):
        return jax.nn.silu(self.bn(self.conv(x)))


def build(*, width: int, rngs: nnx.Rngs) -> Stages:
    return Stages({"first": (Layer(3, width, rngs=rngs), width), "second": (Layer(width, 6, rngs=rngs), 6)})


def source(seed: int, count: int) -> Examples:
    random = np.random.default_rng(seed)
    images = random.uniform(size=(count, 8, 10, 3))
    mos = images[:, :4].mean((1, 2, 3)) + 0.02 * random.normal(size=count)

    def fetch(index, view):
        return {"image": images[index][:, :: -1 if view.mirrored else 1], "mos": mos[index]}

    return Examples(fetch, mos)


def run(folder: Path, pause: float) -> None:
    """Train with all arrays in float64, with a pause after each step; every process stores its result."""

    def progress(step: int, steps: int, loss: float, best: float) -> None:
        print("step", step, flush=True)
        time.sleep(pause)

    parts = split_model(tiny.metric("two_layers"))
    wide = lambda tree: jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)  # noqa: E731
    parts = replace(parts, params=wide(parts.params), batch_stats=wide(parts.batch_stats))
    result = fit(
        parts,
        make_optimizer(parts.params, Training(learning_rate=1e-3, backbone_factor=1.0), steps_per_epoch=1),
        source(0, COUNT),
        source(1, 13),
        epochs=EPOCHS,
        batch_size=BATCH,
        loss="norm_in_norm",
        flip=True,
        masks={},
        seed=0,
        folder=folder / "run",
        backend="shard_map",
        progress=progress,
    )
    leaves = jax.tree_util.tree_leaves_with_path((result.params, result.batch_stats))
    arrays = {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}
    np.savez(folder / f"result{jax.process_index()}.npz", best=result.best_correlation, **arrays)
    if is_first():
        print("done", jax.process_count(), jax.device_count())


if __name__ == "__main__":
    # Not at import: the collection of doctests imports this file, and its backbone is none of the library's.
    BACKBONES["two_layers"] = replace(RESNET18, build=build, width=8, taps=("first", "second"), levels=None)
    match sys.argv[1:]:
        case ["train", *words]:
            train.main(words)
        case ["fit", folder, coordinator, count, index, pause]:
            jax.config.update("jax_enable_x64", True)
            place = Place(coordinator, int(count), int(index)) if int(count) > 1 else None
            with explained(), processes(place):
                run(Path(folder), float(pause))
