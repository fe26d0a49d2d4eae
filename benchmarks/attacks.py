"""Measure attacks against foolbox, torchattacks and the plain PyTorch loops that papers publish.

    pip install -e '.[bench]'
    python benchmarks/attacks.py                                   # all rows, both models: about an hour on two cores
    python benchmarks/attacks.py --models mobilenet_v2 --rows pgd  # only these

Each row is stored in benchmarks/attacks.json as soon as it is measured. benchmarks/README.md shows all stored rows.

Both sides attack the same metric with the same weights, images, ε, step size, number of steps and number of threads.
Their scores are compared before anything is timed. jaxiqa's batch norms are folded, as in attacks and evaluation. On a
CPU jaxiqa attacks one image at a time, as ``evaluate.py`` does; PyTorch is slower that way (row ``batch_1``). "scripts"
is the loop of the defense benchmark: one image and one ε after another. Two columns are separate: the compile time of
jaxiqa, and the temporary buffers of its gradient of a batch.
"""

import argparse
import copy
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from timing import measure

sys.path.insert(0, str(Path(__file__).parent.parent))
import foolbox
import history
import jax
import jax.numpy as jnp
import numpy as np
import random_weights
import torch
import torch_attacks as peers
import torchattacks
from flax import nnx

from jaxiqa import attacks
from jaxiqa.core.devices import gradient_bytes
from jaxiqa.models import Linearity, score_fn
from jaxiqa.models.metric import Calibration

FOLDER = Path(__file__).parent
MODELS = {"mobilenet_v2": (8, 192, 256), "resnet50": (4, 192, 256)}
"""Backbone -> number of images, height and width."""
EPSILON, STEP, STEPS = 8 / 255, 2 / 255, 8
EPSILONS = [2 / 255, 4 / 255, 6 / 255, 8 / 255, 10 / 255]
KEY = jax.random.key(0)

Programs = dict[str, Callable[[], object]]


class Result(NamedTuple):
    """Seconds by program; compile time of jaxiqa in seconds; MiB of temporary buffers of one gradient."""

    device: str
    model: str
    row: str
    seconds: dict[str, float]
    compiling: float
    memory: float


class Logits(torch.nn.Module):
    """Two logits: a constant and the score. Raising the cross entropy of the first logit raises the score.

    Black-box attacks stop at a success; a very large ``first`` prevents that.
    """

    def __init__(self, model: torch.nn.Module, first: float = 0.0):
        super().__init__()
        self.model, self.first = model, first
        self.eval()

    def forward(self, x):
        scores = self.model(x)
        return torch.stack([torch.full_like(scores, self.first), scores], 1)


def random_metric(backbone: str) -> Linearity:
    model = nnx.eval_shape(lambda: Linearity(backbone, rngs=nnx.Rngs(0)))
    random_weights.fill(model, gain=2**0.5)
    model.calibration = Calibration(jnp.array([1.0, 0.0, 0.0, 100.0]))
    return model


class Sides(NamedTuple):
    """The same metric and images for both libraries: in JAX, and in PyTorch's layout."""

    score: Callable
    images: jax.Array
    model: torch.nn.Module
    tensor: torch.Tensor


def sides(backbone: str) -> Sides:
    torch.set_num_threads(os.cpu_count() or 1)
    batch, *size = MODELS[backbone]
    metric = random_metric(backbone)
    pixels = np.random.default_rng(1).random((batch, *size, 3), np.float32)
    score, model = score_fn(metric, tuple(size)), peers.same_model(metric)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    ours, theirs = np.asarray(jax.jit(lambda f, x: f(x))(score, pixels)), model(tensor).detach().numpy()
    if not np.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
        raise SystemExit(f"jaxiqa and PyTorch give different scores: {ours} and {theirs}")
    return Sides(score, jnp.asarray(pixels), model, tensor)


def done(value: object) -> object:
    return jax.block_until_ready(value)


def in_place(attack: object) -> object:
    """Return the attack as ``evaluate.py`` runs it on this device."""
    return attacks.OneByOne(attack) if jax.default_backend() == "cpu" else attack


def foolbox_run(attack: foolbox.attacks.base.Attack, s: Sides, epsilons: list[float]) -> Callable[[], object]:
    metric = foolbox.PyTorchModel(Logits(s.model), bounds=(0, 1), device="cpu")
    labels = torch.zeros(len(s.tensor), dtype=torch.long)
    return lambda: attack(metric, s.tensor, labels, epsilons=epsilons)


