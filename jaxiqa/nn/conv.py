"""The convolution of every backbone: `nnx.Conv` with other algorithms for kernel shapes that are slow in XLA.

On two CPU cores, the weight gradient of a 1×1 convolution is 2 to 3 times faster as a matrix product than through
``lax.conv_general_dilated``, and a depthwise convolution is about 8 times faster altogether as shifted multiply-adds.
See `jaxiqa.nn.kernels.wide`, `jaxiqa.nn.kernels.grouped` and `jaxiqa.nn.kernels.resampling` for others.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.nn.kernels.depthwise import depthwise_conv
from jaxiqa.nn.kernels.grouped import grouped_conv
from jaxiqa.nn.kernels.product import is_widening, widening_product
from jaxiqa.nn.kernels.resampling import halving_conv
from jaxiqa.nn.kernels.wide import is_wide, wide_conv

# He's scale by fan-in also suits depthwise kernels, whose fan-out (as JAX counts it) is C times too large.
HE = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
LINEAR = nnx.initializers.variance_scaling(1.0, "fan_in", "normal")


def pointwise(
    x: Float[Array, "b h w cin"], kernel: Float[Array, "1 1 cin cout"], strides: Any, padding: Any, **options: Any
) -> Float[Array, "b h2 w2 cout"]:
    """Compute a 1×1 convolution as a matrix product; of ``options`` only the precision can vary for 1×1."""
    x, matrix, precision = x[:, :: strides[0], :: strides[1]], kernel[0, 0], options["precision"]
    if is_widening(x, matrix):
        return widening_product(x, matrix, precision=precision)
    return jnp.einsum("bhwi,io->bhwo", x, matrix, precision=precision)


def depthwise(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw 1 c"], strides: Any, padding: Any, **options: Any
) -> Float[Array, "b h2 w2 c"]:
    """Compute a depthwise convolution: one kernel per channel."""
    return depthwise_conv(x, kernel[:, :, 0], stride=tuple(strides), padding=_pads(x, kernel, strides, padding))


def dense(
    x: Float[Array, "b h w cin"], kernel: Float[Array, "kh kw cin cout"], strides: Any, padding: Any, **options: Any
) -> Float[Array, "b h2 w2 cout"]:
    """Compute any other convolution."""
    if tuple(strides) == (1, 1) and is_wide(x, kernel):
        pads = _pads(x, kernel, strides, padding)
        return wide_conv(x, kernel, padding=pads, precision=options["precision"])
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def halving(
    x: Float[Array, "b h w cin"], kernel: Float[Array, "kh kw cin cout"], strides: Any, padding: Any, **options: Any
) -> Float[Array, "b h2 w2 cout"]:
    """Compute a convolution with stride 2 and a kernel of even sides."""
    pads = _pads(x, kernel, strides, padding)
    even = all((side + sum(zeros)) % 2 == 0 for side, zeros in zip(x.shape[1:3], pads, strict=True))
    if jax.default_backend() == "cpu" and even:
        return halving_conv(x, kernel, padding=pads, precision=options["precision"])
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)


def grouped(
    x: Float[Array, "b h w cin"], kernel: Float[Array, "kh kw _ cout"], strides: Any, padding: Any, **options: Any
) -> Float[Array, "b h2 w2 cout"]:
    """Compute a convolution in groups of several channels."""
    pads = _pads(x, kernel, strides, padding)
    return grouped_conv(x, kernel, stride=tuple(strides), padding=pads, precision=options["precision"])


def _pads(x: Any, kernel: Any, strides: Any, padding: Any) -> tuple:
    """Return the padding as numbers of zeros, ((above, below), (left, right)), also for a named rule."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return tuple(map(tuple, padding))


def conv(
    cin: int,
    cout: int,
    size: int | tuple[int, int],
    *,
    stride: int = 1,
    groups: int = 1,
    padding: Literal["centred", "SAME"] | int = "centred",
    bias: bool = False,
    init: Any = HE,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Build a convolution with a kernel ``kh kw cin/groups cout``.

    Args:
        cin, cout: input and output channels; ``groups`` divides both.
        size: side of the kernel, or (height, width).
        stride: step, in pixels, along both axes.
        groups: 1 is dense, ``cin`` is depthwise.
        padding: ``"centred"`` pads ``size // 2`` zeros on every side (PyTorch). ``"SAME"`` is TensorFlow's rule: at
            stride 2, an even side gets one zero less at the top and left. A number pads that many zeros on every
            side.
        bias: whether to add a bias.
        init: initialiser of the kernel.
        rngs: random numbers for it.
    """
    kernel = (size, size) if isinstance(size, int) else size
    if kernel == (1, 1) and groups == 1:
        compute = pointwise
    elif groups == cin == cout:
        compute = depthwise
    elif groups == 1 and stride == 2 and not any(side % 2 for side in kernel):
        compute = halving
    elif groups == 1:
        compute = dense
    else:
        compute = grouped
    pads = [padding if isinstance(padding, int) else side // 2 for side in kernel]
    return nnx.Conv(
        cin,
        cout,
        kernel,
        stride,
        padding=padding if padding == "SAME" else [(zeros, zeros) for zeros in pads],
        feature_group_count=groups,
        use_bias=bias,
        kernel_init=init,
        conv_general_dilated=compute,
        rngs=rngs,
    )
