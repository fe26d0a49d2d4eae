"""Batches of images; the batch of step t depends only on the seed and on t."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxiqa.core.checks import check_number, check_size
from jaxiqa.data.split import Split

CACHE_BYTES = 2 * 2**30
"""Size of the cache: resized 8-bit images are kept in memory if the whole split fits."""


class View(NamedTuple):
    """How an image is shown: mirrored, upside down, and where it is cropped."""

    mirrored: bool = False
    inverted: bool = False
    places: tuple[tuple[float, float], ...] = ()
    """(vertical, horizontal) place of each patch in [0, 1): 0 is the first possible position. Empty: no crop."""


Fetch = Callable[[int, View], dict[str, Any]]


def training_batches(
    fetch: Fetch,
    count: int,
    *,
    batch_size: int,
    seed: int,
    flip: bool | Literal["both"],
    crops: int = 0,
    patches: int = 1,
    start: int = 0,
    share: tuple[int, int] = (0, 1),
    threads: int = 2,
) -> Iterator[dict[str, np.ndarray]]:
    """Return an endless iterator of shuffled batches, from step ``start`` on.

    Every epoch has its own order, and every example comes equally often; a batch may contain examples of two epochs.
    The batches from ``start`` on equal those of an uninterrupted run.

    Args:
        fetch: ``(index, view) -> dict of arrays``.
        count: number of images.
        batch_size: examples per batch.
        seed: seed of the order and of the views.
        flip: mirror each example with probability one half; "both": also turn it upside down with that probability.
        crops: examples of each image per epoch, each at random places; 0: the whole image, once.
        patches: places per example, with ``crops``.
        start: steps already done.
        share: (i, n): only part i of n equal parts of every batch, for process i of n.
        threads: number of threads that prefetch; the order does not depend on it.

    >>> fetch = lambda index, view: {"i": np.int64(index)}
    >>> next(training_batches(fetch, 3, batch_size=2, seed=0, flip=False, start=5))["i"].shape
    (2,)
    """
    import grain

    index, shares = share
    for name, value, least in (("count", count, 1), ("batch_size", batch_size, 1), ("start", start, 0)):
        check_number(name, value, least)
    if batch_size % shares:
        raise ValueError(f"batch_size={batch_size} cannot be divided among {shares} processes; choose a multiple")

    def choose(index: int, rng: np.random.Generator) -> tuple[int, View]:
        mirrored = bool(flip and rng.random() < 0.5)
        inverted = bool(flip == "both" and rng.random() < 0.5)
        places = tuple((rng.random(), rng.random()) for _ in range(patches if crops else 0))
        return int(index) // max(crops, 1), View(mirrored, inverted, places)

    dataset = grain.MapDataset.range(count * max(crops, 1)).seed(seed).shuffle().repeat()
    dataset = (
        dataset.random_map(choose).map(lambda choice: fetch(*choice)).batch(batch_size // shares, drop_remainder=True)
    )
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    return iter(dataset[start * shares + index :: shares].to_iter_dataset(options))


def image_fetch(
    split: Split,
    size: tuple[int, int] | None,
    *,
    crop: tuple[int, int] | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Fetch:
    """Return the function ``(index, view) -> {"image": float32 h w 3 in [0, 1], "mos": float32}``.

    If the images have regions, their ``boxes`` (float32 ``r 4``: left, top, right, bottom in pixels of the image as it
    is shown) and ``region_mos`` (float32 ``r``) are added.

    Args:
        split: the images, with scores.
        size: (height, width) to resize to (bilinear, antialiased, 8-bit); None: no resize.
        crop: (height, width) of the patches at the view's places, which are put one below the other.
        cache_bytes: see `CACHE_BYTES`.

    Raises:
        ValueError: the split has no scores, or regions, which cannot be cropped; in a call, an image smaller than the
            crop.
    """
    mos = split.mos
    if mos is None:
        raise ValueError(f"{split.name} has no scores to train on")
    regions = split.regions
    if crop and regions:
        raise ValueError(f"crop={crop}: {split.name} has labels of regions, which belong to whole images; do not crop")
    cache: dict[int, np.ndarray] = {}

    def resized(index: int) -> np.ndarray:
        if index not in cache:
            pixels = resize(split.read(index), size)
            if pixels.nbytes * len(split) > cache_bytes:
                return pixels
            cache[index] = pixels
        return cache[index]

    def fetch(index: int, view: View) -> dict[str, Any]:
        pixels = resized(index)
        pixels = pixels[:: -1 if view.inverted else 1, :: -1 if view.mirrored else 1]
        if view.places and crop:
            check_crop(crop, pixels.shape[:2], where=split.ids[index])
            pixels = np.concatenate([cut(pixels, crop, place) for place in view.places])
        example = {"image": pixels.astype(np.float32) / 255, "mos": np.float32(mos[index])}
        if regions:
            boxes = regions.pixels(index, pixels.shape[:2], mirrored=view.mirrored, inverted=view.inverted)
            example |= {"boxes": boxes, "region_mos": regions.mos[index]}
        return example

    return fetch


def check_crop(crop: tuple[int, int], size: tuple[int, ...], *, where: str) -> None:
    """Raise ``ValueError`` if an image of ``size`` is smaller than ``crop``; ``where`` names it."""
    if crop[0] > size[0] or crop[1] > size[1]:
        raise ValueError(
            f"crop={crop[0]}x{crop[1]} is larger than {where} ({size[0]}x{size[1]}); choose a smaller crop, or resize"
        )


def cut(
    pixels: UInt8[np.ndarray, "h w c"], crop: tuple[int, int], place: tuple[float, float]
) -> UInt8[np.ndarray, "height width c"]:
    """Return the crop at a place, see `View`.

    >>> cut(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), (2, 4), (0.99, 0.5))[:, 0, 0].tolist()
    [24, 36]
    """
    top, left = (int(share * (side - part + 1)) for share, side, part in zip(place, pixels.shape, crop, strict=False))
    return pixels[top : top + crop[0], left : left + crop[1]]


def resize(pixels: UInt8[np.ndarray, "h w c"], size: tuple[int, int] | None) -> UInt8[np.ndarray, "height width c"]:
    """Resize an 8-bit image of three channels to (height, width), bilinear and antialiased.

    An image of that size, or any image for None, is returned as it is.

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
    for first in range(0, len(split), min(batch_size, len(split))):
        yield scoring_batch(split, first, batch_size, size=size)


def scoring_batch(
    split: Split, first: int, batch_size: int, *, size: tuple[int, int] | None
) -> tuple[np.ndarray, int, tuple[str, ...]]:
    """Return the batch of `scoring_batches` that begins with the image at position ``first``.

    >>> from jaxiqa.data import load
    >>> split = load("builtin", size=(16, 20), train=1, val=1, test=3)["test"]
    >>> pixels, valid, ids = scoring_batch(split, 2, 2, size=None)
    >>> pixels.shape, valid, ids == split.ids[2:]
    ((2, 16, 20, 3), 1, True)
    """
    batch_size = min(batch_size, len(split))
    indices = range(first, min(first + batch_size, len(split)))
    pixels = [resize(split.read(index), size) for index in indices]
    pixels += pixels[-1:] * (batch_size - len(pixels))
    return np.stack(pixels).astype(np.float32) / 255, len(indices), tuple(split.ids[index] for index in indices)


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
