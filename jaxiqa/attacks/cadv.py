"""cAdv: keep the lightness and recolour the image by a colourisation network with adversarial colour hints."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from jaxiqa.attacks.engine.attack import Attack
from jaxiqa.attacks.engine.gradients import begin, finish, nearest_on_line, per_image_gradient, towards
from jaxiqa.attacks.engine.loop import check_steps, iterate
from jaxiqa.attacks.engine.objective import Objective, as_objective
from jaxiqa.attacks.engine.threat_model import Number
from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.core.keys import Keys, image_keys
from jaxiqa.core.pytrees import static, trained
from jaxiqa.core.scores import checked_scores
from jaxiqa.core.types import Images, PRNGKey, ScoreFn
from jaxiqa.ops.clustering import kmeans
from jaxiqa.ops.color import lab_to_rgb, rgb_to_lab
from jaxiqa.ops.filters import gaussian_weights, separable_filter

_adam = optax.scale_by_adam()
STEPS = {"paper": 50, "benchmark": 10}
SMOOTHING = gaussian_weights(25, 3.0)
"""The Gaussian that smooths a and b before they are clustered: σ = 3, out to 12 pixels."""
GRID = 23
"""Bins along a and along b, 10 units wide, of the histogram for the entropy: the colourisation network's classes."""

