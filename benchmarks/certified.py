"""Measure certified metrics: correlation, certificates, the strongest attacks, and median smoothing beside them.

    JAXIQA_DATA=/path/to/data python benchmarks/certified.py --metrics runs/certified/0.012 jaxiqa-certified \\
        --baseline jaxiqa-base --rows benchmarks/certified/frontier.json

``--metrics`` are ``jaxiqa-certified`` and folders of ``configs/certified.py``, one per slope; ``--baseline`` is a
metric that comes with jaxiqa, or any trained metric of the same images. Prints the tables of docs/results_certified.md
and draws the frontier beside ``--rows``, the file of the numbers. Finished measurements are kept there, with a digest
of the metric's weights, so a killed run goes on, and metrics that were measured earlier are in the tables without their
folders. All changes are shares of the range of the labels.
"""

import argparse
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import jax
import numpy as np
from flax import nnx
from matplotlib.figure import Figure

from jaxiqa import attacks, data, lipschitz, models
from jaxiqa.cli.runtime import start_jax
from jaxiqa.core.files import write_bytes, write_text
from jaxiqa.core.progress import progress_bar
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.defenses.smoothing import MS
from jaxiqa.measures.correlation import plcc, srocc
from jaxiqa.models import zoo
from jaxiqa.reports.drawing import SMALL, png, style

SIZE = (256, 256)
RADII = {"l2": (0.05, 0.5, 2.0), "linf": (1 / 255, 2 / 255, 4 / 255)}
ATTACKS: dict[str, tuple[str, dict[str, Any]]] = {
    "APGD-100": ("apgd", {"steps": 100}),
    "Square": ("square", {"queries": 1000}),
}
IMAGES = 8
"""Attacked validation images."""
FEW = 2
"""Those of them for smoothing, and for the steepest slope."""
KEY = jax.random.key(0)
Rows = dict[str, dict[str, Any]]


def all_scores(score: Callable, split: data.Split) -> np.ndarray:
    """Return the scores of all images of a split."""
    run = jax.jit(lambda score, images: score(images))
    batches = scoring_batches(split, 8, size=SIZE)
    return np.concatenate([np.asarray(run(score, images))[:count] for images, count, _ in batches])


def agreement(model: Any, splits: dict[str, data.Split]) -> dict[str, Any]:
    """Return correlations on validation and test images, the deviation of clean scores, and the certificates."""
    score, found = models.score_fn(model, SIZE), {}
    for name in ("val", "test"):
        scores, mos = all_scores(score, splits[name]), splits[name].mos
        found |= {f"{name} srocc": float(srocc(scores, mos)), f"{name} plcc": float(plcc(scores, mos))}
    found["deviation"] = float(scores.std()) / span(splits)
    if hasattr(model, "certificate"):
        bound = lipschitz.report(model, (*SIZE, 3)).bound
        found |= {"constant": model.constant(SIZE) / span(splits), "report": bound / span(splits)}
        found["certificates"] = {
            f"{norm} {radius:.5f}": model.certificate(radius, SIZE, norm=norm) / span(splits)
            for norm, radii in RADII.items()
            for radius in radii
        }
    return found


def span(splits: dict[str, data.Split]) -> float:
    """Return the range of the training labels."""
    return float(np.ptp(splits["train"].mos))


def attacked(model: Any, images: jax.Array, name: str, norm: str, radius: float) -> dict[str, float]:
    """Return the mean and the largest change of the score by one attack that raises and one that lowers it."""
    score = models.score_fn(model, SIZE)
    kind, options = ATTACKS[name]
    clean, changes = np.asarray(score(images)), []
    for objective in ("raise", "lower"):
        attack = attacks.make(kind, epsilon=radius, norm=norm, objective=objective, **options)
        changes.append(np.abs(np.asarray(score(attack(score, images, KEY))) - clean))
    strongest = np.maximum(*changes)
    return {"mean": float(strongest.mean()), "largest": float(strongest.max())}


def steepest(model: Any, images: jax.Array, radius: float) -> dict[str, float]:
    """Return the steepest slope that gradient ascent of the slope itself finds in the Euclidean ball of each image."""
    score = models.score_fn(model, SIZE)
    slope = jax.tree_util.Partial(lipschitz.gradient_norms, score)
    found = attacks.make("apgd", epsilon=radius, norm="l2", steps=30)(slope, images, KEY)
    slopes = np.maximum(np.asarray(slope(found)), np.asarray(slope(images)))
    return {"mean": float(slopes.mean()), "largest": float(slopes.max())}


