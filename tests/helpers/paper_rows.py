"""Rows of an evaluation with reproducible scores, for the tables of papers."""

import numpy as np

from jaxiqa.reports.attacks.summary import ends_of, summarise
from jaxiqa.reports.papers import Run
from jaxiqa.results.rows import ModelRow, PredictionRow, ResultRow

EPSILONS = tuple(n / 255 for n in (2, 4, 6, 8, 10))
STRENGTHS = {
    **{f"PGD-{n}": EPSILONS for n in (1, 3, 5, 8)},
    "UAP": (10 / 255,),
    "stAdv": (None,),
}
IMAGES = [f"{i}.png" for i in range(6)]


def score(model, seed, image, attack=None, epsilon=None):
    """Return any reproducible score from 20 to 90."""
    text = f"{model}{seed}{image}{attack}{epsilon}".encode()
    return 20 + 70 * np.random.default_rng(list(text)).random()


def rows(models=("base", "nt", "at", "ours", "bottleneck"), seeds=(0,), strengths=STRENGTHS):
    results, predictions, cards = [], [], []
    for model in models:
        for seed in seeds:
            for i, image in enumerate(IMAGES):
                clean = score(model, seed, image)
                for attack, epsilons in strengths.items():
                    for epsilon in epsilons:
                        attacked = score(model, seed, image, attack, epsilon)
                        change = (attacked, attacked, 0.01, 1.0, 0.9, None, 0.1)
                        results.append(ResultRow(image, model, seed, attack, epsilon, clean, *change))
                predictions.append(PredictionRow(image, model, seed, float(i), clean))
            cards.append(ModelRow(model, seed, 1000, 20.0, 90.0, 0.8, 1.5, 0.2, len(IMAGES)))
    return results, predictions, cards


def run(results, predictions, cards, metric="linearity", score_range="baseline", mos=None, **protocol):
    ranges = {"score_range": score_range, "mos_range": (0.0, 100.0)}
    summary = summarise(results, predictions, cards, **ranges)
    return Run(metric, summary, results, ends_of(cards, results, **ranges), protocol, {"position_6": "here"}, mos)


def cells(table):
    """Return (row, column) -> cell."""
    return {(row[0], name): item for row in table.rows for name, item in zip(table.header, row, strict=True)}


def without(results, **chosen):
    return [row for row in results if not all(getattr(row, name) == value for name, value in chosen.items())]
