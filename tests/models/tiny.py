"""Small random metrics, filled by NumPy: nothing has to be compiled to make one."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxiqa.models import Linearity, convert
from jaxiqa.models.linearity import Calibration


def abstract(backbone: str = "resnet18", **options) -> Linearity:
    """Shapes only."""
    return nnx.eval_shape(lambda: Linearity(backbone, width=8, rngs=nnx.Rngs(0), **options))


def metric(backbone: str = "resnet18", *, seed: int = 0, **options) -> Linearity:
    """A Linearity metric with random weights, not calibrated."""
    model = filled(abstract(backbone, **options), seed=seed)
    model.calibration = Calibration(jnp.array([1.0, 0.0, jnp.nan, jnp.nan]))
    return model


def filled(model: nnx.Module, *, seed: int = 0, gain: float = 2.0) -> nnx.Module:
    """Any abstract model with kernels of He's scale (or another gain) and everything else near its usual start."""
    generator = np.random.default_rng(seed)

    def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = generator.standard_normal(shape)
        if name.endswith("kernel"):
            return noise * np.sqrt(gain / np.prod(shape[:-1]))
        return (1.0 if name.endswith(("scale", "var")) else 0.0) + 0.05 * noise

    arrays = {name: value(name, variable.shape) for name, variable in convert.parameters(model).items()}
    convert.fill(model, arrays, convert.IDENTITY, source="random numbers")
    return model
