"""Attacks that learn from other images: fitted once per strength, and what they learnt is kept."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa import attacks, data
from jaxiqa.config import Attack
from jaxiqa.core.files import safe_name
from jaxiqa.core.progress import progress_bar
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.evaluation.images import load_split
from jaxiqa.evaluation.networks import load_networks
from jaxiqa.evaluation.strengths import Strength
from jaxiqa.evaluation.subject import Subject


def fitted_attacks(subject: Subject, label: str, chosen: Attack, epsilons: Sequence[float] | None) -> list[Any]:
    """One fitted attack per strength, from WORKDIR/fitted where it is there; none for attacks that are not fitted."""
    if chosen.fit_on is None:
        return []
    others = load_split(chosen.fit_on, chosen.fit_split)
    data.validate(others)
    folder = subject.root / "fitted" / subject.stem / safe_name(label)
    images, fitted, networks = None, [], load_networks(chosen.networks, training=True)
    kind = attacks.FITTED[chosen.name]
    with progress_bar(f"{subject.title}: fitting {label}", "steps") as bar:
        for number, epsilon in enumerate(epsilons):

            def tell(done: int, steps: int, text: str, number: int = number) -> None:
                bar(number * steps + done, len(epsilons) * steps, text)

            path = folder / f"{Strength(epsilon).folder}.safetensors"
            if not path.exists():
                if images is None:
                    batches = scoring_batches(others, subject.batch or 8, size=subject.size)
                    images = jnp.asarray(np.concatenate([batch[:valid] for batch, valid, _ in batches]))
                options = {"epsilon": epsilon} | chosen.options | networks
                kind.save(
                    kind.fit(subject.score_fn, images, jax.random.key(subject.seed), progress=tell, **options), path
                )
            fitted.append(kind.load(path, **networks))
    return fitted
