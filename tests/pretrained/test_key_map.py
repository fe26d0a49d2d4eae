import numpy as np
import pytest
from flax import nnx

from jaxiqa.nn.backbones import BACKBONES, resnet
from jaxiqa.pretrained import key_map


def abstract_resnet18():
    return nnx.eval_shape(lambda: BACKBONES["resnet18"].build(width=8, rngs=nnx.Rngs(0)))


def torchvision_names() -> dict[str, np.ndarray]:
    """Return the state dict of a ResNet-18 (width 8) in torchvision's names and layout."""
    generator = np.random.default_rng(0)
    arrays = {}

    def conv(name, cout, cin, size):
        arrays[f"{name}.weight"] = generator.standard_normal((cout, cin, size, size)).astype(np.float32)

    def norm(name, features):
        for part in ("weight", "bias", "running_mean", "running_var"):
            arrays[f"{name}.{part}"] = generator.uniform(0.5, 1.5, features).astype(np.float32)
        arrays[f"{name}.num_batches_tracked"] = np.array(7)

    conv("conv1", 8, 3, 7)
    norm("bn1", 8)
    cin = 8
    for layer, cout in enumerate((8, 16, 32, 64), start=1):
        for i in range(2):
            name = f"layer{layer}.{i}"
            conv(f"{name}.conv1", cout, cin, 3)
            norm(f"{name}.bn1", cout)
            conv(f"{name}.conv2", cout, cout, 3)
            norm(f"{name}.bn2", cout)
            if cin != cout:
                conv(f"{name}.downsample.0", cout, cin, 1)
                norm(f"{name}.downsample.1", cout)
            cin = cout
    return arrays


def test_every_array_fills_its_parameter():
    stages, arrays = abstract_resnet18(), torchvision_names()
    key_map.fill(stages, arrays, resnet.rules(), source="demo")
    block = stages.stage["layer2.0"]
    np.testing.assert_array_equal(block.conv1.kernel[...], arrays["layer2.0.conv1.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(block.shortcut.bn.var[...], arrays["layer2.0.downsample.1.running_var"])
    np.testing.assert_array_equal(block.bn2.scale[...], arrays["layer2.0.bn2.weight"])
    np.testing.assert_array_equal(stages.stage["conv1"].bn.mean[...], arrays["bn1.running_mean"])


def test_all_faults_are_in_one_error_and_the_module_is_not_changed():
    arrays = torchvision_names()
    del arrays["bn1.running_var"]
    arrays["extra.weight"] = np.zeros(3)
    arrays["layer3.5.conv1.weight"] = np.zeros((1, 1, 3, 3))
    arrays["layer1.0.conv1.weight"] = arrays["layer1.0.conv1.weight"][:5]
    arrays["layer1.0.conv2.weight"] = arrays["layer1.0.conv2.weight"][0]
    arrays["layer1.0.bn1.bias"] = np.full(8, np.nan)
    arrays["layer1.0.bn2.bias"] = np.zeros(8, int)
    stages = abstract_resnet18()
    with pytest.raises(ValueError, match="demo does not fit") as caught:
        key_map.fill(stages, arrays, resnet.rules(), source="demo")
    assert str(caught.value).splitlines()[1:] == [
        "  extra.weight: unknown",
        "  layer1.0.bn1.bias: has NaN or infinite values",
        "  layer1.0.bn2.bias: has type int64, expected float",
        "  layer1.0.conv1.weight: has shape (5, 8, 3, 3), which does not fit stage.layer1.0.conv1.kernel (3, 3, 8, 8)",
        "  layer1.0.conv2.weight: has shape (8, 3, 3), which does not fit stage.layer1.0.conv2.kernel (3, 3, 8, 8)",
        "  layer3.5.conv1.weight: this network has no parameter stage.layer3.5.conv1.kernel",
        "  stage.conv1.bn.var: missing",
    ]
    assert not hasattr(stages.stage["conv1"].conv.kernel.get_value(), "sum")  # still abstract


def test_two_arrays_for_one_parameter_are_refused():
    layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    rules = (*key_map.linear("a", "unused"), *key_map.IDENTITY)
    rules = ((r"(?:one|two)\.bias", "bias", key_map.same), *rules)
    with pytest.raises(ValueError, match=r"two.bias: bias is given twice"):
        key_map.fill(layer, {"one.bias": np.zeros(3), "two.bias": np.zeros(3)}, rules, source="demo")


def test_a_1x1_kernel_becomes_a_linear_map_and_a_larger_one_is_refused():
    layer, rules = nnx.Linear(2, 3, use_bias=False, rngs=nnx.Rngs(0)), ((r"k", "kernel", key_map.flat_kernel),)
    kernel = np.arange(6.0).reshape(1, 1, 2, 3)
    key_map.fill(layer, {"k": kernel}, rules, source="demo")
    np.testing.assert_array_equal(layer.kernel[...], kernel[0, 0])
    with pytest.raises(ValueError, match=r"k: has shape \(2, 2, 2, 3\)"):
        key_map.fill(layer, {"k": np.zeros((2, 2, 2, 3))}, rules, source="demo")
