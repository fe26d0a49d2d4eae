"""Compact copies of pruned backbones and metrics: equal scores from fewer operations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from compacting import SIZE, X, check, pruned
from flax import nnx

from jaxiqa import models

# backbone -> largest share of the operations that may be left at 10 % and at 50 %; constants are random
SHARES = {
    "alexnet": (0.95, 0.7),
    "efficientnet_lite0": (0.87, 0.45),
    "inception_resnet_v2": (0.9, 0.5),
    "mobilenet_v2": (0.92, 0.6),
    "mobilenet_v2_torch": (0.92, 0.6),
    "resnet18": (0.91, 0.55),
    "resnet50": (0.9, 0.5),
    "resnet101": (0.9, 0.5),
    "resnext101_32x8d": (0.95, 0.75),
    "squeezenet1_1": (0.97, 0.8),
    "vgg16": (0.93, 0.56),
}


def test_every_backbone_has_a_case():
    assert set(SHARES) == set(models.BACKBONES)


CASES = [
    pytest.param(backbone, amount, marks=() if (backbone, amount) == ("resnet18", 0.5) else pytest.mark.slow)
    for backbone in SHARES
    for amount in (0.1, 0.5)
]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "amount"), CASES)
def test_every_backbone_scores_the_same_with_fewer_operations(backbone, amount):
    model = pruned(tiny.metric(backbone), amount)
    small = check(model, X, share=SHARES[backbone][amount > 0.2])
    stages = (model.backbone.order[1], model.backbone.order[3])
    before, after = (each.features(X, stages) for each in (model, small))
    for name in stages:  # stages give whole maps
        np.testing.assert_allclose(after[name], before[name], atol=1e-5 * float(jnp.abs(before[name]).max()))


METRICS = {
    "koncept512": ({"width": 8}, (299, 300), 0.5),
    "hyperiqa": ({"width": 8, "crops": 1}, (224, 224), 0.5),
    "tres": ({"width": 4}, (224, 224), 0.8),
    "paq2piq": ({"width": 8}, SIZE, 0.5),
    "spaq_bl": ({"width": 8}, (224, 224), 0.5),
    "metaiqa": ({"width": 8}, SIZE, 0.55),
    "fpr": ({"width": 8}, (64, 128), 0.5),
    "maniqa": ({"width": 24}, (224, 224), 1.0),
}
QUICK = ("fpr", "paq2piq")


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in METRICS])
def test_every_metric_scores_the_same_with_fewer_operations(name):
    options, size, share = METRICS[name]
    model = tiny.filled(nnx.eval_shape(lambda: models.MODELS[name].metric(**options, rngs=nnx.Rngs(0))))
    model = pruned(model, 0.5)
    pixels = model.prepare(jax.random.uniform(jax.random.key(1), (1, *size, 3)))[:1]
    check(model, pixels, share=share, call=lambda model, x: model.raw(x), size=size)
