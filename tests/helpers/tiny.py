"""Small random metrics, filled by NumPy without compilation."""

import numpy as np
from flax import nnx

from jaxiqa.models import Linearity
from jaxiqa.models.metric import Metric
from jaxiqa.pretrained import key_map


def abstract(backbone: str = "resnet18", **options) -> Linearity:
    """Return a metric of abstract arrays."""
    return nnx.eval_shape(lambda: Linearity(backbone, width=8, rngs=nnx.Rngs(0), **options))


def metric(backbone: str = "resnet18", *, seed: int = 0, **options) -> Linearity:
    """Return a Linearity metric with random weights, not calibrated."""
    return filled(abstract(backbone, **options), seed=seed)


def filled(model: nnx.Module, *, seed: int = 0, gain: float = 2.0) -> nnx.Module:
    """Fill an abstract model: kernels of He's scale (or another gain), all else near its usual initial value."""
    generator = np.random.default_rng(seed)

    def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
        noise = generator.standard_normal(shape)
        if name.endswith("kernel"):
            return noise * np.sqrt(gain / np.prod(shape[:-1]))
        return (1.0 if name.endswith(("scale", "var")) else 0.0) + 0.05 * noise

    arrays = {name: value(name, variable.shape) for name, variable in key_map.parameters(model).items()}
    key_map.fill(model, arrays, key_map.IDENTITY, source="random numbers")
    if isinstance(model, Metric):
        model.reset_calibration()
    return model


def checkpoint(model: Linearity) -> dict[str, np.ndarray]:
    """Return the parameters of a ResNet metric under the names and layouts of the published checkpoints."""
    features = {"conv1.conv": "0", "conv1.bn": "1"} | {f"layer{i}": str(i + 3) for i in range(1, 5)}
    parts = {"kernel": "weight", "scale": "weight", "mean": "running_mean", "var": "running_var", "bias": "bias"}
    arrays = {}
    for ours, variable in key_map.parameters(model).items():
        name, _, part = ours.rpartition(".")
        if name.startswith("backbone.stage."):
            name = name.removeprefix("backbone.stage.").replace("shortcut.conv", "downsample.0")
            name = name.replace("shortcut.bn", "downsample.1")
            stage = next(stage for stage in features if name.startswith(stage))
            name = f"features.{features[stage]}{name.removeprefix(stage)}"
        elif name.startswith("dr"):
            block, kind, index = name.split(".")
            name = f"{block}.{2 * int(index) + (kind == 'norm')}"
        values = np.asarray(variable[...])
        arrays[f"{name}.{parts[part]}"] = values.transpose(3, 2, 0, 1) if values.ndim == 4 else values.T
        if part == "var":
            arrays[f"{name}.num_batches_tracked"] = np.array(5)
    return arrays
