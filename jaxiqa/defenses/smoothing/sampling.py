"""Monte-Carlo: the options of sampling, and the scores of many noisy copies of each image, chunk by chunk."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float, Int

from jaxiqa.core.checks import check_chunk, check_count, check_option
from jaxiqa.core.devices import free_bytes
from jaxiqa.core.images import check_unit_images
from jaxiqa.core.keys import image_keys
from jaxiqa.core.pytrees import as_pytree, is_traced
from jaxiqa.core.types import Images, ScoreFn
from jaxiqa.defenses.smoothing.bounds import check_share

SHARE = 0.7
"""Share of the free memory that is used for planning: other programs use the machine too."""

LARGEST = {"cpu": 32}
"""Largest number of copies per device, by backend; 256 elsewhere. More copies are not faster."""

Progress = Callable[[int, int], Any] | None


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The options that all certifiers share; each certifier is a frozen dataclass that inherits them.

    Args:
        sigma: standard deviation of the noise, > 0, in [0, 1] pixel units.
        n: noisy copies of each image that the bounds are computed from, >= 1.
        alpha: probability, in (0, 1), that a bound does not hold.
        target: None: all n samples are used. A number: an image is done once its bounds decide on which side of
            ``target`` it lies; see `jaxiqa.defenses.smoothing.bounds.stopping_schedule`.
        chunk: noisy copies scored at once on each device; None chooses. The samples do not depend on it.

    Raises:
        ValueError: an option is out of range.

    >>> Sampling(alpha=1.0)
    Traceback (most recent call last):
    ValueError: alpha=1.0 is outside (0, 1)
    """

    sigma: float = 0.12
    n: int = 1000
    alpha: float = 0.001
    target: float | None = None
    chunk: int | None = None

    def __post_init__(self):
        check_option("sigma", self.sigma, open_low=True)
        check_count("n", self.n, 1)
        check_share("alpha", self.alpha)
        check_chunk(self.chunk)


@dataclass(frozen=True)
class Sampler:
    """The images of one certificate on the devices, ready for sampling; create it by `sampler`.

    Sample s of an image has the same noise in any chunk and on any device. Only scores are copied to the host. One
    chunk is computed while the scores of the previous one are fetched. The chunks are a Python loop, since XLA runs a
    convolution in a CPU loop body many times slower (jax#12868).
    """

    view: Any
    score_fn: Any
    images: Images
    words: Any
    chunk: int  # over all devices
    divided: NamedSharding

    def scores(
        self, which: Int[np.ndarray, " k"], first: int, last: int, progress: Progress = None
    ) -> Float[np.ndarray, "k n votes"]:
        """Score samples ``first`` to ``last - 1`` of the images ``which``; float32.

        Raises:
            ValueError: a score is not finite; the message names the images.
        """
        image = np.repeat(which, last - first).astype(np.int32)
        sample = np.tile(np.arange(first, last, dtype=np.int32), len(which))
        total, pending, found = len(image), None, []
        for start in [*range(0, total, self.chunk), None]:
            ahead = None if start is None else self._dispatch(image, sample, start)
            if pending is not None:
                found.append(np.asarray(pending))
                if progress:
                    progress(min(total, len(found) * self.chunk), total)
            pending = ahead
        scores = np.concatenate(found)[:total].reshape(len(which), last - first, -1)
        if not (finite := np.isfinite(scores).all((1, 2))).all():
            names = ", ".join(map(str, which[~finite]))
            raise ValueError(f"score_fn gave non-finite scores for noisy copies of images {names}")
        return scores

    def _dispatch(self, image, sample, start):
        take = np.minimum(np.arange(start, start + self.chunk), len(image) - 1)  # pads the last chunk
        image, sample = jax.device_put((image[take], sample[take]), self.divided)
        return _score(self.score_fn, _see(self.view, *_pick(self.images, self.words, image), sample), self.view.votes)


# Three programs. In one program, XLA would draw the noise again for each tap of a convolution that is written as
# products, and everything would be compiled for every batch size.


@jax.jit
def _pick(images, words, image):
    return images[image], words[image]


@jax.jit
def _see(view, images, words, samples):
    return view(images, words, samples)


