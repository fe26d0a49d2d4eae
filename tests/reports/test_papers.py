"""The tables of papers: columns, numbers against an oracle in NumPy, dashes for what was not run, published numbers."""

import csv
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from paper_rows import IMAGES, STRENGTHS, cells, rows, run, score, without
from scipy.stats import spearmanr

from jaxiqa.reports import write_paper, write_report
from jaxiqa.reports.papers import PAPERS, robustness_as_architecture
from jaxiqa.reports.papers.paper import differences, facts

HEADER = [
    *("model", "SROCC", "PLCC"),
    *(f"{gain} AUC PGD-{n}" for n in (1, 3, 5, 8) for gain in ("AbsGain", "RScore")),
    *("AbsGain UAP", "RScore UAP", "AbsGain stAdv", "RScore stAdv"),
]


def oracle(model, seeds, attack):
    """Return AbsGain and RScore by the definitions of the paper's code."""
    gains, ratios = [], []
    for seed in seeds:
        base = np.array([score("base", seed, image) for image in IMAGES])
        low, high = base.min(), base.max()
        clean = (np.array([score(model, seed, image) for image in IMAGES]) - low) / (high - low)
        by_gain, by_ratio = [], []
        for epsilon in STRENGTHS[attack]:
            adv = np.array([score(model, seed, image, attack, epsilon) for image in IMAGES])
            adv = (adv - low) / (high - low)
            by_gain.append(np.mean(adv - clean))
            possible = np.maximum(adv.max() - adv, clean - clean.min())
            parts = zip(possible, adv, clean, strict=True)
            by_ratio.append(np.mean([np.log10(p / abs(a - c)) for p, a, c in parts if p]))
        gains.append(np.mean(by_gain))
        area = sum((a + b) / 2 * 2 / 255 for a, b in pairwise(by_ratio))
        ratios.append(area if len(by_ratio) > 1 else by_ratio[0])
    return np.array(gains), np.array(ratios)


@pytest.mark.slow
def test_table_1_has_the_papers_columns_and_numbers():
    first, second = robustness_as_architecture.tables(run(*rows()))
    assert list(first.header) == HEADER
    assert [row[0] for row in first.rows] == ["base", "NT", "AT", "ours", "bottleneck (control)"]
    found = cells(first)
    for model, label in robustness_as_architecture.MODELS.items():
        clean = [score(model, 0, image) for image in IMAGES]
        assert found[label, "SROCC"][1] == pytest.approx(spearmanr(clean, range(6)).statistic)
        assert found[label, "PLCC"][1] == pytest.approx(np.corrcoef(clean, range(6))[0, 1])
        for attack in STRENGTHS:
            gain, ratio = oracle(model, (0,), attack)
            names = [robustness_as_architecture.column(measure, attack) for measure in ("AbsGain", "RScore")]
            assert [found[label, name][1] for name in names] == pytest.approx([gain[0], ratio[0]])
            assert found[label, names[0]][0] == f"{gain[0]:.3f}"
    assert list(second.header) == ["model", "what", "SROCC", "PLCC", "AbsGain AUC PGD-1", "RScore AUC PGD-1"]


def test_table_2_has_positions_controls_and_prunings():
    models = ("base", "position_6", "bottleneck_6", "prune_l1", "prune_hsic")
    _, second = robustness_as_architecture.tables(run(*rows(models)))
    labels = [row[0] for row in second.rows]
    assert labels[:5] == ["base", "NT", "AT", "position 1", "bottleneck (control) 1"]
    assert labels[13:] == ["position 6", "bottleneck (control) 6"] + [
        f"pruning {name}" for name in ("l1", "l2", "pls", "displs", "hsic")
    ]
    found = cells(second)
    assert found["position 6", "what"] == "here"
    for model, label in (("position_6", "position 6"), ("prune_hsic", "pruning hsic")):
        gain, ratio = oracle(model, (0,), "PGD-1")
        assert found[label, "AbsGain AUC PGD-1"][1] == pytest.approx(gain[0])
        assert found[label, "RScore AUC PGD-1"][1] == pytest.approx(ratio[0])
    assert found["position 5", "SROCC"] == ("–", None, "–")
    assert found["pruning pls", "AbsGain AUC PGD-1"] == ("–", None, "–")


