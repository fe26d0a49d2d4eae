"""Config of what a training adds to plain training: attacked images, penalties, a teacher."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxiqa.config.data import Data
from jaxiqa.config.evaluation import Network


@dataclass(frozen=True)
class Adversarial:
    """Adversarial training: attacked images in every batch; see `jaxiqa.defenses.adversarial_batch`."""

    epsilon: float
    """Strength of the attack: for most attacks a radius in [0, 1] pixel units, of the resized images."""
    attack: str = "apgd"
    """`jaxiqa.attacks.ATTACKS` lists the names."""
    options: dict[str, Any] = field(default_factory=lambda: {"steps": 2, "random_start": False})
    """Fields of the attack's class, but not its strength."""
    label: Literal["ssim", "ms_ssim", "lpips", "unchanged", "minimum"] = "ssim"
    """Distance by which the label of an attacked image is lowered."""
    penalty: float = 1.0
    """Share of the labels' range by which a distance of 1 lowers a label."""
    distance: Network | None = None
    """Network for the label "lpips"; relative paths of its files as for `Data.source`."""
    target: Literal["loss", "score", "either"] = "loss"
    """Objective of the attack: raise the deviation of scores from labels ("loss"), or the score; "either": raise the
    scores of a random half of the images and lower the others."""
    clean: bool = True
    """Train on the clean images too; False: only on attacked ones, which costs less per step."""
    weakest: float = 1.0
    """In [0, 1]: every perturbation is multiplied by a random number from here to 1."""


@dataclass(frozen=True)
class NormPenalty:
    """Penalty on the gradient norm of the score; see `jaxiqa.defenses.norm_penalty`."""

    weight: float
    """Factor λ of the penalty in the loss."""
    step: float = 0.01
    """Step of the finite difference, in [0, 1] pixel units."""
    scale_free: bool = True
    """False, as in the paper: smaller scores reduce the penalty too."""


@dataclass(frozen=True)
class Jacobian:
    """Penalty on how far small changes of images move a stage's output; see `jaxiqa.defenses.jacobian_penalty`."""

    stage: str
    """Of the backbone; an early one, since changes grow from stage to stage."""
    weight: float
    """Factor of the penalty in the loss."""
    step: float = 0.01
    """Step of the finite difference, in [0, 1] pixel units."""


@dataclass(frozen=True)
class Spectral:
    """Penalty on the spectral norms σ of the layers of all trained stages: weight · mean of max(0, log(σ / limit))².

    Batch norms belong to the layer before them. "Spectral Norm Regularization for Improving the Generalizability of
    Deep Learning", arXiv:1705.10941, which penalises σ² of the bare kernels.
    """

    weight: float
    """Factor of the penalty in the loss."""
    limit: float = 1.0
    """Norm up to which a layer is free."""


@dataclass(frozen=True)
class Distil:
    """Also learn the scores of a teacher on images without labels, by the loss of the training.

    Every step uses as many of them as labelled images, cropped and flipped in the same way.
    """

    weight: float = 1.0
    """Factor of this loss beside that of the labels."""
    teacher: str | None = None
    """An earlier variant, or an average; None: the parent."""
    weights: str | None = None
    """Folder of a training run, a metric that comes with the package, such as ``"jaxiqa-base"``, or an address on the
    hub, ``"hf://owner/name"``. It is then the teacher: of any kind, with its own protocol. Its scores and the labels
    must have the same scale. Relative paths as for `Data.source`."""
    data: Data | None = None
    """The images; None: the training images of the experiment."""
    split: str = "train"
    """Split of `data`."""
    distorted: int = 0
    """Number of distorted parts of each image that are shown instead: `jaxiqa.data.distorted`. 0: the images."""
    target: Literal["teacher", "ssim", "ms_ssim"] = "teacher"
    """Of a distorted part: the teacher's score of it; or the teacher's score of the part before its distortion, lowered
    by the distance between the two as the label of an attacked image is: 1 − SSIM, or 1 − MS-SSIM."""
    attacked: bool = False
    """Attack these images too, as `Training.adversarial` says. The teacher scores them before that. A metric becomes
    robust on more images than have labels."""


@dataclass(frozen=True)
class SoftLabels:
    """Mix the scores of a teacher into the labels: `jaxiqa.train.additions.soften`.

    The teacher scores the labelled images, or their crops, before any attack.
    """

    share: float
    """In (0, 1], of the teacher: each label becomes (1 − share) · label + share · score."""
    teacher: str | None = None
    """As in `Distil`."""
    weights: str | None = None
    """As in `Distil`."""
