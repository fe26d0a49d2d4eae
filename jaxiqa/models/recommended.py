"""The architecture of the recommended hardening: smooth activations, and images without their smallest details."""

from jaxiqa.models.activations import PARTS, swap_activation
from jaxiqa.models.hardening import filter_images
from jaxiqa.models.metric import Metric

THRESHOLD = 4 / 255
"""Largest detail of an image that is removed, in [0, 1] pixel units."""


def harden_recommended(model: Metric, *, threshold: float = THRESHOLD) -> None:
    """Filter the images of a trained metric, and make its every ReLU and ReLU6 smooth, in place.

    This is the architecture of the recommended hardening. The score still falls to an attack before the metric is
    trained: `jaxiqa.config.recommended_training` is the training, and ``configs/recommended.py`` does both for any
    metric.

    Args:
        model: the metric; its ``backbone`` is a `jaxiqa.nn.stages.Stages`.
        threshold: of `filter_images`.

    Raises:
        TypeError: ``model`` is an average of metrics, whose members you can prepare, or has no stages.
        ValueError: a threshold out of range, or images are filtered already. The model is unchanged.

    >>> from jaxiqa.models import build
    >>> from jaxiqa.models.activations import swapped
    >>> model = build("mobilenet_v2", width=8)
    >>> harden_recommended(model)
    >>> model.backbone.order[0], swapped(model)
    ('wavelet_shrinkage', {'backbone': 'smooth_relu6', 'head': 'softplus'})
    """
    filter_images(model, threshold)
    for part in PARTS:
        swap_activation(model, "smooth", part=part)