@pytest.mark.slow
def test_several_seeds_are_averaged():
    first, _ = robustness_as_architecture.tables(run(*rows(seeds=(0, 1, 2))))
    text, number, _ = cells(first)["ours", "RScore AUC PGD-5"]
    _, ratio = oracle("ours", (0, 1, 2), "PGD-5")
    assert number == pytest.approx(ratio.mean())
    assert text == f"{ratio.mean():.3f} ± {ratio.std(ddof=1):.3f}"
    assert any("over seeds 0, 1, 2" in note for note in first.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("removed", "empty"),
    [
        ({"attack": "UAP"}, {("base", "AbsGain UAP"), ("ours", "RScore UAP")}),
        ({"attack": "UAP", "model": "ours"}, {("ours", "AbsGain UAP"), ("ours", "RScore UAP")}),
        ({"attack": "PGD-3", "model": "ours", "epsilon": 6 / 255}, {("ours", "AbsGain AUC PGD-3")}),
        ({"attack": "PGD-3", "model": "ours", "epsilon": 6 / 255, "image": "3.png"}, {("ours", "RScore AUC PGD-3")}),
        ({"model": "nt"}, {("NT", "AbsGain AUC PGD-1"), ("NT", "RScore stAdv")}),
    ],
)
def test_what_was_not_run_is_a_dash_and_never_a_number(removed, empty):
    results, predictions, cards = rows()
    full = cells(robustness_as_architecture.tables(run(results, predictions, cards))[0])
    table = robustness_as_architecture.tables(run(without(results, **removed), predictions, cards))[0]
    found = cells(table)
    assert {found[place][:2] for place in empty} == {("–", None)}
    kept = [place for place, item in found.items() if item[0] != "–"]
    assert all(found[place] == full[place] for place in kept)
    assert len(full) - len(kept) >= len(empty)
    if "image" in removed:
        assert any("ours seed 0: PGD-3 6/255: 5 of 6 images" in note for note in table.notes)


@pytest.mark.slow
def test_one_seed_of_two_counts_alone():
    results, predictions, cards = rows(seeds=(0, 1))
    results = without(results, model="ours", seed=1, attack="PGD-1")
    found = cells(robustness_as_architecture.tables(run(results, predictions, cards))[0])
    gain, _ = oracle("ours", (0,), "PGD-1")
    assert found["ours", "AbsGain AUC PGD-1"][:2] == (f"{gain[0]:.3f}", pytest.approx(gain[0]))


@pytest.mark.slow
def test_undefined_numbers_are_no_numbers():
    results, predictions, cards = rows()
    still = [replace(row, attacked=row.score) if row.model == "ours" else row for row in results]
    found = cells(robustness_as_architecture.tables(run(still, predictions, cards))[0])
    assert found["ours", "RScore stAdv"][:2] == ("–", None)
    assert found["ours", "AbsGain stAdv"][:2] == ("0.000", 0.0)
    one = {**STRENGTHS, "PGD-1": (2 / 255,)}  # no area
    found = cells(robustness_as_architecture.tables(run(*rows(strengths=one)))[0])
    assert found["base", "RScore AUC PGD-1"][:2] == ("–", None)
    nothing = cells(robustness_as_architecture.tables(run([], predictions, cards))[0])
    assert nothing["base", "AbsGain AUC PGD-1"] == ("–", None, "0.409")
    assert nothing["base", "SROCC"][1] is not None


def test_infinite_values_of_single_images_are_left_out_and_counted():
    results, predictions, cards = rows(("base", "ours"))
    still = [replace(row, attacked=row.score) if row.image == "0.png" else row for row in results]
    table = robustness_as_architecture.tables(run(still, predictions, cards))[0]
    base = np.array([score("base", 0, image) for image in IMAGES])
    adv = np.array([score("base", 0, image, "stAdv") for image in IMAGES])
    adv[0] = base[0]
    ratio = np.log10(np.maximum(adv.max() - adv, base - base.min())[1:] / np.abs(adv - base)[1:])
    assert np.isfinite(ratio).all()
    assert cells(table)["base", "RScore stAdv"][1] == pytest.approx(ratio.mean())
    (note,) = [note for note in table.notes if note.startswith("RScore leaves out")]
    assert "1 of base seed 0, stAdv" in note
    assert "6 of base seed 0, PGD-1" in note  # at one strength another image is lowest before and highest after


