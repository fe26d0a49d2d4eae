"""Config of the variants of an experiment and their training: frozen dataclasses, no JAX."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxiqa.config.additions import Adversarial, Distil, Jacobian, NormPenalty, SoftLabels, Spectral


@dataclass(frozen=True)
class Model:
    """A metric: a head over a backbone."""

    backbone: str | None = None
    """Network under the head of linearity, koncept512, tres or hyperiqa; None: the metric's own, at published size."""
    width: int | None = None
    """Channels of the backbone's first stage (64 for a ResNet in the paper); None: the published width."""
    weights: str | None = None
    """Trained weights of the metric (a file, one of its known names, the folder of a run, the name of a metric that
    comes with the package, or an address on the hub, ``"hf://owner/name"``), or ImageNet weights of its backbone (a
    file, or a known name such as ``"imagenet"`` of ``efficientnet_lite0``). Relative paths as for `Data.source`. None:
    random weights."""
    input_size: tuple[int, int] | None = None
    """(height, width) to which images are resized before the metric's own protocol; None: no resize."""
    taps: tuple[str, str] | None = None
    """The two stages whose outputs linearity's head reads; None: the default of the backbone."""
    metric: str = "linearity"
    """`jaxiqa.models.MODELS` lists the names."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further keyword arguments of the metric's class, such as ``{"protocol": "pyiqa"}``."""


@dataclass(frozen=True)
class Block:
    """A block to insert into the backbone."""

    where: str
    """Place: 'before:STAGE' or 'after:STAGE'; or 'position:1' to 'position:6', the places and inner channels of
    "Robustness as Architecture", arXiv:2506.04951, in a ResNet."""
    kind: Literal["robust_block", "bottleneck", "square_pool", "low_pass", "shrinkage", "wavelet_shrinkage"] = (
        "robust_block"
    )
    """A key of `jaxiqa.models.hardening.BLOCKS`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the block; for a robust_block: mid, pool, reduce, unitary, padding, shrink, low_pass. A
    position has a mid of its own. A low_pass needs share, a shrinkage or wavelet_shrinkage threshold."""
    trainable: bool = True
    """False: the block keeps its random initial values, as in the authors' Linearity code."""


@dataclass(frozen=True)
class Prune:
    """Pruning: set a share of the weights to zero and keep it zero during fine-tuning."""

    amount: float = 0.1
    """Share of every layer's filters ("l2", "hsic"), of all filters ("pls", "displs"), or of all weights ("l1")."""
    criterion: Literal["l2", "l1", "pls", "displs", "hsic"] = "l2"
    """How the importance of a filter or weight is measured: see `jaxiqa.train.pruning`."""
    images: int = 100
    """Training images for "pls", "displs" and "hsic"."""
    steps: int = 1
    """Number of steps in which the amount is reached: an equal share at the start of the training, and after equal
    numbers of epochs. Only epochs after the last step can be the best one."""


Rate = float | tuple[tuple[int, float], ...]
"""A number, or pairs (epoch, number): the number from the start of that epoch on. The first epoch is 0."""


