"""The networks of purifiers, against recorded outputs of the original classes."""

import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxiqa import networks
from jaxiqa.networks import ADM, DISCO, NETWORKS, SRVGG, DnCNN, MPRNet, Network


def recorded(shared, name: str) -> tuple[dict, dict, dict]:
    """Return the record, its arrays, and the weights, which are generated from their names."""
    path = shared / "oracles" / "public" / f"{name}.json"
    record = json.loads(path.read_text())
    gain = record["gain"] if isinstance(record["gain"], dict) else {"default": record["gain"]}
    weights = {}
    for key, shape, rule in record["keys"]:
        if rule.startswith("alias of "):
            weights[key] = weights[rule.removeprefix("alias of ")]
            continue
        if rule == "const":
            weights[key] = np.zeros(shape, np.float32)
            continue
        g = np.random.RandomState(zlib.crc32(f"{record['seed']}:{key}".encode())).standard_normal(shape)
        scale = next((v for prefix, v in gain.items() if key.startswith(prefix)), gain["default"])
        weights[key] = {
            "conv": lambda: scale * np.sqrt(2 / np.prod(shape[1:])) * g,  # noqa: B023
            "bias": lambda: 0.1 * g,  # noqa: B023
            "scale": lambda: 1 + 0.1 * g,  # noqa: B023
            "mean": lambda: 0.1 * g,  # noqa: B023
            "var": lambda: np.exp(0.2 * g),  # noqa: B023
            "prelu": lambda: 0.25 + 0.05 * g,  # noqa: B023
        }[rule]().astype(np.float32)
    return record, dict(np.load(path.with_suffix(".npz"))), weights


def double(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), tree)


def nchw(found) -> np.ndarray:
    return np.asarray(found).transpose(0, 3, 1, 2)


def check(found, record: dict, stored: dict, name: str) -> None:
    """Compare in float64 with a float64 run that was stored as float32."""
    values = nchw(found)
    assert list(values.shape) == record["outputs"][name]["full_shape"]
    if f"{name}__idx" in stored:
        values, expected = values.ravel()[stored[f"{name}__idx"]], stored[f"{name}__values"]
    else:
        expected = stored[name]
    deviation = np.abs(values - expected).max()
    print(f"{name}: largest deviation {deviation:.1e}, values up to {np.abs(expected).max():.2f}")
    assert deviation <= 2**-24 * np.abs(expected).max() * 1.001  # half a unit in a float32's last place


def run(name: str, shared, record_name: str, **options):
    """Return the record, its arrays, the network and the recorded image; call under x64: the last two are float64."""
    record, stored, weights = recorded(shared, record_name)
    network = double(networks.load(name, weights=weights, **options))
    pixels = stored["input"].astype(np.float32) / np.float32(255)
    return record, stored, network, jnp.asarray(pixels[None], jnp.float64)


@pytest.mark.slow
def test_the_fcn_filter_equals_the_original(shared):
    with jax.enable_x64(True):
        record, stored, network, images = run("fcn", shared, "05_fcn_filter")
        check(jax.jit(lambda n, x: n(x))(network, images), record, stored, "out")


@pytest.mark.slow
def test_dncnn_equals_the_original(shared):
    with jax.enable_x64(True):
        record, stored, network, images = run("dncnn", shared, "05_dncnn17")
        check(jax.jit(lambda n, x: n(x))(network, images), record, stored, "out")


@pytest.mark.slow
def test_real_esrgan_equals_the_original_and_two_checkpoints_blend(shared):
    with jax.enable_x64(True):
        record, stored, network, images = run("real_esrgan", shared, "05_srvgg_x4v3")
        check(jax.jit(lambda n, x: n(x))(network, images), record, stored, "out")
    _, _, weights = recorded(shared, "05_srvgg_x4v3")
    other = {key: 2 * array for key, array in weights.items()}
    blended = networks.blend(weights, other)
    assert all(array.dtype == np.float32 for array in blended.values())
    np.testing.assert_allclose(blended["body.66.weight"], 1.8 * weights["body.66.weight"], rtol=1e-6)
    with pytest.raises(ValueError, match=r"not of one network; they differ in body\.0\.bias"):
        networks.blend(weights, {key: array for key, array in other.items() if key != "body.0.bias"})


def disco_float64(network, images, size):
    """Return the result before the shift to [0, 1], and the features."""
    module = nnx.merge(network.graphdef, network.state)
    return 2 * module(images, size) - 1, module.features(images)


