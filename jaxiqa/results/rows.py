"""Rows that an evaluation writes and reports read."""

from dataclasses import dataclass
from typing import NamedTuple

StrengthKey = float | str | None
"""Distinguishes rows of one attack: an ε, the name of a level, or None for the attack's own options."""


class Strength(NamedTuple):
    """The strength of an attack: a value, or None for its own options; and the name of the level if aligned."""

    epsilon: float | None
    level: str | None = None

    @property
    def key(self) -> StrengthKey:
        """Return the level if there is one: two models may have different ε at one level."""
        return self.level or self.epsilon

    @property
    def folder(self) -> str:
        """Return its name in paths: the exact number, so that no two strengths share files."""
        return self.level or ("attack" if self.epsilon is None else repr(float(self.epsilon)))


class _Attacked:
    """Base of rows of one attack at one strength."""

    epsilon: float | None
    level: str | None

    @property
    def strength(self) -> StrengthKey:
        """Return the level, or ε if there is none."""
        return self.level or self.epsilon


@dataclass(frozen=True)
class ResultRow(_Attacked):
    """One attacked image: a line of ``results.jsonl``.

    ``epsilon`` is the attack's strength: in [0, 1] pixel units if it is a radius, otherwise in the unit of the field
    that it sets, or None if the attack runs with its own options. ``rounded`` is the score of the attacked image as it
    is stored: in 8 bits, rounded towards the clean one. ``linf`` and ``l2`` are the norms of the perturbation in
    [0, 1] pixel units, ``ssim`` is between clean and attacked image. ``queries`` is the number of scores that a
    black-box attack needed. ``seconds`` is attack time divided by the number of images in its batch; it includes
    compilation once.
    """

    image: str
    model: str  # the variant's name, without its seed
    seed: int
    attack: str
    epsilon: float | None
    score: float
    attacked: float
    rounded: float
    linf: float
    l2: float
    ssim: float
    queries: int | None
    seconds: float
    level: str | None = None  # weak, medium or strong, for aligned strengths


@dataclass(frozen=True)
class MaskingRow:
    """One check for masked gradients of one model: a line of ``masking.jsonl``."""

    model: str
    seed: int
    check: str
    value: float
    limit: float
    flagged: bool
    remedy: str
    images: int | None = None  # number of images set by ``Evaluation.masking``
    checks: int | None = None  # rows of this model and number of images


@dataclass(frozen=True)
class PredictionRow:
    """One clean image with a human (or derived) score: a line of ``predictions.jsonl``."""

    image: str
    model: str
    seed: int
    mos: float
    score: float


CLEAN = "none"
"""The attack of rows of images that are not attacked."""


@dataclass(frozen=True)
class RankRow:
    """One labelled image, attacked against the order of the human scores: a line of ``ranks.jsonl``.

    ``epsilon`` is the radius of the Linf ball in [0, 1] pixel units, 0 without an attack. ``attacked`` is the score
    after the attack. ``slope`` is given without an attack: the l1 norm of the score's gradient, in score units per
    1/255; else 0. ``seconds`` is the time of attacking and scoring, divided by the number of images in the batch.
    """

    image: str
    model: str
    seed: int
    attack: str
    epsilon: float
    mos: float
    attacked: float
    slope: float
    seconds: float


@dataclass(frozen=True)
class ModelRow:
    """One trained model: a line of ``models.jsonl``.

    ``certificate`` is the largest change of any score by a perturbation of 1/255 in Linf, if the architecture bounds
    it, for images of the size under attack; the bound is proportional to the radius.
    """

    model: str
    seed: int
    parameters: int
    score_low: float
    score_high: float
    validation_srocc: float
    seconds_per_epoch: float
    seconds_per_test: float  # scoring the whole labelled test split once, compiled
    test_images: int
    certificate: float | None = None


@dataclass(frozen=True)
class StoredRow(_Attacked):
    """One attacked image as a PNG file: a line of ``stored.jsonl``. If an image has several, the last one is used."""

    image: str
    model: str
    seed: int
    attack: str
    epsilon: float | None
    level: str | None
    sha256: str  # of the file


UNDEFENDED = "none"
"""The label of the metric without a defense."""


@dataclass(frozen=True)
class DefenseRow(_Attacked):
    """One attacked image behind one defense: a line of ``defenses.jsonl``.

    ``mode`` is "transfer" (the image of the adversarial set, made against the metric alone) or "adaptive" (made against
    the metric behind this defense). ``clean`` and ``attacked`` are f(x) and f(x'), ``purified_clean`` and ``purified``
    f(P(x)) and f(P(x')), with x' in 8 bits and one draw for both. ``ssim`` (7x7 windows) and ``psnr`` in dB compare
    P(x') with x; ``psnr`` is None if they are equal. ``seconds`` is the time of purifying, scoring and, if adaptive,
    attacking, divided by the number of images in the batch; it includes compilation once.
    """

    image: str
    model: str
    seed: int
    attack: str
    epsilon: float | None
    level: str | None
    defense: str
    mode: str
    clean: float
    attacked: float
    purified_clean: float
    purified: float
    ssim: float
    psnr: float | None
    seconds: float


@dataclass(frozen=True)
class CertificateRow(_Attacked):
    """One image and the certificate of its score: a line of ``certificates.jsonl``.

    ``attack`` is None for the clean image. ``score`` is the certified score or, of a method that certifies classes,
    the class; ``radius`` is the L2 radius within which it holds, ``lower`` and ``upper`` the bounds of the score inside
    it, if the method has them.
    """

    image: str
    model: str
    seed: int
    attack: str | None
    epsilon: float | None
    level: str | None
    certifier: str
    score: float | None
    lower: float | None
    upper: float | None
    radius: float
    abstained: bool
    n: int
    sigma: float
    seconds: float


FILES: dict[type, str] = {
    ResultRow: "results.jsonl",
    PredictionRow: "predictions.jsonl",
    RankRow: "ranks.jsonl",
    ModelRow: "models.jsonl",
    MaskingRow: "masking.jsonl",
    StoredRow: "stored.jsonl",
    DefenseRow: "defenses.jsonl",
    CertificateRow: "certificates.jsonl",
}
"""Kind of row -> its file in an experiment's folder."""
