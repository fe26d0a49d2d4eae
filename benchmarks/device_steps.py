"""The steps of a device day (benchmarks/device_day.sh): each measures one thing on the device and yields its rows.

    python benchmarks/device_steps.py --out FOLDER [--steps parity training] [--tiny]

Each row is appended to FOLDER/rows.jsonl as soon as it is measured, between lines that say when its step began and how
it ended; an error ends only its step. Nothing but jax, flax and their companions is needed; if grain or PyTorch is
missing, the rows say so.
"""

import argparse
import gc
import itertools
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timing
from timing import chip, measure

sys.path.insert(0, str(Path(__file__).parent.parent))
import attack_rows
import jax
import jax.numpy as jnp
import layers
import numpy as np
import training_steps
from device_plan import TINY, Plan
from metric_training import Trained

from jaxiqa import models
from jaxiqa.config import Adaptive, Model, load_config, root_folder, run_folder
from jaxiqa.core.devices import gradient_bytes
from jaxiqa.data.pipeline import View
from jaxiqa.layers.spectrum import orthogonal_convolve

Row = dict[str, Any]
"""``case`` and ``numbers`` (name with unit -> number); or ``layers`` or ``attacks``, a row of that benchmark."""

KEY = jax.random.key(0)


def device(plan: Plan) -> Iterator[Row]:
    """What the machine is."""
    if jax.default_backend() == "cpu" and not plan.tiny:
        raise RuntimeError(
            "JAX uses the CPU: it has no plugin for this machine's accelerator, or JAX_PLATFORMS forbids it"
        )
    memory = jax.devices()[0].memory_stats() or {}
    missing = [f"without {name}" for name in ("grain", "torch") if find_spec(name) is None]
    yield {
        "case": chip(),
        "numbers": {"devices": jax.device_count(), "GiB": memory.get("bytes_limit", 0) / 2**30},
        "note": ", ".join([f"jax {jax.__version__}", jax.default_backend(), *missing]),
    }


def smoke(plan: Plan) -> Iterator[Row]:
    """Train and evaluate configs/smoke.py: every part of an experiment runs."""
    from jaxiqa.cli.train import train
    from jaxiqa.evaluation.experiment import evaluate_experiment

    note = {}
    if find_spec("grain") is None:
        import jaxiqa.train.loop

        jaxiqa.train.loop.training_batches = plain_batches
        note = {"note": "grain is missing: batches in another order"}
    experiment = load_config(Path(__file__).parent.parent / "configs" / "smoke.py")
    experiment = replace(experiment, workdir=tempfile.mkdtemp())
    if plan.tiny:
        attacks = {"PGD-1": replace(experiment.evaluation.attacks["PGD-1"], epsilons=(2 / 255,))}
        data = replace(experiment.data, options=experiment.data.options | {"size": (70, 70)})
        less = {
            "data": replace(data, limit=2),
            "ranks": None,
            "defenses": {},
            "adaptive": Adaptive(),
            "certifiers": {},
            "masking": 0,
            "examples": 0,
        }
        experiment = replace(
            experiment,
            data=data,
            model=Model("alexnet", width=8),
            variants={"baseline": experiment.variants["baseline"]},
            evaluation=replace(experiment.evaluation, attacks=attacks, **less),
        )
    began = time.perf_counter()
    train(experiment)
    trained = {"seconds": time.perf_counter() - began}
    for name in experiment.variants:
        found = json.loads((run_folder(experiment, name, 0) / "training.json").read_text())
        trained[f"SROCC of {name}"] = found["validation_srocc"]
    yield {"case": "train.py", "numbers": trained} | note
    began = time.perf_counter()
    evaluate_experiment(experiment)
    rows = len((root_folder(experiment) / "results.jsonl").read_text().splitlines())
    yield {"case": "evaluate.py", "numbers": {"seconds": time.perf_counter() - began, "rows": rows}}


def plain_batches(
    fetch: Callable, count: int, *, batch_size: int, seed: int, flip: bool, start: int = 0, **_: Any
) -> Iterator[dict[str, np.ndarray]]:
    """Batches as of `jaxiqa.data.pipeline.training_batches`, drawn with replacement, without grain."""
    for step in itertools.count(start):
        rng = np.random.default_rng((seed, step))
        drawn = [fetch(int(i), View(bool(flip and rng.random() < 0.5))) for i in rng.integers(count, size=batch_size)]
        yield {name: np.stack([example[name] for example in drawn]) for name in drawn[0]}


