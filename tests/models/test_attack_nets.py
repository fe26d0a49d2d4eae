"""The networks that attacks are given: FACPA's U-Net and cAdv's colourisation network, against their PyTorch classes."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa.models import auxiliary, convert
from jaxiqa.models.auxiliary import AUXILIARY, Colorization, Network, UNet
from jaxiqa.ops.color import lab_to_rgb, rgb_to_lab


def recorded(shared, name: str) -> tuple[dict, dict, dict]:
    """The record, its arrays, and the weights, which are made from their names."""
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
    """Largest deviation from the stored values, over the float32 loss of PyTorch itself that the record gives."""
    values = np.asarray(found).transpose(0, 3, 1, 2).ravel()[stored[f"{name}__idx"]]
    deviation = np.abs(values - stored[f"{name}__values"]).max()
    print(f"{name}: largest deviation {deviation:.2e} of values with deviation {record['outputs'][name]['std']:.2f}")
    return deviation / record["outputs"][name]["max_abs_float32_run_minus_float64_run"]


@pytest.mark.slow
def test_the_u_net_is_that_of_facpa(shared):
    record, stored, weights = recorded(shared, "05_facpa_unet")
    network = auxiliary.load("facpa_unet", weights=weights)
    images = jnp.asarray(stored["input"][None] / np.float32(255))
    drawn = jax.jit(lambda network, x: network(x))(network, images)
    assert worst(drawn, record, stored, "out") <= 20
    np.testing.assert_allclose(drawn[0, 100:116, 60:76].transpose(2, 0, 1), stored["out_block"], atol=3e-4)


@pytest.mark.slow
def test_the_colorization_network_is_that_of_cadv(shared):
    record, stored, weights = recorded(shared, "05_cadv_colornet")
    network = auxiliary.load("siggraph17", weights=weights)
    maps = [jnp.asarray(nhwc(stored[name])) for name in ("L", "hints", "mask")]
    module = nnx.merge(network.graphdef, network.state)
    logits, ab = jax.jit(lambda *maps: module.run(*maps))(*maps)
    assert worst(logits, record, stored, "out_class") <= 20
    assert worst(ab, record, stored, "out_reg") <= 20
    rgb = jnp.clip(lab_to_rgb(jnp.concatenate([100 * maps[0] + 50, 110 * ab], -1)), 0, 1)
    np.testing.assert_allclose(rgb, nhwc(stored["out_rgb"]), atol=9e-5)
    lab = rgb_to_lab(jnp.asarray(stored["input"][None] / np.float32(255)))
    np.testing.assert_allclose((lab[..., :1] - 50) / 100, maps[0], atol=2e-6)
