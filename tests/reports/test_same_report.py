"""The report by the engine is the report by plain reading: every number and every file, bit by bit."""

from collections import defaultdict
from dataclasses import fields

import numpy as np
import pytest

from jaxiqa.measures.correlation import krocc, plcc, srocc
from jaxiqa.measures.robustness import auc, interval95
from jaxiqa.reports.attacks import gains
from jaxiqa.reports.attacks.differences import differences, differences_csv
from jaxiqa.reports.attacks.gains import CHANGES, GAINS, column, overall
from jaxiqa.reports.attacks.summary import Summary, Value, ends_of, summarise
from jaxiqa.reports.attacks.tables import write_csv, write_markdown
from jaxiqa.reports.attacks.tidy import tidy_lines
from jaxiqa.reports.cells import Curves
from jaxiqa.reports.strengths import format_strength, in_order
from jaxiqa.reports.tidy import tidy_csv
from jaxiqa.results import parts, store
from jaxiqa.results.jsonl import append_rows, read_rows
from jaxiqa.results.rows import FILES, ModelRow, PredictionRow, ResultRow
from jaxiqa.results.store import Store

IMAGES = [f"{name}.png" for name in ("b", "a", "é", "Z", "10", "9", "c d")]
ATTACKS = {"PGD": (2 / 255, 4 / 255, 8 / 255), "stAdv": (None,), "SSAH": ("weak", "medium", "strong"), "UAP": (0.1,)}
SEEDS = {"base": (0, 1), "hard": (1, 0), "third": (0,)}


@pytest.fixture(params=[0, 1])
def root(tmp_path, monkeypatch, request):
    """A folder of rows in a random order; the second lacks some."""
    random = np.random.default_rng(request.param)
    results, predictions, models = [], [], []
    for model, seeds in SEEDS.items():
        for seed in seeds:
            models.append(ModelRow(model, seed, 10, 0.0, 100.0, 0.5, 1.5, 0.25, len(IMAGES), certificate=0.25))
            clean = random.normal(50, 20, len(IMAGES))
            for image, score in zip(IMAGES, clean.tolist(), strict=True):
                predictions.append(PredictionRow(image, model, seed, float(random.normal()), score))
                for attack, strengths in ATTACKS.items():
                    for strength in strengths:
                        level = strength if isinstance(strength, str) else None
                        epsilon = float(random.random()) if level else strength
                        numbers = (score + random.normal(5, 9, 2)).tolist() + random.random(3).tolist()
                        results.append(
                            ResultRow(image, model, seed, attack, epsilon, score, *numbers, None, 0.1, level)
                        )
    if request.param:
        results = [row for row in results if random.random() > 0.02]
        predictions = predictions[:-2]
        models = models[:-1]
    for rows in (results, predictions):
        random.shuffle(rows)
    for module in (parts, store):
        monkeypatch.setattr(module, "BLOCK", 9000)
    monkeypatch.setattr(gains, "HELD_BYTES", 0)
    for rows in (results, predictions, models):
        append_rows(tmp_path / FILES[type(rows[0])], rows)
    return tmp_path