@pytest.mark.slow
def test_published_numbers_stand_beside_ours_with_their_source():
    first, second = robustness_as_architecture.tables(run(*rows()))
    assert cells(first)["NT", "AbsGain AUC PGD-1"][2] == "0.305"
    assert cells(second)["NT", "AbsGain AUC PGD-1"][2] == "0.265"
    assert cells(first)["base", "RScore AUC PGD-1"][2] == "0.012 or 0.013"
    known = {item[2] for table in (first, second) for row in table.rows for item in row if len(item) == 3} - {"–"}
    assert known == {"0.409", "0.305", "0.365", "0.265", "0.209", "0.012 or 0.013"}
    assert any("could not be read" in note for note in first.notes)
    koncept = robustness_as_architecture.tables(run(*rows(), metric="koncept512"))
    assert len(koncept) == 1
    assert {item[2] for row in koncept[0].rows for item in row[1:]} == {"–"}


@pytest.mark.slow
def test_differences_are_those_of_the_config_then_those_of_the_code():
    same = facts("robustness_as_architecture")["protocol"]["linearity"]
    usual = differences("robustness_as_architecture", run(*rows(), **same))
    assert not any("; the paper:" in line for line in usual)
    assert any("radius of an Linf ball" in line for line in usual)
    assert any("keeps the block at its random start" in line for line in usual)
    other = run(*rows(), **{**same, "data": "clive", "base: epochs": "8", "of no interest": "1"})
    assert differences("robustness_as_architecture", other)[:2] == [
        "data: clive; the paper: koniq10k",
        "base: epochs: 8; the paper: 30",
    ]
    table = robustness_as_architecture.tables(other)[0]
    assert list(table.lists) == ["What differs from the paper's protocol"]


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_the_data_files_fit_their_tables(name):
    known, paper = facts(name), PAPERS[name]
    assert set(known) == {"source", "published", "protocol", "differences"}
    assert set(known["protocol"]) == set(paper.metrics)
    assert set(known["published"]) <= set(paper.metrics)
    for metric, tables in known["published"].items():
        for number, published in tables.items():
            names = robustness_as_architecture.MODELS if number == "1" else robustness_as_architecture.POSITIONS
            table = robustness_as_architecture.tables(run(*rows(), metric=metric))[int(number) - 1]
            assert set(published) <= set(names)
            assert {column for row in published.values() for column in row} <= set(table.header)


@pytest.mark.slow
def test_the_files_hold_every_number_and_the_published_ones(tmp_path):
    made = run(*rows(), data="clive")
    tables = robustness_as_architecture.tables(made)
    write_paper(tmp_path, tables)
    lines = list(csv.DictReader((tmp_path / "paper_1.csv").open()))
    assert list(lines[0])[:4] == ["model", "SROCC", "SROCC published", "PLCC"]
    assert float(lines[0]["AbsGain AUC PGD-1"]) == cells(tables[0])["base", "AbsGain AUC PGD-1"][1]
    assert lines[0]["AbsGain AUC PGD-1 published"] == "0.409"
    assert lines[0]["SROCC published"] == ""
    second = list(csv.DictReader((tmp_path / "paper_2.csv").open()))
    assert (second[3]["model"], second[3]["SROCC"]) == ("position 1", "")
    text = (tmp_path / "paper.md").read_text()
    assert re.search(r"\| base \|.* -?\d\.\d{3} \(0\.409\) \|", text)
    assert "What differs from the paper's protocol:\n\n- data: clive; the paper: koniq10k" in text
    write_report(tmp_path, made.summary, [], title="t", facts={}, paper=tables)
    page = (tmp_path / "report.html").read_text()
    assert '<span class="published">0.409</span>' in page
    assert ".published { color: var(--quiet)" in page
    assert "<li>data: clive; the paper: koniq10k</li>" in page
    assert page.index("Table 1: linearity") < page.index(">Results<")


def test_without_a_paper_no_files_are_written(tmp_path):
    write_paper(tmp_path, [])
    assert list(tmp_path.iterdir()) == []
