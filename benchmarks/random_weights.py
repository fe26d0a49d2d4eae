"""Random weights for a network of abstract shapes. The values do not change the speed of a program."""

import numpy as np
from flax import nnx

from jaxiqa.models.metric import Metric
from jaxiqa.pretrained import key_map


def fill(model: nnx.Module, gain: float = 1.0) -> None:
    """Fill every parameter and statistic in place; kernels have standard deviation ``gain / sqrt(fan in)``."""
    generator = np.random.default_rng(0)

    def value(part: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = generator.standard_normal(shape, np.float32)
        if part.endswith("kernel"):
            return noise * gain / np.sqrt(np.prod(shape[:-1]))
        return (1.0 if part.endswith(("scale", "var")) else 0.0) + 0.05 * noise

    arrays = {part: value(part, variable.shape) for part, variable in key_map.parameters(model).items()}
    key_map.fill(model, arrays, key_map.IDENTITY, source="random numbers")
    if isinstance(model, Metric):
        model.reset_calibration()
