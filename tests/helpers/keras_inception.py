"""A random file of Keras' Inception-ResNet-v2, and the parameters expected from it."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxiqa.nn.backbones import BACKBONES
from jaxiqa.nn.backbones.inception_keras import NAMED, ORDER

SPEC = BACKBONES["inception_resnet_v2"]


def write(
    parameters: Mapping[str, Any], generator: np.random.Generator, first: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return random arrays under Keras' names, numbered from ``first``, and under the names of ``parameters``."""

    def target(key: str) -> str:
        return next(m.expand(ours) for theirs, ours, _ in SPEC.rules if ours and (m := re.fullmatch(theirs, key)))

    arrays, expected = {}, {}

    def put(layer: str, part: str, key: str) -> None:
        values = np.abs(generator.standard_normal(parameters[target(key)].shape)).astype(np.float32)
        arrays[f"{layer}.{part}"] = expected[target(key)] = values

    pairs = [(f"conv2d_{n}", f"batch_normalization_{n}", place) for n, place in enumerate(ORDER, start=first)]
    for conv, norm, place in (*pairs, ("conv_7b", "conv_7b_bn", "conv2d_7b")):
        put(conv, "kernel", f"{place}.conv.weight")
        for part, theirs in (("beta", "bias"), ("moving_mean", "running_mean"), ("moving_variance", "running_var")):
            put(norm, part, f"{place}.bn.{theirs}")
    for layer, place in NAMED.items():
        put(layer, "kernel", f"{place}.weight")
        put(layer, "bias", f"{place}.bias")
    return arrays, expected
