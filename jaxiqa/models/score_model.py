"""Turn a metric into a pure score function."""

from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

from jaxiqa.core.images import check_unit_images
from jaxiqa.core.pytrees import CallableModule, beside
from jaxiqa.core.types import Images, Scores
from jaxiqa.layers import materialize
from jaxiqa.models.metric import Metric
from jaxiqa.nn.fold import fold_batch_norm
from jaxiqa.nn.precision import set_compute_dtype


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False, repr=False)  # hashed by identity, so that `jax.jit(score)` works too
class ScoreModel(CallableModule):
    """A metric as a callable pytree: pass it to jitted functions as an argument.

    Models of the same structure share every compiled program; their weights are arguments. ``jax.jit(score)(images)``
    instead compiles a program of its own with the weights as constants.
    """

    def __call__(self, images: Images) -> Scores:
        check_unit_images(images)
        return nnx.merge(self.graphdef, beside(images, self.state))(images)

    def __repr__(self) -> str:
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.state))
        kind = type(self.module()).__name__
        return f"ScoreModel({kind}, {count:,} numbers)"


def score_fn(model: Metric, image_size: tuple[int, int] | None = None, *, compute_dtype: str = "float32") -> ScoreModel:
    """Return the current model as a pure function ``images b h w c -> scores b``, in evaluation mode.

    In float32, batch norms are folded into the layers before them (`jaxiqa.models.fold_batch_norm`). In bfloat16 they
    stay: measurements showed that folding moves scores further.

    Args:
        model: the metric; it is not changed, and later changes to it do not change the function.
        image_size: (height, width) of the images that will be scored. With it, or if the protocol fixes the size of
            the network's input (``model.input_size``), orthogonal maps are computed once
            (`jaxiqa.layers.materialize`). Otherwise they are computed in every call, which accepts any size.
        compute_dtype: ``"float32"``, or ``"bfloat16"`` for the backbone's convolutions and linear maps, which is
            faster on accelerators; `jaxiqa.nn.precision` says how far scores move and what stays float32.

    >>> import jax.numpy as jnp
    >>> from jaxiqa.models import build
    >>> score = score_fn(build("resnet18", width=8))
    >>> jax.jit(lambda f, x: f(x))(score, jnp.zeros((2, 40, 40, 3))).shape
    (2,)

    Outside ``jit``, a call raises an error unless the images are ``b h w 3`` in [0, 1] (`check_unit_images`);
    inside, where values are unknown, unless they have this type and layout.
    """
    size = model.input_size or image_size
    if compute_dtype == "float32":
        copy = fold_batch_norm(model, image_size or (384, 384))
    else:
        copy = nnx.clone(model)
        copy.eval()
        set_compute_dtype(copy, compute_dtype)
    copy = materialize(copy, size) if size else copy
    return ScoreModel(*nnx.split(copy))
