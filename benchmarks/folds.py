"""SROCC of a config's variants by cross-validation, beside ridge regression on the features of their frozen backbone.

    JAXIQA_DATA=/path/to/data python benchmarks/folds.py --config configs/clive_heads.py --workdir runs/clive_heads
    JAXIQA_DATA=/path/to/data python benchmarks/folds.py --config configs/clive_mobilenet_v2.py --variants baseline \\
        --workdir runs/clive_mobilenet_v2_folds

Trains every variant and seed of the config, or those named, once per fold (`jaxiqa.data.folds`): epochs are chosen by
images outside of the fold, and the SROCC is that of the fold's images, which nothing has seen. Ridge regression has the
same training images (and those that choose the epochs), its penalty is chosen by leave-one-out on them, and its
features are the means over pixels of the backbone's last stage for whole images.

Trained folds are kept, and a killed run goes on. `--rows FILE` keeps the numbers apart from them: a fold whose rows are
in the file is not trained again, so the study goes on over sessions and machines that share nothing else.
"""

import argparse
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxiqa import data, models
from jaxiqa.cli.runtime import start_jax
from jaxiqa.cli.train import train
from jaxiqa.config import Experiment, folded, load_config, run_folder
from jaxiqa.config.identity import describe
from jaxiqa.core.allocator import keep_freed_memory
from jaxiqa.core.files import write_text
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.measures.correlation import plcc, srocc
from jaxiqa.nn.stages import normalise
from jaxiqa.train.variant import new_metric

PENALTIES = np.logspace(-1, 5, 25)


def scores(model: models.metric.Metric, split: data.Split, size: tuple[int, int] | None, batch: int = 8) -> np.ndarray:
    """Return the scores of all images."""
    score = jax.jit(lambda score, images: score(images))
    given = models.score_fn(model, size) if size else models.score_fn(model)
    found = [np.asarray(score(given, images))[:count] for images, count, _ in scoring_batches(split, batch, size=size)]
    return np.concatenate(found)


def features(experiment: Experiment, split: data.Split, batch: int = 8) -> np.ndarray:
    """Return the means over pixels of the last stage of the experiment's untrained backbone, ``n c``."""
    model = new_metric(experiment.model, weights=True)

    @nnx.jit
    def pooled(model, images):
        return model.backbone.run(normalise(images, model.mean, model.std))[0].mean((1, 2))

    size = experiment.model.input_size
    found = [np.asarray(pooled(model, images))[:count] for images, count, _ in scoring_batches(split, batch, size=size)]
    return np.concatenate(found)


def ridge(experiment: Experiment, splits: dict[str, data.Split]) -> np.ndarray:
    """Return the scores of the test images by ridge regression on frozen features."""
    found = {part: features(experiment, split) for part, split in splits.items()}
    x, y = (np.concatenate([part["train"], part["val"]]) for part in (found, {n: s.mos for n, s in splits.items()}))
    return make_pipeline(StandardScaler(), RidgeCV(PENALTIES)).fit(x, y).predict(found["test"])


def agreement(found: np.ndarray, mos: np.ndarray) -> dict[str, float]:
    """Return both correlations of scores with human scores."""
    return {"srocc": srocc(found, mos), "plcc": plcc(found, mos)}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path)
    parser.add_argument("--workdir", required=True, type=Path)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--variants", nargs="+", help="names of variants, with their parents; default: all")
    parser.add_argument("--rows", type=Path, help="the file of the numbers; default: WORKDIR/folds.json")
    parser.add_argument("--head", help="the parameter of that name of the config")
    arguments = parser.parse_args()
    keep_freed_memory()
    start_jax()
    chosen = {"head": arguments.head} if arguments.head else {}
    experiment = load_config(arguments.config, **chosen)
    if unknown := set(arguments.variants or ()) - set(experiment.variants):
        parser.error(f"--variants: no {', '.join(sorted(unknown))}; the config has {', '.join(experiment.variants)}")
    variants = {name: experiment.variants[name] for name in arguments.variants or experiment.variants}
    experiment = replace(experiment, variants=variants)
    whole = replace(experiment, folds=arguments.folds, workdir=str(arguments.workdir))
    parts = folded(whole)
    path = arguments.rows or arguments.workdir / "folds.json"
    if rows := read_rows(path, parts):
        print(table(rows), flush=True)
    for number, part in enumerate(parts):
        if any(row["fold"] == number for row in rows):
            continue
        splits = data.load(part.data.name, **part.data.arguments)
        mos = splits["test"].mos
        train(part)
        trained = {"fold": number, "config": config_digest(part)}
        for seed in part.seeds:
            for name in part.variants:
                found = scores(models.load_run(run_folder(part, name, seed)), splits["test"], part.model.input_size)
                rows.append({**trained, "model": name, "seed": seed, **agreement(found, mos)})
        if hasattr(new_metric(part.model, weights=False), "backbone"):
            rows.append({**trained, "model": "ridge", "seed": 0, **agreement(ridge(part, splits), mos)})
        write_text(path, json.dumps(rows, indent=1))
        print(table(rows), flush=True)


def config_digest(part: Experiment) -> str:
    """Return a digest of all that decides the rows of one fold."""
    described = [describe(part, name, seed) for name in part.variants for seed in part.seeds]
    return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]


def read_rows(path: Path, parts: list[Experiment]) -> list[dict]:
    """Return the rows of earlier runs; a file of another config is refused, since its rows would be mixed with ours."""
    rows = json.loads(path.read_text()) if path.exists() else []
    for row in rows:
        if row["fold"] >= len(parts) or row.get("config") != config_digest(parts[row["fold"]]):
            raise SystemExit(f"{path}: fold {row['fold']} belongs to another config; name another file with --rows")
    return rows


def table(rows: list[dict]) -> str:
    """Return mean ± standard deviation over folds and seeds, a line per model.

    >>> print(table([{"model": "a", "srocc": 0.7, "plcc": 0.8}, {"model": "a", "srocc": 0.8, "plcc": 0.8}]))
    | model | runs | SROCC | PLCC |
    |---|---:|---:|---:|
    | a | 2 | .750 ± .071 | .800 ± .000 |
    """
    lines = ["| model | runs | SROCC | PLCC |", "|---|---:|---:|---:|"]
    for name in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == name]
        shown = [spread([row[key] for row in own]) for key in ("srocc", "plcc")]
        lines.append(f"| {name} | {len(own)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    """Return mean ± standard deviation; of a single value, the value.

    >>> spread([0.5, 0.75]), spread([-10.25])
    ('.625 ± .177', '−10.250')
    """
    text = f"{np.mean(values):.3f}" + (f" ± {deviation(values):.3f}" if len(values) > 1 else "")
    return re.sub(r"(?<!\d)0\.", ".", text).replace("-", "−")


def deviation(values: list[float]) -> float:
    """Return the standard deviation; 0 for a single value."""
    return float(np.std(values, ddof=min(1, len(values) - 1)))


if __name__ == "__main__":
    main()
