"""What functions of pictures are given: pictures, callables that ``jit`` takes as arguments, and random keys."""

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxiqa.core.checks import check_images
from jaxiqa.core.types import PRNGKey

Keys = PRNGKey | Key[Array, " b"]
OVERSHOOT = 0.5
"""How far the pixels of prepared images may leave [0, 1]: bicubic resizing overshoots."""


def is_traced(*trees: Any) -> bool:
    """Whether any leaf is a tracer, so that its value cannot be looked at.

    >>> is_traced(1.0), jax.jit(lambda x: is_traced([x]))(1.0).item()
    (False, True)
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def as_pytree(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function as an argument that ``jit`` accepts.

    A pytree that can be called (`jax.tree_util.Partial`, a module, a registered dataclass) is passed on: its
    leaves are traced, so models of one structure share one compiled program. Any other callable is wrapped, and
    compiled once per function object.

    >>> as_pytree(len)
    Partial(<built-in function len>)
    """
    plain = callable(function) and jax.tree_util.all_leaves([function])
    return jax.tree_util.Partial(function) if plain else function


def trained(name: str, network: Any) -> Callable[..., Any]:
    """A network as `as_pytree` makes it, for what uses it without training it.

    Args:
        name: what the caller calls it.
        network: a function or a pytree that can be called.

    Raises:
        ValueError: it cannot be called, or says of itself (``network.fresh``) that its weights are random.

    >>> trained("denoise", "dncnn")
    Traceback (most recent call last):
    ValueError: denoise='dncnn' cannot be called; give the network itself, such as jaxiqa.networks.load(...)
    """
    if not callable(network):
        given = repr(network) if isinstance(network, str | None) else type(network).__name__
        raise ValueError(f"{name}={given} cannot be called; give the network itself, such as jaxiqa.networks.load(...)")
    if getattr(network, "fresh", False):
        raise ValueError(f"{name} has random weights; load trained ones with jaxiqa.networks.load(...)")
    return as_pytree(network)


def beside(images: Any, tree: Any) -> Any:
    """The pytree on the devices that hold ``images``: whole on each of them where its arrays are committed elsewhere.

    ``jit`` refuses arguments that are committed to different devices, such as weights read onto the first one and a
    batch that is divided over all. Arrays that are not committed, and traced ones, are left as they are.

    >>> beside(jnp.zeros((1, 2, 2, 3)), {"w": 1.0})
    {'w': 1.0}
    """
    if is_traced(images) or not isinstance(images, jax.Array) or not images.committed:
        return tree  # `jit` moves images that are not committed to where the rest is
    devices, everywhere = images.sharding.device_set, _whole_on(images)

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or is_traced(leaf) or not leaf.committed:
            return leaf
        return leaf if leaf.sharding.device_set == devices else jax.device_put(leaf, everywhere)

    return jax.tree.map(placed, tree)


def _whole_on(images: jax.Array) -> jax.sharding.Sharding:
    """The sharding of an array that every device with a part of these images holds whole."""
    sharding = images.sharding
    if isinstance(sharding, jax.sharding.NamedSharding):
        return jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    devices = sorted(sharding.device_set, key=lambda device: device.id)
    mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())


def check_pictures(
    images: Any, *, minimum: int = 1, channels: int | None = 3, name: str = "images", slack: float = 0.0
) -> None:
    """Raise unless ``images`` is a batch of RGB images in [0, 1]: the one check of every function that takes images.

    Type and layout are checked of tracers too; their values cannot be looked at. A `jax.Array` never changes, so its
    range is computed once, where it lies: on an accelerator two numbers come back.

    Args:
        images: ``b h w c``, float, in [0, 1] up to rounding (8 units in the last place of its type at 1).
        minimum: of height and width, in pixels.
        channels: 3, or None for any number.
        name: what errors call it.
        slack: how far values may leave [0, 1], where an interpolation that overshoots came before.

    Raises:
        TypeError: no NumPy or JAX array; says how to make one.
        ValueError: another layout, type of values or range; no image, or one that is too small.

    >>> check_pictures(jnp.full((1, 4, 4, 3), 255.0))
    Traceback (most recent call last):
    ValueError: images has values in [255.0, 255.0]; expected [0, 1] (divide pixels of 0..255 by 255)
    """
    check_images(name, images, minimum=minimum, channels=channels)
    if not len(images):
        raise ValueError(f"{name} has shape {tuple(images.shape)}; expected at least one image")
    if _SEEN.get((id(images), slack)) is images or is_traced(images):
        return
    low, high = _extremes(images)
    rounding = slack + 8 * float(jnp.finfo(images.dtype).eps)
    if not (low >= -rounding and high <= 1 + rounding):
        hint = " (divide pixels of 0..255 by 255)" if high > 2 else ""
        hint = " (map [-1, 1] to it by (x + 1) / 2)" if -1 <= low < -rounding and high <= 1 else hint
        raise ValueError(f"{name} has values in [{low}, {high}]; expected [0, 1]{hint}")
    if isinstance(images, jax.Array):
        _SEEN[id(images), slack] = images


_SEEN: WeakValueDictionary[tuple[int, float], jax.Array] = WeakValueDictionary()
"""Arrays whose range was found right, for as long as they exist."""


def _extremes(images: Any) -> tuple[float, float]:
    """The smallest and the largest value; NaN where there is one."""
    if isinstance(images, jax.Array) and not images.is_fully_addressable:
        return 0.0, 1.0  # other processes hold parts of it
    if isinstance(images, np.ndarray) or images.devices() == {jax.local_devices(backend="cpu")[0]}:
        images = np.asarray(images)  # the same memory
        return float(images.min()), float(images.max())
    with jax.ensure_compile_time_eval():  # under an outer jit even a constant would be traced
        low, high = jax.device_get(_min_max(images))
    return float(low), float(high)


@jax.jit
def _min_max(images):
    return images.min(), images.max()


def image_keys(key: Keys, count: int) -> Key[Array, " b"]:
    """One key per image: ``fold_in(key, i)`` for the image at index ``i`` of the batch.

    Attacks and certifiers also take the keys themselves, one per image, so that a part of a batch can be run alone with
    the same result: ``attack(score_fn, images[3:5], image_keys(key, len(images))[3:5])``.

    Args:
        key: one random key, or already one per image.
        count: number of images.

    Returns:
        ``count`` keys.

    Raises:
        ValueError: not a key of `jax.random.key`, or not as many keys as images.

    >>> image_keys(jax.random.key(0), 3).shape
    (3,)
    """
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise ValueError(f"key={key!r} is not allowed; expected one made by jax.random.key")
    if key.ndim == 0:
        return jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))
    if key.shape != (count,):
        raise ValueError(f"key has shape {key.shape}; expected () or one key per image, ({count},)")
    return key
