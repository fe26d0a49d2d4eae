import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa.models import BACKBONES, build
from jaxiqa.networks.classifier import Classifier, load
from jaxiqa.nn.conv import conv
from jaxiqa.pretrained import key_map


@pytest.mark.parametrize(
    ("backbone", "parameters"),
    # counts of torchvision and timm; for MobileNetV2 (batch norm folded, 1001 classes) that of the file
    [
        ("efficientnet_lite0", 4_652_008),
        ("resnet18", 11_689_512),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnext101_32x8d", 88_791_336),
        ("mobilenet_v2", 3_489_097),
        ("mobilenet_v2_torch", 3_487_816),
        pytest.param("inception_resnet_v2", 55_843_464, marks=pytest.mark.slow),
        ("vgg16", 138_357_544),
        ("alexnet", 61_100_840),
        ("squeezenet1_1", 1_235_496),
    ],
)
def test_published_number_of_parameters(backbone, parameters):
    classifier = nnx.eval_shape(lambda: Classifier(backbone, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(classifier, nnx.Param))) == parameters


@pytest.mark.parametrize(
    "backbone",
    [
        "efficientnet_lite0",
        "mobilenet_v2",
        "mobilenet_v2_torch",
        "resnet18",
        "resnet50",
        "resnet101",
        "resnext101_32x8d",
    ],
)
@pytest.mark.parametrize("size", [(65, 48)])
def test_maps_shrink_by_two_at_every_stride(backbone, size):
    spec = BACKBONES[backbone]
    stages = nnx.eval_shape(lambda: spec.build(width=8, rngs=nnx.Rngs(0)))
    order, tap = stages.order, stages.order[stages.tapped(spec.taps[0])]
    graphdef, state = nnx.split(stages)
    x = jax.ShapeDtypeStruct((2, *size, 3), jnp.float32)
    _, maps = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state).run(x, taps=order), state, x)
    assert [maps[name].shape[-1] for name in order] == [stages.channels(name) for name in order]
    h, w = (-(-side // 32) for side in size)
    assert maps[order[-1]].shape[1:3] == (h, w)
    assert maps[tap].shape[1:3] == tuple(-(-side // 16) for side in size)


@pytest.mark.parametrize("size", [(7, 8)])
@pytest.mark.parametrize("padding", ["centred", "SAME"])
@pytest.mark.parametrize(
    ("side", "groups", "stride"), [(1, 1, 1), (1, 1, 2), (3, 8, 1), (3, 8, 2), (3, 4, 2), (3, 1, 2)]
)
def test_convolutions_equal_those_of_xla(size, padding, side, groups, stride):
    """1×1 and depthwise kernels use other algorithms; they must agree for strides, odd sizes and both paddings."""
    layer = conv(8, 8, side, stride=stride, groups=groups, padding=padding, bias=True, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(0), (2, *size, 8))
    expected = jax.lax.conv_general_dilated(
        x,
        layer.kernel[...],
        (stride, stride),
        padding if padding == "SAME" else ((side // 2, side // 2),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.slow
def test_from_scratch_signals_neither_vanish_nor_explode():
    """MobileNetV2 is the critical case: it has no batch norm."""
    model = build("mobilenet_v2")
    graphdef, state = nnx.split(model.backbone)
    x = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    maps = jax.jit(lambda state: nnx.merge(graphdef, state).run(x, taps=model.taps)[1])(state)
    for tap, values in maps.items():
        assert 0.05 < float(jnp.std(values)) < 20, tap


@pytest.mark.parametrize("wrapper", [None, "state_dict"])
def test_a_resnet_loads_a_pytorch_file(wrapper, tmp_path):
    """torchvision and timm use the same names."""
    spec = BACKBONES["resnet18"]
    torch = pytest.importorskip("torch")
    abstract = nnx.eval_shape(lambda: Classifier("resnet18", rngs=nnx.Rngs(0)))
    arrays = resnet18_names(key_map.parameters(abstract))
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    torch.save({wrapper: tensors, "epoch": 90} if wrapper else tensors, tmp_path / "resnet18.pth")
    model = build("resnet18", backbone_weights=tmp_path / "resnet18.pth")
    classifier = load("resnet18", tmp_path / "resnet18.pth")
    kernel = arrays["layer2.0.downsample.0.weight"].transpose(2, 3, 1, 0)
    for backbone in (model.backbone, classifier.backbone):
        np.testing.assert_array_equal(backbone.stage["layer2.0"].shortcut.conv.kernel[...], kernel)
    np.testing.assert_array_equal(classifier.head.kernel[...], arrays["fc.weight"].T)
    assert spec.classes == classifier.head.bias.shape[0] == 1000


def resnet18_names(parameters) -> dict[str, np.ndarray]:
    """Return random arrays under torchvision's names."""
    arrays = {}
    for ours, variable in parameters.items():
        name = ours.replace("backbone.stage.", "").replace("head.", "fc.")
        name = name.replace("conv1.conv.", "conv1.").replace("conv1.bn.", "bn1.") if name.startswith("conv1.") else name
        name = name.replace("shortcut.conv", "downsample.0").replace("shortcut.bn", "downsample.1")
        for theirs, part in (
            ("weight", "kernel"),
            ("weight", "scale"),
            ("running_mean", "mean"),
            ("running_var", "var"),
        ):
            name = f"{name.removesuffix(part)}{theirs}" if name.endswith(f".{part}") else name
        shape = variable.shape
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        arrays[name] = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return arrays
