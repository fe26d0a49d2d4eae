"""VGG-16, AlexNet and SqueezeNet 1.1: shapes, and outputs compared with torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa.models import harden
from jaxiqa.models.linearity import Linearity
from jaxiqa.networks.classifier import Classifier
from jaxiqa.nn.backbones import BACKBONES
from jaxiqa.nn.backbones.resnet import MEAN, STD
from jaxiqa.nn.heads import adaptive_average_pool
from jaxiqa.pretrained import key_map

NAMES = ("vgg16", "alexnet", "squeezenet1_1")


@pytest.mark.parametrize(
    ("backbone", "sizes"),
    [  # by hand: ⌊(s + 2·padding − kernel) / stride⌋ + 1, for SqueezeNet's pooling ⌈·⌉ + 1
        ("vgg16", {"relu1_2": (97, 76), "relu3_3": (24, 19), "relu5_3": (6, 4), "pool5": (3, 2)}),
        ("alexnet", {"relu1": (23, 18), "pool1": (11, 8), "relu2": (11, 8), "relu5": (5, 3), "pool5": (2, 1)}),
        ("squeezenet1_1", {"relu1": (48, 37), "pool1": (24, 18), "fire5": (12, 9), "pool5": (6, 4), "fire9": (6, 4)}),
    ],
)
def test_sizes_of_maps(backbone, sizes):
    stages = nnx.eval_shape(lambda: BACKBONES[backbone].build(width=8, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(stages)
    x = jax.ShapeDtypeStruct((2, 97, 76, 3), jnp.float32)
    _, maps = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state).run(x, taps=stages.order), state, x)
    assert {name: maps[name].shape[1:3] for name in sizes} == sizes
    assert [maps[name].shape[-1] for name in stages.order] == [stages.channels(name) for name in stages.order]


@pytest.mark.parametrize("backbone", NAMES)
def test_classifiers_compute_torchvisions_functions(backbone):
    torch = pytest.importorskip("torch")
    nets = pytest.importorskip("torchvision_nets")
    spec, width = BACKBONES[backbone], 4
    model = nnx.eval_shape(lambda: Classifier(backbone, width=width, rngs=nnx.Rngs(0)))
    arrays = nets.weights(backbone, width)
    inputs = model.backbone.widths[-1]
    layers = {
        "vgg16": {0: (4096, inputs * 49), 3: (4096, 4096), 6: (1000, 4096)},
        "alexnet": {1: (4096, inputs * 36), 4: (4096, 4096), 6: (1000, 4096)},
        "squeezenet1_1": {1: (1000, inputs, 1, 1)},
    }[backbone]
    for index, shape in layers.items():
        for name, size in (("weight", shape), ("bias", shape[:1])):
            key = f"classifier.{index}.{name}"
            arrays[key] = nets.random_array(key, size)
    rules = (*key_map.under("backbone", spec.rules), *spec.classifier_rules)
    key_map.fill(model, arrays, rules, source=backbone)
    pixels = np.random.default_rng(0).uniform(size=(2, 97, 76, 3)).astype(np.float32)
    graphdef, state = nnx.split(model)
    found = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, pixels)
    normalised = ((pixels - np.float32(MEAN)) / np.float32(STD)).transpose(0, 3, 1, 2)
    expected = nets.logits(backbone, arrays, torch.tensor(normalised)).numpy()
    print(backbone, "worst deviation over the largest logit:", np.abs(found - expected).max() / np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(("size", "target"), [((5, 3), (7, 7)), ((13, 6), (6, 6)), ((7, 7), (7, 7))])
def test_adaptive_pooling_is_torchs(size, target):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    expected = torch.nn.functional.adaptive_avg_pool2d(torch.tensor(x.transpose(0, 3, 1, 2)), target)
    np.testing.assert_allclose(
        adaptive_average_pool(jnp.asarray(x), target), expected.numpy().transpose(0, 2, 3, 1), atol=1e-6
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backbone", "where"), [("vgg16", "after:relu4_3"), ("alexnet", "before:relu3"), ("squeezenet1_1", "after:fire5")]
)
def test_a_metric_over_them_can_be_hardened(backbone, where):
    def hardened():
        model = Linearity(backbone, width=8, rngs=nnx.Rngs(0))
        harden(model, where, mid=4, rngs=nnx.Rngs(1))
        return model

    graphdef, state = nnx.split(nnx.eval_shape(hardened))
    images = jax.ShapeDtypeStruct((2, 97, 76, 3), jnp.float32)
    assert jax.eval_shape(lambda state, x: nnx.merge(graphdef, state)(x), state, images).shape == (2,)
