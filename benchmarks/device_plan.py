"""What the steps of a device day measure (benchmarks/device_steps.py), at full size and tiny."""

from dataclasses import dataclass, field

import attack_rows
import layers
from metric_training import Shape

from jaxiqa.models import POSITIONS

PRECISIONS = {"default": None, "TF32": "tensorfloat32", "bfloat16": "bfloat16", "float32": "float32"}
"""Name -> what `jax.default_matmul_precision` sets for products that do not ask for a precision."""

TRAINED = {
    Shape("resnet18", 64, "after:layer3", 50, (256, 256)): (8, 32, 128, 512),
    Shape("resnet101", 64, *POSITIONS[6], (498, 664)): (8, 32),
}


@dataclass(frozen=True)
class Plan:
    """What the steps measure."""

    tiny: bool = False
    precisions: dict[str, str | None] = field(default_factory=lambda: PRECISIONS)
    metric: str = "resnet50"
    size: tuple[int, int] = (192, 256)
    """Backbone and size of images for parity."""
    kinds: tuple[str, ...] = tuple(layers.OURS)
    """Layers of `layers.OURS`."""
    map: tuple[int, int, int] = (64, 32, 42)
    """Channels, height and width for orthogonality."""
    maps: tuple[tuple[int, int, int], ...] = ((64, 32, 32), (64, 64, 64), (128, 32, 32), (64, 125, 166), (200, 32, 42))
    """The same for the speed of layers."""
    attacked: dict[str, tuple[int, int, int]] = field(default_factory=lambda: attack_rows.MODELS)
    attacks: tuple[str, ...] = ("pgd", "pgd_sweep", "fgsm_sweep", "uap", "batch_1", "square")
    trained: dict[Shape, tuple[int, ...]] = field(default_factory=lambda: TRAINED)
    """Metrics that are trained, and their batch sizes for one device."""
    training_precisions: tuple[str, ...] = ("float32", "bfloat16")


TINY = Plan(
    tiny=True,
    precisions={"default": None, "bfloat16": "bfloat16"},
    metric="alexnet",
    size=(70, 70),
    kinds=("expm",),
    map=(8, 6, 7),
    maps=((8, 6, 7),),
    attacked={"alexnet": (2, 70, 70)},
    attacks=("pgd",),
    trained={Shape("alexnet", 8, "after:relu5", 8, (70, 70)): (4,)},
    training_precisions=("float32",),
)
