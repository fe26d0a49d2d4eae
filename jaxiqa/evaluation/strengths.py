"""The strengths of an attack: those of the config, or weak, medium and strong by its change of images."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxiqa import attacks
from jaxiqa.attacks.wrappers.align import LEVELS, LOG_CHANGE
from jaxiqa.config import Align, Attack
from jaxiqa.core.files import DamagedError, open_sealed, safe_name, sealed_json, write_text
from jaxiqa.core.progress import progress_bar
from jaxiqa.data.split import Split
from jaxiqa.evaluation.attack_loop import shard_batch
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.networks import load_networks
from jaxiqa.results.rows import Strength, StrengthKey

_log = logging.getLogger(__name__)


def keys_of(chosen: Attack) -> tuple[StrengthKey, ...]:
    """Return the keys by which rows of an attack's present strengths are distinguished.

    >>> keys_of(Attack("pgd", (0.1, 0.2))), keys_of(Attack("stadv")), keys_of(Attack("ifgsm", aligned=Align("psnr")))
    ((0.1, 0.2), (None,), ('weak', 'medium', 'strong'))
    """
    if chosen.aligned is None:
        return tuple(chosen.epsilons or (None,))
    return tuple(LEVELS["linf" if chosen.aligned.measure == "budget" else chosen.aligned.measure])


def strengths_of(evaluated: EvaluatedModel, label: str, chosen: Attack, split: Split) -> tuple[Strength, ...]:
    """Return the strengths of one attack on one model, in the order of the config, or weak, medium, strong.

    Aligned strengths are stored in WORKDIR/aligned, with their curves; a damaged file is logged and made again. If a
    target is not reached within the tolerance, for example because an attack bounds itself, this is logged.
    """
    if chosen.aligned is None:
        return tuple(Strength(epsilon) for epsilon in chosen.epsilons or (None,))
    if chosen.aligned.measure == "budget":
        return tuple(Strength(epsilon, level) for level, epsilon in LEVELS["linf"].items())
    path = evaluated.root / "aligned" / evaluated.file_prefix / f"{safe_name(label)}.json"
    found = _kept(path)
    if found is None:
        with progress_bar(f"{evaluated.title}: aligning {label}", "runs at most") as bar:
            aligned = _align(evaluated, chosen, chosen.aligned, split, bar)
        for level, one in aligned.items():
            measure, wanted = one.target
            if abs(LOG_CHANGE[measure](one.reached) - LOG_CHANGE[measure](wanted)) > chosen.aligned.tolerance:
                _log.warning(
                    "%s: %s: %s has %s %.3g; target %.3g", evaluated.title, label, level, measure, one.reached, wanted
                )
        _write(path, aligned)
        found = open_sealed(path.read_text())
    return tuple(Strength(float(found[level]["strength"]), level) for level in LEVELS[chosen.aligned.measure])


def _kept(path: Path) -> dict[str, Any] | None:
    """Read stored strengths; None if the file is missing, damaged or without a digest."""
    try:
        return open_sealed(path.read_bytes().decode())
    except FileNotFoundError:
        return None
    except (DamagedError, UnicodeDecodeError) as error:
        _log.warning("%s is damaged (%s); it is made again", path, error)
        return None


def _align(
    evaluated: EvaluatedModel, chosen: Attack, how: Align, split: Split, progress: Callable[..., Any]
) -> dict[str, attacks.Aligned]:
    ladder, name = how.ladder, attacks.strength_option(chosen.name)
    if ladder is None and (how.measure, name) == ("linf", "epsilon"):
        ladder = tuple(LEVELS["linf"].values())  # most attacks use their whole budget
    start: dict[str, Any] = {} if ladder is None or name in chosen.options else {name: ladder[0]}
    attack = attacks.make(chosen.name, **chosen.options, **load_networks(chosen.networks), **start)
    pixels = np.stack([split.read(index) for index in range(min(how.images, len(split)))])
    return attacks.align_levels(
        attack,
        evaluated.score_fn,
        jnp.asarray(shard_batch(pixels.astype(np.float32) / 255)),
        jax.random.key(evaluated.seed),
        how.measure,
        ladder=ladder,
        tolerance=how.tolerance,
        progress=progress,
    )


def _write(path: Path, found: dict[str, Any]) -> None:
    described = {
        level: {
            "strength": aligned.strength,
            "measure": aligned.target[0],
            "target": aligned.target[1],
            "reached": aligned.reached,
            "curve": aligned.curve,
        }
        for level, aligned in found.items()
    }
    write_text(path, sealed_json(described))
