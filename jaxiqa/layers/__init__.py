"""Layers with known singular values, and blocks built from them.

`BASELINES` are published 1-Lipschitz convolutions of other authors, with the interface of `OrthogonalConv`:
``Layer(cin, cout, kernel_size=(3, 3), rngs=rngs)(x)``.

Number types: the result of a function has the type to which JAX promotes its arrays. Half precision is computed in
float32 and rounded once, at the end; float64 is float64 throughout. A layer with weights must stay orthogonal, so it
computes in, and returns, at least float32. All have derivatives in both modes and of second order.
"""

from jaxiqa.layers.activations import Householder, beta_abs, group_sort, householder, max_min
from jaxiqa.layers.aol import AOL, almost_orthogonal
from jaxiqa.layers.band_limit import LowPass, low_pass
from jaxiqa.layers.direct import DirectConv, DirectDense
from jaxiqa.layers.materialize import materialize, to_direct
from jaxiqa.layers.norms import spectral_norm
from jaxiqa.layers.orthogonal_conv import OrthogonalConv
from jaxiqa.layers.orthogonal_dense import OrthogonalDense
from jaxiqa.layers.pooling import (
    SquarePool,
    average_pool,
    average_pool_constant,
    coverage,
    global_l2_pool,
    l2_pool,
    sorted_energies,
    square_pool,
    square_pool_constant,
)
from jaxiqa.layers.reflection import orthonormal_basis, reflect
from jaxiqa.layers.resampling import depth_to_space, space_to_depth
from jaxiqa.layers.resize import contracting_resize, resize_constant
from jaxiqa.layers.robust_block import Bottleneck, RobustBlock
from jaxiqa.layers.sandwich import Sandwich
from jaxiqa.layers.shift import circular_shift
from jaxiqa.layers.shrinkage import Shrinkage, shrink
from jaxiqa.layers.sll import CPL, SLL
from jaxiqa.layers.smooth_relu import smooth_relu6
from jaxiqa.layers.soc import SOC
from jaxiqa.layers.spectrum import Spectrum, orthogonal_convolve, unitary_spectrum
from jaxiqa.layers.unitary import cayley, expm_eigh, expm_taylor, semi_orthogonal, to_unitary
from jaxiqa.layers.wavelet_shrinkage import WaveletShrinkage, wavelet_shrink

BASELINES = {"soc": SOC, "aol": AOL, "sll": SLL, "cpl": CPL, "sandwich": Sandwich}

__all__ = [
    "AOL",
    "BASELINES",
    "CPL",
    "SLL",
    "SOC",
    "Bottleneck",
    "DirectConv",
    "DirectDense",
    "Householder",
    "LowPass",
    "OrthogonalConv",
    "OrthogonalDense",
    "RobustBlock",
    "Sandwich",
    "Shrinkage",
    "Spectrum",
    "SquarePool",
    "WaveletShrinkage",
    "almost_orthogonal",
    "average_pool",
    "average_pool_constant",
    "beta_abs",
    "cayley",
    "circular_shift",
    "contracting_resize",
    "coverage",
    "depth_to_space",
    "expm_eigh",
    "expm_taylor",
    "global_l2_pool",
    "group_sort",
    "householder",
    "l2_pool",
    "low_pass",
    "materialize",
    "max_min",
    "orthogonal_convolve",
    "orthonormal_basis",
    "reflect",
    "resize_constant",
    "semi_orthogonal",
    "shrink",
    "smooth_relu6",
    "sorted_energies",
    "space_to_depth",
    "spectral_norm",
    "square_pool",
    "square_pool_constant",
    "to_direct",
    "to_unitary",
    "unitary_spectrum",
    "wavelet_shrink",
]