def foolbox_pgd() -> foolbox.attacks.LinfPGD:
    return foolbox.attacks.LinfPGD(abs_stepsize=STEP, steps=STEPS, random_start=False)


def torchattacks_run(attacks_: list, s: Sides) -> Callable[[], object]:
    labels = torch.zeros(len(s.tensor), dtype=torch.long)
    return lambda: [attack(s.tensor, labels) for attack in attacks_]


def scripts_run(s: Sides, settings: list[tuple[float, float, int]]) -> Callable[[], object]:
    """Attack one image and one ε after another, as the benchmark's scripts do, with gradients of the weights too."""
    loaded = copy.deepcopy(s.model).requires_grad_(True)
    return lambda: [peers.script_ifgsm(loaded, x, *setting) for setting in settings for x in s.tensor.split(1)]


def pgd(s: Sides) -> Programs:
    attack = in_place(attacks.PGD(EPSILON, steps=STEPS, step_size=STEP, random_start=False))
    return {
        "jaxiqa": lambda: done(attack(s.score, s.images, KEY)),
        "foolbox": foolbox_run(foolbox_pgd(), s, [EPSILON]),
        "torchattacks": torchattacks_run([torchattacks.PGD(Logits(s.model), EPSILON, STEP, STEPS, False)], s),
        "PyTorch": lambda: peers.pgd(s.model, s.tensor, EPSILON, STEP, STEPS),
    }


def pgd_sweep(s: Sides) -> Programs:
    attack = in_place(attacks.PGD(EPSILON, steps=STEPS, step_size=STEP, random_start=False))
    several = [torchattacks.PGD(Logits(s.model), epsilon, STEP, STEPS, False) for epsilon in EPSILONS]
    return {
        "jaxiqa": lambda: done(attacks.sweep(attack, s.score, s.images, KEY, EPSILONS)),
        "foolbox": foolbox_run(foolbox_pgd(), s, EPSILONS),
        "torchattacks": torchattacks_run(several, s),
        "PyTorch": lambda: [peers.pgd(s.model, s.tensor, epsilon, STEP, STEPS) for epsilon in EPSILONS],
        "scripts": scripts_run(s, [(epsilon, STEP, STEPS) for epsilon in EPSILONS]),
    }


def fgsm_sweep(s: Sides) -> Programs:
    several = [torchattacks.FGSM(Logits(s.model), epsilon) for epsilon in EPSILONS]
    return {
        "jaxiqa": lambda: done(attacks.sweep(in_place(attacks.FGSM(EPSILON)), s.score, s.images, KEY, EPSILONS)),
        "foolbox": foolbox_run(foolbox.attacks.LinfFastGradientAttack(), s, EPSILONS),
        "torchattacks": torchattacks_run(several, s),
        "PyTorch": lambda: [peers.pgd(s.model, s.tensor, epsilon, epsilon, 1) for epsilon in EPSILONS],
        "scripts": scripts_run(s, [(epsilon, epsilon, 1) for epsilon in EPSILONS]),
    }


def batch_1(s: Sides) -> Programs:
    """Attack one image at a time: in jaxiqa, in an efficient PyTorch loop, and in the scripts' loop."""
    attack = in_place(attacks.IFGSM(10 / 255, steps=10, step_size=1 / 255))
    return {
        "jaxiqa": lambda: done(attack(s.score, s.images, KEY)),
        "PyTorch, batch 1": lambda: [peers.pgd(s.model, x, 10 / 255, 1 / 255, 10) for x in s.tensor.split(1)],
        "scripts": scripts_run(s, [(10 / 255, 1 / 255, 10)]),
    }


