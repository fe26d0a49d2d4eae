"""Measure the compile time of every attack on every published metric.

    python benchmarks/compiling.py                             # an hour on two cores
    python benchmarks/compiling.py --models tres --attacks pgd  # only these

Each time is stored in benchmarks/compiling.json as soon as it is measured. benchmarks/README.md shows all stored times.
The metric has its published size and random weights. One image is attacked with few steps: their number is not part of
any program. MANIQA's loop over crops runs twice, for the same reason. The times are those that JAX reports: tracing,
lowering and compiling, without running.
"""

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"  # set before JAX is imported: JAX reads it once
import history
import jax
import jax.numpy as jnp
import random_weights
from flax import nnx

from jaxiqa import attacks
from jaxiqa.models import MODELS, maniqa, score_fn
from jaxiqa.networks import NETWORKS

FOLDER = Path(__file__).parent
SIZE = (384, 512)
KEY = jax.random.key(0)
STRENGTH = 4 / 255
QUICK = {
    "fgsm": {},
    "ifgsm": {"steps": 2},
    "pgd": {"steps": 2},
    "apgd": {"steps": 2},
    "madc": {"steps": 2},
    "korhonen": {"steps": 2},
    "zhang": {"steps": 2},
    "ssah": {"steps": 2},
    "cadv": {"steps": 2},
    "stadv": {"steps": 2},
    "nes": {"steps": 1, "pairs": 2},
    "square": {"queries": 4},
    "parsimonious": {"queries": 4},
    "one_pixel": {"population": 4, "generations": 1},
    "patch_rs": {"queries": 4},
}
FITTING = {"uap": {"epochs": 1, "batch_size": 1}, "facpa": {"epochs": 1, "batch_size": 1}}
EVENTS = ("jaxpr_trace_duration", "jaxpr_to_mlir_module_duration", "backend_compile_duration")

spent = 0.0


def listen(event: str, seconds: float, **_: object) -> None:
    global spent
    if event.rpartition("/")[2] in EVENTS:
        spent += seconds


def random_network(name: str) -> Callable:
    spec = NETWORKS[name]
    model = nnx.eval_shape(lambda: spec.build(rngs=nnx.Rngs(0)))
    random_weights.fill(model)
    return spec.wrap(*nnx.split(model))


def random_score(name: str) -> Callable:
    options = {"crops": 2 * maniqa.AT_ONCE} if name == "maniqa" else {}  # otherwise its gradient takes 90 s
    model = nnx.eval_shape(lambda: MODELS[name].build(rngs=nnx.Rngs(0), **options))
    random_weights.fill(model)
    if name == "linearity":
        model.calibrate(k=1.0, b=0.0, score_range=(0.0, 100.0))
    return score_fn(model, SIZE)


def compile_seconds(name: str, score: Callable, images: jax.Array) -> float:
    """Return the seconds of all compilation in the first run of this attack."""
    global spent
    networks = {"zhang": {"distance": "dists"}, "cadv": {"colorize": "siggraph17"}, "facpa": {"network": "facpa_unet"}}
    given = {option: random_network(network) for option, network in networks.get(name, {}).items()}
    jax.clear_caches()
    spent = 0.0
    if name in FITTING:
        attack = attacks.FITTED[name].fit(score, images, KEY, epsilon=STRENGTH, **FITTING[name], **given)
    else:
        kind = attacks.ATTACKS[name]
        given |= {"epsilon": STRENGTH} if getattr(kind, "strength", "epsilon") == "epsilon" else {}
        attack = attacks.make(name, **QUICK[name], **given)
    jax.block_until_ready(attack(score, images, KEY))
    return spent


def show(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return a Markdown table per device: one row per model, one column per attack."""
    parts = []
    for device, models in found.items():
        names = [name for name in (*QUICK, *FITTING) if any(name in row for row in models.values())]
        parts += [f"{device}, one image of {SIZE[0]}x{SIZE[1]}, seconds:", ""]
        parts += ["| metric | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
        for model, row in sorted(models.items()):
            parts.append(
                f"| {model} | " + " | ".join(f"{row[name]:.0f}" if name in row else "" for name in names) + " |"
            )
        parts.append("")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS), metavar="NAME")
    everything = (*QUICK, *FITTING)
    parser.add_argument("--attacks", nargs="*", choices=everything, default=everything, metavar="NAME")
    arguments = parser.parse_args()
    if missing := (set(attacks.ATTACKS) | set(attacks.FITTED)) - set(everything):
        raise SystemExit(f"QUICK and FITTING lack options for {', '.join(sorted(missing))}")
    jax.monitoring.register_event_duration_secs_listener(listen)
    chip = jax.devices()[0]
    name = chip.device_kind if chip.platform != "cpu" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    device = f"{name}, jax {jax.__version__}"
    store, page = FOLDER / "compiling.json", FOLDER / "README.md"
    images = jnp.asarray(jax.random.uniform(KEY, (1, *SIZE, 3)))
    for model in arguments.models:
        score = random_score(model)
        for attack in arguments.attacks:
            found = json.loads(store.read_text()) if store.exists() else {}
            seconds = compile_seconds(attack, score, images)
            print(f"{model} {attack}: {seconds:.1f} s", flush=True)
            found.setdefault(device, {}).setdefault(model, {})[attack] = round(seconds, 1)
            store.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
            history.append("compiling", device, f"{model} {attack}", {"compilation": round(seconds, 1)})
            before, start, rest = page.read_text().partition("<!-- compiling -->\n")
            end = "<!-- /compiling -->"
            page.write_text(f"{before}{start}{show(found)}{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
