"""How the variants of an experiment are made and trained: frozen dataclasses, no JAX."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxiqa.config.evaluation import Network


@dataclass(frozen=True)
class Model:
    """A metric over a backbone."""

    backbone: str
    width: int | None = None
    """Channels of a ResNet's first stage (64 in the paper); None is the published width."""
    weights: str | None = None
    """ImageNet weights of the backbone; relative paths as for `Data.source`. None starts from scratch."""
    input_size: tuple[int, int] | None = None
    """(height, width) that the metric resizes to; None scores images at their own size."""
    taps: tuple[str, str] | None = None
    """The two stages that the head reads; None is the backbone's default."""


@dataclass(frozen=True)
class Block:
    """What to insert, and where: 'before:STAGE' or 'after:STAGE'."""

    where: str
    kind: Literal["robust_block", "bottleneck", "square_pool"] = "robust_block"
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the block: mid, pool, reduce, unitary, padding, shrink, low_pass of a robust_block."""
    trainable: bool = True
    """False keeps the block at its random initial values, as the authors' Linearity code does."""


@dataclass(frozen=True)
class Prune:
    """Share of each convolution's filters (or of all weights) set to zero and held there while fine-tuning."""

    amount: float = 0.1
    criterion: Literal["l2", "l1"] = "l2"


@dataclass(frozen=True)
class Adversarial:
    """Attacked copies beside the pictures of every batch; `jaxiqa.defenses.adversarial_batch` explains."""

    epsilon: float
    """Strength of the attack: for most a radius in [0, 1] pixel units, of pictures as the metric resizes them."""
    attack: str = "apgd"
    """`jaxiqa.attacks.ATTACKS` lists the names."""
    options: dict[str, Any] = field(default_factory=lambda: {"steps": 2, "random_start": False})
    label: Literal["ssim", "ms_ssim", "lpips", "unchanged", "minimum"] = "ssim"
    """What lowers the label of an attacked picture."""
    penalty: float = 1.0
    """Share of the labels' range that a distance of 1 costs."""
    distance: Network | None = None
    """The network that the label "lpips" needs; relative paths of its files as for `Data.source`."""
    target: Literal["loss", "score"] = "loss"
    """What the attack raises: how far scores are from labels, or the score."""


@dataclass(frozen=True)
class NormPenalty:
    """What a steep score adds to the loss; `jaxiqa.defenses.norm_penalty` explains."""

    weight: float
    step: float = 0.01
    """Of the finite difference, in [0, 1] pixel units."""
    scale_free: bool = True
    """False lets the metric escape the penalty by smaller scores, as in the paper."""


@dataclass(frozen=True)
class Training:
    """One training or fine-tuning run."""

    epochs: int
    batch_size: int = 32
    loss: Literal["norm_in_norm", "mse", "plcc"] = "norm_in_norm"
    learning_rate: float = 1e-3
    backbone_factor: float = 0.1
    """The backbone's learning rate, as a share of the head's; an inserted block learns at the head's rate."""
    decay_every: int = 10
    decay_factor: float = 0.1
    freeze: str | None = None
    """Last stage that is not trained. Its activations are computed once and kept in memory, unless `adversarial` or
    `norm_penalty` need the pictures: then they are computed, and differentiated, at every step."""
    batch_norm: Literal["train", "frozen"] = "train"
    """Whether the backbone's batch norm follows the batch or keeps its running statistics."""
    flip: bool = True
    adversarial: Adversarial | None = None
    """Train on attacked pictures too."""
    norm_penalty: NormPenalty | None = None
    """Penalise steep scores."""
    attacked_mode: Literal["eval", "train"] = "eval"
    """Batch norm of the metric while it is attacked or its slope is measured; the benchmark's code uses "train"."""


@dataclass(frozen=True)
class Variant:
    """One model of the experiment: a parent, what is changed about it, and how it is trained."""

    training: Training
    parent: str | None = None
    """The variant whose trained weights this one starts from; None is the backbone's weights."""
    block: Block | tuple[Block, ...] | None = None
    """One block, or several, which are inserted in this order: a place may name a block that was inserted before."""
    prune: Prune | None = None
