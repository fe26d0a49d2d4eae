"""Measure the published metrics against PyTorch: scores per second, and scores with input gradients per second.

    pip install -e '.[bench]'
    python benchmarks/models.py                        # all of them
    python benchmarks/models.py --models metaiqa tres  # only these

Each result is stored in benchmarks/models.json as soon as it is measured. benchmarks/README.md and docs/models.md show
all stored results.

Both sides run the network alone, without resizing and cropping, in float32, on the same images, with the same number of
threads. Weights are random and frozen. jaxiqa's network is compiled and its batch norms are folded, as in attacks and
evaluation. PyTorch runs the authors' network eagerly, in evaluation mode (benchmarks/torch_models.py), without the
parts that the score does not use. "gradient" computes the scores and the gradient of their sum by the images.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from timing import measure

sys.path.insert(0, str(Path(__file__).parent.parent))
import history
import jax
import jax.numpy as jnp
import numpy as np
import random_weights
import torch
import torch_inception
import torch_models
import torch_transformers
from flax import nnx

from jaxiqa.models import MODELS, fold_batch_norm

FOLDER = Path(__file__).parent
GPU = jax.default_backend() == "gpu" and torch.cuda.is_available()


class Case(NamedTuple):
    """PyTorch's network, number of images, and their height and width."""

    network: type[torch.nn.Module]
    batch: int
    size: tuple[int, int]


CASES = {
    "fpr": Case(torch_models.FPR, 4, (128, 256)),  # 8 patches each
    "hyperiqa": Case(torch_models.HyperIQA, 4, (224, 224)),
    "koncept512": Case(torch_inception.KonCept512, 1, (384, 512)),
    "linearity": Case(torch_models.Linearity, 1, (498, 664)),
    "maniqa": Case(torch_transformers.MANIQA, 1, (224, 224)),
    "metaiqa": Case(torch_models.MetaIQA, 4, (224, 224)),
    "paq2piq": Case(torch_models.PaQ2PiQ, 4, (384, 512)),
    "spaq_bl": Case(torch_models.SPAQBaseline, 4, (224, 224)),
    "tres": Case(torch_transformers.TReS, 4, (224, 224)),
}


class Result(NamedTuple):
    """Seconds of a batch by program."""

    device: str
    name: str
    batch: int
    size: tuple[int, int]
    seconds: dict[str, float]


def ours(name: str, images: np.ndarray) -> dict[str, Callable[[], object]]:
    model = nnx.eval_shape(lambda: MODELS[name].build(rngs=nnx.Rngs(0)))
    random_weights.fill(model)
    if name == "linearity":
        model.calibrate(k=1.0, b=0.0, score_range=(0.0, 100.0))
    graphdef, state = nnx.split(fold_batch_norm(model))
    functions = {
        "score": lambda state, x: nnx.merge(graphdef, state).network(x),
        "gradient": jax.value_and_grad(lambda x, state: jnp.sum(nnx.merge(graphdef, state).network(x))),
    }
    x = jnp.asarray(images)
    arguments = {"score": (state, x), "gradient": (x, state)}
    programs = {what: jax.jit(f).lower(*arguments[what]).compile() for what, f in functions.items()}
    return {
        f"{what} jaxiqa": lambda program=program, what=what: jax.block_until_ready(program(*arguments[what]))
        for what, program in programs.items()
    }


def theirs(network: type[torch.nn.Module], images: np.ndarray) -> dict[str, Callable[[], object]]:
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    device = "cuda" if GPU else "cpu"
    model = network().eval().to(device)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim > 1:
            parameter.normal_(0, parameter[0].numel() ** -0.5)
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)

    def wait() -> None:
        if GPU:
            torch.cuda.synchronize()

    def score() -> None:
        with torch.no_grad():
            model(x)
        wait()

    def gradient() -> None:
        pixels = x.clone().requires_grad_()
        torch.autograd.grad(model(pixels).sum(), pixels)
        wait()

    return {"score torch": score, "gradient torch": gradient}


def run(name: str) -> Result:
    network, batch, size = CASES[name]
    images = np.random.default_rng(1).random((batch, *size, 3), np.float32)
    programs = ours(name, images) | theirs(network, images)
    return Result(device(), name, batch, size, measure(programs).seconds)


def device() -> str:
    chip = jax.devices()[0]
    name = chip.device_kind if chip.platform != "cpu" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{name}, jax {jax.__version__}, torch {torch.__version__}"


HEADS = ("model", "batch", "scores/s: jaxiqa", "torch", "times", "with gradient: jaxiqa", "torch", "times")


def table(results: list[Result]) -> str:
    lines = ["| " + " | ".join(HEADS) + " |", "|---|---|" + "---:|" * (len(HEADS) - 2)]
    for result in results:
        cells = [result.name, f"{result.batch} × {result.size[0]}x{result.size[1]}"]
        for what in ("score", "gradient"):
            our, their = (result.seconds[f"{what} {who}"] for who in ("jaxiqa", "torch"))
            cells += [f"{result.batch / our:.2f}", f"{result.batch / their:.2f}", f"{their / our:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def show(results: list[Result]) -> str:
    """Return a Markdown table per device."""
    parts = []
    for name in dict.fromkeys(result.device for result in results):
        parts.append(f"### {name}\n\n{table([result for result in results if result.device == name])}\n")
    return "\n".join(parts)


def keep(new: Result) -> None:
    """Add one result to the JSON file and write all results to both pages."""
    store = FOLDER / "models.json"
    read = json.loads(store.read_text()) if store.exists() else []
    results = [old for old in (Result(*old) for old in read) if (old.device, old.name) != (new.device, new.name)]
    results = sorted([*results, new], key=lambda result: (result.device, result.name))
    store.write_text(json.dumps(results, indent=1) + "\n")
    history.append("models", new.device, new.name, new.seconds)
    start, end = "<!-- models -->\n", "<!-- /models -->"
    for page in (FOLDER / "README.md", FOLDER.parent / "docs" / "models.md"):
        before, _, rest = page.read_text().partition(start)
        page.write_text(f"{before}{start}{show(results)}{end}{rest.partition(end)[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=CASES, metavar="NAME", help="all by default")
    for name in parser.parse_args().models or CASES:
        new = run(name)
        print(table([new]), flush=True)
        keep(new)


if __name__ == "__main__":
    main()