def parity(plan: Plan) -> Iterator[Row]:
    """Scores and input gradients of one metric: this device against this machine's CPU, and PyTorch where it is."""
    backbone, metric = plan.metric, attack_rows.random_metric(plan.metric)
    images = np.random.default_rng(1).random((2, *plan.size, 3), np.float32)
    score = models.score_fn(metric, plan.size)
    both = jax.jit(lambda f, x: (f(x), jax.grad(lambda x: f(x).sum())(x)))
    cpu = jax.devices("cpu")[0]
    with jax.default_matmul_precision("float32"):
        expected = jax.device_get(both(*jax.device_put((score, images), cpu)))
    for name, precision in plan.precisions.items():
        with jax.default_matmul_precision(precision):
            found = jax.device_get(both(score, images))
        yield {"case": f"{backbone}, {name}, against the CPU", "numbers": deviation(found, expected)}
    if plan.tiny or find_spec("torch") is None:
        return
    import torch
    import torch_attacks

    place = "cuda" if torch.cuda.is_available() else "cpu"
    peer = torch_attacks.same_model(metric).to(place)
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(place)
    theirs = peer(tensor).detach().cpu().numpy(), torch_attacks.input_gradient(peer, tensor).cpu().numpy()
    theirs = theirs[0], theirs[1].transpose(0, 2, 3, 1)
    yield {"case": f"{backbone}, PyTorch on {place}, against the CPU", "numbers": deviation(theirs, expected)}


def deviation(found: tuple[Any, Any], expected: tuple[Any, Any]) -> dict[str, float]:
    """Return the largest difference of scores, on their scale of 0 to 100, and the cosine between gradients."""
    (scores, slopes), (true_scores, true_slopes) = found, expected
    a, b = (np.asarray(x, np.float64).ravel() for x in (slopes, true_slopes))
    largest = float(np.abs(np.asarray(scores) - np.asarray(true_scores)).max())
    return {"max |Δ score|": largest, "1 − cos ∇": float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))}


def orthogonality(plan: Plan) -> Iterator[Row]:
    """Errors of orthogonal layers in every precision that a GPU might choose: all their products ask for float32."""
    c, h, w = plan.map
    x = jax.random.normal(KEY, (4, h, w, c))
    for name, (setting, precision) in itertools.product(plan.kinds, plan.precisions.items()):
        options = layers.OURS[name]
        kernel = layers.kernel_for(c, layers.columns_of(name, c))
        with jax.default_matmul_precision(precision):
            error = layers.sigma_error(kernel, (h, w), options)
            y = jax.jit(lambda k, x, options=options: orthogonal_convolve(x, k, **options))(kernel, x)
        norms = [np.linalg.norm(np.asarray(z, np.float64).reshape(len(x), -1), axis=1) for z in (x, y)]
        change = float(np.abs(norms[1] / norms[0] - 1).max())
        yield {"case": f"{name}, {setting}", "numbers": {"max |σ − 1|": error, "max |‖y‖/‖x‖ − 1|": change}}


def layer_rows(plan: Plan) -> Iterator[Row]:
    """The rows of benchmarks/layers.py, without peers."""
    for c, h, w in plan.maps:
        rows = layers.exponentials(c, h, w)
        if not plan.tiny:
            steps = training_steps.steps(c, h, w, batch=layers.BATCH, **layers.rounds(c, h, w))
            rows += layers.layers(c, h, w, peers=False) + [layers.Row(*row) for row in steps]
        operations = layers.taylor_operations(c, h, w)
        yield {"layers": layers.Result(layers.device(), f"{c}, {h}x{w}", layers.peak(), operations, rows)}


