"""Procedural images: dead leaves, textures, gradients and text-like edges."""

import numpy as np
from scipy.ndimage import gaussian_filter

Size = tuple[int, int]


def scene(random: np.random.Generator, size: Size) -> np.ndarray:
    """Make one image, float32 ``h w 3`` in [0, 1], whose brightness covers nearly the whole range.

    >>> scene(np.random.default_rng(0), (20, 30)).shape
    (20, 30, 3)
    """
    kind = random.choice([dead_leaves, textures, gradients, lettering])
    image = kind(random, size)
    low, high = np.percentile(image.mean(2), [1, 99])
    return np.clip(0.04 + 0.92 * (image - low) / max(high - low, 1e-3), 0, 1).astype(np.float32)


def dead_leaves(random: np.random.Generator, size: Size) -> np.ndarray:
    """Draw opaque discs of many sizes, the largest behind, each with its own colour and grain: edges at every scale."""
    y, x = _grid(size)
    image = np.empty((*size, 3))
    image[:] = _colour(random)
    grain = _noise(random, size, 1.0)
    for radius in np.sort(min(size) * 0.4 / random.uniform(1, 12, 90))[::-1]:
        cy, cx = random.uniform(-0.1, 1.1, 2) * size
        stretch = random.uniform(0.6, 1.6)
        tilt, rough = random.uniform(-0.3, 0.3), random.uniform(0, 0.25)
        reach = 1.3 * radius + 1
        box = tuple(slice(max(int(c - reach), 0), max(int(c + reach) + 1, 0)) for c in (cy, cx))
        dy, dx = y[box] - cy, x[box] - cx
        inside = dy**2 * stretch + dx**2 / stretch < radius**2
        shade = 1 + tilt * dy / radius + rough * grain[box]
        image[box][inside] = (_colour(random) * shade[..., None])[inside]
    return image


def textures(random: np.random.Generator, size: Size) -> np.ndarray:
    """Draw two regions of oriented, coloured noise with a smooth border between them."""
    y, x = _grid(size)
    border = gaussian_filter(random.normal(size=size), min(size) / 6)
    mask = 1 / (1 + np.exp(-border / border.std() * 8))[..., None]
    regions = []
    for _ in range(2):
        angle, period = random.uniform(0, np.pi), random.uniform(4, 14)
        wave = np.sin(2 * np.pi * (np.cos(angle) * x + np.sin(angle) * y) / period + 2 * _noise(random, size, 4.0))
        mixed = 0.5 * wave + 0.6 * _noise(random, size, random.uniform(0.7, 2.0))
        regions.append(_colour(random) + 0.25 * mixed[..., None] * random.uniform(0.5, 1, 3))
    return mask * regions[0] + (1 - mask) * regions[1]


def gradients(random: np.random.Generator, size: Size) -> np.ndarray:
    """Draw a sky-like ramp, hills in front of it, and fine grain on the hills."""
    y, _ = _grid(size)
    ramp = (y / size[0])[..., None]
    image = _colour(random) * (1 - ramp) + _colour(random) * ramp
    for depth in np.linspace(0.35, 0.8, 4):
        ridge = gaussian_filter(random.normal(size=size[1]), size[1] / random.uniform(8, 30), mode="wrap")
        height = size[0] * (depth + 0.15 * ridge / max(ridge.std(), 1e-6))
        grain = 1 + 0.35 * _noise(random, size, random.uniform(0.6, 1.2))
        below = y > height[None, :]
        image[below] = (_colour(random) * grain[..., None])[below]
    return image


def lettering(random: np.random.Generator, size: Size) -> np.ndarray:
    """Draw lines of letter-like strokes on slightly shaded paper."""
    paper, ink = _colour(random), _colour(random)
    if paper.mean() < ink.mean():
        paper, ink = ink, paper
    ink = ink * 0.4
    image = paper * (0.9 + 0.1 * gaussian_filter(random.normal(size=size), min(size) / 5) * min(size) / 5)[..., None]
    top = 2
    while top < size[0]:
        height = int(random.integers(7, 14))
        left = 2
        while left < size[1]:
            width = int(random.integers(4, 8))
            if random.random() < 0.85:
                for _ in range(int(random.integers(2, 4))):
                    if random.random() < 0.5:
                        column = left + int(random.integers(0, width))
                        image[top : top + height - 2, column : column + 1 + height // 9] = ink
                    else:
                        row = top + int(random.integers(0, height - 2))
                        image[row : row + 1 + height // 9, left : left + width - 1] = ink
            left += width + 1
        top += height + 2
    return image


def _grid(size: Size) -> np.ndarray:
    return np.mgrid[: size[0], : size[1]].astype(np.float64)


def _colour(random: np.random.Generator) -> np.ndarray:
    return random.uniform(0.1, 0.95) * (1 - random.uniform(0, 0.6) * random.uniform(0, 1, 3))


def _noise(random: np.random.Generator, size: Size, sigma: float) -> np.ndarray:
    field = gaussian_filter(random.normal(size=size), sigma, mode="wrap")
    return field / max(field.std(), 1e-6)
