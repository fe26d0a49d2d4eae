"""What `evaluate.py` runs on every trained model: attacks, defenses, certified defenses."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxiqa.config.data import Data


@dataclass(frozen=True)
class Network:
    """A network that an attack or a defense works with; `jaxiqa.networks.NETWORKS` lists the names."""

    name: str
    weights: str | None = None
    """A file; None is a fresh network, for attacks that train it."""
    backbone_weights: str | None = None
    """A second file, for perceptual distances."""


@dataclass(frozen=True)
class Align:
    """Weak, medium and strong by how much pictures change, rather than by the attack's own number.

    `jaxiqa.attacks.align` looks for the strengths on the first few images, once per model, and keeps them.
    """

    measure: Literal["budget", "linf", "ssim", "psnr"]
    """What is equal for all attacks; targets are those of `jaxiqa.attacks.wrappers.align.LEVELS`. "budget" looks for
    nothing: ε is 2, 4 and 8 / 255, whether or not the attack makes full use of it."""
    ladder: tuple[int | float, ...] | None = None
    """Strengths to begin with; two that enclose all targets are enough. None tries ten about the attack's own."""
    images: int = 4
    tolerance: float = 0.1
    """Accepted relative error of the change."""


@dataclass(frozen=True)
class Attack:
    """One attack over a range of strengths; `jaxiqa.attacks.ATTACKS` lists the names."""

    name: str
    epsilons: tuple[float, ...] | None = None
    """Strengths: budgets in [0, 1] pixel units, or values of the field that is the attack's strength (such as a step
    size); None for the attack as its options make it."""
    options: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    """Options that are networks: zhang's distance, cadv's colorize, facpa's network."""
    fit_on: Data | None = None
    """For an attack that is fitted on other images: where they come from (the split named by `fit_split`)."""
    fit_split: str = "train"
    aligned: Align | None = None
    """Instead of epsilons: the strengths weak, medium and strong."""


@dataclass(frozen=True)
class Defense:
    """A purifier before the metric."""

    name: str
    """A key of `jaxiqa.defenses.purify.PURIFIERS`, or FILE.py:CLASS."""
    options: dict[str, Any] = field(default_factory=dict)
    preset: int | None = None
    """Which of its published strengths (`jaxiqa.defenses.purify.PRESETS`), 0 being the weakest; options come on top."""
    networks: dict[str, Network] = field(default_factory=dict)
    """Options that are networks: a denoiser, a diffusion model."""


@dataclass(frozen=True)
class Certifier:
    """A certified defense; `jaxiqa.defenses.smoothing.CERTIFIERS` lists the names."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    attacks: tuple[str, ...] = ()
    """Labels of the attacks whose stored images are certified too, at the middle one of their strengths."""
    images: int | None = 10
    """So many of the attacked images; None is all of them."""


@dataclass(frozen=True)
class Adaptive:
    """Which attacks are repeated against every defended metric, knowing the defense."""

    attacks: tuple[str, ...] = ()
    """Their labels. Attacks that are fitted on other images cannot be among them."""
    strengths: Literal["all", "middle", "strongest"] = "middle"
    draws: int = 4
    """Random defenses: so many draws are averaged over in every step."""


@dataclass(frozen=True)
class Subset:
    """Pictures of all kinds, by `jaxiqa.data.select_subset`."""

    count: int
    clusters: int = 10
    seed: int = 0


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate.py` runs on every trained variant."""

    data: Data
    """The images under attack."""
    attacks: dict[str, Attack]
    """Label in the tables -> attack."""
    split: str = "test"
    """The split of `Experiment.data` that correlations with human scores are reported on."""
    attacked_split: str = "test"
    """The split of `data` that is attacked."""
    subset: Subset | None = None
    """Take a varied few of them, rather than all."""
    size: tuple[int, int] | None = None
    """(height, width) that images are resized to before they are attacked; None keeps their own."""
    batch_size: int | None = 8
    """Images attacked at once; None is as many as fit into memory, up to 64."""
    masking: int = 4
    """So many of the images are used to check for masked gradients; 0 leaves it out."""
    save_images: bool = False
    """Whether every attacked image is stored as an 8-bit PNG, under WORKDIR/images; defenses always need them."""
    examples: int = 2
    """So many attacked images are kept, at the largest strength, for the example sheet."""
    score_range: Literal["mos", "baseline", "model"] = "mos"
    """What gains are divided by: the labels' range, the first variant's clean scores, or each model's own range."""
    defenses: dict[str, Defense] = field(default_factory=dict)
    """Label in the tables -> purifier."""
    adaptive: Adaptive = Adaptive()
    certifiers: dict[str, Certifier] = field(default_factory=dict)
    """Label in the tables -> certified defense."""
    psnr_cap: float = 60.0
    """dB: what the PSNR of a defended image counts at most; inf, as in the benchmark, makes equal images count inf."""


def check_weights(place: str, network: Network) -> None:
    """Raise ``ValueError`` where a network that nothing trains would have random weights.

    >>> check_weights("evaluation.defenses.x.networks.network", Network("dncnn"))
    Traceback (most recent call last):
    ValueError: evaluation.defenses.x.networks.network has no weights: dncnn would be a random network; name its file...
    """
    if not network.weights:
        raise ValueError(
            f"{place} has no weights: {network.name} would be a random network; name its file in `weights` "
            "(only an attack with `fit_on` trains its network and may start from a fresh one)"
        )


def check_evaluation(evaluation: Evaluation) -> None:
    """Raise ``ValueError`` where labels refer to nothing or choices exclude one another."""
    for kind in ("attacks", "defenses", "certifiers"):
        for label, part in getattr(evaluation, kind).items():
            for option, network in part.networks.items():
                if not getattr(part, "fit_on", None):
                    check_weights(f"evaluation.{kind}.{label}.networks.{option}", network)
    for label, attack in evaluation.attacks.items():
        if attack.aligned and attack.epsilons:
            raise ValueError(f"evaluation.attacks.{label} has both epsilons and aligned; choose one")
        if attack.aligned and attack.fit_on and attack.aligned.measure != "budget":
            raise ValueError(f"evaluation.attacks.{label} is fitted on other images; align it by its budget")
        for other in evaluation.attacks:
            if label in (f"AUC {other}", f"mean {other}") or label.startswith(f"{other} @ "):
                raise ValueError(f"evaluation.attacks: {label!r} is what tables call a column of {other!r}; rename one")
    users = {"adaptive": evaluation.adaptive.attacks}
    users |= {f"certifiers.{label}": certifier.attacks for label, certifier in evaluation.certifiers.items()}
    for user, labels in users.items():
        for label in labels:
            if label not in evaluation.attacks:
                known = ", ".join(map(repr, evaluation.attacks))
                raise ValueError(f"evaluation.{user}.attacks names {label!r}; there are {known or 'none'}")
    for label in evaluation.adaptive.attacks:
        if evaluation.attacks[label].fit_on:
            raise ValueError(f"evaluation.adaptive.attacks names {label!r}, which is fitted on other images")
    if evaluation.adaptive.draws < 1:
        raise ValueError(f"evaluation.adaptive.draws={evaluation.adaptive.draws}; at least 1")
    if "none" in evaluation.defenses:
        raise ValueError("evaluation.defenses has the label 'none', which stands for the metric without a defense")
