"""Run every certified defense on clean and stored attacked images; write certificate rows."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxiqa.config import Certifier, Evaluation
from jaxiqa.core.progress import progress_bar
from jaxiqa.core.workers import Compute, alone
from jaxiqa.data.split import Split
from jaxiqa.defenses import smoothing
from jaxiqa.evaluation import adversarial_set
from jaxiqa.evaluation.attack_loop import index_keys
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.networks import load_networks
from jaxiqa.evaluation.strengths import strengths_of
from jaxiqa.evaluation.work import Work
from jaxiqa.results.rows import CertificateRow, ModelRow, Strength

CLEAN = Strength(None)


@dataclass(frozen=True)
class Image:
    """One image to certify: clean, or stored after an attack."""

    certifier: str
    attack: str | None
    strength: Strength
    place: int
    score_range: tuple[float, float]
    digests: adversarial_set.Digests  # of the stored file


def certify_all(evaluated: EvaluatedModel, evaluation: Evaluation, split: Split, compute: Compute = alone) -> None:
    """Append the missing certificate rows.

    Each image is certified separately. Its key comes from the seed and its place in the split; its clean and attacked
    versions have the same key. ``compute`` computes single images.
    """
    missing = list(_missing(evaluated, evaluation, split)) if evaluation.certifiers else []
    with progress_bar(f"{evaluated.title}: certificates", "images") as bar:
        for number, row in enumerate(compute(certify_image, Work(evaluated, evaluation, split), missing)):
            evaluated.add([row])
            bar(number + 1, len(missing), f"{row.certifier} {row.attack or 'clean'}")


def _missing(evaluated: EvaluatedModel, evaluation: Evaluation, split: Split) -> Iterator[Image]:
    rows, digests = evaluated.query(CertificateRow), adversarial_set.digests(evaluated)
    (model,) = evaluated.rows(ModelRow)
    score_range = (model.score_low, model.score_high)
    for label, chosen in evaluation.certifiers.items():
        few = split.take(chosen.images)
        done = rows.only(certifier=label).keys("attack")
        cells: list[tuple[str | None, Strength]] = [(None, CLEAN)]
        for name in chosen.attacks:
            strengths = strengths_of(evaluated, name, evaluation.attacks[name], split)
            cells.append((name, strengths[len(strengths) // 2]))
        for attack, strength in cells:
            for place, image in enumerate(few.ids):
                if (attack, image, strength.key) not in done:
                    stored = [] if attack is None else [(attack, image, strength.key)]
                    yield Image(label, attack, strength, place, score_range, {file: digests[file] for file in stored})


def certify_image(work: Work, image: Image) -> CertificateRow:
    """Certify one image."""
    evaluated, label, strength = work.evaluated, image.certifier, image.strength
    few = work.split.take(work.evaluation.certifiers[label].images)
    keys = index_keys(evaluated.seed, "certify", len(few))
    name, pixels = few.ids[image.place], few.read(image.place)[None]
    if image.attack is not None:
        pixels = adversarial_set.read(evaluated, image.attack, strength, [name], image.digests)
    certifier = _certifier(work, label, image.score_range)
    found = _certify(evaluated, certifier, pixels, keys[image.place : image.place + 1])
    about = {"image": name, "attack": image.attack, "certifier": label, **found}
    return CertificateRow(**about, epsilon=strength.epsilon, level=strength.level)


@lru_cache(maxsize=1)
def _certifier(work: Work, label: str, score_range: tuple[float, float]) -> Any:
    return build(label, work.evaluation.certifiers[label], score_range)


def build(label: str, chosen: Certifier, score_range: tuple[float, float] = (0.0, 1.0)) -> Any:
    """Build the certifier of a config; pass it the score range, if it takes one and its options do not set it.

    Raises:
        ValueError: the name or an option is unknown; the message names the label.
    """
    options: dict[str, Any] = {}
    kind = smoothing.CERTIFIERS.get(chosen.name)
    if kind and "score_range" in {field.name for field in dataclasses.fields(kind)}:
        options = {"score_range": score_range}
    try:
        return smoothing.make(chosen.name, **options | chosen.options | load_networks(chosen.networks))
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(f"certifier {label!r}: {error}") from error


def seen_size(evaluated: EvaluatedModel, certifier: Any) -> tuple[int, int]:
    """Return height and width of the images that the metric scores: a certifier may resize them to a square."""
    side = getattr(certifier, "size", None)
    return evaluated.size if side is None else (side, side)


def _certify(
    evaluated: EvaluatedModel, certifier: Any, pixels: UInt8[np.ndarray, "1 h w 3"], key: jax.Array
) -> dict[str, Any]:
    """Certify one image; return the result columns of its row."""
    began = time.perf_counter()
    found = certifier(evaluated.score_at(seen_size(evaluated, certifier)), jnp.asarray(pixels, jnp.float32) / 255, key)
    abstained = bool(found.abstained[0])
    answer = found.label if found.score is None else found.score
    return {
        "model": evaluated.name,
        "seed": evaluated.seed,
        "score": None if abstained else float(answer[0]),
        "lower": None if found.lower is None else float(found.lower[0]),
        "upper": None if found.upper is None else float(found.upper[0]),
        "radius": float(found.input_radius[0]),
        "abstained": abstained,
        "n": int(found.n[0]),
        "sigma": float(found.sigma),
        "seconds": time.perf_counter() - began,
    }
