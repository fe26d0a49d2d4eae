"""The programs that benchmarks/accelerators.py compiles: name -> a function that builds what is compiled.

"hardened" is a ResNet-18 with a RobustBlock after layer3, on 8 images of 256x256. The attacks of the registry have a
hardened AlexNet on 2 images, which compiles in seconds: what differs between them is the attack. Published metrics
have their published size and one image of 384x512. Weights are random: they are arguments of a program.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import compiling
import jax
import jax.numpy as jnp
import metric_training
import numpy as np
import training_steps
from flax import nnx
from metric_training import Shape

from jaxiqa import attacks, models
from jaxiqa.defenses.purify import PRESETS, make
from jaxiqa.defenses.smoothing.noisy_copies import Noisy
from jaxiqa.layers import OrthogonalConv
from jaxiqa.layers.spectrum import orthogonal_convolve, unitary_spectrum
from jaxiqa.models import MODELS

SHAPE = Shape("resnet18", 64, "after:layer3", 50, (256, 256))
LIGHT = Shape("alexnet", 64, "after:relu5", 50, (256, 256))
BATCH = 8
EPSILON, STEPS = 8 / 255, 8
KERNEL, MAP = (3, 3, 64, 64), (32, 32)
PURIFIERS = ("flip", *(name for name in PRESETS if PRESETS[name] != ({},) and name not in ("diffpure", "jpeg")))
"""Those without a network; jpeg runs on the host."""


@dataclass(frozen=True)
class Job:
    """A function, its arguments (only their shapes matter), and for a training step how many devices share it."""

    function: Callable
    arguments: tuple
    parallel: str | None = None
    devices: int = 1


def images(count: int, size: tuple[int, int]) -> np.ndarray:
    return np.zeros((count, *size, 3), np.float32)


@cache
def score(shape: Shape, dtype: str = "float32") -> Callable:
    return models.score_fn(metric_training.hardened(shape), shape.size, compute_dtype=dtype)


def scoring(dtype: str) -> Job:
    return Job(lambda f, x: f(x), (score(SHAPE, dtype), images(BATCH, SHAPE.size)))


def published(name: str) -> Job:
    return Job(lambda f, x: f(x), (compiling.random_score(name), images(1, compiling.SIZE)))


def gradient(name: str) -> Job:
    slope = lambda f, x: jax.grad(lambda x: jnp.sum(f(x)))(x)  # noqa: E731
    return Job(slope, (compiling.random_score(name), images(1, compiling.SIZE)))


def pgd() -> Job:
    attack = attacks.PGD(EPSILON, steps=STEPS)
    return Job(lambda f, x, key: attack(f, x, key), (score(SHAPE), images(BATCH, SHAPE.size), jax.random.key(0)))


def sweep() -> Job:
    attack = attacks.PGD(EPSILON, steps=STEPS, step_size=2 / 255, random_start=False)
    strengths = jnp.arange(1, 6) * 2 / 255
    run = lambda f, x, key, s: attacks.sweep(attack, f, x, key, s, chunk=5)  # noqa: E731
    return Job(run, (score(SHAPE), images(BATCH, SHAPE.size), jax.random.key(0), strengths))


def attack(name: str) -> Job:
    networks = {"zhang": {"distance": "dists"}, "cadv": {"colorize": "siggraph17"}}.get(name, {})
    given = {option: compiling.random_network(network) for option, network in networks.items()}
    kind = attacks.ATTACKS[name]
    options = {option: STEPS if option == "steps" else value for option, value in compiling.QUICK[name].items()}
    options |= {"epsilon": EPSILON} if getattr(kind, "strength", "epsilon") == "epsilon" else {}

    def run(f: Callable, x: Any, key: Any, given: dict[str, Any]) -> Any:
        return attacks.make(name, **options, **given)(f, x, key)

    return Job(run, (score(LIGHT), images(2, LIGHT.size), jax.random.key(0), given))


def purifier(name: str) -> Job:
    purify = make(name, **PRESETS[name][0])
    return Job(lambda x, key: purify(x, key), (images(BATCH, (384, 512)), jax.random.key(0)))


def noise() -> Job:
    words, samples = np.zeros((64, 2), np.uint32), np.zeros(64, np.int32)
    return Job(Noisy(0.12), (images(64, SHAPE.size), words, samples))


def layer(part: str) -> Job:
    x, kernel = np.zeros((BATCH, *MAP, KERNEL[2]), np.float32), np.zeros(KERNEL, np.float32)
    if part == "materialized":
        return Job(lambda spectrum, x: spectrum(x), (unitary_spectrum(kernel + 0.1, MAP), x))
    options = {} if part == "exponential" else {"unitary": part}
    loss = lambda kernel, x: jnp.sum(orthogonal_convolve(x, kernel, **options) ** 2)  # noqa: E731
    return Job(jax.grad(loss, argnums=(0, 1)), (kernel, x))


def on_manifold() -> Job:
    """A step of `jaxiqa.train.manifold`, the matrices being the parameters."""
    x = np.zeros((BATCH, *MAP, KERNEL[2]), np.float32)
    direct = training_steps.DirectConv(OrthogonalConv(KERNEL[2], KERNEL[3], rngs=nnx.Rngs(0)), MAP)
    optimizer = training_steps.on_manifold(training_steps.RATE, turns=training_steps.TURNS)
    step, params, state = training_steps.step_of(direct, optimizer)
    return Job(step, (params, state, x, x))


def training(parallel: str, devices: int, precision: str = "float32", *, shape: Shape = SHAPE) -> Job:
    step, state, constants = metric_training.make(shape, precision)
    count = BATCH * devices
    batch = {"image": images(count, shape.size), "mos": np.zeros(count, np.float32)}
    return Job(step, (state, constants, batch), parallel, devices)


PROGRAMS: dict[str, Callable[[], Job]] = {
    "score hardened": partial(scoring, "float32"),
    "score hardened, bfloat16": partial(scoring, "bfloat16"),
    "PGD-8 hardened": pgd,
    "PGD-8 hardened, five ε": sweep,
    **{
        f"train hardened, {precision}, {parallel}, {count} devices": partial(training, parallel, count, precision)
        for precision in ("float32", "bfloat16")
        for parallel in ("shard_map", "pmap")
        for count in (1, 8)
    },
    "train AlexNet, float32, shard_map, 8 devices": partial(training, "shard_map", 8, shape=LIGHT),
    **{f"layer {part}": partial(layer, part) for part in ("exponential", "cayley", "reflection", "materialized")},
    "layer on the manifold, step": on_manifold,
    **{f"attack {name}": partial(attack, name) for name in attacks.ATTACKS},
    "smoothing, noise": noise,
    **{f"purify {name}": partial(purifier, name) for name in PURIFIERS},
    **{f"score {name}": partial(published, name) for name in MODELS},
    **{f"gradient {name}": partial(gradient, name) for name in MODELS},
}
"""The order is that of usefulness: a run may be stopped at any time."""