def smoothed(model: Any, images: jax.Array, radius: float) -> dict[str, float]:
    """Return half the width of the interval by median smoothing with 1,000 samples, and seconds per image."""
    certify, score = MS(epsilon=radius, sigma=max(0.12, radius / 2), n=1000), models.score_fn(model, SIZE)
    certify(score, images[:1], KEY)  # compiles
    began = time.perf_counter()
    found = certify(score, images, KEY)
    seconds = (time.perf_counter() - began) / len(images)
    clean = np.asarray(score(images))
    one = jax.jit(lambda score, images: score(images))
    one(score, images[:1]).block_until_ready()
    began = time.perf_counter()
    one(score, images[:1]).block_until_ready()
    width = np.maximum(found.upper - found.score, found.score - found.lower)
    return {
        "width": float(np.mean(width)),
        "moved": float(np.mean(np.abs(np.asarray(found.score) - clean))),
        "seconds": seconds,
        "one pass": time.perf_counter() - began,
    }


def measure(model: Any, splits: dict[str, data.Split], known: Rows, store: Callable) -> None:
    """Measure what is not in ``known`` yet."""
    scale = span(splits)
    pixels = next(images for images, _, _ in scoring_batches(splits["val"].take(IMAGES), IMAGES, size=SIZE))
    jobs: dict[str, Callable[[], dict[str, Any]]] = {"agreement": lambda: agreement(model, splits)}
    for norm, radii in RADII.items():
        for radius in radii:
            for name in attacks_at(norm, radius):
                job = lambda n=name, m=norm, r=radius: attacked(model, pixels, n, m, r)  # noqa: E731
                jobs[f"{name} {norm} {radius:.5f}"] = job
    jobs["slope l2 0.50000"] = lambda: steepest(model, pixels[:FEW], 0.5)
    for radius in RADII["l2"]:
        jobs[f"smoothing {radius}"] = lambda r=radius: smoothed(model, pixels[:FEW], r)
    with progress_bar("measuring", "measurements") as bar:
        for number, (label, job) in enumerate(jobs.items()):
            bar(number, len(jobs), label)
            if label not in known:
                row = job()
                in_scores = ("mean", "largest", "width", "moved")
                store(label, {key: value / scale if key in in_scores else value for key, value in row.items()})


def attacks_at(norm: str, radius: float) -> list[str]:
    """Return the attacks at a radius: Square, which is slow, only at the middle one."""
    return [name for name in ATTACKS if name != "Square" or radius == RADII[norm][1]]


