"""The networks of attacks: FACPA's U-Net and cAdv's colourisation network."""

import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa import networks
from jaxiqa.networks import NETWORKS, Colorization, Network, UNet
from jaxiqa.ops.color import lab_to_rgb, rgb_to_lab
from jaxiqa.pretrained import key_map

pytestmark = pytest.mark.slow


def recorded(shared, name: str) -> tuple[dict, dict, dict]:
    """Return the record, its arrays, and the weights, which are generated from their names."""
    path = shared / "oracles" / "public" / f"{name}.json"
    record = json.loads(path.read_text())
    gains = {prefix: gain for prefix, gain in record["gain"].items() if prefix != "default"}
    weights = {}
    for key, shape, rule in record["keys"]:
        if rule == "const":
            weights[key] = np.zeros(shape, np.int64)  # num_batches_tracked
            continue
        g = np.random.RandomState(zlib.crc32(f"{record['seed']}:{key}".encode())).standard_normal(shape)
        gain = next((gain for prefix, gain in gains.items() if key.startswith(prefix)), record["gain"]["default"])
        weights[key] = {
            "conv": lambda: gain * np.sqrt(2 / np.prod(shape[1:])) * g,  # noqa: B023
            "bias": lambda: 0.1 * g,  # noqa: B023
            "scale": lambda: 1 + 0.1 * g,  # noqa: B023
            "mean": lambda: 0.1 * g,  # noqa: B023
            "var": lambda: np.exp(0.2 * g),  # noqa: B023
        }[rule]().astype(np.float32)
    return record, dict(np.load(path.with_suffix(".npz"))), weights


def nhwc(array: np.ndarray) -> np.ndarray:
    return array.transpose(0, 2, 3, 1)


def worst(found, record: dict, stored: dict, name: str) -> float:
    """Return the largest deviation from the record, divided by PyTorch's own float32 deviation."""
    values = np.asarray(found).transpose(0, 3, 1, 2).ravel()[stored[f"{name}__idx"]]
    deviation = np.abs(values - stored[f"{name}__values"]).max()
    print(f"{name}: largest deviation {deviation:.2e} of values with deviation {record['outputs'][name]['std']:.2f}")
    return deviation / record["outputs"][name]["max_abs_float32_run_minus_float64_run"]


def test_the_u_net_is_that_of_facpa(shared):
    record, stored, weights = recorded(shared, "05_facpa_unet")
    network = networks.load("facpa_unet", weights=weights)
    images = jnp.asarray(stored["input"][None] / np.float32(255))
    drawn = jax.jit(lambda network, x: network(x))(network, images)
    assert worst(drawn, record, stored, "out") <= 20
    np.testing.assert_allclose(drawn[0, 100:116, 60:76].transpose(2, 0, 1), stored["out_block"], atol=3e-4)


@pytest.mark.slow
def test_the_colorization_network_is_that_of_cadv(shared):
    record, stored, weights = recorded(shared, "05_cadv_colornet")
    network = networks.load("siggraph17", weights=weights)
    maps = [jnp.asarray(nhwc(stored[name])) for name in ("L", "hints", "mask")]
    module = nnx.merge(network.graphdef, network.state)
    logits, ab = jax.jit(lambda *maps: module.run(*maps))(*maps)
    assert worst(logits, record, stored, "out_class") <= 20
    assert worst(ab, record, stored, "out_reg") <= 20
    rgb = jnp.clip(lab_to_rgb(jnp.concatenate([100 * maps[0] + 50, 110 * ab], -1)), 0, 1)
    np.testing.assert_allclose(rgb, nhwc(stored["out_rgb"]), atol=9e-5)
    lab = rgb_to_lab(jnp.asarray(stored["input"][None] / np.float32(255)))
    np.testing.assert_allclose((lab[..., :1] - 50) / 100, maps[0], atol=2e-6)


