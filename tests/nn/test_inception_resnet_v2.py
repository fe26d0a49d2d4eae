import jax
import jax.numpy as jnp
import keras_inception
import numpy as np
import parity
import pytest
from flax import nnx

from jaxiqa.models import BACKBONES
from jaxiqa.networks.classifier import Classifier
from jaxiqa.pretrained import key_map

SPEC = BACKBONES["inception_resnet_v2"]
# Index in the record's Sequential -> the name in the ImageNet checkpoints.
NAMES = {
    "base.0": "conv2d_1a",
    "base.1": "conv2d_2a",
    "base.2": "conv2d_2b",
    "base.4": "conv2d_3b",
    "base.5": "conv2d_4a",
    "base.7": "mixed_5b",
    "base.8": "repeat",
    "base.9": "mixed_6a",
    "base.10": "repeat_1",
    "base.11": "mixed_7a",
    "base.12": "repeat_2",
    "base.13": "block8",
    "base.14": "conv2d_7b",
}


@pytest.fixture(scope="module")
def stages():
    return nnx.eval_shape(lambda: SPEC.build(width=8, rngs=nnx.Rngs(0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "expected"),
    [
        # conv2d_1a, mixed_5b, mixed_6a, conv2d_7b; the first two as measured on the original class
        ((331, 363), [(165, 181), (39, 43), (19, 21), (9, 10)]),
        ((384, 512), [(191, 255), (45, 61), (22, 30), (10, 14)]),
        ((299, 554), [(149, 276), (35, 66), (17, 32), (8, 15)]),
        ((75, 76), [(37, 37), (7, 7), (3, 3), (1, 1)]),
    ],
)
def test_maps_have_the_sizes_of_the_original(stages, size, expected):
    graphdef, state = nnx.split(stages)
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    _, maps = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state).run(x, taps=stages.order), state, x)
    assert [maps[name].shape[-1] for name in stages.order] == [stages.channels(name) for name in stages.order]
    assert [maps[name].shape[1:3] for name in ("conv2d_1a", "mixed_5b", "mixed_6a", "conv2d_7b")] == expected


def test_full_width_has_the_published_channels():
    stages = nnx.eval_shape(lambda: SPEC.build(width=SPEC.width, rngs=nnx.Rngs(0)))
    names = ("conv2d_1a", "conv2d_4a", "mixed_5b", "mixed_6a", "mixed_7a", "block8", "conv2d_7b")
    assert [stages.channels(name) for name in names] == [32, 192, 320, 1088, 2080, 2080, 1536]
    assert [stages.span(name)[1] - stages.span(name)[0] + 1 for name in ("block35", "block17", "block8")] == [
        10,
        20,
        10,
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classifier", "classes"), [("last_linear", 1001), pytest.param("classif", 1000, marks=pytest.mark.slow)]
)
def test_imagenet_checkpoints_fill_every_parameter(shared, classifier, classes):
    record, _ = parity.read(shared, "koncept512")
    arrays = {}
    for key, shape, _ in record["keys"]:
        part = next((part for part in NAMES if key.startswith(f"{part}.")), None)
        if part:
            arrays[key.replace(part, NAMES[part], 1)] = np.broadcast_to(np.float32(len(arrays)), shape)
    bias = np.arange(classes, dtype=np.float32)
    arrays |= {f"{classifier}.weight": np.broadcast_to(bias[:, None], (classes, 1536)), f"{classifier}.bias": bias}
    model = nnx.eval_shape(lambda: Classifier("inception_resnet_v2", rngs=nnx.Rngs(0)))
    rules = (*key_map.under("backbone", SPEC.rules), *SPEC.classifier_rules)
    key_map.fill(model, arrays, rules, source="ImageNet")
    assert model.head.bias[0] == model.head.kernel[5, 0] == classes - 1000  # without the class "background"
    projection = model.backbone.stage["block8.9"].project.kernel
    assert projection[0, 0, 0, 0] == list(arrays).index("block8.conv2d.weight")


@pytest.mark.slow
def test_keras_files_are_read_in_the_order_of_their_numbers(stages):
    parameters, generator = key_map.parameters(stages), np.random.default_rng(0)
    model = nnx.clone(stages)
    arrays, expected = keras_inception.write(parameters, generator, first=7)
    shuffled = {name: arrays[name] for name in generator.permutation(list(arrays))}
    key_map.fill(model, SPEC.adapt(shuffled), SPEC.rules, source="a Keras file")
    found = key_map.parameters(model)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name][...], values)
    rest = found.keys() - expected.keys()
    assert {name.rpartition(".")[2] for name in rest} == {"scale"}
    assert all((np.asarray(found[name][...]) == 1).all() for name in rest)
    del shuffled["conv2d_9.kernel"]
    with pytest.raises(ValueError, match="203 unnamed layers of each kind, this file 202 convolutions"):
        SPEC.adapt(shuffled)
