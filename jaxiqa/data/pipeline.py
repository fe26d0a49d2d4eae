"""Batches of images; the batch of step t depends only on the seed and on t."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxiqa.core.checks import check_number, check_size
from jaxiqa.data.split import Split

CACHE_BYTES = 2 * 2**30
"""Size of the cache: resized 8-bit images are kept in memory if the whole split fits."""

Fetch = Callable[[int, bool], dict[str, Any]]


def training_batches(
    fetch: Fetch, count: int, *, batch_size: int, seed: int, flip: bool, start: int = 0, threads: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """Return an endless iterator of shuffled batches, from step ``start`` on.

    Every epoch has its own order, and every example comes equally often; a batch may contain examples of two epochs.
    The batches from ``start`` on equal those of an uninterrupted run.

    Args:
        fetch: ``(index, mirrored) -> dict of arrays``.
        count: number of examples.
        batch_size: examples per batch.
        seed: seed of the order and of the mirroring.
        flip: mirror each example with probability one half.
        start: steps already done.
        threads: number of threads that prefetch; the order does not depend on it.

    >>> batches = training_batches(lambda i, flip: {"i": np.int64(i)}, 3, batch_size=2, seed=0, flip=False, start=5)
    >>> next(batches)["i"].shape
    (2,)
    """
    import grain

    for name, value, least in (("count", count, 1), ("batch_size", batch_size, 1), ("start", start, 0)):
        check_number(name, value, least)
    dataset = grain.MapDataset.range(count).seed(seed).shuffle().repeat()
    dataset = dataset.random_map(lambda index, rng: (int(index), bool(flip and rng.random() < 0.5)))
    dataset = dataset.map(lambda choice: fetch(*choice)).batch(batch_size)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset[start:].to_iter_dataset(options))


def image_fetch(split: Split, size: tuple[int, int] | None, *, cache_bytes: int = CACHE_BYTES) -> Fetch:
    """Return the function ``(index, mirrored) -> {"image": float32 h w 3 in [0, 1], "mos": float32}``.

    Args:
        split: the images, with scores.
        size: (height, width) to resize to (bilinear, antialiased, 8-bit); None: no resize.
        cache_bytes: see `CACHE_BYTES`.

    Raises:
        ValueError: the split has no scores.
    """
    mos = split.mos
    if mos is None:
        raise ValueError(f"{split.name} has no scores to train on")
    cache: dict[int, np.ndarray] = {}

    def resized(index: int) -> np.ndarray:
        if index not in cache:
            pixels = resize(split.read(index), size)
            if pixels.nbytes * len(split) > cache_bytes:
                return pixels
            cache[index] = pixels
        return cache[index]

    def fetch(index: int, mirrored: bool) -> dict[str, Any]:
        pixels = resized(index)
        pixels = pixels[:, ::-1] if mirrored else pixels
        return {"image": pixels.astype(np.float32) / 255, "mos": np.float32(mos[index])}

    return fetch


def resize(pixels: UInt8[np.ndarray, "h w 3"], size: tuple[int, int] | None) -> UInt8[np.ndarray, "height width 3"]:
    """Resize an 8-bit image to (height, width), bilinear and antialiased; None: no resize.

    >>> resize(np.zeros((4, 6, 3), np.uint8), (2, 3)).shape
    (2, 3, 3)
    """
    if size is None or pixels.shape[:2] == tuple(size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def scoring_batches(
    split: Split, batch_size: int, *, size: tuple[int, int] | None
) -> Iterator[tuple[np.ndarray, int, tuple[str, ...]]]:
    """Yield all images once, in order: (float32 ``b h w 3`` in [0, 1], number of images without padding, their ids).

    The last batch is padded by copies of its last image, so that one compiled shape serves all batches. ``batch_size``
    is reduced to the number of images if it is larger. With ``size`` None all images must have one size, see
    `validate`.
    """
    check_number("batch_size", batch_size, 1)
    batch_size = min(batch_size, len(split))
    for first in range(0, len(split), batch_size):
        indices = range(first, min(first + batch_size, len(split)))
        pixels = [resize(split.read(index), size) for index in indices]
        pixels += pixels[-1:] * (batch_size - len(pixels))
        yield np.stack(pixels).astype(np.float32) / 255, len(indices), tuple(split.ids[index] for index in indices)


def resized(split: Split, size: tuple[int, int] | None) -> Split:
    """Return a split with its images resized to (height, width), bilinear, antialiased, 8-bit; None: no resize.

    Raises:
        ValueError: ``split`` is not a `Split`, or ``size`` is not a pair of whole numbers >= 1.

    >>> from jaxiqa.data import load
    >>> resized(load("builtin", size=(16, 16), train=1, val=1, test=1)["test"], (8, 12))[0]["image"].shape
    (8, 12, 3)
    """
    if not isinstance(split, Split):
        hint = f"; choose one of its splits, {', '.join(map(repr, split))}" if isinstance(split, dict) else ""
        raise ValueError(f"split is a {type(split).__name__}; expected a jaxiqa.data.Split{hint}")
    if size is not None:
        check_size("size", size)
    return split if size is None else replace(split, read=Resized(split.read, (int(size[0]), int(size[1]))))


@dataclass(frozen=True)
class Resized:
    """Reader that resizes images."""

    read: Callable[[int], np.ndarray]
    size: tuple[int, int]

    def __call__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return resize(self.read(index), self.size)