@pytest.mark.slow
@pytest.mark.parametrize("lines", [29, 5])
def test_disco_equals_the_original(shared, lines, monkeypatch):
    monkeypatch.setattr("jaxiqa.networks.disco.CHUNK", lines * 31 + 1)
    with jax.enable_x64(True):
        record, stored, network, images = run("disco", shared, "05_disco_liif")
        raw, features = disco_float64(network, images, tuple(record["output_size"]))
        check(features, record, stored, "feat")
        deviation = np.abs(raw[0] - stored["rgb_raw"]).max()
        print(f"rgb_raw: largest deviation {deviation:.1e}")
        # The record's places are float32 numbers in both of its runs.
        assert deviation <= record["outputs"]["rgb_raw"]["max_abs_float32_run_minus_float64_run"]


@pytest.mark.slow
def test_mprnet_equals_the_original(shared):
    with jax.enable_x64(True):
        record, stored, network, images = run("mprnet", shared, "05_mprnet")
        stages = jax.jit(lambda n, x: nnx.merge(n.graphdef, n.state).run(x))(network, images)
        for name, found in zip(("stage1", "stage2", "stage3"), stages, strict=True):
            check(found, record, stored, name)


@pytest.mark.slow
def test_adm_equals_the_original_and_its_sizes_come_from_the_checkpoint(shared):
    """The record computes its time embedding and softmax in float32, which limits the agreement in float64."""
    with jax.enable_x64(True):
        record, stored, weights = recorded(shared, "05_adm_unet")
        network = networks.load("adm", weights=weights, head=16)
        images = stored["input"].astype(np.float32) / np.float32(255) * 2 - 1
        images = jnp.asarray(np.stack([images[:, :32], images[:, 32:]]))
        forward = jax.jit(lambda n, x, t: n(x, t))
        for name, times in (("out", "timesteps"), ("out_b", "timesteps_b")):
            single = forward(network, images, jnp.asarray(stored[times]))
            exact = forward(double(network), double(images), jnp.asarray(stored[times], jnp.float64))
            for found, label in ((single, "float32"), (exact, "float64")):
                deviation = np.abs(nchw(found) - stored[name]).max()
                print(f"{name} in {label}: largest deviation {deviation:.1e}")
                assert deviation <= 20 * record["outputs"][name]["max_abs_float32_run_minus_float64_run"]
        times = jnp.concatenate([jnp.asarray(stored[times]) for times in ("timesteps", "timesteps_b")])
        np.testing.assert_allclose(networks.adm.embed_time(times, 32), stored["timestep_embedding"], atol=3e-5)


def published(name: str, **options) -> dict[str, np.ndarray]:
    """Return random weights of a small network, under this project's names."""
    module = NETWORKS[name].build(**options, rngs=nnx.Rngs(0))
    return Network(*nnx.split(module))


