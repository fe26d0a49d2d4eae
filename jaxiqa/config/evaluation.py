"""Config of an evaluation: the attacks, defenses and certified defenses that `evaluate.py` runs on every model."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxiqa.config.data import Data


@dataclass(frozen=True)
class Network:
    """A network of an attack or a defense; `jaxiqa.networks.NETWORKS` lists the names."""

    name: str
    """A key of `jaxiqa.networks.NETWORKS`, such as dncnn."""
    weights: str | None = None
    """File of weights; None: random weights, for attacks that train the network."""
    backbone_weights: str | None = None
    """Second file of weights, for perceptual distances."""


@dataclass(frozen=True)
class Align:
    """Strengths weak, medium and strong, defined by how much images change instead of by the attack's own parameter.

    `jaxiqa.attacks.align` searches the strengths on the first images, once per model, and stores them.
    """

    measure: Literal["budget", "linf", "ssim", "psnr"]
    """Measure that is equal for all attacks; `jaxiqa.attacks.wrappers.align.LEVELS` has its targets. "budget" needs no
    search: ε is 2, 4 and 8 / 255, even if an attack does not use all of it."""
    ladder: tuple[int | float, ...] | None = None
    """Strengths to start with; two that enclose all targets are enough. None: ten around the attack's own strength."""
    images: int = 4
    """Number of images for the search."""
    tolerance: float = 0.1
    """Accepted relative error of the change."""


@dataclass(frozen=True)
class Attack:
    """One attack at several strengths; `jaxiqa.attacks.ATTACKS` lists the names."""

    name: str
    """A key of `jaxiqa.attacks.ATTACKS` or `jaxiqa.attacks.FITTED`, such as pgd or uap."""
    epsilons: tuple[float, ...] | None = None
    """Strengths: budgets in [0, 1] pixel units, or values of the attack's strength field (such as a step size); None:
    the options decide the strength."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the attack's class, such as ``{"steps": 8}``."""
    networks: dict[str, Network] = field(default_factory=dict)
    """Options that are networks: distance of zhang, colorize of cadv, network of facpa."""
    fit_on: Data | None = None
    """Images on which an attack is fitted, for attacks that need it."""
    fit_split: str = "train"
    """Split of `fit_on`."""
    aligned: Align | None = None
    """Strengths weak, medium and strong, instead of epsilons."""


@dataclass(frozen=True)
class Defense:
    """A purifier in front of the metric."""

    name: str
    """A key of `jaxiqa.defenses.purify.PURIFIERS`, or FILE.py:CLASS."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fields of the purifier's class, such as ``{"quality": 60}``."""
    preset: int | None = None
    """Number of a published strength (`jaxiqa.defenses.purify.PRESETS`), 0 is the weakest; options overwrite it."""
    networks: dict[str, Network] = field(default_factory=dict)
    """Options that are networks: a denoiser, a diffusion model."""