def plain(results, predictions, models, score_range):
    """Summarise rows in memory, as versions before the engine did."""
    cells = defaultdict(dict)
    for row in results:
        key = row.model, row.seed, row.attack, row.strength
        cells[key][row.image] = (row.score, row.attacked, row.rounded, row.ssim, row.linf)
    images = {row.image for row in results}
    found_strengths = defaultdict(set)
    for row in results:
        found_strengths[row.attack].add(row.strength)
    strengths = {attack: in_order(found) for attack, found in found_strengths.items()}
    known = {(card.model, card.seed) for card in models}
    missing = [
        f"{model} seed {seed}: rows, but no model row, so left out"
        for model, seed in sorted({(row.model, row.seed) for row in [*results, *predictions]} - known)
    ]
    by_seed, by_image = {}, {}
    for card in models:
        name, seed, where = card.model, card.seed, f"{card.model} seed {card.seed}"
        found = {"parameters": float(card.parameters), "s / epoch": 1.5, "s / test": 0.25}
        pairs = np.array([(row.score, row.mos) for row in predictions if (row.model, row.seed) == (name, seed)])
        if len(pairs) == card.test_images:
            for measure, function in {"SROCC": srocc, "PLCC": plcc, "KROCC": krocc}.items():
                found[measure] = function(*pairs.T)
        else:
            missing.append(f"{where}: correlations: {len(pairs)} of {card.test_images} predictions")
        scores = [row.score for row in results if (row.model, row.seed) == ("base", seed)]
        low, high = {"model": (0.0, 100.0), "baseline": (min(scores), max(scores))}[score_range]
        found["certified @ 2/255"] = 2 * card.certificate / (high - low)
        for label, epsilons in strengths.items():
            curves = defaultdict(list)
            for epsilon in epsilons:
                cell = cells[name, seed, label, epsilon]
                if set(cell) != images:
                    attack = label if epsilon is None else f"{label} {format_strength(epsilon)}"
                    missing.append(f"{where}: {attack}: {len(cell)} of {len(images)} images")
                    continue
                read = np.array([cell[image] for image in sorted(cell)]).T
                for gain, (function, which) in GAINS.items():
                    values = function(read[0], read[which], low, high)
                    by_image[name, seed, column(gain, label, epsilon)] = values
                    curves[gain].append(values)
                for change, (which, factor) in CHANGES.items():
                    by_image[name, seed, column(change, label, epsilon)] = factor * read[which]
            for gain, curve in curves.items():
                if None not in epsilons and len(curve) == len(epsilons):
                    weights = np.full(len(curve), 1 / len(curve))
                    if not isinstance(epsilons[0], str):
                        weights = np.array([auc(np.array(epsilons), one) for one in np.eye(len(curve))])
                    area = np.mean(curve, axis=0) if isinstance(epsilons[0], str) else weights @ np.array(curve)
                    by_image[name, seed, overall(gain, label, epsilons)] = area
        by_seed |= {(name, seed, key): value for key, value in found.items()}
    by_seed |= {key: float(values.mean()) for key, values in by_image.items()}
    numbers = {}
    for name, key in dict.fromkeys((name, key) for name, _, key in by_seed):
        of = [seed for model, seed, other in by_seed if (model, other) == (name, key)]
        values = [by_seed[name, seed, key] for seed in of]
        arrays = [by_image[name, seed, key] for seed in of if (name, seed, key) in by_image]
        deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        interval = interval95(np.mean(arrays, axis=0)) if arrays else None
        numbers[name, key] = Value(float(np.mean(values)), deviation, len(values), interval)
    names = tuple(dict.fromkeys(card.model for card in models))
    facts = (tuple(sorted({card.seed for card in models})), len(images), len(IMAGES), score_range, tuple(missing), ())
    return Summary(names, strengths, numbers, *facts, by_seed, by_image)


def lines(root, kind):
    return read_rows(root / FILES[kind], kind)


@pytest.mark.parametrize("score_range", ["model", "baseline"])
def test_every_number_and_every_file_is_the_same(root, tmp_path, score_range):
    models = lines(root, ModelRow)
    expected = plain(lines(root, ResultRow), lines(root, PredictionRow), models, score_range)
    kept = Store(root)
    found = summarise(kept.rows(ResultRow), kept.rows(PredictionRow), models, score_range=score_range)
    assert len(list((root / "parquet").rglob("*.parquet"))) > 3
    for field in fields(Summary):
        if field.name != "by_image":
            assert getattr(found, field.name) == getattr(expected, field.name), field.name
    assert list(found.by_seed) == list(expected.by_seed)
    assert list(found.cells) == list(expected.cells)
    assert list(found.by_image) == list(expected.by_image)
    for key, values in expected.by_image.items():
        np.testing.assert_array_equal(found.by_image[key], values, err_msg=str(key))
    assert tidy_csv(tidy_lines(found)) == tidy_csv(tidy_lines(expected))
    assert differences_csv(found, differences(found)) == differences_csv(expected, differences(expected))
    for name, write in {"table.csv": write_csv, "table.md": write_markdown}.items():
        for folder, summary in {"found": found, "expected": expected}.items():
            (tmp_path / folder).mkdir(exist_ok=True)
            write(summary, tmp_path / folder / name)
        assert (tmp_path / "found" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def test_scores_for_the_tables_of_papers_are_the_same(root):
    results = lines(root, ResultRow)
    curves, images = Curves(Store(root).rows(ResultRow)), sorted({row.image for row in results})
    assert set(curves) <= {(row.model, row.seed, row.attack) for row in results}
    assert len(curves) >= 3
    for model, seed, attack in curves:
        cells = curves[model, seed, attack]
        assert set(cells) == set(ATTACKS[attack])
        for strength, found in cells.items():
            rows = {
                r.image: r
                for r in results
                if (r.model, r.seed, r.attack, r.strength) == (model, seed, attack, strength)
            }
            assert found.images == tuple(images)
            assert found.attacked.tolist() == [rows[image].attacked for image in images]
            assert found.clean.tolist() == [rows[image].score for image in images]


def test_the_baseline_range_is_the_same(root):
    models, results = lines(root, ModelRow), lines(root, ResultRow)
    for (_, seed), (low, high) in ends_of(models, Store(root).rows(ResultRow), score_range="baseline").items():
        scores = [row.score for row in results if (row.model, row.seed) == ("base", seed)]
        assert (low, high) == (min(scores), max(scores))
