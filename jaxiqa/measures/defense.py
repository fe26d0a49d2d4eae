"""Measures of a defense: how well it keeps scores, images and their order, and the size of certificates.

Host-side, float64. With a metric f, an image x, its attacked version x′ and a defense P, each function takes one number
per image and returns one per image. Their mean is the paper's measure; `jaxiqa.measures.robustness.interval95` gives
its interval. SROCC "clear" and "adversarial" are `jaxiqa.measures.correlation.srocc` of f(P(x)) and of f(P(x′)) with
human scores.

Reference: Gushchin et al., "Guardians of Image Quality: Benchmarking Defenses Against Adversarial Attacks on Image
Quality Metrics", arXiv:2408.01541.
"""

import numpy as np

from jaxiqa.core.checks import check_choice, check_number
from jaxiqa.measures.robustness import Number, Values, magnitude_gain

PSNR_CAP = 60.0
"""dB. Rounding to 8 bits alone costs 58.9 dB: above 60 dB, stored images do not differ."""

SIDES = ("one", "full")


def d_score(reference: Values, defended: Values, low: Number, high: Number) -> Values:
    """Return the distance of the defended score of the attacked image from a reference, in per cent of the score range.

        D     = 100 · |f(P(x′)) − f(x)|    / (high − low)
        D^(D) = 100 · |f(P(x′)) − f(P(x))| / (high − low)

    0 is best. D includes the effect of the defense on clean scores; D^(D) only that of the attack on defended scores.

    Args:
        reference: f(x) for D, f(P(x)) for D^(D).
        defended: f(P(x′)) of the same images.
        low, high: a typical score range, so values above 100 are possible.

    Raises:
        ValueError: as of `jaxiqa.measures.robustness.scale`.

    >>> d_score(np.array([50.0]), np.array([40.0]), 0.0, 100.0)
    array([10.])
    """
    return 100 * magnitude_gain(reference, defended, low, high)


def q_score(ssim: Values, psnr: Values, *, psnr_cap: Number = PSNR_CAP) -> Values:
    """Return the visual quality of the defended image: ``SSIM + min(PSNR, psnr_cap) / 40``, both of P(x′) against x.

    Higher is better; with the default cap at most 2.5.

    Args:
        ssim: in [−1, 1]; the benchmark's is `jaxiqa.ops.ssim.uniform_ssim`.
        psnr: in dB, infinite for equal images.
        psnr_cap: in dB, positive. ``numpy.inf`` is the benchmark's variant: its mean is infinite as soon as one image
            is unchanged.

    Raises:
        ValueError: lengths differ, the input is empty, NaN, or a cap that is not positive.

    >>> q_score(np.array([0.9, 1.0]), np.array([36.0, np.inf])).round(3).tolist()
    [1.8, 2.5]

    **Differs from the paper**: PSNR is capped.
    """
    check_number("psnr_cap", psnr_cap, 0.0, open_low=True)
    ssim, psnr = np.asarray(ssim, np.float64), np.asarray(psnr, np.float64)
    if ssim.shape != psnr.shape or not ssim.size:
        raise ValueError(f"ssim {ssim.shape} and psnr {psnr.shape} must have the same length, at least 1")
    if not np.isfinite(ssim).all() or np.isnan(psnr).any():
        raise ValueError("ssim must be finite and psnr must not be NaN")
    return ssim + np.minimum(psnr, psnr_cap) / 40


def cert_r(radii: Values, abstained: np.ndarray) -> Values:
    """Return Cert.R: the certified L2 radius, in [0, 1] pixel units, 0 if the certifier abstained. Higher is better.

    Raises:
        ValueError: lengths differ, the input is empty, or the radius of an answer is negative or not finite.

    >>> cert_r(np.array([0.2, 0.1]), np.array([False, True])).tolist()
    [0.2, 0.0]
    """
    radii, abstained = np.asarray(radii, np.float64), np.asarray(abstained, bool)
    if radii.shape != abstained.shape or not radii.size:
        raise ValueError(f"radii {radii.shape} and abstained {abstained.shape} must have the same length, at least 1")
    found = np.where(abstained, 0.0, radii)
    if not (np.isfinite(found).all() and (found >= 0).all()):
        raise ValueError(f"radii must be finite and at least 0 where the certifier did not abstain, got {found}")
    return found


def abstention(abstained: np.ndarray) -> Values:
    """Return Abst.: 100 if the certifier gave no answer, else 0, so that the mean is in per cent. Lower is better.

    >>> float(abstention(np.array([True, False, False, False])).mean())
    25.0
    """
    return 100 * np.asarray(abstained, np.float64)


def cert_rd(lower: Values, score: Values, upper: Values, low: Number, high: Number, *, side: str = "full") -> Values:
    """Return Cert.RD: the largest change of a certified score inside the certified ball, as a share of the score range.

        "full": (upper − lower) / (high − low);    "one": max(upper − score, score − lower) / (high − low)

    Lower is tighter. The paper prints an arrow up and does not say which of the two it uses; the full width is about
    twice the other.

    Args:
        lower, upper: certified bounds of the score.
        score: the certified score between them.
        low, high: the score range.
        side: ``"full"`` or ``"one"``.

    Raises:
        ValueError: an unknown side, lengths that differ, low ≥ high, or not lower ≤ score ≤ upper.

    >>> bounds = np.array([40.0]), np.array([45.0]), np.array([60.0])
    >>> cert_rd(*bounds, 0.0, 100.0).tolist(), cert_rd(*bounds, 0.0, 100.0, side="one").tolist()
    ([0.2], [0.15])
    """
    check_choice("side", side, SIDES)
    lower, score, upper = (np.asarray(values, np.float64) for values in (lower, score, upper))
    if not lower.shape == score.shape == upper.shape or not score.size:
        raise ValueError(f"lower {lower.shape}, score {score.shape} and upper {upper.shape} must have the same length")
    if not ((lower <= score) & (score <= upper)).all():
        raise ValueError("not lower <= score <= upper everywhere")
    if not low < high:
        raise ValueError(f"score range ({low}, {high}) must have low < high")
    width = upper - lower if side == "full" else np.maximum(upper - score, score - lower)
    return width / (high - low)
