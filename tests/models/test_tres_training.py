"""The training losses of TReS, against PyTorch's formulas written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa.models.tres import TReS
from jaxiqa.models.tres_ranking import ranking_triplets
from jaxiqa.train.losses import LOSSES


def triplet(anchor, positive, negative, margin):
    """`torch.nn.TripletMarginLoss(margin, p=1)` of one example, without its 1e-6."""
    return max(0.0, abs(anchor - positive) - abs(anchor - negative) + margin)


def triplets(p, y):
    o = np.argsort(y)
    return triplet(p[o[0]], p[o[1]], p[o[-1]], y[o[-1]] - y[o[1]]) + triplet(
        p[o[-1]], p[o[-2]], p[o[0]], y[o[-2]] - y[o[0]]
    )


@pytest.mark.parametrize("count", [3, 4, 17])
@pytest.mark.parametrize("seed", range(3))
def test_ranking_triplets(count, seed):
    p, y = 50 * np.random.default_rng(seed).normal(size=(2, count)).astype(np.float32)
    assert float(ranking_triplets(jnp.asarray(p), jnp.asarray(y))) == pytest.approx(triplets(p, y), rel=1e-5, abs=1e-4)


def test_the_total_loss():
    random = np.random.default_rng(0)
    p, q, y = 20 * random.normal(size=(3, 9)).astype(np.float32)
    apart = random.uniform(size=9).astype(np.float32)
    outputs = {"score": jnp.asarray(p), "mirrored": jnp.asarray(q), "consistency": jnp.asarray(apart)}
    t, u = triplets(p, y), triplets(q, y)
    expected = np.abs(p - y).mean() + np.abs(q - y).mean() + apart.mean() + 0.5 * 2 * abs(t - u) + 0.05 * (t + u)
    assert float(TReS.total_loss(outputs, jnp.asarray(y), LOSSES["mae"])) == pytest.approx(expected, rel=1e-5)
    whole = TReS.total_loss({"score": outputs["score"]}, jnp.asarray(y), LOSSES["mae"])
    assert float(whole) == pytest.approx(np.abs(p - y).mean(), rel=1e-5)


@pytest.mark.slow
def test_outputs_of_crops():
    model = TReS(backbone="resnet18", width=4, rngs=nnx.Rngs(0))
    pixels = jax.random.uniform(jax.random.key(1), (2, 224, 224, 3))
    run = nnx.jit(lambda model, pixels: model.item_outputs(pixels))
    found, turned = run(model, pixels), run(model, pixels[:, :, ::-1])
    np.testing.assert_allclose(found["score"], nnx.jit(lambda m, x: m.raw(x))(model, pixels), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["mirrored"], turned["score"], rtol=1e-4, atol=1e-5)
    maps, other = (
        nnx.jit(lambda m, x: m.features(x, ("encoder", "layer4")))(model, x) for x in (pixels, pixels[:, :, ::-1])
    )
    apart = 2 * sum(np.abs(maps[name] - other[name]).mean((1, 2, 3)) for name in maps)
    np.testing.assert_allclose(found["consistency"], apart, rtol=1e-3)
    symmetric = (pixels + pixels[:, :, ::-1]) / 2
    np.testing.assert_allclose(run(model, symmetric)["consistency"], 0, atol=1e-6)