@dataclass(frozen=True)
class Training:
    """One training or fine-tuning run.

    A field that is None has the value of the authors of the metric: `jaxiqa.models.recipe.Recipe`.
    """

    epochs: int | None = None
    """Passes over the training images."""
    batch_size: int | None = None
    """Images per step, over all devices together."""
    loss: Literal["norm_in_norm", "mse", "ranked_mse", "mae", "plcc"] | None = None
    """What compares scores and labels: a key of `jaxiqa.train.losses.LOSSES`. A variant that goes on from a trained one
    by a loss with a unit, such as "mse", starts with its scores in the unit of the labels."""
    labels: Literal["standardised", "unit", "percent"] | None = None
    """Unit of the labels in the loss: mean 0 and deviation 1; or the lowest at 0 and the highest at 1 or at 100."""
    select: Literal["srocc", "plcc", "sum", "last"] | None = None
    """The correlation on the validation images that decides the best epoch; "sum": of both. "last" keeps the last
    epoch: clean images do not tell which epoch of an adversarial training is robust."""
    learning_rate: Rate | None = None
    """Of the head and of inserted blocks."""
    backbone_factor: Rate | None = None
    """Learning rate of the backbone, as a share of the head's."""
    schedule: Literal["steps", "cosine"] | None = None
    """"steps" multiplies the rates by `decay_factor` after each `decay_every` epochs. "cosine" lowers them to 0 in
    `decay_every` epochs, and then raises them again in as many."""
    decay_every: int | None = None
    """Epochs. Without a number here and in the recipe: no steps; a cosine over all epochs."""
    decay_factor: float | None = None
    """Factor of the rates at each step of the schedule "steps"."""
    warmup: float = 0.0
    """Epochs in which the rates rise from 0, in addition to `schedule`."""
    weight_decay: float | None = None
    """Share of each weight that is added to its gradient, as in PyTorch's Adam."""
    freeze: str | None = None
    """Last stage that is not trained. Its activations are computed once and kept in memory; with `adversarial`, crops,
    or a penalty (`norm_penalty`, `jacobian`, `spectral`, `distil`), they are computed at every step."""
    batch_norm: Literal["train", "frozen"] = "train"
    """Batch norm of the backbone: "train" uses batch statistics, "frozen" the running statistics."""
    flip: bool | Literal["both"] | None = None
    """Mirror half of the images; "both": also turn half of them upside down."""
    crops: int | None = None
    """Random crops of each image per epoch, each an example. 0: whole images, by the metric's own protocol."""
    crop: tuple[int, int] | None = None
    """(height, width) of a crop."""
    patches: int | None = None
    """Number of such crops that make one example, one below the other."""
    resize: tuple[int, int] | None = None
    """(height, width) to which images are resized before they are cropped; None in the recipe too: no resize."""
    average: float = 0.0
    """Decay of a moving average of the weights, such as 0.999. It is validated and kept instead of the weights."""
    accumulate: int = 1
    """Parts of a batch that are processed one after another, to save memory. Batch norms see one part."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the products in the backbone: `jaxiqa.nn.precision.set_compute_dtype`. Weights stay float32; validation
    and attacks compute in float32."""
    remat: bool = False
    """Compute each stage of the backbone again for the gradient instead of keeping what is inside: saves memory."""
    adversarial: Adversarial | None = None
    """Train on attacked images too."""
    norm_penalty: NormPenalty | None = None
    """Penalise the gradient norm."""
    jacobian: Jacobian | None = None
    """Penalise the slope of a stage."""
    spectral: Spectral | None = None
    """Penalise the spectral norms of layers."""
    distil: Distil | None = None
    """Also learn from a teacher, on images without labels."""
    soft_labels: SoftLabels | None = None
    """Mix the scores of a teacher into the labels."""
    attacked_mode: Literal["eval", "train"] = "eval"
    """Mode of batch norm for attacks and for all penalties; the benchmark's code uses "train"."""

    @property
    def taught(self) -> Distil | SoftLabels | None:
        """What it wants of a teacher; if these are two things, the teacher is the same."""
        return self.distil or self.soft_labels


@dataclass(frozen=True)
class Tail:
    """A norm-controlled tail instead of what follows a stage: see `jaxiqa.models.control_tail`.

    Only for metrics over one of `jaxiqa.models.BACKBONES`.
    """

    after: str
    """Last stage that is kept. Blocks inserted *after* it are kept too."""
    channels: int = 64
    """Of the tail's layers; even."""
    depth: int = 2
    """Number of orthogonal convolutions."""


Activation = Literal["relu", "relu6", "silu", "gelu", "elu", "softplus", "smooth_relu6"]
"""The keys of `jaxiqa.nn.activations.ACTIVATIONS`."""

Pooling = Literal["mean", "median", "trimmed", "power"]
"""The keys of `jaxiqa.nn.global_pooling.POOLINGS`."""


@dataclass(frozen=True)
class Variant:
    """One model of the experiment: its parent, its changes and its training."""

    training: Training
    """Its training or fine-tuning."""
    parent: str | None = None
    """Variant whose trained weights are the start; None: the weights of the backbone."""
    block: Block | tuple[Block, ...] | None = None
    """One or several blocks, inserted in this order; a place may name a block that was inserted before."""
    activation: Literal[Activation, "smooth"] | None = None
    """Replaces every ReLU and ReLU6 of the backbone before training; "smooth": by its smooth form; None: as in the
    parent."""
    head_activation: Literal[Activation, "smooth"] | None = None
    """The same for the rest of the metric."""
    filter: float | None = None
    """Removes details of images up to this threshold, in [0, 1] pixel units, such as 4/255, before the first stage:
    see `jaxiqa.models.filter_images`; None: as in the parent."""
    blur: Literal[3, 5] | None = None
    """Taps of a blur before every strided convolution and pooling of the backbone; None: as in the parent."""
    pooling: Pooling | None = None
    """Replaces the average over whole maps in the head of linearity, koncept512, tres or hyperiqa; None: as in the
    parent."""
    prune: Prune | None = None
    """Weights that are set to zero before and during training; None: none."""
    tail: Tail | None = None
    """Replaces everything behind a stage, before blocks are inserted; None: as in the parent."""


@dataclass(frozen=True)
class Saved:
    """A trained metric that is evaluated as it is, beside those that are trained: one variant of an experiment."""

    weights: str
    """Folder of a training run, a metric that comes with the package, such as ``"jaxiqa-base"``, or an address on the
    hub, ``"hf://owner/name"``. Relative paths as for `Data.source`. It is copied once: later changes need another
    workdir."""


@dataclass(frozen=True)
class Average:
    """The mean of the scores of several trained variants, of the same seed: see `jaxiqa.models.average`.

    It is not trained: only its map to the scale of the labels is fitted on the training images. Members that begin with
    the same stages and weights share them.
    """

    members: tuple[str, ...]
    """Earlier variants, trained or `Saved`."""
    mirror: bool = False
    """Also average over each image and its mirror image."""
