"""FACPA: a network, trained once against a metric, computes the perturbation of an image in one forward pass."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.fitting import VARIANTS, Learner, Progress, fit
from jaxiqa.attacks.engine.gradients import begin, finish
from jaxiqa.attacks.engine.objective import Objective
from jaxiqa.attacks.engine.storage import read, write
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.keys import Keys
from jaxiqa.core.pytrees import as_pytree, is_traced, static
from jaxiqa.core.types import Images, PRNGKey, ScoreFn
from jaxiqa.ops.geometry import tile

_adam = optax.scale_by_adam()
Network = Callable[[Images], Images]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class FACPA(Attack):
    """Add the output of a trained network: ``clip(x + amplitude · epsilon · network(x), 0, 1)``.

    The image is padded symmetrically, at the bottom and on the right, to sides that are multiples of ``multiple``;
    the output on the padding is cut off. With ``variant="benchmark"`` the network gets the largest part at the top left
    whose sides are multiples, and its output is repeated over the rest.

    Args:
        network: ``b h w c -> b h w c`` with values in [−1, 1], a callable pytree; from `fit_facpa`, or with published
            weights (``jaxiqa.networks.load("facpa_unet", weights=...)``).
        amplitude: factor ≥ 0, a pytree leaf; a change needs no new training. The amplitudes 0.02, 0.04 and 0.08 of
            "Guardians of Image Quality", arXiv:2408.01541, are 0.2, 0.4 and 0.8 here: ±2, 4 and 8 / 255.
        epsilon: Linf radius at amplitude 1, in [0, 1] pixel units; a pytree leaf.
        multiple: the network takes sides that are multiples of this: 2 to the power of its number of levels.
        variant: ``"paper"`` or ``"benchmark"``.

    Call it as `jaxiqa.attacks.pgd.PGD`; the score function and the key are not used.

    Raises:
        ValueError: an argument is out of range, the images are too small for ``variant="benchmark"``, or the network's
            output has another shape than its input or is not finite.

    >>> images = jnp.full((1, 3, 5, 3), 0.5)
    >>> attacked = FACPA(lambda x: jnp.sign(x), amplitude=0.5, epsilon=8 / 255, multiple=4)(None, images, None)
    >>> print((255 * (attacked - images)).max().round(3))
    4.0

    Reference: Shumitskaya, Antsiferova and Vatolin, "Fast Adversarial CNN-based Perturbation Attack on No-Reference
    Image- and Video-Quality Metrics", arXiv:2305.15544.

    **Differs from the paper**: images whose sides are not multiples of 256 are padded instead of cut.
    """

    network: Network
    amplitude: Number = 1.0
    _: KW_ONLY
    epsilon: Number = 10 / 255
    multiple: int = static(256)
    variant: str = static("paper")

    strength: ClassVar[str] = "amplitude"

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", as_pytree(self.network))
        check_choice("variant", self.variant, VARIANTS)
        check_number("multiple", self.multiple, 1)
        for name, high in (("amplitude", float("inf")), ("epsilon", 1.0)):
            check_number(name, getattr(self, name), 0.0, high, or_none=True)

    def __call__(self, score_fn: ScoreFn | None, images: Images, key: Keys | None) -> Images:
        del score_fn, key
        given = images
        self, _, images, _ = begin(self, None, images, None)
        radius = self.amplitude * self.epsilon
        attacked = _attacked(self.network, images, radius, multiple=self.multiple, variant=self.variant)
        if not is_traced(attacked) and not np.isfinite(np.asarray(attacked)).all():
            raise ValueError("network returned values that are not finite")
        return finish(attacked, given)


@partial(jax.jit, static_argnames=("multiple", "variant"))
def _attacked(network, images, radius, *, multiple, variant):
    height, width = images.shape[1:3]
    if variant == "benchmark":
        if min(height, width) < multiple:
            raise ValueError(f"images are {height}x{width}; variant='benchmark' needs sides of at least {multiple}")
        drawn = _drawn(network, images[:, : height // multiple * multiple, : width // multiple * multiple])
        return jnp.clip(images + radius * tile(drawn, height, width), 0, 1)
    padding = ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0))
    drawn = _drawn(network, jnp.pad(images, padding, mode="symmetric"))
    return jnp.clip(images + radius * drawn[:, :height, :width], 0, 1)


def _drawn(network, images):
    drawn = network(images)
    if drawn.shape != images.shape:
        raise ValueError(f"network returned shape {drawn.shape} for images {images.shape}; expected the same")
    return drawn


@cache
def _learner(multiple: int, variant: str) -> Learner:
    return Learner(partial(_attacked, multiple=multiple, variant=variant), _adam)


def fit_facpa(
    score_fn: ScoreFn,
    images: Images,
    key: PRNGKey,
    *,
    network: Network,
    epsilon: float = 10 / 255,
    multiple: int = 256,
    variant: str = "paper",
    epochs: int = 5,
    batch_size: int = 8,
    step_size: float = 1e-3,
    objective: Objective | str = "raise",
    progress: Progress | None = None,
) -> FACPA:
    """Train a network by Adam to compute perturbations that raise the mean score of ``images``.

        max over θ of mean_i f(clip(x_i + epsilon · network_θ(x_i), 0, 1))

    Args:
        score_fn: the metric.
        images: ``n h w c`` in [0, 1], to train on; evaluate on others. The paper trains on 256×256.
        key: random key of the order of the images.
        network: the network to start from: a callable pytree; all its leaves are trained. For example
            ``Network(*flax.nnx.split(UNet(rngs=flax.nnx.Rngs(0))))`` of `jaxiqa.networks`.
        epsilon: Linf radius in [0, 1] pixel units, written ``8 / 255``.
        multiple, variant: see `FACPA`.
        epochs: passes over the images; 5 in the benchmark, 200 in the paper's code.
        batch_size: images per step; the last batch of an epoch is filled up from the epoch's first images.
        step_size: Adam's learning rate.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.
        progress: called after every step as ``progress(steps done, total steps, note)``.

    Raises:
        ValueError: an option or the network is not as described here, or scores or gradients are not finite; the
            message names the step and its images.

    >>> score = lambda x: x.mean((1, 2, 3))
    >>> network = jax.tree_util.Partial(lambda bias, x: jnp.tanh(x + bias), jnp.zeros(3))
    >>> images = jnp.full((4, 3, 5, 3), 0.5)
    >>> attack = fit_facpa(score, images, jax.random.key(0), network=network, multiple=1, epochs=20, step_size=0.1)
    >>> bool(score(attack(None, images, None)).min() > 0.5 + 9 / 255)
    True

    **Differs from the paper's code**: for a lower-better metric, set the objective ``"lower"``; the network has no
    dropout during training.
    """
    check_number("epsilon", epsilon, 0.0, 1.0)
    leaves = jax.tree.leaves(network)
    if not leaves or not all(hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise ValueError("network must be a pytree with leaves to train, all of them floating-point arrays")
    FACPA(network, multiple=multiple, variant=variant)  # checks both
    options: dict[str, Any] = {"epsilon": epsilon, "epochs": epochs, "batch_size": batch_size, "step_size": step_size}
    trained = fit(
        _learner(multiple, variant), network, score_fn, images, key, **options, objective=objective, progress=progress
    )
    return FACPA(trained, epsilon=epsilon, multiple=multiple, variant=variant)


def save_facpa(attack: FACPA, path: str | Path) -> None:
    """Write the weights of a trained network and the options to a ``.safetensors`` file.

    Raises:
        jaxiqa.core.files.WriteError: the file cannot be written.

    >>> import tempfile
    >>> network = jax.tree_util.Partial(lambda bias, x: jnp.tanh(x + bias), jnp.ones(3))
    >>> path = Path(tempfile.mkdtemp()) / "facpa.safetensors"
    >>> save_facpa(FACPA(network, multiple=1, epsilon=8 / 255), path)
    >>> load_facpa(path, network).multiple
    1
    """
    options = {name: float(getattr(attack, name)) for name in ("amplitude", "epsilon")}
    write(path, "facpa", _named(attack.network), options | {"multiple": attack.multiple, "variant": attack.variant})


def load_facpa(path: str | Path, network: Network) -> FACPA:
    """Read a file of `save_facpa`.

    Args:
        path: the file.
        network: a network of the same structure; its weights are replaced. It may be abstract (`flax.nnx.eval_shape`).

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or holds something else or the weights of another network.

    >>> import tempfile
    >>> network = jax.tree_util.Partial(lambda bias, x: jnp.tanh(x + bias), jnp.ones(3))
    >>> path = Path(tempfile.mkdtemp()) / "facpa.safetensors"
    >>> save_facpa(FACPA(network, multiple=1), path)
    >>> empty = jax.tree.map(jnp.zeros_like, network)
    >>> load_facpa(path, empty).network.args[0].tolist()
    [1.0, 1.0, 1.0]
    """
    arrays, options = read(path, "facpa")
    wanted = _named(network)
    if problems := [
        f"{name}: {'unknown' if name not in wanted else 'missing' if name not in arrays else 'of another shape'}"
        for name in sorted(arrays.keys() | wanted.keys())
        if name not in wanted or name not in arrays or arrays[name].shape != wanted[name].shape
    ]:
        raise ValueError(f"{path} does not match this network:\n  " + "\n  ".join(problems))
    try:
        return FACPA(jax.tree.unflatten(jax.tree.structure(network), [arrays[name] for name in wanted]), **options)
    except TypeError as error:
        raise ValueError(f"{path}: not a trained FACPA: {error}") from error


def _named(network: Any) -> dict[str, Any]:
    """Return the leaves by their dotted paths, in the order of the pytree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(network)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
