"""The Lipschitz report of every published metric: a finite bound, or a row with the reason."""

import math

import pytest
import tiny
from flax import nnx

from jaxiqa.lipschitz import report
from jaxiqa.models import MODELS, harden

# Narrow metrics, and image sizes that their protocols accept.
OPTIONS = {
    "brisque": ({"vectors": 5}, (24, 30)),
    "fpr": ({"width": 4}, (64, 128)),
    "hyperiqa": ({"width": 4, "crops": 2}, (60, 80)),
    "koncept512": ({"width": 2, "pooling": "full"}, (75, 91)),
    "linearity": ({"backbone": "resnet18", "width": 8}, (40, 56)),
    "lipschitz_iqa": ({"channels": (8, 12), "depth": (1, 1)}, (40, 56)),
    "maniqa": ({"width": 24, "protocol": "resize"}, (60, 80)),
    "metaiqa": ({"width": 4}, (60, 80)),
    "norm_controlled": ({"backbone": "resnet18", "width": 8, "channels": 8}, (40, 56)),
    "paq2piq": ({"width": 4}, (64, 96)),
    "spaq_bl": ({"width": 4}, (224, 230)),
    "tres": ({"width": 4}, (60, 80)),
}
UNBOUNDED = ("brisque", "fpr", "hyperiqa", "maniqa", "tres")
"""Metrics that multiply two values that both depend on the image."""
WITHOUT_STAGES = ("brisque", "lipschitz_iqa")
"""Metrics that cannot be hardened."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_published_metric_has_a_report(name):
    options, size = OPTIONS[name]
    model = tiny.filled(nnx.eval_shape(lambda: MODELS[name].build(**options, rngs=nnx.Rngs(0))))
    if name == "linearity":
        model.calibrate(k=1.0, b=0.0, score_range=(0.0, 100.0))
    found = report(model, (*size, 3), lower=False)
    assert math.isinf(found.bound) == (name in UNBOUNDED)
    assert all(math.isfinite(row.upper) or row.method for row in found.rows)
    if name in WITHOUT_STAGES:
        return
    harden(model, f"after:{model.backbone.order[0]}", mid=2, rngs=nnx.Rngs(1))
    hardened = report(model, (*size, 3), lower=False)
    assert math.isinf(hardened.bound) == (name in UNBOUNDED)
    assert any("robust_block" in row.name for row in hardened.rows)
