"""The published ImageNet classifier over a backbone, to check that its weights are converted correctly."""

import os
import re

from flax import nnx
from jaxtyping import Array, Float

from jaxiqa.core.checks import check_choice
from jaxiqa.core.images import OVERSHOOT, check_unit_images
from jaxiqa.nn.backbones import BACKBONES
from jaxiqa.nn.stages import normalise
from jaxiqa.pretrained import files, key_map


class Classifier(nnx.Module):
    """``logits = head(backbone(normalise(pixels)))`` with the published head of this backbone.

    Args:
        backbone: a name in `BACKBONES`.
        width: channels of its first stage; None: as published.
        classes: number of outputs; None: as published.
        rngs: random numbers for the weights.
    """

    def __init__(self, backbone: str, *, width: int | None = None, classes: int | None = None, rngs: nnx.Rngs):
        check_choice("backbone", backbone, BACKBONES)
        spec = BACKBONES[backbone]
        self.mean, self.std = spec.mean, spec.std
        self.backbone = spec.build(width=width or spec.width, rngs=rngs)
        self.head = spec.classifier(self.backbone.widths[-1], classes or spec.classes, rngs=rngs)

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b classes"]:
        """Return logits of RGB pixels in [0, 1]."""
        check_unit_images(pixels, name="pixels", slack=OVERSHOOT)
        features, _ = self.backbone.run(normalise(pixels, self.mean, self.std))
        return self.head(features)


def load(backbone: str, path: str | os.PathLike[str]) -> Classifier:
    """Return the classifier with the weights of the file ``path``, or of a name in ``BACKBONES[backbone].weights``.

    It has as many classes as the file: Keras' MobileNetV2 lacks the class "background" of the converted one. Errors are
    those of `jaxiqa.pretrained.files.read`, `jaxiqa.pretrained.packages.locate` and `jaxiqa.pretrained.key_map.fill`.
    """
    check_choice("backbone", backbone, BACKBONES)
    spec = BACKBONES[backbone]
    path = spec.file(path)
    rules = (*key_map.under("backbone", spec.rules), *spec.classifier_rules)
    arrays = key_map.without_prefix(spec.adapt(files.contents(path).arrays), rules)
    biases = [pattern for pattern, target, _ in spec.classifier_rules if target == "head.bias"]
    sizes = [
        array.shape[0] for name, array in arrays.items() if array.ndim == 1 and re.fullmatch("|".join(biases), name)
    ]
    classes = sizes[0] if sizes else None
    classifier = nnx.eval_shape(lambda: Classifier(backbone, classes=classes, rngs=nnx.Rngs(0)))
    key_map.fill(classifier, arrays, rules, source=str(path))
    return classifier
