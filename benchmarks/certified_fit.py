"""What keeps a certified metric from its teacher? Its fit to the images that it learned from, and to new ones.

    JAXIQA_DATA=/path/to/data python benchmarks/certified_fit.py runs/certified/0.024/base/seed0 --teacher jaxiqa-base

Prints a row per run of ``configs/certified.py``: its constant; how well it follows the teacher on distorted parts of
the validation images, twelve of each, which no training has seen; and its correlation with people on training,
validation and test images, of which the validation images chose the epoch. A metric that follows neither new nor old
images learns too little; one that follows the old ones only has too few of them. Constants, errors and deviations are
shares of the range of the training labels.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from certified import SIZE, all_scores, span

import jaxiqa
from jaxiqa import data, models
from jaxiqa.cli.runtime import start_jax
from jaxiqa.measures.correlation import srocc

COPIES = 12
PEOPLE = ("train", "val", "test")
HEADS = ("run", "constant", "SROCC with the teacher", "error", "deviation", *(f"SROCC, {name}" for name in PEOPLE))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="folders of trained certified metrics")
    parser.add_argument("--teacher", default="jaxiqa-base", help="a metric of the package, or the folder of a run")
    given = parser.parse_args()
    start_jax()
    metrics = {run: models.load_run(run) for run in given.runs}
    for run, metric in metrics.items():
        if not hasattr(metric, "constant"):
            parser.error(f"{run}: a {type(metric).__name__} has no Lipschitz constant; expected a lipschitz_iqa")
    splits = data.load("clive", test_fraction=0.2)
    parts = data.distorted(splits["val"], COPIES, size=SIZE)
    splits["parts"] = replace(parts, mos=np.zeros(len(parts), np.float32))

    def scores(model: Any, name: str) -> np.ndarray:
        return all_scores(models.score_fn(model, SIZE), splits[name])

    teacher = models.load_run(given.teacher) if Path(given.teacher).is_dir() else jaxiqa.load(given.teacher)
    target = scores(teacher, "parts")
    print("| " + " | ".join(HEADS) + " |\n|---|" + "---:|" * (len(HEADS) - 1))
    for run, model in metrics.items():
        found = scores(model, "parts")
        error = np.sqrt(np.mean((found - target) ** 2)) / span(splits)
        numbers = [model.constant(SIZE) / span(splits), srocc(found, target), error, found.std() / span(splits)]
        numbers += [srocc(scores(model, name), np.asarray(splits[name].mos)) for name in PEOPLE]
        shown = [f"{numbers[0]:.4f}", *(f"{number:.3f}" for number in numbers[1:])]
        print(f"| {run} | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()