def attacks(plan: Plan) -> Iterator[Row]:
    """The rows of benchmarks/attacks.py, with plain PyTorch on the same device as the only peer."""
    for backbone, (batch, h, w) in plan.attacked.items():
        metric = attack_rows.random_metric(backbone)
        pixels = np.random.default_rng(1).random((batch, h, w, 3), np.float32)
        score, images = models.score_fn(metric, pixels.shape[1:3]), jnp.asarray(pixels)
        others, versions = peers(metric, pixels)
        for row in plan.attacks:
            own = attack_rows.ours(row, score, images)
            began = time.perf_counter()
            own()
            first = time.perf_counter() - began
            programs = {"jaxiqa": own} | ({"PyTorch": others[row]} if row in others else {})
            seconds = measure(programs, keep=1 if plan.tiny else 3, most=8).seconds
            compiling, memory = max(0.0, first - seconds["jaxiqa"]), gradient_bytes(score, images) / 2**20
            name = f"{chip()}, jax {jax.__version__}{versions}"
            yield {"attacks": attack_rows.Result(name, backbone, row, seconds, compiling, memory)}


def peers(metric: models.Linearity, pixels: np.ndarray) -> tuple[dict[str, Callable[[], object]], str]:
    """Return PyTorch's programs by row, which wait for the device, and its version; none without PyTorch on a GPU."""
    if jax.default_backend() != "gpu" or find_spec("torch") is None:
        return {}, ""
    import torch
    import torch_attacks

    if not torch.cuda.is_available():
        return {}, ""
    model = torch_attacks.same_model(metric).to("cuda")
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))).to("cuda")
    plain = lambda epsilon, step, steps: torch_attacks.pgd(model, x, epsilon, step, steps)  # noqa: E731
    epsilon, step, steps, sizes = attack_rows.EPSILON, attack_rows.STEP, attack_rows.STEPS, attack_rows.EPSILONS
    programs = {
        "pgd": lambda: plain(epsilon, step, steps),
        "pgd_sweep": lambda: [plain(size, step, steps) for size in sizes],
        "fgsm_sweep": lambda: [plain(size, size, 1) for size in sizes],
        "uap": lambda: torch_attacks.fit_uap(model, x, epsilon, 2, len(x) // 2),
    }
    waiting = {row: lambda program=program: (program(), torch.cuda.synchronize()) for row, program in programs.items()}
    return waiting, f", torch {torch.__version__}"


def training(plan: Plan) -> Iterator[Row]:
    """Images per second of a training step of a hardened metric, over batch sizes and precisions."""
    for (shape, batches), precision in itertools.product(plan.trained.items(), plan.training_precisions):
        for batch in batches:
            case = f"{shape}, {precision}, batch {batch} a device"
            try:
                run = Trained(shape, batch * jax.device_count(), precision)
                seconds = measure({"step": run}, keep=1 if plan.tiny else 3, most=8).seconds["step"]
            except jax.errors.JaxRuntimeError as error:
                yield {"case": case, "numbers": {}, "note": str(error).partition("\n")[0][:200]}
                break  # a larger batch needs more memory
            numbers = {"images/s": run.count / seconds, "ms": 1000 * seconds, "compiling, s": run.compiling}
            yield {"case": case, "numbers": numbers}


STEPS: dict[str, Callable[[Plan], Iterator[Row]]] = {
    "device": device,
    "smoke": smoke,
    "parity": parity,
    "orthogonality": orthogonality,
    "layers": layer_rows,
    "attacks": attacks,
    "training": training,
}


def run(names: list[str], plan: Plan, note: Callable[[Row], None]) -> None:
    """Run the steps one after another; ``note`` gets a line at the start of each, its rows, and a line at its end."""
    for name in names:
        note({"step": name, "event": "began", "at": time.time()})
        end: Row = {"step": name, "event": "done"}
        try:
            for row in STEPS[name](plan):
                note({"step": name, **row})
        except Exception as error:  # any error ends this step only
            traceback.print_exc()
            end |= {"event": "failed", "error": "".join(traceback.format_exception(error))[-3000:]}
        note(end | {"at": time.time()})
        jax.clear_caches()
        gc.collect()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", nargs="*", default=list(STEPS), choices=STEPS, metavar="NAME")
    parser.add_argument("--out", type=Path, required=True, help="folder of rows.jsonl")
    parser.add_argument("--tiny", action="store_true", help="the same on tiny arrays: does it run?")
    arguments = parser.parse_args()

    def note(row: Row) -> None:
        with open(arguments.out / "rows.jsonl", "a") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
        print(row, flush=True)

    if arguments.tiny:
        timing.LONG = timing.SETTLE = 0.001
    run(arguments.steps, TINY if arguments.tiny else Plan(), note)


if __name__ == "__main__":
    main()
