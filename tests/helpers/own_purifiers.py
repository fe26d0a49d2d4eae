"""A user's file of purifiers, correct and wrong ones, and a metric that distinguishes them."""

import jax.numpy as jnp

from jaxiqa.evaluation.evaluated_model import EvaluatedModel

MINE = '''
from dataclasses import dataclass

import jax
import jax.numpy as jnp

@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Shift:
    """Every colour channel moved by a random amount."""
    amount: float = 0.1

    def __call__(self, images, key):
        return jnp.clip(images + self.amount * jax.random.normal(key, (3,)), 0, 1)

class Mirror:
    random = False
    def __call__(self, images, key):
        return images[:, :, ::-1]

def taller(images, key):
    return images[:, ::2]

class Wrong:
    random = False
    def __init__(self, kind="range"):
        self.kind = kind
    def __call__(self, images, key):
        if self.kind == "range":
            return 255 * images
        return {"nan": images * jnp.nan, "channels": images[..., :1], "one": images[0]}[self.kind]

class Unhashable:
    __hash__ = None
    def __call__(self, images, key):
        return images

number = 3
'''


def score(images):
    """Score how much brighter the left half is than the right; a mirror negates it."""
    return 100 * jnp.tanh(images[:, 3:15, :9].mean((1, 2, 3)) - images[:, 3:15, 9:].mean((1, 2, 3)))


def evaluated(root):
    made = EvaluatedModel("m", 0, root=root, folder=root / "m", size=(20, 28), batch=2)
    made.__dict__["score_fn"] = score  # replaces a trained model
    return made