@dataclass(frozen=True)
class Certifier:
    """A certified defense; `jaxiqa.defenses.smoothing.CERTIFIERS` lists the names."""

    name: str
    """A key of `jaxiqa.defenses.smoothing.CERTIFIERS`, such as rs."""
    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the certifier, such as ``{"sigma": 0.12, "n": 2000}``."""
    networks: dict[str, Network] = field(default_factory=dict)
    """Arguments that are networks: a denoiser, a diffusion model."""
    attacks: tuple[str, ...] = ()
    """Labels of attacks whose stored images are certified too, at the middle one of their strengths."""
    images: int | None = 10
    """Number of images to certify; None: all."""


@dataclass(frozen=True)
class Adaptive:
    """Adaptive attacks: they know the defense and are run on every defended metric."""

    attacks: tuple[str, ...] = ()
    """Labels of the attacks; attacks that are fitted on other images are not allowed."""
    strengths: Literal["all", "middle", "strongest"] = "middle"
    """Strengths at which they are run."""
    draws: int = 4
    """Random draws that every step averages over, for random defenses."""


@dataclass(frozen=True)
class Subset:
    """A small, varied subset of images, selected by `jaxiqa.data.select_subset`."""

    count: int
    """Number of images to select."""
    clusters: int = 10
    """Number of groups of similar images, from each of which some are selected."""
    seed: int = 0
    """Of the clustering."""


@dataclass(frozen=True)
class Ranks:
    """Attacks on the order of the labelled images: those below the middle are raised, the others lowered.

    Every report then says what the worst of an ensemble (`jaxiqa.attacks.rank_attacks`) leaves of SROCC. Gains at large
    strengths show where scores saturate; the order at small ones shows whether a metric can be trusted.
    """

    epsilons: tuple[float, ...] = tuple(n / 255 for n in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0))
    """Radii of the Linf ball, in [0, 1] pixel units."""
    images: int | None = 48
    """Number of labelled images, spread evenly over the order; None: all of `Evaluation.split`; 0: no such attacks."""
    queries: int = 1000
    """Scores per image for the attack without gradients, at least 2; 0: without it."""
    query_epsilons: tuple[float, ...] | None = (1 / 255,)
    """Those of the radii at which the attack without gradients runs too; None: all. It shows whether gradients mislead,
    and costs ten times as much as all others together."""


@dataclass(frozen=True)
class Evaluation:
    """The evaluation that `evaluate.py` runs on every trained variant."""

    data: Data
    """The images to attack."""
    attacks: dict[str, Attack]
    """Label in the tables -> attack."""
    split: str = "test"
    """Split of `Experiment.data` for the correlations with human scores."""
    attacked_split: str = "test"
    """Split of `data` to attack."""
    subset: Subset | None = None
    """Attack a small, varied subset instead of all images."""
    size: tuple[int, int] | None = None
    """(height, width) to which images are resized before the attack; None: no resize."""
    batch_size: int | None = 8
    """Images attacked at once; None: as many as fit into memory, up to 64."""
    masking: int = 4
    """Number of images for the check for masked gradients; 0: no check."""
    save_images: bool = False
    """Store every attacked image as an 8-bit PNG under WORKDIR/images; with defenses this is always done."""
    examples: int = 2
    """Number of images on the example sheet, attacked at the largest strength."""
    score_range: Literal["mos", "baseline", "model"] = "mos"
    """Range by which gains are divided: of the labels, of the first variant's clean scores, or of each model."""
    ranks: Ranks | None = Ranks()
    """Also attack the order of the labelled images; None, or no images: do not."""
    defenses: dict[str, Defense] = field(default_factory=dict)
    """Label in the tables -> purifier."""
    adaptive: Adaptive = Adaptive()
    """Attacks that know the defense."""
    certifiers: dict[str, Certifier] = field(default_factory=dict)
    """Label in the tables -> certified defense."""
    psnr_cap: float = 60.0
    """Cap for the PSNR of a defended image, in dB; with inf, as in the benchmark, equal images count as inf."""
    paper: str | None = None
    """Also write the tables of a paper, with its published numbers; `jaxiqa.reports.papers.PAPERS` lists the names."""

    @property
    def ranked(self) -> Ranks | None:
        """Return `ranks`, or None if no image is attacked.

        >>> print(Evaluation(Data("clive"), {}, ranks=Ranks(images=0)).ranked)
        None
        """
        return self.ranks if self.ranks and self.ranks.images != 0 else None


def check_weights(place: str, network: Network) -> None:
    """Check that a network has a file of weights, so that its weights are not random; else raise ``ValueError``.

    >>> check_weights("evaluation.defenses.x.networks.network", Network("dncnn"))
    Traceback (most recent call last):
    ValueError: evaluation.defenses.x.networks.network has no weights: dncnn would be random; give its file in...
    """
    if not network.weights:
        raise ValueError(
            f"{place} has no weights: {network.name} would be random; give its file in `weights` "
            "(only an attack with `fit_on` trains its network and may start from random weights)"
        )


def check_evaluation(evaluation: Evaluation) -> None:
    """Check that labels refer to existing attacks and that choices do not exclude each other; else ``ValueError``."""
    for kind in ("attacks", "defenses", "certifiers"):
        for label, part in getattr(evaluation, kind).items():
            for option, network in part.networks.items():
                if not getattr(part, "fit_on", None):
                    check_weights(f"evaluation.{kind}.{label}.networks.{option}", network)
    for label, attack in evaluation.attacks.items():
        if attack.aligned and attack.epsilons:
            raise ValueError(f"evaluation.attacks.{label} has both epsilons and aligned; choose one")
        if attack.aligned and attack.fit_on and attack.aligned.measure != "budget":
            raise ValueError(
                f"evaluation.attacks.{label}.aligned.measure={attack.aligned.measure!r} is not allowed for an attack "
                "that is fitted on other images; use 'budget'"
            )
        for other in evaluation.attacks:
            if label in (f"AUC {other}", f"mean {other}") or label.startswith(f"{other} @ "):
                raise ValueError(f"evaluation.attacks: {label!r} is also the name of a column of {other!r}; rename one")
    users = {"adaptive": evaluation.adaptive.attacks}
    users |= {f"certifiers.{label}": certifier.attacks for label, certifier in evaluation.certifiers.items()}
    for user, labels in users.items():
        for label in labels:
            if label not in evaluation.attacks:
                known = ", ".join(map(repr, evaluation.attacks))
                raise ValueError(f"evaluation.{user}.attacks: {label!r} is not an attack; there are {known or 'none'}")
    for label in evaluation.adaptive.attacks:
        if evaluation.attacks[label].fit_on:
            raise ValueError(
                f"evaluation.adaptive.attacks: {label!r} is fitted on other images and cannot be adaptive; remove it"
            )
    if evaluation.adaptive.draws < 1:
        raise ValueError(f"evaluation.adaptive.draws={evaluation.adaptive.draws}; expected at least 1")
    if "none" in evaluation.defenses:
        raise ValueError("evaluation.defenses: 'none' is reserved for the metric without a defense; rename it")
