"""From pictures to batches: what step t sees depends on the seed and on t alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxiqa.core.checks import check_number, check_size
from jaxiqa.data.split import Split

CACHE_BYTES = 2 * 2**30
"""Resized pictures are kept in memory, as 8-bit values, if the whole split fits in this."""

Fetch = Callable[[int, bool], dict[str, Any]]


def training_batches(
    fetch: Fetch, count: int, *, batch_size: int, seed: int, flip: bool, start: int = 0, threads: int = 2
) -> Iterator[dict[str, np.ndarray]]:
    """Endless shuffled batches, from step ``start`` on.

    Every epoch has its own order and every example is seen equally often; a batch may reach into the next epoch.
    The stream from ``start`` is the one an uninterrupted run would see from there: its position is its step.

    Args:
        fetch: ``(index, mirrored) -> dict of arrays``.
        count: number of examples.
        batch_size: examples per batch.
        seed: of the order and of the mirroring.
        flip: mirror each example with probability one half.
        start: steps already done.
        threads: that fetch ahead; the order does not depend on them.

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
    """``(index, mirrored) -> {"image": float32 h w 3 in [0, 1], "mos": float32}``.

    Args:
        split: the pictures, with scores.
        size: (height, width) to resize to (bilinear, antialiased, 8-bit); None keeps the pictures' own.
        cache_bytes: see `CACHE_BYTES`.

    Raises:
        ValueError: the pictures have no scores.
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
    """An 8-bit picture at (height, width), bilinear and antialiased.

    >>> resize(np.zeros((4, 6, 3), np.uint8), (2, 3)).shape
    (2, 3, 3)
    """
    if size is None or pixels.shape[:2] == tuple(size):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR))


def scoring_batches(
    split: Split, batch_size: int, *, size: tuple[int, int] | None
) -> Iterator[tuple[np.ndarray, int, tuple[str, ...]]]:
    """All pictures once, in order: (float32 ``b h w 3`` in [0, 1], how many of them are real, their ids).

    The last batch repeats its last picture, so that one compiled shape serves all. A larger ``batch_size`` than there
    are pictures is reduced to their number. With ``size`` None the pictures must be of one size, see `validate`.
    """
    check_number("batch_size", batch_size, 1)
    batch_size = min(batch_size, len(split))
    for first in range(0, len(split), batch_size):
        indices = range(first, min(first + batch_size, len(split)))
        pixels = [resize(split.read(index), size) for index in indices]
        pixels += pixels[-1:] * (batch_size - len(pixels))
        yield np.stack(pixels).astype(np.float32) / 255, len(indices), tuple(split.ids[index] for index in indices)


def resized(split: Split, size: tuple[int, int] | None) -> Split:
    """The same pictures at (height, width), bilinear and antialiased, 8-bit; None leaves them as they are.

    Raises:
        ValueError: ``split`` is none, or ``size`` is no pair of whole numbers of at least 1.

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
    """Reads pictures and resizes them."""

    read: Callable[[int], np.ndarray]
    size: tuple[int, int]

    def __call__(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        return resize(self.read(index), self.size)