def tables(rows: dict[str, Rows]) -> str:
    """Return the markdown tables."""
    columns = [(norm, radius) for norm, radii in RADII.items() for radius in radii]
    names = [f"ℓ2 {r:g}" if n == "l2" else f"ℓ∞ {255 * r:g}/255" for n, r in columns]
    lines = ["| metric | SROCC val | PLCC val | SROCC test | PLCC test | constant | " + " | ".join(names) + " |"]
    lines += ["|---|" + "---:|" * (5 + len(names))]
    for metric, found in rows.items():
        about = found["agreement"]
        cells = [f"{about[f'{s} {m}']:.3f}" for s in ("val", "test") for m in ("srocc", "plcc")]
        cells += [f"{about['constant']:.4f}" if "constant" in about else "–"]
        for norm, radius in columns:
            value = about.get("certificates", {}).get(f"{norm} {radius:.5f}")
            cells.append("–" if value is None else f"{value:.4f}")
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    lines += ["", "| metric | attack | " + " | ".join(names) + " |", "|---|---|" + "---:|" * len(names)]
    for metric, found in rows.items():
        for name in ATTACKS:
            places = [f"{name} {norm} {radius:.5f}" for norm, radius in columns]
            cells = [f"{found[place]['largest']:.4f}" if place in found else "–" for place in places]
            lines.append(f"| {metric} | {name} | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| metric | " + " | ".join(f"smoothing ℓ2 {r:g}" for r in RADII["l2"]) + " | s per image | one pass, s |",
    ]
    lines += ["|---|" + "---:|" * (len(RADII["l2"]) + 2)]
    for metric, found in rows.items():
        smooth = [found[f"smoothing {radius}"] for radius in RADII["l2"]]
        cells = [f"{cell['width']:.4f}" for cell in smooth]
        cells += [f"{np.median([cell[key] for cell in smooth]):.3g}" for key in ("seconds", "one pass")]
        lines.append(f"| {metric} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: dict[str, Rows], path: Path) -> None:
    """Draw SROCC against the certificate at ℓ∞ 2/255; and the strongest change found, as an open marker."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    place = f"linf {2 / 255:.5f}"
    gains = {name: row[f"APGD-100 {place}"]["largest"] for name, row in rows.items()}
    limits = {name: row["agreement"].get("certificates", {}).get(place) for name, row in rows.items()}
    line = sorted((name for name in rows if limits[name]), key=lambda name: limits[name])
    for number, part in enumerate(("val", "test")):
        found = {name: row["agreement"][f"{part} srocc"] for name, row in rows.items()}
        look = style(number) | {"label": {"val": "validation images", "test": "test images"}[part]}
        axes.plot([limits[name] for name in line], [found[name] for name in line], **look)
        attacked = [name for name in rows if part == "val" or name not in line]
        look |= {"mfc": "none", "linestyle": "", "label": f"APGD-100, {IMAGES} of them" if part == "val" else None}
        axes.plot([gains[name] for name in attacked], [found[name] for name in attacked], **look)
        for name in rows if part == "val" else ():
            at = (limits[name] or gains[name], found[name])
            axes.annotate(name, at, (-3, 7), textcoords="offset points", fontsize=SMALL, rotation=60)
    axes.set(xscale="log", xlabel="largest change of the score at ℓ∞ 2/255, share of the labels' range")
    axes.set_ylabel("SROCC")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=SMALL)
    write_bytes(path, png(figure))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--metrics", nargs="*", default=[], help="certified metrics: folders, or jaxiqa-certified")
    parser.add_argument("--baseline", help="NAME of a metric that comes with jaxiqa, or NAME=FOLDER of a trained one")
    parser.add_argument("--rows", type=Path, required=True, help="the file of the numbers")
    given = parser.parse_args()
    start_jax()
    splits = data.load("clive", test_fraction=0.2)
    found: dict[str, tuple[str, str | None]] = {}
    for place in given.metrics:
        if place in zoo.SHIPPED:
            found[place] = (place, None)
        else:
            found[f"certified {Path(place).name}"] = ("lipschitz_iqa", place)
    if len(found) < len(given.metrics):
        parser.error("--metrics: two have the same name (of a folder: its last part); rename a folder")
    name, _, folder = (given.baseline or "").partition("=")
    if name:
        found = {name: (name, folder or None), **found}
    rows: dict[str, Rows] = json.loads(given.rows.read_text()) if given.rows.exists() else {}
    for label, (kind, place) in found.items():
        model = models.load(kind, place)
        if label != name and not hasattr(model, "certificate"):
            parser.error(f"--metrics {label}: a {type(model).__name__} has no certificate; give it as --baseline")
        weights = digest(model)
        known = rows.setdefault(label, {"weights": weights})
        if known["weights"] != weights:
            raise SystemExit(f"{given.rows}: {label} has other weights; rename the folder, or name another file")

        def store(measurement: str, row: dict[str, Any], known: Rows = known) -> None:
            known[measurement] = row
            write_text(given.rows, json.dumps(rows, indent=1))

        measure(model, splits, known, store)
    if not rows:
        parser.error(f"{given.rows} has no numbers yet; give --metrics, --baseline or both")
    last = f"smoothing {RADII['l2'][-1]}"
    if unfinished := [label for label, row in rows.items() if last not in row]:
        raise SystemExit(f"{given.rows}: not all of {', '.join(unfinished)} is measured; give its folder again")
    for label, row in rows.items():
        if "certificates" in row["agreement"]:
            check(label, row)
    rows = dict(sorted(rows.items(), key=lambda item: item[1]["agreement"].get("constant", 0.0)))
    print(tables(rows))
    draw(rows, given.rows.with_suffix(".png"))


def digest(model: Any) -> str:
    """Return a digest of a metric's weights."""
    leaves = jax.tree.leaves(nnx.state(model))
    return hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest()[:16]


def check(label: str, found: Rows) -> None:
    """Fail if an attack moved a score further than the certificate, or a slope is above the constant."""
    about = found["agreement"]
    for norm, radius in [(norm, radius) for norm, radii in RADII.items() for radius in radii]:
        place = f"{norm} {radius:.5f}"
        for name in attacks_at(norm, radius):
            largest, certificate = found[f"{name} {place}"]["largest"], about["certificates"][place]
            assert largest <= certificate * (1 + 1e-4) + 1e-6, f"{label}: {name} at {place} exceeds its certificate"
    assert found["slope l2 0.50000"]["largest"] <= about["constant"] * (1 + 1e-4), f"{label}: a slope is too steep"
    assert math.isclose(about["report"], about["constant"], rel_tol=0.01), f"{label}: the report has another bound"


if __name__ == "__main__":
    main()