SMALL = {
    "fcn": {},
    "dncnn": {"depth": 4, "width": 6},
    "real_esrgan": {"depth": 2, "width": 8, "factor": 2},
    "mprnet": {"width": 8, "growth": 4, "extra": 4, "depth": 1, "reduction": 4},
    "disco": {"depth": 1, "width": 8, "hidden": 16},
    "adm": {"width": 32, "growth": (1, 2), "depth": 1, "attended": (1,), "head": 16},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dncnn", "real_esrgan"])
def test_a_saved_network_loads_back(name, tmp_path):
    network = published(name, **SMALL[name])
    networks.save(name, network, tmp_path / "net.safetensors", **SMALL[name])
    again = networks.load(name, weights=tmp_path / "net.safetensors")
    assert again.graphdef == network.graphdef
    jax.tree.map(np.testing.assert_array_equal, again.state, network.state)
    with pytest.raises(ValueError, match=f"holds a {name}, not a fcn"):
        networks.load("fcn", weights=tmp_path / "net.safetensors")


def test_sizes_are_read_from_the_published_names(shared):
    records = {"real_esrgan": "05_srvgg_x4v3", "disco": "05_disco_liif", "dncnn": "05_dncnn17", "mprnet": "05_mprnet"}
    sizes = {
        "real_esrgan": {"depth": 32, "width": 64, "factor": 4},
        "disco": {"depth": 16, "width": 64, "hidden": 256},
        "dncnn": {"depth": 17, "width": 64},
        "mprnet": {"width": 80, "growth": 48, "extra": 32, "depth": 8, "reduction": 4},
        "adm": {"width": 32, "growth": (1, 2), "depth": 2, "attended": (1,)},
    }
    for name, record in (records | {"adm": "05_adm_unet"}).items():
        keys = json.loads((shared / "oracles" / "public" / f"{record}.json").read_text())["keys"]
        arrays = {key: np.broadcast_to(np.float32(0), shape) for key, shape, _ in keys}
        assert NETWORKS[name].options(arrays) == sizes[name]
    arrays = {"body.0.weight": np.zeros((8, 3, 3, 3), np.float32), "body.2.weight": np.zeros((12, 8, 3, 3), np.float32)}
    with pytest.raises(
        ValueError, match=r"does not fit:\n  conv\.0\.bias: missing\n  conv\.1\.bias: missing\n  slope\.0"
    ):
        networks.load("real_esrgan", weights=arrays)


@pytest.mark.slow
def test_the_sizes_of_the_published_adm_of_256_pixels_are_read():
    """The names are those of the network in its configuration: the sizes read from them equal its own."""
    module = nnx.eval_shape(lambda: ADM(rngs=nnx.Rngs(0)))
    ups = [block.res.conv_in.kernel.shape[3] for block in module.up]
    arrays = {"input_blocks.0.0.weight": np.zeros((256, 3, 3, 3))}
    for i, (block, channels) in enumerate(zip(module.up, ups, strict=True)):
        arrays[f"output_blocks.{i}.0.in_layers.2.weight"] = np.broadcast_to(0.0, (channels, 1, 3, 3))
        if block.attention is not None:
            arrays[f"output_blocks.{i}.1.qkv.weight"] = np.zeros(1)
        if block.up is not None:
            arrays[f"output_blocks.{i}.{1 if block.attention is None else 2}.in_layers.0.weight"] = np.zeros(1)
    read = NETWORKS["adm"].options(arrays)
    assert read == {"width": 256, "growth": (1, 1, 2, 2, 4, 4), "depth": 2, "attended": (3, 4, 5)}


def test_slopes_of_mprnet_that_differ_are_refused():
    slope = "shallow_feat1.1.body.1.weight"
    weights = {slope: np.full(1, 0.25), "stage1_decoder.skip_attn1.body.1.weight": np.full(1, 0.5)}
    with pytest.raises(ValueError, match=r"skip_attn1\.body\.1\.weight is 0\.5, .* this network has one slope"):
        networks.load("mprnet", weights=weights)


def test_networks_refuse_sizes_that_cannot_be_halved():
    with pytest.raises(ValueError, match="images are 16x20; both sides must be multiples of 8"):
        nnx.eval_shape(lambda: MPRNet(**SMALL["mprnet"], rngs=nnx.Rngs(0))(jnp.zeros((1, 16, 20, 3))))
    with pytest.raises(ValueError, match="x is 5x4; both sides must be multiples of 2"):
        nnx.eval_shape(lambda: ADM(**SMALL["adm"], rngs=nnx.Rngs(0))(jnp.zeros((1, 5, 4, 3)), jnp.zeros(1)))
    with pytest.raises(ValueError, match="depth=2 is outside"):
        DnCNN(depth=2, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="option of dncnn='layers' is not allowed"):
        networks.load("dncnn", weights={}, layers=3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_disco_gives_the_same_values_and_gradients_in_chunks(monkeypatch, backend):
    """Compute ten rows at once, and in chunks of four, unrolled and in a compiled loop."""
    module = DISCO(**SMALL["disco"], rngs=nnx.Rngs(0))
    images = jax.random.uniform(jax.random.key(0), (2, 5, 7, 3))

    def run():
        return jax.jit(jax.value_and_grad(lambda x: (module(x, (10, 6)) ** 2).sum()))(images)

    whole = run()
    monkeypatch.setattr("jaxiqa.networks.disco.CHUNK", 4 * 12)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    in_chunks = run()
    np.testing.assert_allclose(in_chunks[0], whole[0], rtol=1e-6)
    np.testing.assert_allclose(in_chunks[1], whole[1], atol=1e-6 * np.abs(whole[1]).max())


@pytest.mark.slow
def test_a_fresh_real_esrgan_enlarges_odd_sizes():
    module = SRVGG(**SMALL["real_esrgan"], rngs=nnx.Rngs(0))
    assert module(jnp.zeros((2, 5, 3, 3))).shape == (2, 10, 6, 3)
