"""The jaxiqa side of benchmarks/attacks.py: metric, images and attacks; and the table of what was measured.

Nothing here needs PyTorch, so that benchmarks/device_day.sh can measure on a machine without the peers.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))
import history
import jax
import jax.numpy as jnp
import numpy as np
import random_weights
from flax import nnx

from jaxiqa import attacks
from jaxiqa.models import Linearity
from jaxiqa.models.metric import Calibration

FOLDER = Path(__file__).parent
MODELS = {"mobilenet_v2": (8, 192, 256), "resnet50": (4, 192, 256)}
"""Backbone -> number of images, height and width."""
EPSILON, STEP, STEPS = 8 / 255, 2 / 255, 8
EPSILONS = [2 / 255, 4 / 255, 6 / 255, 8 / 255, 10 / 255]
KEY = jax.random.key(0)
ROWS = {
    "pgd": "PGD-8, one ε",
    "pgd_sweep": "PGD-8, five ε",
    "fgsm_sweep": "FGSM, five ε",
    "batch_1": "I-FGSM-10, against batch 1",
    "uap": "UAP, 2 epochs",
    "stadv": "stAdv, 8 steps",
    "square": "Square, 1000 queries",
    "nes": "NES, 4 × 25 pairs",
}


class Result(NamedTuple):
    """Seconds by program; compile time of jaxiqa in seconds; MiB of temporary buffers of one gradient."""

    device: str
    model: str
    row: str
    seconds: dict[str, float]
    compiling: float
    memory: float


def random_metric(backbone: str) -> Linearity:
    model = nnx.eval_shape(lambda: Linearity(backbone, rngs=nnx.Rngs(0)))
    random_weights.fill(model, gain=2**0.5)
    model.calibration = Calibration(jnp.array([1.0, 0.0, 0.0, 100.0]))
    return model


def random_images(backbone: str) -> np.ndarray:
    batch, *size = MODELS[backbone]
    return np.random.default_rng(1).random((batch, *size, 3), np.float32)


def in_place(attack: Any) -> Any:
    """Return the attack as ``evaluate.py`` runs it on this device."""
    return attacks.OneByOne(attack) if jax.default_backend() == "cpu" else attack


def ours(row: str, score: Callable, images: jax.Array) -> Callable[[], object]:
    """Return the program of a row, which waits for its result."""
    pgd = in_place(attacks.PGD(EPSILON, steps=STEPS, step_size=STEP, random_start=False))
    fit = {"epsilon": EPSILON, "epochs": 2, "batch_size": len(images) // 2}
    programs = {
        "pgd": lambda: pgd(score, images, KEY),
        "pgd_sweep": lambda: attacks.sweep(pgd, score, images, KEY, EPSILONS),
        "fgsm_sweep": lambda: attacks.sweep(in_place(attacks.FGSM(EPSILON)), score, images, KEY, EPSILONS),
        "batch_1": lambda: in_place(attacks.IFGSM(10 / 255, steps=10, step_size=1 / 255))(score, images, KEY),
        "uap": lambda: attacks.fit_uap(score, images, KEY, **fit).delta,
        "stadv": lambda: in_place(attacks.StAdv(steps=STEPS))(score, images, KEY),
        "square": lambda: attacks.Square(EPSILON, queries=1000)(score, images, KEY),
        "nes": lambda: attacks.NES(EPSILON, steps=4, pairs=25)(score, images, KEY),
    }
    return lambda: jax.block_until_ready(programs[row]())


HEADS = "attack", "jaxiqa, s", "peers, s", "fastest peer / jaxiqa", "scripts / jaxiqa", "compiling, s", "buffers, MiB"


def table(results: list[Result]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "|---|---:|---|" + "---:|" * (len(HEADS) - 3)]
    for result in results:
        others = {name: seconds for name, seconds in result.seconds.items() if name != "jaxiqa"}
        own = result.seconds["jaxiqa"]
        digits = 2 if own >= 0.1 else 4
        listed = ", ".join(f"{name} {seconds:.{digits}f}" for name, seconds in others.items())
        fastest = f"{min(others.values()) / own:.2f}" if others else ""
        scripts = f"{others['scripts'] / own:.1f}" if "scripts" in others else ""
        ratios, rest = f"{fastest} | {scripts}", f"{result.compiling:.1f} | {result.memory:.0f}"
        lines.append(f"| {ROWS[result.row]} | {own:.{digits}f} | {listed} | {ratios} | {rest} |")
    return "\n".join(lines)


def show(results: list[Result]) -> str:
    """Return a Markdown table per device and model."""
    parts = []
    for name, model in dict.fromkeys((result.device, result.model) for result in results):
        batch, h, w = MODELS[model]
        found = [result for result in results if (result.device, result.model) == (name, model)]
        parts.append(f"### Linearity over {model}, {batch} × {h}x{w}\n\n{name}\n\n{table(found)}\n")
    return "\n".join(parts)


def keep(new: Result, *, folder: Path = FOLDER, measured: Mapping[str, Any] | None = None) -> None:
    """Add one result to the JSON file and write all results to the README; ``measured`` as for `history.append`."""
    store, page = folder / "attacks.json", folder / "README.md"
    read = [Result(*old) for old in json.loads(store.read_text())] if store.exists() else []
    results = [old for old in read if (old.device, old.model, old.row) != (new.device, new.model, new.row)] + [new]
    rows = list(ROWS)
    results.sort(key=lambda result: (result.device, result.model, rows.index(result.row)))
    store.write_text(json.dumps(results, indent=1) + "\n")
    case = f"{new.model} {new.row}"
    history.append("attacks", new.device, case, new.seconds, folder=folder / "history", measured=measured)
    start, end = "<!-- attacks -->\n", "<!-- /attacks -->"
    before, _, rest = page.read_text().partition(start)
    page.write_text(f"{before}{start}{show(results)}{end}{rest.partition(end)[2]}")
