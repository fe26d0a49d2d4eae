"""Deterministic weights and recorded outputs of the original PyTorch classes (see the README beside the data)."""

import json
import zlib
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxiqa.pretrained import key_map


def read(shared: Path, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    folder = shared / "parity" / "public"
    return json.loads((folder / f"{name}.json").read_text()), dict(np.load(folder / f"{name}.npz"))


def weights(record: dict) -> dict[str, np.ndarray]:
    """Return the state dict: each tensor is generated from its own name."""
    rules = {
        "conv": lambda g: g * np.sqrt(record["gain"] / np.prod(g.shape[1:])),
        "linear": lambda g: g * np.sqrt(record["gain"] / np.prod(g.shape[1:])),
        "bias": lambda g: 0.1 * g,
        "norm_scale": lambda g: 1 + 0.1 * g,
        "bn_mean": lambda g: 0.1 * g,
        "bn_var": lambda g: np.exp(0.2 * g),
        "embed": lambda g: 0.02 * g,
        "prelu": lambda g: 0.25 + 0.05 * g,
    }
    arrays = {}
    for key, shape, rule in record["keys"]:
        if rule == "constant":
            arrays[key] = np.zeros(shape, np.int64)  # num_batches_tracked
        else:
            seed = zlib.crc32(f"{record['SEED']}:{key}".encode())
            arrays[key] = rules[rule](np.random.RandomState(seed).standard_normal(shape)).astype(np.float32)
    return arrays


def check(shared: Path, name: str, published, names: list[str], *, layout=None, prepare=None) -> None:
    """Compare score, taps and input gradient of ``model.network`` with the record, within its tolerances.

    Args:
        shared, name: the record.
        published: the entry of `jaxiqa.models.MODELS`, or the same with options bound.
        names: the names of the taps in our `features`, in the record's order.
        layout: position of a tap -> function from our layout to the original one, if it is not NHWC -> NCHW.
        prepare: maps the recorded image ``b h w c`` in [0, 1] to the input of `network`; the identity by default.
    """
    record, expected = read(shared, name)
    model = filled(published, record)
    graphdef, state = nnx.split(model)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(images, state):
        model = nnx.merge(graphdef, state)
        pixels = images if prepare is None else prepare(images)
        score = model.network(pixels)
        return score.sum(), (score, model.features(pixels, names))

    images = jnp.asarray(expected["image_uint8"], jnp.float32) / 255
    (_, (score, features)), gradient = run(images, state)
    taps = [features[name] for name in names]
    for i, tap in enumerate(taps):
        if layout and i in layout:
            taps[i] = layout[i](tap)
        elif tap.ndim == 4:
            taps[i] = tap.transpose(0, 3, 1, 2)
    compare(record, expected, score, taps, gradient)


def filled(published, record: dict):
    """Return the metric with the record's weights."""
    model = nnx.eval_shape(lambda: published.build(rngs=nnx.Rngs(0)))
    key_map.fill(model, weights(record), published.rules, source=record["model"])
    model.reset_calibration()
    return model


def compare(record: dict, expected: dict, score, taps, gradient, *, output: str = "score") -> None:
    """Assert that a score (``b``), taps (original layout) and the input gradient (``b h w c``) agree."""
    tolerance = record["suggested_tolerance"]
    reference = expected[f"out_{output}_f64"]
    worst = {"score": np.max(np.abs(score - reference) / np.abs(reference))}
    for i, (tap, entry) in enumerate(zip(taps, record["taps"]["list"], strict=True)):
        assert np.size(tap) == np.prod(entry["shape"]), (entry, tap.shape)
        difference = np.asarray(tap).reshape(-1)[expected[f"tap{i}_index"]] - expected[f"tap{i}_values_f64"]
        worst[f"tap {entry['name']}"] = np.abs(difference).max() / entry["absmax"]
    gradient = np.asarray(gradient, np.float64)
    norms = np.sqrt(np.square(gradient).sum((1, 2, 3)))
    worst["gradient norm"] = np.max(np.abs(norms / expected["grad_l2_f64"] - 1))
    b, h, w, c = gradient.shape
    whole = gradient[:, : h // 16 * 16, : w // 16 * 16]
    blocks = whole.reshape(b, h // 16, 16, w // 16, 16, c).sum((2, 4))
    theirs = expected["grad_block16_f64"][:, : h // 16, : w // 16]
    worst["gradient blocks"] = np.linalg.norm(blocks - theirs) / np.linalg.norm(theirs)
    values = gradient.reshape(-1)[expected["grad_index"]] - expected["grad_values_f64"]
    close = np.abs(values) <= tolerance["grad_values"]["abs_tol_over_linf"] * expected["grad_linf_f64"].max()
    print(worst, f"gradient values close: {close.sum()} of 64")
    assert worst.pop("score") <= tolerance["score_rel"]
    assert worst.pop("gradient norm") <= tolerance["grad_l2_norm_rel"]
    assert worst.pop("gradient blocks") <= tolerance["grad_block16_rel_l2"]
    assert max(worst.values()) <= tolerance["taps_max_abs_over_absmax"]
    assert close.sum() >= tolerance["grad_values"]["at_least_of_64_within"]
