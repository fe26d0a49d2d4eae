"""Run every certified defense on clean and stored attacked images; write certificate rows."""

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from jaxiqa.config import Certifier, Evaluation
from jaxiqa.core.progress import progress_bar
from jaxiqa.data.split import Split
from jaxiqa.defenses import smoothing
from jaxiqa.evaluation import adversarial_set
from jaxiqa.evaluation.attack_loop import index_keys
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.networks import load_networks
from jaxiqa.evaluation.strengths import strengths_of
from jaxiqa.results.rows import CertificateRow, ModelRow, Strength

CLEAN = Strength(None)


def certify_all(evaluated: EvaluatedModel, evaluation: Evaluation, split: Split) -> None:
    """Append the missing certificate rows.

    Each image is certified separately. Its key comes from the seed and its place in the split; its clean and attacked
    versions have the same key.
    """
    rows = evaluated.query(CertificateRow)
    digests = adversarial_set.digests(evaluated) if evaluation.certifiers else {}
    for label, chosen in evaluation.certifiers.items():
        few = split.take(chosen.images)
        keys = index_keys(evaluated.seed, "certify", len(few))
        done = rows.only(certifier=label).keys("attack")
        cells: list[tuple[str | None, Strength]] = [(None, CLEAN)]
        for name in chosen.attacks:
            strengths = strengths_of(evaluated, name, evaluation.attacks[name], split)
            cells.append((name, strengths[len(strengths) // 2]))
        missing = [
            (attack, strength, place)
            for attack, strength in cells
            for place, image in enumerate(few.ids)
            if (attack, image, strength.key) not in done
        ]
        if not missing:
            continue
        (model,) = evaluated.rows(ModelRow)
        certifier = build(label, chosen, (model.score_low, model.score_high))
        with progress_bar(f"{evaluated.title}: {label}", "images") as bar:
            for number, (attack, strength, place) in enumerate(missing):
                bar(number, len(missing), attack or "clean")
                image = few.ids[place]
                pixels = few.read(place)[None]
                if attack is not None:
                    pixels = adversarial_set.read(evaluated, attack, strength, [image], digests)
                found = _certify(evaluated, certifier, pixels, keys[place : place + 1])
                about = {"image": image, "attack": attack, "certifier": label, **found}
                evaluated.add([CertificateRow(**about, epsilon=strength.epsilon, level=strength.level)])


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
