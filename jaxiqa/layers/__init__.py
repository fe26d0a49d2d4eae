"""Layers with known singular values, and the blocks made of them."""

from jaxiqa.layers.depthwise import depthwise_conv
from jaxiqa.layers.orthogonal_conv import OrthogonalConv, SemiOrthogonal, orthogonal_convolve, unitary_spectrum
from jaxiqa.layers.pooling import SquarePool, square_pool
from jaxiqa.layers.robust_block import Bottleneck, RobustBlock
from jaxiqa.layers.unitary import cayley, expm, expm_eigh, expm_taylor, semi_orthogonal, to_unitary

__all__ = [
    "Bottleneck",
    "OrthogonalConv",
    "RobustBlock",
    "SemiOrthogonal",
    "SquarePool",
    "cayley",
    "depthwise_conv",
    "expm",
    "expm_eigh",
    "expm_taylor",
    "orthogonal_convolve",
    "semi_orthogonal",
    "square_pool",
    "to_unitary",
    "unitary_spectrum",
]