Plane = Float[Array, "b h w 1"]
Hints = Float[Array, "b h w 2"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CAdv(Attack):
    """cAdv: optimise colour hints h and their mask m of each image by Adam, to raise the score of

        rgb(L, colorize(L, h, m))

    L is the lightness of the image. The start is the true colours at ``hints`` random pixels: a and b of the smoothed
    image are clustered by k-means, and the pixels are drawn from the ``chosen`` clusters with the lowest entropy of
    colours, where a change of hue is most even. There is no ε. Recolouring alone already changes the image, since the
    network does not know its true colours; ``step_size`` sets how far the hints then move.

    Args:
        colorize: ``(L, hints, mask) -> ab``, a callable pytree, on maps ``b h w 1``, ``b h w 2``, ``b h w 1`` ->
            ``b h w 2``: L is (lightness − 50) / 100; hints and the result are a and b divided by 110; the mask is 0.5
            at a hint and −0.5 elsewhere. For example ``jaxiqa.networks.load("siggraph17", weights=...)``.
        step_size: Adam's learning rate, in the units of hints and mask; a pytree leaf.
        steps: number of Adam steps, ≥ 1; 50, and 10 with ``variant="benchmark"``, by default.
        clusters: clusters of k-means, ≥ 1.
        chosen: clusters with hints, from 1 to ``clusters``.
        hints: pixels with a hint, ≥ 0; fewer if the clusters have fewer pixels.
        objective: ``"raise"`` or ``"lower"`` the score, or one of `jaxiqa.attacks.engine.objective`.
        variant: ``"paper"``; ``"benchmark"`` lets hints and mask leave [−1, 1] and [−0.5, 0.5].

    Call, result and errors are those of `jaxiqa.attacks.pgd.PGD`; images are RGB. The key draws the start of k-means
    and the pixels.

    >>> colorize = lambda lightness, hints, mask: jnp.tanh(hints + mask)
    >>> images = jax.random.uniform(jax.random.key(0), (1, 6, 7, 3))
    >>> score = lambda x: x[..., 0].mean((1, 2))
    >>> few, many = (CAdv(colorize, steps=n, step_size=0.01)(score, images, jax.random.key(0)) for n in (1, 20))
    >>> bool(score(many)[0] > score(few)[0])
    True

    Reference: Bhattad et al., "Unrestricted Adversarial Examples via Semantic Manipulation", arXiv:1904.06347.

    **Differs from the paper**: the score replaces the classification loss, and the number of steps is fixed. The
    default is 50 steps of 1e-3: in total as far as the paper's at most 500 steps of 1e-4. Hints and mask are kept in
    the range that the network was trained on. The entropy of a cluster is that of its a and b on a grid of 10 units.
    With ``variant="benchmark"``, as run for "Guardians of Image Quality", arXiv:2408.01541, ``step_size`` sets the
    strength: 0.00005 to 0.006.
    """

    colorize: Callable[[Plane, Hints, Plane], Hints]
    _: KW_ONLY
    step_size: Number = 1e-3
    steps: int | None = static(None)
    clusters: int = static(8)
    chosen: int = static(4)
    hints: int = static(50)
    objective: Objective | str = "raise"
    variant: str = static("paper")

    strength: ClassVar[str] = "step_size"

    def __post_init__(self) -> None:
        check_choice("variant", self.variant, STEPS)
        object.__setattr__(self, "colorize", trained("colorize", self.colorize))
        object.__setattr__(self, "objective", as_objective(self.objective))
        if self.steps is None:
            object.__setattr__(self, "steps", STEPS[self.variant])
        check_steps(self.steps)
        check_number("clusters", self.clusters, 1)
        check_number("chosen", self.chosen, 1, self.clusters)
        check_number("hints", self.hints, 0)
        check_number("step_size", self.step_size, 0.0, or_none=True)

    def __call__(self, score_fn: ScoreFn, images: Images, key: Keys) -> Images:
        given, wanted = images, self.objective
        self, score_fn, images, key = begin(towards(self, score_fn, images), score_fn, images, key)
        counts = {"clusters": self.clusters, "chosen": self.chosen, "hints": self.hints}
        lightness, variables = _start(images, image_keys(key, len(images)), **counts)
        limit = jnp.array([1.0, 1.0, 0.5]) if self.variant == "paper" else jnp.full(3, jnp.inf)
        assert self.steps is not None  # since __post_init__
        constants = (lightness, score_fn, self.colorize, self.step_size, limit, self.objective)
        state = (variables, _adam.init(variables))
        variables, _ = iterate(_step, state, self.steps, *constants)
        attacked = _painted(self.colorize, lightness, variables)
        return finish(nearest_on_line(wanted, score_fn, images, attacked), given)


@partial(jax.jit, static_argnames=("clusters", "chosen", "hints"))
def _start(images, keys, *, clusters, chosen, hints):
    """Return the lightness ``b h w 1``, and hints and mask together, ``b h w 3``."""

    def one(image, key):
        lab = rgb_to_lab(image)
        cluster_key, hint_key = jax.random.split(key)
        allowed = even_colors(lab[..., 1:], cluster_key, clusters=clusters, chosen=chosen)
        mask = random_pixels(allowed, hint_key, hints)[..., None]
        return (lab[..., :1] - 50) / 100, jnp.concatenate([jnp.where(mask, lab[..., 1:] / 110, 0), mask - 0.5], -1)

    return jax.vmap(one)(images, keys)


@jax.jit
def _painted(colorize, lightness, variables):
    ab = colorize(lightness, variables[..., :2], variables[..., 2:])
    if ab.shape != (*lightness.shape[:3], 2):
        raise ValueError(f"colorize returned shape {ab.shape}; expected {(*lightness.shape[:3], 2)}")
    return jnp.clip(lab_to_rgb(jnp.concatenate([100 * lightness + 50, 110 * ab], -1)), 0, 1)


@jax.jit
def _step(state, lightness, score_fn, colorize, step_size, limit, objective):
    variables, adam = state

    def loss(variables):
        return -objective.value(checked_scores(score_fn, _painted(colorize, lightness, variables)))

    direction, adam = _adam.update(per_image_gradient(loss, variables), adam)
    return jnp.clip(variables - step_size * direction, -limit, limit), adam


def even_colors(ab: Float[Array, "h w 2"], key: PRNGKey, *, clusters: int = 8, chosen: int = 4) -> Bool[Array, "h w"]:
    """Mark the pixels of the ``chosen`` non-empty clusters with the lowest entropy of colours.

    >>> ab = jnp.zeros((4, 6, 2)).at[:, 3:].set(jax.random.uniform(jax.random.key(0), (4, 3, 2), maxval=90.0))
    >>> even_colors(ab, jax.random.key(0), clusters=2, chosen=1)[0].tolist()[0]
    True
    """
    height, width, _ = ab.shape
    smooth = separable_filter(ab[None], SMOOTHING, "symmetric")  # the border of SciPy's ``gaussian_filter``
    labels, _ = kmeans(smooth.reshape(-1, 2), key, clusters)
    cell = jnp.clip(jnp.round(ab.reshape(-1, 2) / 10) + GRID // 2, 0, GRID - 1).astype(jnp.int32)
    histogram = jnp.zeros((clusters, GRID, GRID)).at[labels, cell[:, 0], cell[:, 1]].add(1).reshape(clusters, -1)
    count = histogram.sum(1)
    entropy = jax.scipy.special.entr(histogram / jnp.maximum(count, 1)[:, None]).sum(1)
    rank = jnp.argsort(jnp.argsort(jnp.where(count > 0, entropy, jnp.inf)))
    return (rank < chosen)[labels].reshape(height, width)


def random_pixels(allowed: Bool[Array, "h w"], key: PRNGKey, count: int) -> Bool[Array, "h w"]:
    """Mark ``count`` random allowed pixels, or all allowed pixels if there are fewer.

    >>> allowed = jnp.arange(6).reshape(2, 3) > 1
    >>> [int(random_pixels(allowed, jax.random.key(0), count).sum()) for count in (0, 3, 9)]
    [0, 3, 4]
    """
    order = jnp.where(allowed, jax.random.uniform(key, allowed.shape), -1).ravel()
    _, first = jax.lax.top_k(order, min(count, order.size))
    return jnp.zeros(order.size, bool).at[first].set(True).reshape(allowed.shape) & allowed
