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
import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch_attacks as peers
import torchattacks
from attack_rows import (
    EPSILON,
    EPSILONS,
    MODELS,
    ROWS,
    STEP,
    STEPS,
    Result,
    keep,
    ours,
    random_images,
    random_metric,
    table,
)

from jaxiqa.core.devices import gradient_bytes
from jaxiqa.models import score_fn

Programs = dict[str, Callable[[], object]]


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


class Sides(NamedTuple):
    """The same metric and images for both libraries: in JAX, and in PyTorch's layout."""

    score: Callable
    images: jax.Array
    model: torch.nn.Module
    tensor: torch.Tensor


def sides(backbone: str) -> Sides:
    torch.set_num_threads(os.cpu_count() or 1)
    metric, pixels = random_metric(backbone), random_images(backbone)
    score, model = score_fn(metric, pixels.shape[1:3]), peers.same_model(metric)
    tensor = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    own, theirs = np.asarray(jax.jit(lambda f, x: f(x))(score, pixels)), model(tensor).detach().numpy()
    if not np.allclose(own, theirs, rtol=1e-3, atol=1e-3):
        raise SystemExit(f"jaxiqa and PyTorch give different scores: {own} and {theirs}")
    return Sides(score, jnp.asarray(pixels), model, tensor)


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
    return {
        "foolbox": foolbox_run(foolbox_pgd(), s, [EPSILON]),
        "torchattacks": torchattacks_run([torchattacks.PGD(Logits(s.model), EPSILON, STEP, STEPS, False)], s),
        "PyTorch": lambda: peers.pgd(s.model, s.tensor, EPSILON, STEP, STEPS),
    }


def pgd_sweep(s: Sides) -> Programs:
    several = [torchattacks.PGD(Logits(s.model), epsilon, STEP, STEPS, False) for epsilon in EPSILONS]
    return {
        "foolbox": foolbox_run(foolbox_pgd(), s, EPSILONS),
        "torchattacks": torchattacks_run(several, s),
        "PyTorch": lambda: [peers.pgd(s.model, s.tensor, epsilon, STEP, STEPS) for epsilon in EPSILONS],
        "scripts": scripts_run(s, [(epsilon, STEP, STEPS) for epsilon in EPSILONS]),
    }


def fgsm_sweep(s: Sides) -> Programs:
    several = [torchattacks.FGSM(Logits(s.model), epsilon) for epsilon in EPSILONS]
    return {
        "foolbox": foolbox_run(foolbox.attacks.LinfFastGradientAttack(), s, EPSILONS),
        "torchattacks": torchattacks_run(several, s),
        "PyTorch": lambda: [peers.pgd(s.model, s.tensor, epsilon, epsilon, 1) for epsilon in EPSILONS],
        "scripts": scripts_run(s, [(epsilon, epsilon, 1) for epsilon in EPSILONS]),
    }


def batch_1(s: Sides) -> Programs:
    """Attack one image at a time: in an efficient PyTorch loop, and in the scripts' loop."""
    return {
        "PyTorch, batch 1": lambda: [peers.pgd(s.model, x, 10 / 255, 1 / 255, 10) for x in s.tensor.split(1)],
        "scripts": scripts_run(s, [(10 / 255, 1 / 255, 10)]),
    }


def uap(s: Sides) -> Programs:
    return {"PyTorch": lambda: peers.fit_uap(s.model, s.tensor, EPSILON, 2, len(s.tensor) // 2)}


def stadv(s: Sides) -> Programs:
    return {"PyTorch": lambda: peers.stadv(s.model, s.tensor, STEPS)}


def square(s: Sides) -> Programs:
    theirs = torchattacks.Square(Logits(s.model, 1e6), norm="Linf", eps=EPSILON, n_queries=1000, seed=0)
    return {"torchattacks": torchattacks_run([theirs], s)}


def nes(s: Sides) -> Programs:
    return {"PyTorch": lambda: peers.nes(s.model, s.tensor, EPSILON, 4, 25, EPSILON / 5)}


PEERS: dict[str, Callable[[Sides], Programs]] = {
    "pgd": pgd,
    "pgd_sweep": pgd_sweep,
    "fgsm_sweep": fgsm_sweep,
    "batch_1": batch_1,
    "uap": uap,
    "stadv": stadv,
    "square": square,
    "nes": nes,
}
SLOW = ("square", "nes")


def device() -> str:
    chip = jax.devices()[0]
    name = chip.device_kind if chip.platform != "cpu" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    versions = f"jax {jax.__version__}, torch {torch.__version__}, foolbox {foolbox.__version__}"
    return f"{name}, {versions}, torchattacks {torchattacks.__version__}"


def run(backbone: str, row: str, s: Sides) -> Result:
    programs = {"jaxiqa": ours(row, s.score, s.images)} | PEERS[row](s)
    began = time.perf_counter()
    programs["jaxiqa"]()
    first = time.perf_counter() - began
    seconds = measure(programs, **({"keep": 2, "most": 4} if row in SLOW else {"keep": 3, "most": 8})).seconds
    memory = gradient_bytes(s.score, s.images) / 2**20
    return Result(device(), backbone, row, seconds, max(0.0, first - seconds["jaxiqa"]), memory)


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
