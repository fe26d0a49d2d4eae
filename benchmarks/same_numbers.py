"""Check that two commits give the same numbers: scores of all metrics, a run of every attack, a small training.

    python benchmarks/same_numbers.py OLD [NEW]

Each commit is checked out into its own folder and run in its own process. NEW is the working tree by default. The
script prints each number that differs and the largest difference. The exit status is 1 if a difference is above the
tolerance.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TOLERANCE = 1e-6
"""Allowed relative difference: float32 rounding if sums are added in another order."""

ROOT = Path(__file__).parent.parent


def probe(out: Path) -> None:
    """Compute the numbers of the jaxiqa that this process imports, and write them to ``out``."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from flax import nnx

    from jaxiqa import attacks, data, models

    def images(count: int, size: tuple[int, int]) -> jax.Array:
        split = data.load("builtin", size=size, train=8, val=8, test=8)["train"]
        return jnp.stack([jnp.asarray(split[i]["image"], jnp.float32) / 255 for i in range(count)])

    numbers: dict[str, list[float]] = {}

    def keep(name: str, values: object) -> None:
        numbers[name] = np.asarray(values, np.float64).ravel().tolist()
        out.write_text(json.dumps(numbers))
        print(f"  {name}", file=sys.stderr)

    large = images(1, (312, 360))
    for name, spec in models.MODELS.items():
        model = spec.build(rngs=nnx.Rngs(0))
        keep(f"score of {name}", jax.jit(lambda f, x: f(x))(models.score_fn(model), large))
        if not hasattr(model, "backbone"):
            continue
        order = model.backbone.order
        models.harden(model, f"after:{order[len(order) // 2]}", "bottleneck", mid=2, rngs=nnx.Rngs(1))
        keep(f"score of hardened {name}", jax.jit(lambda f, x: f(x))(models.score_fn(model), large))
    score = models.score_fn(models.build("resnet18", width=8))
    small, key = images(2, (37, 46)), jax.random.key(5)
    distance = lambda images, clean: ((images - clean) ** 2).mean((1, 2, 3))  # noqa: E731
    needs = {
        "korhonen": {"steps": 3},
        "madc": {"steps": 3},
        "zhang": {"distance": distance, "steps": 3},
        "ssah": {"steps": 3},
        "cadv": {"colorize": lambda lightness, hints, mask: jnp.tanh(hints + mask), "steps": 3, "hints": 5},
        "stadv": {"steps": 3},
        "nes": {"steps": 3, "pairs": 4},
        "square": {"queries": 40},
        "parsimonious": {"queries": 40},
        "one_pixel": {"pixels": 3, "population": 8, "generations": 3},
        "patch_rs": {"area": 16, "queries": 40},
    }
    for name, kind in attacks.ATTACKS.items():
        bounded = {"epsilon": 4 / 255} if "epsilon" in kind.__dataclass_fields__ else {}
        keep(f"attack {name}", attacks.make(name, **needs.get(name, {}), **bounded)(score, small, key).mean((1, 2)))
    network = jax.tree_util.Partial(lambda shift, x: jnp.tanh(x - 0.5 + shift), jnp.zeros(3))
    fitting = {"uap": {"epochs": 2}, "facpa": {"network": network, "multiple": 1, "epochs": 2}}
    for name, kind in attacks.FITTED.items():
        fitted = kind.fit(score, small, key, epsilon=4 / 255, batch_size=2, **fitting[name])
        keep(f"attack {name}", fitted(score, small, key).mean((1, 2)))
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "train.py", "--config", "configs/smoke.py", "--workdir", folder]
        subprocess.run(command, check=True, stdout=sys.stderr)
        for variant in ("baseline", "hardened"):
            run = Path(folder) / variant / "seed0"
            keep(f"trained {variant}", json.loads((run / "training.json").read_text())["validation_srocc"])
            keep(f"score of trained {variant}", models.score_fn(models.load_run(run))(small))


def ask(commit: str | None, folder: Path) -> dict[str, list[float]]:
    """Return the numbers of a commit, or of the working tree."""
    tree = ROOT
    if commit:
        tree = folder / commit.replace("/", "_")
        subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", "-f", tree, commit], check=True)
    try:
        print(f"{commit or 'working tree'}:", file=sys.stderr)
        out = folder / f"{tree.name}.json"
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        command = [sys.executable, Path(__file__).resolve(), "--probe", out]
        subprocess.run(command, check=True, cwd=tree, env=environment)
        return json.loads(out.read_text())
    finally:
        if commit:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", nargs="?")
    parser.add_argument("new", nargs="?")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        probe(arguments.probe)
        return 0
    if not arguments.old:
        parser.error("OLD is missing: give a commit to compare with")
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        old, new = ask(arguments.old, Path(folder)), ask(arguments.new, Path(folder))
    worst = 0.0
    for name in old | new:
        before, after = (np.array(numbers.get(name, [np.nan])) for numbers in (old, new))
        same = before.shape == after.shape
        error = np.abs(before - after).max() / max(np.abs(before).max(), 1e-30) if same else np.inf
        worst = max(worst, np.inf if np.isnan(error) else error)
        if error != 0:
            print(f"{name}: {error:.1e} ({before[:3]} -> {after[:3]})")
    print(f"{len(old | new)} kinds of numbers; largest relative difference {worst:.1e}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())
