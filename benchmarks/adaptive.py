"""Is the order that a filtered metric keeps real, or do its gradients hide the attack? Attacks that know the filter.

    JAXIQA_DATA=/path/to/data python benchmarks/adaptive.py mine=runs/recommended/robust/seed0
    JAXIQA_DATA=/path/to/data python benchmarks/adaptive.py jaxiqa-base --threshold 4 --queries 0

The metric has a `jaxiqa.layers.WaveletShrinkage` before its first stage, or gets one by ``--threshold``, in 255ths. The
order of test images of CLIVE is attacked in several ways: by PGD through the metric as it is, with short and long
steps; straight through the filter, as if its derivative were that of the identity (BPDA); without the filter; with half
its threshold, where fewer derivatives are 0; and by Square, without gradients. Prints what each leaves of SROCC, and
what is left if the strongest counts for every image. A filter that only hides gradients would be beaten by one of the
others. A metric without a filter is attacked by the first four and Square: the control.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.tree_util import Partial

import jaxiqa
from jaxiqa import attacks, data, models
from jaxiqa.cli.runtime import start_jax
from jaxiqa.config import Ranks
from jaxiqa.evaluation.rank_stage import RankPlan
from jaxiqa.layers import WaveletShrinkage
from jaxiqa.measures.correlation import srocc
from jaxiqa.models.metric import Metric

SIZE, BATCH = (256, 256), 8
Change = Callable[[WaveletShrinkage], nnx.Module]


class StraightThrough(nnx.Module):
    """A block with the derivative of the identity."""

    def __init__(self, block: nnx.Module):
        self.block = block

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + jax.lax.stop_gradient(self.block(x) - x)  # type: ignore[operator]


def member(model: Any) -> Any:
    """Return the metric that has the filter: of an average, the member."""
    return model.members[0] if isinstance(model, models.Averaged) else model


def changed(model: Metric, change: Change) -> Any:
    """Return the score function of a copy whose filter is changed."""
    copy = nnx.clone(model)
    stages = member(copy).backbone.stage
    (name,) = (name for name, block in stages.items() if isinstance(block, WaveletShrinkage))
    stages[name] = change(stages[name])
    return models.score_fn(copy, SIZE)


def weaker(share: float) -> Change:
    """Return the change of a filter that multiplies its threshold."""

    def change(block: WaveletShrinkage) -> WaveletShrinkage:
        block.threshold = (np.asarray(block.threshold) * share).tolist()
        return block

    return change


def ways(model: Metric, epsilon: float, queries: int) -> dict[str, tuple[Any, Any]]:
    """Return the score function that each attack sees, and the attack."""
    own, pgd = models.score_fn(model, SIZE), attacks.make("pgd", epsilon=epsilon, steps=10)
    found = {
        "PGD-10": (own, pgd),
        "PGD-10, steps of 0.1 ε": (own, attacks.make("pgd", epsilon=epsilon, steps=10, step_size=0.1 * epsilon)),
        "PGD-10, steps of 0.6 ε": (own, attacks.make("pgd", epsilon=epsilon, steps=10, step_size=0.6 * epsilon)),
        "APGD-20": (own, attacks.make("apgd", epsilon=epsilon, steps=20)),
    }
    if any(block.kind == "wavelet_shrinkage" for block in member(model).insertions):
        found["straight through the filter"] = changed(model, StraightThrough), pgd
        found["half the threshold"] = changed(model, weaker(0.5)), pgd
        found["without the filter"] = changed(model, weaker(0.0)), pgd
    if queries:
        found[f"Square, {queries} queries"] = (own, attacks.make("square", epsilon=epsilon, queries=queries))
    return found


def left(model: Metric, split: data.Split, epsilon: float, queries: int) -> dict[str, tuple[float, float]]:
    """Return (SROCC, mean gain in deviations of the clean scores) after each attack, and after the strongest."""
    mos, score = np.asarray(split.mos), models.score_fn(model, SIZE)
    signs = np.asarray(attacks.invert_ranks(mos).sign)  # of all images, not of a batch
    batches = [slice(first, first + BATCH) for first in range(0, len(split), BATCH)]
    images = data.resized(split, SIZE)
    clean = np.concatenate([np.asarray(score(jnp.asarray(images.images(part)))) for part in batches])
    strongest, found = clean.copy(), {"none": (srocc(clean, mos), 0.0)}
    for name, (seen, attack) in ways(model, epsilon, queries).items():
        after = []
        for number, part in enumerate(batches):
            against = Partial(lambda sign, score, x: sign * score(x), jnp.asarray(signs[part]), seen)
            moved = attack(against, jnp.asarray(images.images(part)), jax.random.fold_in(jax.random.key(0), number))
            after.append(np.asarray(score(moved)))
        scores = np.concatenate(after)
        strongest = np.where(signs * scores > signs * strongest, scores, strongest)
        found[name] = (srocc(scores, mos), float(np.mean(signs * (scores - clean)) / clean.std()))
        print(f"{name}: SROCC {found[name][0]:.3f}, gain {found[name][1]:.3f}", flush=True)
    found["strongest of all"] = (srocc(strongest, mos), float(np.mean(signs * (strongest - clean)) / clean.std()))
    return found


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metric", help="of the package, or NAME=FOLDER of a run")
    parser.add_argument("--threshold", type=float, help="add a filter with this threshold, in 255ths, without training")
    parser.add_argument("--mirror", action="store_true", help="the mean of the scores of image and mirror image")
    parser.add_argument("--epsilon", type=float, default=1.0, help="largest change of a pixel, in 255ths")
    parser.add_argument("--images", type=int, default=24, help="of the 165 test images")
    parser.add_argument("--queries", type=int, default=1000, help="of Square; 0: without it")
    given = parser.parse_args()
    start_jax()
    name, _, folder = given.metric.partition("=")
    model = models.load_run(folder) if folder else jaxiqa.load(name)
    if given.threshold:
        models.filter_images(model, given.threshold / 255)
    if given.mirror:
        model = models.average([model], mirror=True)
    split = data.load("clive", test_fraction=0.2)["test"]
    some = split.select(RankPlan(split, SIZE, Ranks(images=given.images)).places)
    found = left(model, some, given.epsilon / 255, given.queries)
    print(f"\n| attack at {given.epsilon:g}/255 | SROCC | gain, deviations |\n|---|---:|---:|")
    for way, (order, gain) in found.items():
        print(f"| {way} | {order:.3f} | {gain:.3f} |")


if __name__ == "__main__":
    main()
