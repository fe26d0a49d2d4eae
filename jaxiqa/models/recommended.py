"""Prepare any metric for the recommended hardening."""

from flax import nnx

from jaxiqa.models.activations import swap_activation, swappable

SMOOTH = {"relu": "softplus", "relu6": "smooth_relu6"}
"""Activation -> its smooth form, close enough for trained weights to be a good start."""


def harden_recommended(model: nnx.Module) -> dict[str, str]:
    """Make every ReLU and ReLU6 of a trained metric smooth, in place: the architecture of the recommended hardening.

    Its score still falls to an attack before it is trained: `jaxiqa.config.recommended_training` is the training, and
    ``configs/recommended.py`` does both for any metric with such activations.

    Args:
        model: a trained metric.

    Returns:
        Part of the metric -> its new activation, as `jaxiqa.config.Variant` names them; empty if nothing is swapped.

    Raises:
        ValueError: ``model`` is an average of metrics; prepare its members.

    >>> from jaxiqa.models import build
    >>> harden_recommended(build("mobilenet_v2", width=8))
    {'backbone': 'smooth_relu6', 'head': 'softplus'}
    """
    chosen = {}
    for part in ("backbone", "head"):
        try:
            names = {module.activation for module in swappable(model, part)}
        except ValueError as error:
            if "has no ReLU" not in str(error):
                raise
            continue
        if len(names) == 1 and (smooth := SMOOTH.get(names.pop())):
            swap_activation(model, smooth, part=part)
            chosen[part] = smooth
    return chosen
