from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import tiny
from flax import nnx

from jaxiqa.models import harden
from jaxiqa.models.paq2piq import PAQ2PIQ_SPEC, PaQ2PiQ
from jaxiqa.nn.roi_pool import check_boxes, pool_boxes, roi_bins, roi_max_pool
from jaxiqa.train.losses import mse

X = jax.random.uniform(jax.random.key(1), (2, 97, 150, 3))


@pytest.fixture(scope="module")
def model():
    return tiny.filled(nnx.eval_shape(lambda: PaQ2PiQ(width=4, rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def network(model):
    return jax.jit(lambda pixels: model.network(pixels))


@pytest.mark.slow
def test_agrees_with_the_original_class(shared):
    """Compare the scores of the image and of all patches, every tap, and both input gradients."""
    record, expected = parity.read(shared, "paq2piq")
    model = parity.filled(PAQ2PIQ_SPEC, record)
    graphdef, state = nnx.split(model)
    names = ("maxpool", "layer1", "layer2", "layer3", "layer4", "roi_pool", "concat_pool", "hidden")

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(pixels, state):
        model = nnx.merge(graphdef, state)
        score = model.network(pixels)
        return score.sum(), (score, model.features(pixels, names))

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run_local(pixels, state):
        scores = nnx.merge(graphdef, state).local_map(pixels)
        return scores.mean((1, 2)).sum(), scores

    pixels = jnp.asarray(expected["image_uint8"], jnp.float32) / 255
    (_, (score, features)), gradient = run(pixels, state)
    taps = [jnp.moveaxis(features[name], -1, 1 if features[name].ndim == 4 else 2) for name in names]
    parity.compare(record, expected, score, taps, gradient, output="global")
    (_, local), gradient = run_local(pixels, state)
    every = np.concatenate([score[:, None], local.reshape(2, 400)], axis=1)
    np.testing.assert_allclose(every, expected["out_all_401_f64"], rtol=record["suggested_tolerance"]["score_rel"])
    renamed = {key.replace("grad_local_", "grad_"): value for key, value in expected.items() if "grad_local_" in key}
    parity.compare(record, {**expected, **renamed}, score, taps, gradient, output="global")


def test_corners_and_scale_are_those_of_the_original(shared):
    record, expected = parity.read(shared, "paq2piq")
    table = record["protocol"]["normalised_global_score"]
    np.testing.assert_allclose(PaQ2PiQ.normalised(jnp.array(table["raw"])), table["normalised"], rtol=1e-5, atol=1e-4)
    x1, y1, x2, y2 = expected["rois_feature_xyxy_inclusive"][1:].T
    for side, cells, first, last in ((224, 7, x1[:20], x2[:20]), (160, 5, y1[::20], y2[::20])):
        bins = roi_bins(side, cells, 20)
        np.testing.assert_array_equal(bins[::2, 0], np.where(first < cells, first, -1))
        inside = last < cells
        np.testing.assert_array_equal(bins[1::2, -1][inside], last[inside])


def loops(x: np.ndarray, region: tuple[int, int, int, int]) -> np.ndarray:
    """Pool one region (x1, y1, x2, y2 in pixels) of a map ``h w c`` by the definition of RoI pooling."""
    x1, y1, x2, y2 = (int(np.floor(np.float32(value) / 32 + 0.5)) for value in region)
    out = np.zeros((2, 2, x.shape[2]), np.float32)
    for i in range(2):
        for j in range(2):
            top, bottom = y1 + int(np.floor(i * (y2 - y1 + 1) / 2)), y1 + int(np.ceil((i + 1) * (y2 - y1 + 1) / 2))
            left, right = x1 + int(np.floor(j * (x2 - x1 + 1) / 2)), x1 + int(np.ceil((j + 1) * (x2 - x1 + 1) / 2))
            window = x[top : min(bottom, x.shape[0]), left : min(right, x.shape[1])]
            if window.size:
                out[i, j] = window.max((0, 1))
    return out


@pytest.mark.parametrize(("height", "width"), [(97, 150), (16, 40), (333, 641), (1024, 512)])
def test_pooling_of_all_regions(height, width):
    cells = tuple(-(-side // 32) for side in (height, width))
    x = jax.random.normal(jax.random.key(0), (1, *cells, 3))
    for count in (1, 20):
        pooled = roi_max_pool(x, roi_bins(height, cells[0], count), roi_bins(width, cells[1], count))
        ys, xs = np.linspace(0, height, count + 1), np.linspace(0, width, count + 1)
        for i in range(count):
            for j in range(count):
                expected = loops(np.asarray(x[0]), (xs[j], ys[i], xs[j + 1], ys[i + 1]))
                np.testing.assert_array_equal(pooled[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2], expected)


@pytest.mark.parametrize(("height", "width"), [(97, 150), (16, 40), (333, 641), (1024, 512)])
def test_pooling_of_any_boxes(height, width):
    """Whole and broken pixels, boxes of one pixel, of the whole image, and with ends halfway between cells."""
    cells = tuple(-(-side // 32) for side in (height, width))
    random = np.random.default_rng(0)
    x = random.normal(size=(2, *cells, 3)).astype(np.float32)
    ends = random.uniform(size=(2, 40, 2, 2)) * (width, height)
    ends[:, ::2] = np.floor(ends[:, ::2] / 16) * 16
    low, high = ends.min(2), ends.max(2)
    high = np.minimum(np.maximum(high, low + 1), (width, height))
    low = np.minimum(low, high - 1)
    boxes = np.concatenate([low, high], axis=-1).astype(np.float32)
    boxes[:, 0] = (0, 0, width, height)
    pooled = jax.jit(pool_boxes)(x, boxes)
    for image in range(2):
        for number, box in enumerate(boxes[image]):
            np.testing.assert_array_equal(pooled[image, number], loops(x[image], box))


def grid(height, width):
    ys, xs = np.linspace(0, height, 21), np.linspace(0, width, 21)
    boxes = [(xs[j], ys[i], xs[j + 1], ys[i + 1]) for i in range(20) for j in range(20)]
    return jnp.asarray(np.array([[(0, 0, width, height), *boxes]]), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width"), [(97, 150), pytest.param(160, 224, marks=pytest.mark.slow)])
def test_boxes_of_the_image_and_of_the_grid_have_its_scores(model, height, width):
    """Also in the unit of a calibrated metric."""
    model = nnx.clone(model)
    model.calibrate(k=3.0, b=-2.0, score_range=(0.0, 1.0))
    images = jax.random.uniform(jax.random.key(2), (1, height, width, 3))
    scores = jax.jit(lambda images, boxes: model.regions(images, boxes))(images, grid(height, width))
    expected = jax.jit(lambda x: jnp.concatenate([model(x)[:, None], model.local_map(x).reshape(1, 400)], axis=1))
    assert np.std(scores) > 1e-4
    np.testing.assert_allclose(scores, expected(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_every_image_has_its_own_boxes(model):
    boxes = jnp.array([[[0, 0, 90, 50], [60, 30, 150, 97]], [[10, 0, 20, 97], [0, 0, 150, 40]]])
    both = jax.jit(lambda images, boxes: model.regions(images, boxes))(X, boxes)
    assert len(np.unique(both)) == 4
    alone = jax.jit(lambda image, box: model.regions(image[None], box[None])[0])
    np.testing.assert_allclose(both, [alone(X[0], boxes[0]), alone(X[1], boxes[1])], rtol=1e-5)
    np.testing.assert_allclose(both, jax.jit(jax.vmap(alone))(X, boxes), rtol=1e-5)


@pytest.mark.slow
def test_the_gradient_of_regions_is_finite_and_stays_near_them(model):
    boxes = jnp.array([[[0.0, 0, 20, 20]]])
    wide = jax.random.uniform(jax.random.key(3), (1, 64, 704, 3))
    gradient = jax.jit(jax.grad(lambda x: model.regions(x, boxes).sum()))(wide)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[:, :, :64]).max() > 0
    assert np.abs(gradient[:, :, 512:]).max() == 0  # beyond the receptive field


@pytest.mark.parametrize(
    "box", [(-1, 0, 9, 9), (0, 0, 151, 9), (0, 0, 9, 98), (5, 5, 5, 9), (0, 9, 9, 3), (np.nan, 0, 9, 9)]
)
def test_boxes_that_are_empty_or_outside_are_refused(model, box):
    boxes = np.array([[(0, 0, 9, 9), (0, 0, 9, 9)], [(0, 0, 9, 9), box]])
    with pytest.raises(ValueError, match=r"boxes\[1, 1\] is .*0 <= left < right <= 150 and 0 <= top < bottom <= 97"):
        model.regions(X, boxes)
    with pytest.raises(ValueError, match=r"boxes has shape \(1, 2, 4\); expected \(2, r, 4\)"):
        check_boxes(boxes[:1], X.shape)


def test_the_loss_is_the_mean_over_labels_of_images_and_regions():
    """The authors' MSELossFlat over ``b 4`` scores and labels."""
    random = np.random.default_rng(0)
    scores, labels = (random.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
    outputs = {"score": scores[:, 0], "regions": scores[:, 1:], "region_mos": labels[:, 1:]}
    outputs = {name: jnp.asarray(value) for name, value in outputs.items()}
    total = PaQ2PiQ.total_loss(outputs, jnp.asarray(labels[:, 0]), mse)
    assert float(total) == pytest.approx(((scores - labels) ** 2).mean(), rel=1e-5)
    alone = PaQ2PiQ.total_loss({"score": outputs["score"]}, jnp.asarray(labels[:, 0]), mse)
    assert float(alone) == pytest.approx(((scores - labels)[:, 0] ** 2).mean(), rel=1e-5)


def test_the_gradient_of_a_repeated_cell_is_not_multiplied():
    """Cell 4 fills its whole bin three times."""
    x = jnp.arange(10.0).reshape(1, 5, 2, 1)
    rows, columns = roi_bins(160, 5, 1), roi_bins(64, 2, 1)
    gradient = jax.grad(lambda x: roi_max_pool(x, rows, columns).sum())(x)
    assert gradient[0, ..., 0].tolist() == [[0, 0], [0, 0], [0, 2], [0, 0], [0, 2]]


@pytest.mark.parametrize("size", [(1, 1), (31, 64), (97, 150)])
def test_images_of_any_size(model, size):
    images = jax.ShapeDtypeStruct((3, *size, 3), jnp.float32)
    assert jax.eval_shape(lambda x: model(x), images).shape == (3,)
    assert jax.eval_shape(lambda x: model.local_map(x), images).shape == (3, 20, 20)


@pytest.mark.slow
def test_a_batch_equals_its_images_one_by_one(model, network):
    scores = jax.jit(lambda x: model(x))(jnp.concatenate([X, X[:1] ** 2]))
    assert np.std(scores) > 1e-4
    np.testing.assert_allclose(scores[:2], network(X), rtol=1e-5)
    np.testing.assert_allclose(scores[1:], network(jnp.stack([X[1], X[0] ** 2])), rtol=1e-5)


def test_images_are_not_resized(model):
    assert model.prepare(X) is X
    assert model.prepare(X, jax.random.key(0)) is X


def test_the_score_of_the_image_computes_no_other_region(model):
    """No array of the program has as many entries as there are patches."""
    text = str(jax.make_jaxpr(lambda x: model.network(x))(X))
    assert "2,40," not in text
    assert "2,40," in str(jax.make_jaxpr(lambda x: model.local_map(x))(X))


@pytest.mark.slow
def test_hardening(model, network):
    hardened = nnx.clone(model)
    harden(hardened, "after:layer3", mid=8, rngs=nnx.Rngs(1))
    scores = jax.jit(lambda x: hardened.network(x))(X)
    assert scores.shape == (2,)
    assert not np.allclose(scores, network(X))
