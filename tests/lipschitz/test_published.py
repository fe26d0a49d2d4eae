"""The report of every published metric: finite where it can be, and where it cannot, the row says why."""

import math

import pytest
from flax import nnx

from jaxiqa.lipschitz import report
from jaxiqa.models import MODELS, harden

# Narrow, and image sizes that their protocols take.
OPTIONS = {
    "fpr": ({"width": 4}, (64, 128)),
    "hyperiqa": ({"width": 4, "crops": 2}, (60, 80)),
    "koncept512": ({"width": 2, "pooling": "full"}, (75, 91)),
    "linearity": ({"backbone": "resnet18"}, (40, 56)),
    "maniqa": ({"width": 24, "protocol": "resize"}, (60, 80)),
    "metaiqa": ({"width": 4}, (60, 80)),
    "paq2piq": ({"width": 4}, (64, 96)),
    "spaq_bl": ({"width": 4}, (224, 230)),
    "tres": ({"width": 4}, (60, 80)),
}
UNBOUNDED = {
    "fpr": "weights of patches that depend on the patches",
    "hyperiqa": "weights that depend on the image",
    "maniqa": "attention",
    "tres": "attention",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_every_published_metric_has_a_report(name):
    options, size = OPTIONS[name]
    model = MODELS[name].build(**options, rngs=nnx.Rngs(0))
    found = report(model, (*size, 3), lower=False)
    assert math.isinf(found.bound) == (name in UNBOUNDED)
    for row in found.rows:
        assert math.isfinite(row.upper) or row.method, row
    first = model.backbone.order[0]
    harden(model, f"after:{first}", mid=2, rngs=nnx.Rngs(1))
    hardened = report(model, (*size, 3), lower=False)
    assert math.isinf(hardened.bound) == (name in UNBOUNDED)
    assert any("robust_block" in row.name for row in hardened.rows)