def uap(s: Sides) -> Programs:
    options = {"epsilon": EPSILON, "epochs": 2, "batch_size": len(s.images) // 2}
    return {
        "jaxiqa": lambda: done(attacks.fit_uap(s.score, s.images, KEY, **options).delta),
        "PyTorch": lambda: peers.fit_uap(s.model, s.tensor, EPSILON, 2, options["batch_size"]),
    }


def stadv(s: Sides) -> Programs:
    attack = in_place(attacks.StAdv(steps=STEPS))
    return {
        "jaxiqa": lambda: done(attack(s.score, s.images, KEY)),
        "PyTorch": lambda: peers.stadv(s.model, s.tensor, STEPS),
    }


def square(s: Sides) -> Programs:
    attack = attacks.Square(EPSILON, queries=1000)
    theirs = torchattacks.Square(Logits(s.model, 1e6), norm="Linf", eps=EPSILON, n_queries=1000, seed=0)
    return {"jaxiqa": lambda: done(attack(s.score, s.images, KEY)), "torchattacks": torchattacks_run([theirs], s)}


def nes(s: Sides) -> Programs:
    attack = attacks.NES(EPSILON, steps=4, pairs=25)
    return {
        "jaxiqa": lambda: done(attack(s.score, s.images, KEY)),
        "PyTorch": lambda: peers.nes(s.model, s.tensor, EPSILON, 4, 25, EPSILON / 5),
    }


ROWS: dict[str, tuple[str, Callable[[Sides], Programs]]] = {
    "pgd": ("PGD-8, one ε", pgd),
    "pgd_sweep": ("PGD-8, five ε", pgd_sweep),
    "fgsm_sweep": ("FGSM, five ε", fgsm_sweep),
    "batch_1": ("I-FGSM-10, against batch 1", batch_1),
    "uap": ("UAP, 2 epochs", uap),
    "stadv": ("stAdv, 8 steps", stadv),
    "square": ("Square, 1000 queries", square),
    "nes": ("NES, 4 × 25 pairs", nes),
}
SLOW = ("square", "nes")


def device() -> str:
    chip = jax.devices()[0]
    name = chip.device_kind if chip.platform != "cpu" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    versions = f"jax {jax.__version__}, torch {torch.__version__}, foolbox {foolbox.__version__}"
    return f"{name}, {versions}, torchattacks {torchattacks.__version__}"


def run(backbone: str, row: str, s: Sides) -> Result:
    programs = ROWS[row][1](s)
    began = time.perf_counter()
    programs["jaxiqa"]()
    first = time.perf_counter() - began
    seconds = measure(programs, **({"keep": 2, "most": 4} if row in SLOW else {"keep": 3, "most": 8})).seconds
    memory = gradient_bytes(s.score, s.images) / 2**20
    return Result(device(), backbone, row, seconds, max(0.0, first - seconds["jaxiqa"]), memory)


HEADS = "attack", "jaxiqa, s", "peers, s", "fastest peer / jaxiqa", "scripts / jaxiqa", "compiling, s", "buffers, MiB"


def table(results: list[Result]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "|---|---:|---|" + "---:|" * (len(HEADS) - 3)]
    for result in results:
        others = {name: seconds for name, seconds in result.seconds.items() if name != "jaxiqa"}
        ours = result.seconds["jaxiqa"]
        listed = ", ".join(f"{name} {seconds:.2f}" for name, seconds in others.items())
        scripts = f"{others['scripts'] / ours:.1f}" if "scripts" in others else ""
        ratios, rest = f"{min(others.values()) / ours:.2f} | {scripts}", f"{result.compiling:.1f} | {result.memory:.0f}"
        lines.append(f"| {ROWS[result.row][0]} | {ours:.2f} | {listed} | {ratios} | {rest} |")
    return "\n".join(lines)


def show(results: list[Result]) -> str:
    """Return a Markdown table per device and model."""
    parts = []
    for name, model in dict.fromkeys((result.device, result.model) for result in results):
        batch, h, w = MODELS[model]
        found = [result for result in results if (result.device, result.model) == (name, model)]
        parts.append(f"### Linearity over {model}, {batch} × {h}x{w}\n\n{name}\n\n{table(found)}\n")
    return "\n".join(parts)


def keep(new: Result) -> None:
    """Add one result to the JSON file and write all results to the README."""
    store, page = FOLDER / "attacks.json", FOLDER / "README.md"
    read = [Result(*old) for old in json.loads(store.read_text())] if store.exists() else []
    results = [old for old in read if (old.device, old.model, old.row) != (new.device, new.model, new.row)] + [new]
    rows = list(ROWS)
    results.sort(key=lambda result: (result.device, result.model, rows.index(result.row)))
    store.write_text(json.dumps(results, indent=1) + "\n")
    history.append("attacks", new.device, f"{new.model} {new.row}", new.seconds)
    start, end = "<!-- attacks -->\n", "<!-- /attacks -->"
    before, _, rest = page.read_text().partition(start)
    page.write_text(f"{before}{start}{show(results)}{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=MODELS, metavar="NAME", help="both by default")
    parser.add_argument("--rows", nargs="*", choices=ROWS, metavar="NAME", help=f"of {', '.join(ROWS)}; all by default")
    arguments = parser.parse_args()
    for backbone in arguments.models or MODELS:
        s = sides(backbone)
        for row in arguments.rows or ROWS:
            new = run(backbone, row, s)
            print(table([new]), flush=True)
            keep(new)


if __name__ == "__main__":
    main()