def filled(name: str, **options) -> tuple[nnx.Module, dict[str, np.ndarray]]:
    """Return a small network with random weights, and the weights under their published names."""
    module = nnx.eval_shape(lambda: NETWORKS[name].build(**options, rngs=nnx.Rngs(0)))
    random, weights = np.random.default_rng(0), {}
    if name == "facpa_unet":
        sides = [3, 4, 8, 16]
        for level in range(3):
            cin = sides[3 - level] * (1 if level == 0 else 2)
            weights[f"conv{level + 1}.weight"] = random.normal(size=(sides[level + 1], sides[level], 4, 4)) / 4
            weights[f"conv{level + 1}.bias"] = random.normal(size=sides[level + 1])
            weights[f"dconv{level + 1}.weight"] = random.normal(size=(cin, sides[2 - level], 4, 4)) / 4
            weights[f"dconv{level + 1}.bias"] = random.normal(size=sides[2 - level])
    weights = {key: array.astype(np.float32) for key, array in weights.items()}
    key_map.fill(module, weights, NETWORKS[name].rules, source="small")
    return module, weights


def test_a_small_u_net_follows_the_formula_of_pix2pix():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    module, weights = filled("facpa_unet", width=4, depth=3)
    images = np.random.default_rng(1).uniform(size=(2, 16, 24, 3)).astype(np.float32)

    def layer(name, x):
        weight, bias = (torch.tensor(weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return (F.conv_transpose2d if name[0] == "d" else F.conv2d)(x, weight, bias, stride=2, padding=1)

    e1 = layer("conv1", torch.tensor(images.transpose(0, 3, 1, 2)))
    e2 = F.instance_norm(layer("conv2", F.leaky_relu(e1, 0.2)))
    e3 = layer("conv3", F.leaky_relu(e2, 0.2))
    d1 = F.instance_norm(layer("dconv1", F.relu(e3)))
    d2 = F.instance_norm(layer("dconv2", F.relu(torch.cat((d1, e2), 1))))
    expected = torch.tanh(layer("dconv3", F.relu(torch.cat((d2, e1), 1)))).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(jax.jit(lambda x: module(x))(images), expected, atol=2e-5)
    with pytest.raises(ValueError, match="images are 16x20; both sides must be multiples of 8"):
        module(jnp.zeros((1, 16, 20, 3)))


def test_a_fresh_u_net_has_no_saturated_values_and_learns():
    network = Network(*nnx.split(UNet(width=8, depth=3, rngs=nnx.Rngs(0))))
    images = jax.random.uniform(jax.random.key(0), (1, 16, 16, 3))
    drawn, gradient = jax.jit(jax.value_and_grad(lambda network, x: (network(x) ** 2).mean()))(network, images)
    assert 0 < float(drawn) < 0.5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_colors_at_any_size_equal_those_of_padded_maps():
    module = Colorization(width=2, rngs=nnx.Rngs(0))
    maps = [jax.random.normal(jax.random.key(c), (2, 10, 13, c)) for c in (1, 2, 1)]
    ab = jax.jit(lambda *maps: module(*maps))(*maps)
    assert ab.shape == (2, 10, 13, 2)
    padded = [np.pad(part, ((0, 0), (0, 6), (0, 3), (0, 0)), mode="edge") for part in maps]
    np.testing.assert_allclose(ab, module(*map(jnp.asarray, padded))[:, :10, :13], atol=1e-5)
    assert float(jnp.std(ab)) > 0.01


def test_attack_nets_with_other_weights_are_refused():
    with pytest.raises(ValueError, match="does not fit") as caught:
        networks.load("facpa_unet", weights={"conv1.bias": np.zeros(64), "conv9.bias": np.zeros(64)})
    lines = str(caught.value).splitlines()
    every = Path(lines[-1].rpartition(" listed in ")[2]).read_text().splitlines()
    assert "  conv9.bias: unknown" in lines
    assert "up.7.kernel: missing" in every
    assert "down.0.bias: missing" not in every
