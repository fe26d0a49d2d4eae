"""Half-spectra: when the Fourier transform of a real map and its inverse preserve norms.

The Fourier transform of a real map is determined by half of its columns. Use the norm ``√Σ w|z|²`` with w = 2 for
columns whose conjugates are left out and w = 1 for the others: then the orthonormal transform of a real map and its
inverse are isometries. In the plain norm the inverse is not: its constant is √2. So a bound is in the weighted norm as
long as every operation propagates the weights; otherwise the weights are dropped. This is sound, since they are at
least 1. Padding has infinite weight: it does not depend on the image.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa.lipschitz.operation import Gain, Operation, unbounded

MOVES = {"reshape", "transpose", "squeeze", "slice", "rev"}
"""Operations that move entries to other positions."""

ENTRYWISE = {
    *("neg", "conj", "real", "imag", "abs", "copy", "copy_p", "stop_gradient", "name", "add", "sub", "add_any"),
    *("mul", "div", "convert_element_type", "complex", "soft_threshold"),
}
"""Operations for which each entry of the output depends on one entry of the input."""

PER_FREQUENCY = {"multiply_dense", "multiply_reflection"}
"""Functions of ``f b g c`` that mix only the entries of the last axis."""


def column_weights(shape: tuple[int, ...], axis: int, width: int) -> np.ndarray:
    """Return weights of the half-spectrum of a map with ``width`` columns: 2 for columns that stand for two.

    >>> column_weights((5,), 0, 8).tolist(), column_weights((3,), 0, 5).tolist()
    ([1.0, 2.0, 2.0, 2.0, 1.0], [1.0, 2.0, 2.0])
    """
    columns = np.full(shape[axis], 2.0, np.float32)
    columns[0] = 1
    if width % 2 == 0:
        columns[width // 2] = 1
    return np.broadcast_to(columns.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)


def carried(op: Operation) -> np.ndarray | None:
    """Return weights of the output if those of the input determine them; else None."""
    if op.weights is None:
        return None
    if op.name in ENTRYWISE and op.shape == op.out:
        return op.weights
    if op.name in MOVES:
        return np.asarray(op.apply(jnp.asarray(op.weights)))
    if op.name == "pad" and op.moving == 0:
        return np.asarray(jax.lax.pad(jnp.asarray(op.weights), np.float32(np.inf), op.params["padding_config"]))
    if op.name in PER_FREQUENCY and (op.weights == op.weights[..., :1]).all():
        return np.broadcast_to(op.weights[..., :1], op.out)
    return None


def inverse_gain(op: Operation, axis: int, width: int) -> float:
    """Return the constant of the orthonormal inverse transform to a real map of ``width`` columns, in the input's
    norm."""
    wanted = column_weights(op.shape, axis, width)
    return math.sqrt(float(np.max(wanted / (1.0 if op.weights is None else op.weights), initial=0.0)))


def fft(op: Operation) -> Gain:
    """Rule of the primitive: transforms along the last axes, not orthonormal."""
    kind, lengths = op.params["fft_type"], op.params["fft_lengths"]
    kind = getattr(kind, "name", str(kind)).rpartition(".")[2].upper()
    points = math.sqrt(math.prod(lengths))
    if kind == "FFT":
        return Gain(points, "Fourier transform")
    if kind == "IFFT":
        return Gain(1 / points, "Fourier transform")
    if kind == "RFFT":
        return Gain(points, "Fourier transform", weights=column_weights(op.out, len(op.out) - 1, lengths[-1]))
    if kind == "IRFFT":
        return Gain(inverse_gain(op, len(op.shape) - 1, lengths[-1]) / points, "Fourier transform")
    return unbounded(f"no rule for a transform of the kind {kind}")


def to_frequencies(op: Operation) -> Gain:
    """Rule of `jaxiqa.layers.fourier.to_frequencies`."""
    return Gain(1.0, "isometry (Parseval)", weights=column_weights(op.out, 2, op.shape[2]))


def from_frequencies(op: Operation) -> Gain:
    """Rule of `jaxiqa.layers.fourier.from_frequencies`."""
    (_, height, width, _), (_, rows, columns, _) = op.out, op.shape
    if (rows, columns) != (height, width // 2 + 1):
        return unbounded("a spectrum of another size")
    gain = inverse_gain(op, 2, width)
    return Gain(gain, "isometry (Parseval)" if gain == 1 else "not the spectrum of a real map of this size: √2")
