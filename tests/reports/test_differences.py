"""Paired differences between models, the tidy csv, and what plots and terminals show of few or many numbers."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from matplotlib.figure import Figure
from rich.console import Console
from sample_report import ATTACKS, DEFENSES, MODELS, checks, defense_rows, rank_rows, rows, write_sample

from jaxiqa.reports.attacks import plots
from jaxiqa.reports.attacks.differences import OVER_ALL, differences, differences_csv, differences_table
from jaxiqa.reports.attacks.masking import masking_notes, masking_table
from jaxiqa.reports.attacks.order import summarise_order
from jaxiqa.reports.attacks.summary import ends_of, summarise
from jaxiqa.reports.attacks.tables import for_terminal, tables
from jaxiqa.reports.attacks.tidy import tidy_lines as attack_lines
from jaxiqa.reports.defenses.plots import MARKS, by_strength, tradeoff
from jaxiqa.reports.defenses.summary import pool, summarise_defenses
from jaxiqa.reports.defenses.tables import tidy_lines as defense_lines
from jaxiqa.reports.drawing import png
from jaxiqa.reports.page import anchors
from jaxiqa.reports.table import Table
from jaxiqa.reports.tidy import tidy_csv

BASE, BLOCK, _ = MODELS


@pytest.fixture(scope="module")
def summary():
    return summarise(*rows((0, 1)), score_range="model", masking=checks((0, 1)))


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return write_sample(tmp_path_factory.mktemp("sample"), (0, 1))


@pytest.fixture
def figures(monkeypatch):
    drawn = []

    def keep(figure, **options):
        drawn.append(figure)
        return png(Figure(figsize=(1, 1)))

    monkeypatch.setattr(plots, "png", keep)
    monkeypatch.setattr("jaxiqa.reports.defenses.plots.png", keep)
    return drawn


def gains(results, model, attack, epsilon):
    """Return the gain per image, averaged over seeds, computed from the rows themselves."""
    chosen = [row for row in results if (row.model, row.attack, row.epsilon) == (model, attack, epsilon)]
    images = sorted({row.image for row in chosen})
    return np.array([np.mean([(r.attacked - r.score) / 70 for r in chosen if r.image == image]) for image in images])


def test_a_difference_is_that_of_a_paired_t_test(summary):
    results = rows((0, 1))[0]
    ours, theirs = (gains(results, model, "PGD-10", 4 / 255) for model in (BLOCK, BASE))
    test = scipy.stats.ttest_rel(ours, theirs)
    found = {(d.model, d.attack, d.strength, d.gain): d for d in differences(summary)}
    one = found[BLOCK, "PGD-10", 4 / 255, "AbsGain"]
    assert one.mean == pytest.approx(np.mean(ours) - np.mean(theirs))
    interval = test.confidence_interval(0.95)
    assert one.interval == pytest.approx((interval.low, interval.high))
    assert (one.images, one.seeds) == (8, 2)
    # narrower than the difference of two unpaired means, since images differ more than models
    unpaired = scipy.stats.ttest_ind(ours, theirs).confidence_interval(0.95)
    assert np.diff(one.interval)[0] < unpaired.high - unpaired.low
    # trapezoids over ε = 2, 4, 16 of 255: weights 1/14, 7/14, 6/14
    weights = dict(zip(ATTACKS["PGD-10"], (1 / 14, 7 / 14, 6 / 14), strict=True))
    area = sum(w * (gains(results, BLOCK, "PGD-10", e) - gains(results, BASE, "PGD-10", e)) for e, w in weights.items())
    assert found[BLOCK, "PGD-10", OVER_ALL, "AbsGain"].mean == pytest.approx(area.mean())
    half = scipy.stats.t.ppf(0.975, 7) * area.std(ddof=1) / np.sqrt(8)
    assert found[BLOCK, "PGD-10", OVER_ALL, "AbsGain"].interval == pytest.approx(
        (area.mean() - half, area.mean() + half)
    )
    assert not any(model == BASE for model, *_ in found)
    assert ("PGD-10", OVER_ALL) in {key[1:3] for key in found}
    assert ("one strength", OVER_ALL) not in {key[1:3] for key in found}


def test_only_seeds_and_cells_that_both_models_have_are_compared():
    results, predictions, cards = rows((0, 1))
    gone = [row for row in results if not (row.model == BLOCK and row.seed == 1 and row.attack == "stAdv")]
    gone = [row for row in gone if not (row.model == BASE and row.attack == "SSAH" and row.image == "image 0.png")]
    found = differences(summarise(gone, predictions, cards, score_range="model"))
    assert {d.seeds for d in found if (d.model, d.attack) == (BLOCK, "stAdv")} == {1}
    assert not [d for d in found if d.attack == "SSAH"]
    one_model = [card for card in cards if card.model == BASE]
    alone = summarise([row for row in results if row.model == BASE], [], one_model, score_range="model")
    assert differences(alone) == []
    assert differences_table(alone, []) is None


def test_the_table_says_what_is_decided(summary):
    table = differences_table(summary, differences(summary))
    lines = {(row[0], row[1][0], row[2]): row for row in table.rows}
    assert lines["PGD-10", "4/255", BLOCK][-1] == "lower"
    assert re.fullmatch(r"-0\.\d{3} \(-0\.\d{3} to -0\.\d{3}\)", lines["PGD-10", "4/255", BLOCK][3][0])
    results, predictions, cards = rows((0,))
    twin = [replace(row, model="twin") for row in results if row.model == BASE]
    cards = [cards[0], replace(cards[0], model="twin")]
    same = summarise([*results, *twin], predictions, cards, score_range="model")
    assert {row[-1] for row in differences_table(same, differences(same)).rows} == {"not decided"}


def test_the_csv_of_differences_has_full_precision(summary):
    found = differences(summary)
    lines = list(csv.DictReader(io.StringIO(differences_csv(summary, found))))
    assert len(lines) == len(found)
    for line, one in zip(lines, found, strict=True):
        assert (float(line["value"]), float(line["low"]), float(line["high"])) == (one.mean, *one.interval)
        assert (line["baseline"], line["model"], line["measure"]) == (BASE, one.model, one.gain)
    assert {line["strength"] for line in lines} == {
        "all",
        "weak",
        "strong",
        "",
        *(repr(e / 255) for e in (2, 4, 8, 16)),
    }


def test_the_tidy_csv_has_every_number_once(summary):
    found = defense_rows((0, 1))
    defenses = summarise_defenses(found, ends_of(rows((0, 1))[2], [], score_range="model"))
    lines = list(csv.DictReader(io.StringIO(tidy_csv([*attack_lines(summary), *defense_lines(defenses)]))))
    assert list(lines[0]) == ["model", "seed", "attack", "strength", "defense", "measure", "value", "low", "high"]
    keys = [tuple(line.values())[:6] for line in lines]
    assert len(keys) == len(set(keys))
    by_key = dict(zip(keys, lines, strict=True))
    for model in MODELS:
        for gain in ("AbsGain", "R-score"):  # wide and tidy agree: the mean over seeds is that of the table
            column = f"{gain} PGD-10 @ 4/255"
            values = [float(by_key[model, seed, "PGD-10", repr(4 / 255), "", gain]["value"]) for seed in "01"]
            assert np.mean(values) == pytest.approx(summary.cells[model, column].mean)
        for seed in "01":
            assert float(by_key[model, seed, "PGD-10", "", "", "AbsGain AUC"]["value"])
            assert float(by_key[model, seed, "SSAH", "", "", "AbsGain mean"]["value"])
            assert float(by_key[model, seed, "stAdv", "", "", "SSIM"]["value"]) == pytest.approx(0.94)
            assert by_key[model, seed, "", "", "", "SROCC"]["low"] == ""
    line = by_key[BASE, "1", "PGD-10", repr(8 / 255), DEFENSES[0], "D, adaptive"]
    (cell,) = defenses.chosen(DEFENSES[0], "adaptive", model=BASE, seed=1)
    assert float(line["value"]) == pool([cell])["D"].mean
    assert float(line["low"]) < float(line["value"]) < float(line["high"])


@pytest.mark.slow
def test_the_tidy_csv_of_a_report_has_order_attacks_and_certificates(sample):
    lines = list(csv.DictReader(io.StringIO((sample[0].parent / "tidy.csv").read_text())))
    keys = [tuple(line.values())[:6] for line in lines]
    assert len(keys) == len(set(keys))
    ranked = summarise_order(rank_rows((0, 1)), list(MODELS), ends_of(rows((0, 1))[2], [], score_range="model"))
    for (model, epsilon), left in ranked.left.items():
        for place, seed in enumerate((0, 1)):
            mine = [line for line in lines if (line["model"], line["seed"]) == (model, str(seed))]
            (one,) = (r for r in mine if r["measure"] == "worst SROCC" and float(r["strength"]) == epsilon)
            assert (one["attack"], float(one["value"])) == (left.attacks[place], left.srocc[place])
            (slope,) = (line for line in mine if line["measure"] == "slope")
            assert float(slope["value"]) == ranked.slopes[model][seed]
    (width,) = (line for line in lines if line["measure"] == "Cert.RD full")
    assert (width["model"], width["defense"], width["attack"]) == (BASE, "MS", "")
    assert float(width["value"]) == pytest.approx(5 / 70)  # intervals from 48 to 53 on a range of 70
    assert float(width["low"]) <= float(width["value"]) <= float(width["high"])


def test_checks_name_what_passed_and_what_did_not():
    made = checks((0,))
    table = masking_table(made)
    lines = {(row[0], row[2]): row for row in table.rows}
    assert len(lines) == len(MODELS) * 3
    assert lines[BLOCK, "noise beats pgd"][3] == "passed"
    assert lines[BASE, "noise beats pgd"][3] == "sign found"
    assert lines[BASE, "noise beats pgd"][-1] == "use eot"
    assert masking_table([]) is None
    assert masking_notes([]) == []
    assert masking_notes(made)[0] == "Checks for masked gradients: 8 of 9 passed."


def test_one_strength_is_a_point_with_its_interval(summary, figures):
    plots.curves(summary)
    panels = dict(zip(summary.attacks, figures[0].axes, strict=False))
    assert len(panels["PGD-10"].containers) == 0  # lines with bands
    assert len(panels["PGD-10"].collections) == len(MODELS)
    bars = panels["one strength"].containers
    assert len(bars) == len(MODELS)
    for model, bar in zip(MODELS, bars, strict=True):
        value = summary.cells[model, "AbsGain one strength @ 8/255"]
        (segment,) = bar.lines[2][0].get_segments()
        assert segment[:, 1] == pytest.approx(value.interval)
        assert abs(segment[0, 0] - 8) < 0.5


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_bars_are_drawn_or_one_seed_is_named(seeds, figures):
    found = summarise(*rows(seeds), score_range="model")
    drawing = plots.tradeoff(found)
    (bar, *_), cell = figures[0].axes[0].containers, found.cells[BASE, "AbsGain AUC PGD-10"]
    heights = bar.lines[2][-1].get_segments()[0][:, 1]
    if len(seeds) > 1:
        assert heights == pytest.approx((cell.mean - cell.std, cell.mean + cell.std))
        assert "standard deviation over the 2 seeds" in drawing.caption
    else:
        assert heights == pytest.approx(cell.interval)
        assert drawing.caption.count("One seed") == 1


def test_every_marker_has_a_legend(summary, figures):
    ends = {(model, 0): (20.0, 90.0) for model in MODELS}
    found = summarise_defenses(defense_rows((0,)), ends)
    tradeoff(found)
    names = {text.get_text() for text in figures[-1].legends[0].get_texts()}
    assert names == {*found.labels, *(text for text, _ in MARKS.values())}
    tradeoff(summarise_defenses([row for row in defense_rows((0,)) if row.mode == "transfer"], ends))
    names = {text.get_text() for text in figures[-1].legends[0].get_texts()}
    assert names == {*found.labels, MARKS["transfer"][0]}
    by_strength(summarise_defenses([row for row in defense_rows((0,)) if row.epsilon == 8 / 255], ends))
    assert len(figures[-1].axes[0].containers) == len(found.labels)
    plots.differences_plot(summary, differences(summary))
    assert len(figures[-1].legends[0].get_texts()) == len(MODELS) - 1


@pytest.fixture(scope="module")
def shown(summary, sample):
    return [for_terminal(summary), *tables(summary), *sample[2]]


@pytest.mark.slow
@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_terminal_never_cuts_a_number(width, shown):
    wide = Table(
        "wide", ["model", *(f"a long name {i}" for i in range(30))], [["m" * 90, *[("-0.123 ± 0.456", 1.0)] * 30]]
    )
    for table in [*shown, wide]:
        console = Console(width=width, file=io.StringIO())
        console.print(table)
        text = console.file.getvalue()
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        cells = [cell.strip() for line in text.splitlines() for cell in re.split("[│┃]", line)]
        for row in table.rows:
            assert {item[0] for item in row[table.text :] if not isinstance(item, str)} <= set(cells)


def test_anchors_are_unique():
    found = anchors(["Results", "results", "Results 2", "图", "城"])
    assert found == ["results", "results-2", "results-2-2", "section", "section-2"]
