"""Deterministic weights and recorded outputs of the original PyTorch classes (see the README beside the data)."""

import json
import zlib
from pathlib import Path

import numpy as np


def read(shared: Path, name: str) -> tuple[dict, dict[str, np.ndarray]]:
    folder = shared / "parity" / "public"
    return json.loads((folder / f"{name}.json").read_text()), dict(np.load(folder / f"{name}.npz"))


def weights(record: dict) -> dict[str, np.ndarray]:
    """The state dict: each tensor is made from its own name."""
    rules = {
        "conv": lambda g: g * np.sqrt(record["gain"] / np.prod(g.shape[1:])),
        "linear": lambda g: g * np.sqrt(record["gain"] / np.prod(g.shape[1:])),
        "bias": lambda g: 0.1 * g,
        "norm_scale": lambda g: 1 + 0.1 * g,
        "bn_mean": lambda g: 0.1 * g,
        "bn_var": lambda g: np.exp(0.2 * g),
    }
    arrays = {}
    for key, shape, rule in record["keys"]:
        if rule == "constant":
            arrays[key] = np.zeros(shape, np.int64)  # num_batches_tracked
        else:
            seed = zlib.crc32(f"{record['SEED']}:{key}".encode())
            arrays[key] = rules[rule](np.random.RandomState(seed).standard_normal(shape)).astype(np.float32)
    return arrays