@partial(jax.jit, static_argnames="votes")
def _score(score_fn, copies, votes):
    scores = score_fn(copies)
    if scores.shape != copies.shape[:1]:
        expected = f"({len(copies)},), one score per image"
        raise ValueError(f"score_fn returned shape {scores.shape} for {len(copies)} images; expected {expected}")
    # half precision becomes float32, float64 stays: scores are compared with borders without rounding
    return scores.astype(jnp.promote_types(scores.dtype, jnp.float32)).reshape(-1, votes)


def sampler(
    view: Any, score_fn: ScoreFn, images: Images, key: Any, n: int, chunk: int | None, resize: Any = None
) -> Sampler:
    """Create a sampler: copy images, metric and view to all local devices and choose the chunk.

    Args:
        view: see `jaxiqa.defenses.smoothing.noisy_copies`.
        score_fn: ``b h w 3 -> b``, best a callable pytree, since other functions compile once per object.
        images: ``b h w 3`` in [0, 1], of any float type; noise is added in float32.
        key: random key, folded with the place of each image in the batch; or one key per image.
        n: number of samples of each image, to choose a chunk with little padding.
        chunk: copies scored at once on each device; None: as many as fit into memory and make it faster.
        resize: applied to the images before noise is added, ``b h w 3 -> b h w 3``.

    Raises:
        ValueError: the images or the key are not allowed, the chunk is below 1, or one copy does not fit into memory.
    """
    if is_traced(images):
        raise ValueError("images is traced; call the certifier outside jit, vmap and grad: it runs on the host")
    check_unit_images(images, channels=3)
    keys = image_keys(key, len(images))
    images = jnp.asarray(images, jnp.float32)
    images = images if resize is None else resize(images)
    devices = np.array(jax.local_devices())
    mesh = Mesh(devices, ("samples",))
    everywhere, divided = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("samples",)))
    words = jax.random.key_data(keys)[:, :2]
    view, score_fn, images, words = jax.device_put((view, as_pytree(score_fn), images, words), everywhere)
    if chunk is None:
        shape, total = images.shape[1:], len(images) * n
        available = int(SHARE * free_bytes(devices=len(jax.local_devices())))
        chunk = fitting_chunk(view, score_fn, shape, total, divided, available=available)
    else:
        check_count("chunk", chunk, 1)
        chunk = chunk * len(devices)
    return Sampler(view, score_fn, images, words, chunk, divided)


def fitting_chunk(
    view: Any, score_fn: Any, shape: tuple[int, ...], total: int, divided: NamedSharding, *, available: int
) -> int:
    """Return how many copies, over all devices, are scored at once: those that fit, or fewer for less padding.

    XLA's count of temporary bytes decides; the program compiled for it is the one used later.
    """
    devices = divided.num_devices
    most = LARGEST.get(jax.default_backend(), 256)
    while True:
        each = _least_waste(-(-total // devices), most)
        needed = _needed(view, score_fn, (each * devices, *shape), divided)
        if needed <= available:
            return each * devices
        if each == 1:
            raise ValueError(
                f"one image of {shape} needs {needed / 2**20:.0f} MiB of memory; "
                f"{available / 2**20:.0f} MiB are available"
            )
        most = max(1, min(each // 2, each * available // needed))


def _least_waste(total, most):
    """Return the chunk in (most / 2, most] with the least padding in the last chunk; of equal ones, the largest."""
    return min(range(most // 2 + 1, most + 1), key=lambda each: (-total % each, -each)) if total > most else total


def _needed(view, score_fn, shape, divided):
    struct = jax.ShapeDtypeStruct
    images, words = struct(shape, jnp.float32, sharding=divided), struct((shape[0], 2), jnp.uint32, sharding=divided)
    samples = struct(shape[:1], jnp.int32, sharding=divided)
    seeing = _see.lower(view, images, words, samples)
    copies = struct(seeing.out_info.shape, jnp.float32, sharding=divided)
    programs = seeing.compile(), _score.lower(score_fn, copies, view.votes).compile()
    analyses = [program.memory_analysis() for program in programs]
    buffers = 4 * 2 * (int(np.prod(shape)) + int(np.prod(copies.shape))) // divided.num_devices  # one chunk ahead
    return buffers + max(analysis.temp_size_in_bytes if analysis else 0 for analysis in analyses)
