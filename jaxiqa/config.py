"""What an experiment is: frozen dataclasses, read by `train.py` and `evaluate.py`, filled by `configs/*.py`.

Nothing heavy is imported here, so that ``--help`` answers at once. Below the two scripts no function takes a
config: they pass its fields on as arguments.
"""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Data:
    """A labelled or unlabelled image set; `jaxiqa.data.DATASETS` lists the names."""

    name: str
    source: str | None = None
    """Folder of the images. A relative one is looked up under $JAXIQA_DATA (default: ./data)."""
    limit: int | None = None
    """Use only the first so many images of each split."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the data set's loader."""


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
    mid: int = 40
    pool: Literal["square"] | None = None
    reduce: Literal["conv", "orthogonal"] = "conv"
    unitary: Literal["expm", "cayley"] = "expm"
    padding: Literal["SAME", "VALID"] = "SAME"
    shrink: bool = False
    """Learned soft-thresholding of the spectrum, between the orthogonal convolution and its inverse transform."""
    band: float = 1.0
    """Share of the frequency range, per axis, that is kept; 1 keeps everything."""
    trainable: bool = True
    """False keeps the block at its random initial values, as the authors' Linearity code does."""


@dataclass(frozen=True)
class Prune:
    """Share of each convolution's filters (or of all weights) set to zero and held there while fine-tuning."""

    amount: float = 0.1
    criterion: Literal["l2", "l1"] = "l2"


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
    """Last stage that is not trained; its activations are computed once and kept in memory."""
    batch_norm: Literal["train", "frozen"] = "train"
    """Whether the backbone's batch norm follows the batch or keeps its running statistics."""
    flip: bool = True


@dataclass(frozen=True)
class Variant:
    """One model of the experiment: a parent, what is changed about it, and how it is trained."""

    training: Training
    parent: str | None = None
    """The variant whose trained weights this one starts from; None is the backbone's weights."""
    block: Block | None = None
    prune: Prune | None = None


@dataclass(frozen=True)
class Attack:
    """One attack over a range of strengths; `jaxiqa.attacks.ATTACKS` lists the names."""

    name: str
    epsilons: tuple[float, ...] | None = None
    """Budgets in [0, 1] pixel units; None for an attack without one."""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate.py` runs on every trained variant."""

    data: Data
    attacks: dict[str, Attack]
    """Label in the tables -> attack."""
    batch_size: int = 8
    score_range: Literal["mos", "baseline", "model"] = "mos"
    """What gains are divided by: the labels' range, the first variant's clean scores, or each model's own range."""


@dataclass(frozen=True)
class Experiment:
    """Everything `train.py` and `evaluate.py` need."""

    name: str
    data: Data
    model: Model
    variants: dict[str, Variant]
    """Name -> variant, parents first; the first is the baseline."""
    evaluation: Evaluation
    seeds: tuple[int, ...] = (0,)
    workdir: str = ""
    """Where everything is written; the default is runs/NAME."""
    parallel: Literal["pmap", "shard_map"] = "pmap"
