"""Compute dtype of a metric's backbone."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxiqa.core.checks import check_choice

COMPUTE_DTYPES = ("float32", "bfloat16")


def set_compute_dtype(model: Any, dtype: str) -> None:
    """Set the dtype in which the convolutions and linear maps of ``model.backbone`` compute, in place.

    With ``"bfloat16"``, both factors of these products are rounded to it, and so is their result. Still float32: the
    parameters themselves, batch norms, orthogonal maps (`jaxiqa.layers`), the maps that the backbone returns
    (`Stages.run`), and everything computed from those, such as the pooling.

    Args:
        model: a metric, `jaxiqa.models.spec`; one without a backbone stays as it is, and of an average all
            members are changed.
        dtype: one of `COMPUTE_DTYPES`.

    Raises:
        ValueError: any other dtype.

    Linearity over a ResNet-101 with random weights, 16 photographs of 249×332, on a CPU: scores moved by at most 5.5 %
    and on average 3.3 % of their spread, and kept their order up to an SROCC of 0.991.
    Input gradients differed by 32 to 35 % of their norm (2 photographs): use float32 to compare attacks with published
    ones.
    """
    check_choice("compute_dtype", dtype, COMPUTE_DTYPES)
    metrics = [metric for metric in getattr(model, "members", (model,)) if hasattr(metric, "backbone")]
    for metric in metrics if dtype != "float32" else ():
        metric.backbone.set_attributes(nnx.Conv, nnx.Linear, dtype=jnp.dtype(dtype), raise_if_not_found=False)
