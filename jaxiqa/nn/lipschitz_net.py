"""A 1-Lipschitz network of images: orthogonal 1×1 maps, circular shifts, absolute values, and sorted energies."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_number
from jaxiqa.core.types import Images
from jaxiqa.core.variables import Constant, constant
from jaxiqa.layers import DirectDense, beta_abs, circular_shift, sorted_energies, space_to_depth
from jaxiqa.nn.lipschitz_tail import pad_to_even
from jaxiqa.nn.stages import Features

REFERENCE = 256 * 256
"""Pixels of the image size at which the head sees the energies as they are."""

COLOURS = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])
"""Grey, red against green, yellow against blue: orthonormal."""


def wavelets(cin: int, cout: int) -> Float[np.ndarray, "cout c2"]:
    """Return the Haar transform of blocks of 2×2 pixels as a matrix, ``c2 = 4·cin``, for `space_to_depth` of ``x``.

    Its rows are the bands: details along both axes, along one, along the other, and means; a band has ``cin`` channels.
    With fewer outputs the first rows are missing, with more there are rows of zeros before them. Levels of it are the
    Walsh-Hadamard transform of larger blocks. Of three channels, `COLOURS` are transformed.

    >>> wavelets(1, 4).tolist()
    [[0.5, -0.5, -0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, 0.5, -0.5], [0.5, 0.5, 0.5, 0.5]]
    """
    mean, detail = np.array([1, 1]), np.array([1, -1])
    bands = [np.outer(detail, detail), np.outer(detail, mean), np.outer(mean, detail), np.outer(mean, mean)]
    colours = COLOURS if cin == 3 else np.eye(cin)
    rows = np.concatenate([np.kron(band.reshape(1, 4) / 2, colours) for band in bands])
    return np.concatenate([np.zeros((max(cout - 4 * cin, 0), 4 * cin)), rows[-cout:]])


def size_factor(size: tuple[int, int]) -> float:
    """Return √(n₀/n), n pixels of an image of this size, n₀ = 256²: energies times this do not depend on the size.

    >>> size_factor((512, 512))
    0.5
    """
    return math.sqrt(REFERENCE / math.prod(size))


def typical_energies(channels: Sequence[int], *, cell: int, ranks: int) -> Float[np.ndarray, "k d"]:
    """Return the sorted energies that a new `LipschitzNet` finds on average, divided by the root of the pixels.

    The images are coloured noise: eight of 64×64, with amplitudes as frequency^−1.6 and a deviation of 0.25. On 32
    photographs of CLIVE, subtracting these energies leaves a quarter of the norm of the mean ones.
    """
    random, side = np.random.default_rng(0), 64
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    frequencies[0, 0] = np.inf
    spectra = np.fft.rfft2(random.normal(size=(8, 3, side, side))) / frequencies**1.6
    x = np.fft.irfft2(spectra, (side, side)).transpose(0, 2, 3, 1)
    x = 0.25 * (x / x.std()) @ (COLOURS * [[3**0.5], [0.2], [0.2]])
    with jax.ensure_compile_time_eval():
        for before, after in zip([3, *channels[:-1]], channels, strict=True):
            x = np.asarray(space_to_depth(pad_to_even(jnp.asarray(x)), 2)) @ wavelets(before, after).T
        return np.asarray(sorted_energies(jnp.asarray(x), cell, ranks)).mean(0) / side


class LipschitzNet(nnx.Module):
    """Map images to one number that moves by at most ‖x − x'‖: ``f(x)``, for images of any size.

    Each level halves the map: 2×2 pixels become channels, an isometry, so that no scale is lost; a row or column of
    zeros is appended where a side is odd. Then come an orthogonal 1×1 map, which starts as a wavelet transform
    (`wavelets`), and ``depth`` layers of shift, orthogonal 1×1 map and absolute values of half the channels. The energy
    of each channel, sorted over the image (`jaxiqa.layers.sorted_energies`), tells how strong a detail is where it is
    strong and where it is weak. Constants are subtracted, so that the head sees small numbers (`typical_energies`).
    Orthogonal layers with absolute values and a map of norm 1 turn the energies into a number: the first is the same
    for all ranks, two more see all ranks. It sees the energies of n pixels times √(n₀/n), n₀ = 256², and its number is
    divided by this again: so its biases mean the same for images of every size, and f grows as √n.

    A level with fewer channels than four times those before drops some directions (a co-isometry): f can still use
    every scale, and the bound is the same.

    Args:
        channels: of each level; the image has 3.
        depth: layers of each level.
        cell: side of the cells of which energies are sorted, in pixels of the last map.
        ranks: groups of sorted energies.
        reduced: numbers per rank that the head keeps.
        rngs: random numbers for the weights.

    Raises:
        ValueError: no level, or a number below its range.

    >>> net = LipschitzNet(channels=(12, 16), depth=(1, 2), rngs=nnx.Rngs(0))
    >>> net(jnp.zeros((2, 9, 14, 3))).shape
    (2,)

    Reference: Hu et al., "LipNeXt: Scaling up Lipschitz-based Certified Robustness to Billion-parameter Models",
    arXiv:2601.18513 (shifts, absolute values and pooling by norms); the levels, their start, the sorted energies and
    the head are ours.
    """

    def __init__(
        self,
        *,
        channels: Sequence[int],
        depth: Sequence[int],
        cell: int = 2,
        ranks: int = 8,
        reduced: int = 24,
        rngs: nnx.Rngs,
    ):
        if not channels or len(channels) != len(depth):
            raise ValueError(f"channels={channels} and depth={depth}: expected one number per level, and a level")
        before = [3, *channels[:-1]]
        for name, numbers, low in (("channels", channels, 1), ("depth", depth, 0)):
            for number in numbers:
                check_number(name, number, low)
        for name, value in (("cell", cell), ("ranks", ranks), ("reduced", reduced)):
            check_number(name, value, 1)
        self.down = nnx.List(
            [DirectDense(4 * a, b, start=wavelets(a, b), rngs=rngs) for a, b in zip(before, channels, strict=True)]
        )
        self.mix = nnx.List(
            [
                nnx.List([DirectDense(c, c, use_bias=True, start=np.eye(c), rngs=rngs) for _ in range(count)])
                for c, count in zip(channels, depth, strict=True)
            ]
        )
        self.reduce = DirectDense(channels[-1], reduced, use_bias=True, rngs=rngs)
        width = ranks * reduced
        self.head = nnx.List([DirectDense(width, width, use_bias=True, rngs=rngs) for _ in range(2)])
        self.unit = DirectDense(width, 1, rngs=rngs)
        typical = typical_energies(channels, cell=cell, ranks=ranks)
        self.typical = Constant(jnp.asarray(typical, jnp.float32))
        self.cell, self.ranks = cell, ranks

    def bound(self) -> float:
        """Return the product of the largest singular values of all matrices: 1, up to rounding, if they are orthogonal.

        It is computed, not assumed, so a bound that contains it also holds for weights that another optimiser changed.
        """
        matrices = [
            layer.orthogonal_matrix[...] for _, layer in nnx.iter_modules(self) if isinstance(layer, DirectDense)
        ]
        return float(np.prod([np.linalg.norm(np.asarray(matrix, np.float64), 2) for matrix in matrices]))

    def levels(self, x: Images) -> list[Features]:
        """Return the maps after every level."""
        found = []
        for down, mix in zip(self.down, self.mix, strict=True):
            x = down(space_to_depth(pad_to_even(x), 2))
            for number, layer in enumerate(mix):
                # Distances 1, 2, 4 …, so that few layers see far.
                x = beta_abs(layer(circular_shift(x, distance=2 ** (number % 3), share=1.0)))
            found.append(x)
        return found

    def energies(self, x: Images) -> Float[Array, "b k d"]:
        """Return the sorted energies of the last level, the largest of ``ranks`` first, minus typical ones."""
        found = sorted_energies(self.levels(x)[-1], self.cell, self.ranks)
        return found - constant(self.typical) * math.sqrt(math.prod(x.shape[1:3]))

    def number(self, energies: Float[Array, "b k d"]) -> Float[Array, " b"]:
        """Return f from the energies."""
        x = beta_abs(self.reduce(energies)).reshape(len(energies), -1)
        for layer in self.head:
            x = beta_abs(layer(x))
        return self.unit(x)[:, 0]

    def __call__(self, x: Images) -> Float[Array, " b"]:
        share = size_factor((x.shape[1], x.shape[2]))
        return self.number(share * self.energies(x)) / share
