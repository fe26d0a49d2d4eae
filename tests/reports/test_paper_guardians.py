"""The table of adversarial training in "Guardians of Image Quality", against an oracle in NumPy."""

from dataclasses import replace

import numpy as np
import pytest
from paper_rows import IMAGES, cells, rows, run, score, without
from scipy.stats import spearmanr

from jaxiqa.reports.papers import guardians

GUARDS = {"I-FGSM": ("weak", "medium"), "UAP": ("weak", "medium")}


def guarded(models=("base", "ssim_4"), seeds=(0,)):
    results, predictions, cards = rows(models, seeds, dict.fromkeys(GUARDS, (1.0, 2.0)))
    levels = {1.0: "weak", 2.0: "medium"}
    return [replace(row, level=levels[row.epsilon]) for row in results], predictions, cards


def test_the_table_of_adversarial_training_against_an_oracle():
    mos = {image: float(7 * i % 5) for i, image in enumerate(IMAGES)}
    (table,) = guardians.tables(run(*guarded(), mos=mos))
    assert list(table.header) == ["set-up", "metric", "D", "D(D)", "SROCC clear", "SROCC adv"]
    assert [row[0] for row in table.rows] == ["no defense"] + [
        f"{label}, {strength}/255" for label in ("SSIM", "LPIPS") for strength in (2, 4, 8)
    ]
    base, own = (np.array([score(model, 0, image) for image in IMAGES]) for model in ("base", "ssim_4"))
    adv = [np.array([score("ssim_4", 0, i, a, e) for i in IMAGES]) for a in GUARDS for e in (1.0, 2.0)]
    human = [mos[image] for image in IMAGES]
    expected = {
        "D": 100 * np.mean([abs(a - base) for a in adv]) / np.ptp(base),
        "D(D)": 100 * np.mean([abs(a - own) for a in adv]) / np.ptp(base),
        "SROCC clear": spearmanr(own, human).statistic,
        "SROCC adv": np.mean([spearmanr(a, human).statistic for a in adv]),
    }
    found = cells(table)
    assert {name: found["SSIM, 4/255", name][1] for name in expected} == pytest.approx(expected)
    assert found["no defense", "D"] == found["no defense", "D(D)"]
    assert {found["LPIPS, 8/255", name] for name in expected} == {("–", None, "–")}


def test_the_table_of_adversarial_training_without_labels_or_with_fewer_attacks():
    results, predictions, cards = guarded()
    found = cells(guardians.tables(run(results, predictions, cards))[0])
    assert found["SSIM, 4/255", "SROCC adv"] == ("–", None, "–")
    assert found["SSIM, 4/255", "D"][1] is not None
    fewer = without(results, model="ssim_4", attack="UAP")
    found = cells(guardians.tables(run(fewer, predictions, cards))[0])
    assert found["SSIM, 4/255", "D(D)"] == ("–", None, "–")
    assert found["no defense", "D(D)"][1] is not None
