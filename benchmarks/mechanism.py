"""Where along a metric does a small change of an image grow? Hardened metrics beside the one they come from.

    JAXIQA_DATA=/path/to/data python benchmarks/mechanism.py --out docs/_static/growth.png
    JAXIQA_DATA=/path/to/data python benchmarks/mechanism.py --metrics jaxiqa-base mine=runs/recommended/robust/seed0

Attacks the order of labelled images (PGD, 10 steps), and draws random signs of the same size. Prints, for each stage of
the backbone, the size of both changes beside that of the signal (`jaxiqa.lipschitz.growth`), and below them the sum of
the logarithms of the layers' spectral norms, which would fall if the layers themselves became less steep. Draws the
changes after the mean over pixels, which is what the head reads.
"""

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import jaxiqa
from jaxiqa import attacks, data, lipschitz, models
from jaxiqa.cli.runtime import start_jax
from jaxiqa.config import Ranks
from jaxiqa.core.files import write_bytes
from jaxiqa.evaluation.rank_stage import RankPlan
from jaxiqa.models.metric import Metric
from jaxiqa.reports.drawing import legend, png, style
from jaxiqa.train.penalties import backbone_layers, layer_norms

SIZE = (256, 256)
Sizes = dict[str, dict[str, lipschitz.Growth]]


def changes(model: Metric, split: data.Split, count: int, epsilon: float) -> Sizes:
    """Return the size of an attack, and of random signs, at each stage of the backbone."""
    split = split.select(RankPlan(split, SIZE, Ranks(images=count)).places)
    images, key = jnp.asarray(data.resized(split, SIZE).images()), jax.random.key(0)
    assert split.mos is not None
    attack = attacks.make("pgd", epsilon=epsilon, steps=10, objective=attacks.invert_ranks(split.mos))
    noise = jnp.clip(images + epsilon * jax.random.rademacher(key, images.shape, images.dtype), 0, 1)
    shown = {"attack": attack(models.score_fn(model, SIZE), images, key), "random signs": noise}
    names = model.backbone.order
    features = lambda x: model.features(model.prepare(x), names)  # noqa: E731
    found = {kind: lipschitz.growth(features, images, moved) for kind, moved in shown.items()}
    return {kind: {name: sizes[name] for name in names} for kind, sizes in found.items()}


def steepness(model: Metric) -> float:
    """Return the sum of the logarithms of the spectral norms of all layers of the backbone, with their batch norms."""
    return float(np.log(np.asarray(layer_norms(model, backbone_layers(model)))).sum())


def stages(found: dict[str, Sizes]) -> list[str]:
    """Return the stages of the metric that has the most: hardening adds stages to those of the base."""
    return max((list(sizes) for kinds in found.values() for sizes in kinds.values()), key=len)


def table(found: dict[str, Sizes], steep: dict[str, float]) -> str:
    """Return the table of one column per metric and kind of change; "–" where a metric does not have the stage."""
    columns = {f"{name}, {kind}": sizes for name, kinds in found.items() for kind, sizes in kinds.items()}
    lines = ["| stage | " + " | ".join(columns) + " |", "|---|" + "---:|" * len(columns)]
    lines += [
        f"| {stage} | "
        + " | ".join(f"{sizes[stage].change:.3f}" if stage in sizes else "–" for sizes in columns.values())
        + " |"
        for stage in stages(found)
    ]
    lines.append("")
    lines += [f"{name}: sum of log σ over the layers {value:.1f}" for name, value in steep.items()]
    return "\n".join(lines)


def draw(found: dict[str, Sizes], path: Path) -> None:
    """Draw the changes of pooled maps along the backbone."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes, names = figure.subplots(), stages(found)
    for number, (name, kinds) in enumerate(found.items()):
        for kind, sizes in kinds.items():
            line = {"linestyle": "-" if kind == "attack" else ":", "markersize": 4}
            places = [names.index(stage) for stage in sizes]
            axes.plot(places, [x.mean for x in sizes.values()], label=f"{name}, {kind}", **(style(number) | line))
    axes.set(yscale="log", ylabel="change beside the signal, pooled")
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
    axes.grid(alpha=0.3)
    legend(figure, [axes])
    write_bytes(path, png(figure))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    metrics = ["jaxiqa-base", "jaxiqa-robust"]
    parser.add_argument("--metrics", nargs="+", default=metrics, help="metrics of the package, or NAME=FOLDER of a run")
    parser.add_argument("--epsilon", type=float, default=1.0, help="largest change of a pixel, in 255ths")
    parser.add_argument("--images", type=int, default=24, help="of the test images")
    parser.add_argument("--out", type=Path, help="file of the plot")
    given = parser.parse_args()
    start_jax()
    split = data.load("clive", test_fraction=0.2)["test"]
    found, steep = {}, {}
    for entry in given.metrics:
        name, _, folder = entry.partition("=")
        model = models.load_run(folder) if folder else jaxiqa.load(name)
        found[name] = changes(model, split, given.images, given.epsilon / 255)
        steep[name] = steepness(model)
    print(table(found, steep))
    if given.out:
        draw(found, given.out)


if __name__ == "__main__":
    main()
