"""Attacks that are fitted on other images: fit once per strength and store the result."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa import attacks, data
from jaxiqa.config import Attack
from jaxiqa.core.files import DamagedError, safe_name
from jaxiqa.core.progress import progress_bar
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.images import load_split
from jaxiqa.evaluation.networks import load_networks
from jaxiqa.results.rows import Strength

_log = logging.getLogger(__name__)


def fitted_attacks(
    evaluated: EvaluatedModel, label: str, chosen: Attack, epsilons: Sequence[float] | None
) -> list[Any]:
    """Return one fitted attack per strength, read from WORKDIR/fitted if stored; an empty list for other attacks.

    A damaged file is logged and made again.
    """
    if chosen.fit_on is None:
        return []
    assert epsilons is not None  # startup has checked it
    folder = evaluated.root / "fitted" / evaluated.file_prefix / safe_name(label)
    images, fitted, networks = None, [], load_networks(chosen.networks, training=True)
    kind = attacks.FITTED[chosen.name]
    with progress_bar(f"{evaluated.title}: fitting {label}", "steps") as bar:
        for number, epsilon in enumerate(epsilons):

            def tell(done: int, steps: int, text: str, number: int = number) -> None:
                bar(number * steps + done, len(epsilons) * steps, text)

            path = folder / f"{Strength(epsilon).folder}.safetensors"
            if (kept := _load(kind, path, networks)) is None:
                if images is None:
                    others = load_split(chosen.fit_on, chosen.fit_split)
                    data.validate(others)
                    batches = scoring_batches(others, evaluated.batch or 8, size=evaluated.size)
                    images = jnp.asarray(np.concatenate([batch[:valid] for batch, valid, _ in batches]))
                options = {"epsilon": epsilon} | chosen.options | networks
                key = jax.random.key(evaluated.seed)
                kind.save(kind.fit(evaluated.score_fn, images, key, progress=tell, **options), path)
                kept = kind.load(path, **networks)
            fitted.append(kept)
    return fitted


def _load(kind: attacks.Fitted, path: Path, networks: dict[str, Any]) -> Any:
    """Read a fitted attack; None if the file is missing or damaged."""
    try:
        return kind.load(path, **networks)
    except FileNotFoundError:
        return None
    except DamagedError as error:
        _log.warning("%s; it is made again", error)
        return None
