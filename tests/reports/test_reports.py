import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest

from jaxiqa.reports import write_report
from jaxiqa.reports.attacks.summary import summarise
from jaxiqa.reports.attacks.tables import columns, for_terminal, strengths, tables, write_markdown
from jaxiqa.reports.examples import amplification, example_grid
from jaxiqa.results.examples import Example, load, save
from jaxiqa.results.jsonl import append_rows, read_rows
from jaxiqa.results.rows import ModelRow, PredictionRow, ResultRow

EPSILONS = (2 / 255, 4 / 255, 8 / 255)
IMAGES = [f"{i}.png" for i in range(5)]
STRENGTH = {"base": 30.0, "hard": 10.0}


def rows(seeds=(0, 1)):
    results, predictions, cards = [], [], []
    for model, size in STRENGTH.items():
        for seed in seeds:
            for i, image in enumerate(IMAGES):
                clean = 40.0 + 5 * i
                for attack, epsilons in {"PGD-1": EPSILONS, "stAdv": (None,)}.items():
                    for epsilon in epsilons:
                        gain = size * (1.0 if epsilon is None else 255 * epsilon / 8) + 2 * seed
                        results.append(
                            ResultRow(
                                image,
                                model,
                                seed,
                                attack,
                                epsilon,
                                clean,
                                clean + gain,
                                clean + gain,
                                0.01,
                                1.0,
                                0.9,
                                None,
                                0.1,
                            )
                        )
                predictions.append(PredictionRow(image, model, seed, float(i), clean + (seed == 1) * (i == 0) * 7))
            cards.append(ModelRow(model, seed, 1000, 20.0, 90.0, 0.8, 1.5, 0.2, len(IMAGES)))
    return results, predictions, cards


def test_cells_by_hand():
    summary = summarise(*rows(), score_range="mos", mos_range=(0.0, 100.0))
    cell = summary.cells["base", "AbsGain PGD-1 @ 4/255"]
    assert (cell.mean, cell.std) == (pytest.approx(0.16), pytest.approx(0.02 / np.sqrt(2)))
    # a line from 7.5 at 2/255 to 30 at 8/255: mean 18.75; seed 1 is 2 higher
    assert summary.cells["base", "AbsGain AUC PGD-1"].mean == pytest.approx(0.1975)
    assert summary.cells["hard", "AbsGain stAdv"].mean == pytest.approx(0.11)
    ratio = [np.log10(max(1 - s, s) / (0.1 + 1e-6)) for s in (0.4, 0.45, 0.5, 0.55, 0.6)]
    only = summarise(*rows(seeds=(0,)), score_range="mos", mos_range=(0.0, 100.0))
    assert only.cells["hard", "R-score stAdv"].mean == pytest.approx(np.mean(ratio))
    assert only.cells["base", "SROCC"].mean == pytest.approx(1)
    assert only.cells["base", "SROCC"].std == 0.0
    assert summary.cells["base", "SROCC"].std > 0


def test_gains_are_divided_by_the_chosen_score_range():
    results, predictions, cards = rows(seeds=(0,))
    model = summarise(results, predictions, cards, score_range="model").cells["hard", "AbsGain stAdv"].mean
    assert model == pytest.approx(10 / 70)
    baseline = summarise(results, predictions, cards, score_range="baseline").cells["hard", "AbsGain stAdv"].mean
    assert baseline == pytest.approx(10 / 20)
    with pytest.raises(ValueError, match="mos_range"):
        summarise(results, predictions, cards, score_range="mos")
    with pytest.raises(ValueError, match="'baseline'"):
        summarise(results, predictions, cards, score_range="own")


def test_missing_rows_are_reported_and_not_averaged():
    results, predictions, cards = rows(seeds=(0,))
    results = [row for row in results if not (row.model == "hard" and row.epsilon == 4 / 255 and row.image == "3.png")]
    summary = summarise(results, predictions, cards, score_range="mos", mos_range=(0.0, 100.0))
    assert ("hard", "AbsGain PGD-1 @ 4/255") not in summary.cells
    assert ("hard", "AbsGain AUC PGD-1") not in summary.cells
    assert any("hard seed 0: PGD-1 4/255: 4 of 5 images" in what for what in summary.missing)
    constant = [replace(row, score=1.0) for row in predictions]
    summary = summarise(results, constant, cards, score_range="mos", mos_range=(0.0, 100.0))
    assert any("undefined" in what for what in summary.missing)


def test_intervals_are_over_images_not_seeds():
    results, predictions, cards = rows()
    step = {image: i for i, image in enumerate(IMAGES)}
    results = [replace(row, attacked=row.attacked + step[row.image]) for row in results]
    value = summarise(results, predictions, cards, score_range="mos", mos_range=(0.0, 100.0)).cells[
        "hard", "AbsGain stAdv"
    ]
    # gains 0.11, 0.12 … 0.15 after averaging two seeds; std √0.00025, t(0.975, 4) = 2.776445
    half = 2.776445 * np.sqrt(0.00025 / 5)
    assert value.interval == pytest.approx((0.13 - half, 0.13 + half))


def test_contradictory_rows_are_refused():
    results, predictions, cards = rows(seeds=(0,))
    ranges = {"score_range": "mos", "mos_range": (0.0, 100.0)}
    with pytest.raises(ValueError, match=r"'0\.png' has two results"):
        summarise([*results, replace(results[0], attacked=1.0)], predictions, cards, **ranges)
    with pytest.raises(ValueError, match=r"'0\.png' has two predictions"):
        summarise(results, [*predictions, predictions[0]], cards, **ranges)
    with pytest.raises(ValueError, match="several model rows"):
        summarise(results, predictions, [*cards, cards[0]], **ranges)
    with pytest.raises(ValueError, match="'stAdv' has rows with and without epsilon"):
        summarise([*results, replace(results[0], attack="stAdv")], predictions, cards, **ranges)
    flat = [cards[0], replace(cards[1], score_low=3.0, score_high=3.0)]
    with pytest.raises(ValueError, match=r"'model' gives hard seed 0 the ends \(3\.0, 3\.0\)"):
        summarise(results, predictions, flat, score_range="model")


def test_omitted_rows_are_counted():
    results, predictions, cards = rows()
    summary = summarise(
        results, predictions[:-1], [card for card in cards if (card.model, card.seed) != ("hard", 0)],
        score_range="mos", mos_range=(0.0, 100.0),
    )  # fmt: skip
    assert any("hard seed 0: rows, but no model row" in what for what in summary.missing)
    assert any("hard seed 1: correlations: 4 of 5 predictions" in what for what in summary.missing)
    assert ("hard", "SROCC") not in summary.cells
    without = [row for row in results if (row.model, row.seed) != ("base", 1)]
    summary = summarise(without, predictions, cards, score_range="baseline")
    assert any("hard seed 1: gains: the first model has no results of this seed" in what for what in summary.missing)
    assert summary.cells["hard", "AbsGain stAdv"].seeds == 1


def test_the_long_table_has_every_strength_and_reports_missing_rows(tmp_path):
    results, predictions, cards = rows(seeds=(0,))
    results = [row for row in results if not (row.model == "hard" and row.attack == "stAdv")]
    summary = summarise(results, predictions, cards, score_range="mos", mos_range=(0.0, 100.0))
    header, lines = strengths(summary)
    assert header[:4] == ["attack", "ε", "model", "AbsGain"]
    assert ["PGD-1", ("4/255", 1.0), "base"] in [line[:3] for line in lines]
    assert len(lines) == 2 * (3 + 1)
    assert lines[-1] == ["stAdv", ("–", 0.0), "hard"] + [("–", None)] * 7
    first = dict(zip(header, lines[0], strict=True))
    assert (first["SSIM"][0], first["255 · Linf"][0]) == ("0.900", "2.550")
    write_markdown(summary, tmp_path / "table.md")
    tables = [line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("|")]
    cells = {len(re.split(r"(?<!\\)\|", line)) - 2 for line in tables}
    assert cells == {1 + len(columns(summary, every_strength=False)), len(header)}


def test_names_are_shown_as_text():
    from rich.console import Console

    results, predictions, cards = rows(seeds=(0,))
    results, predictions, cards = (
        [replace(row, model=row.model + "[red]") for row in group] for group in (results, predictions, cards)
    )
    summary = summarise(results, predictions, cards, score_range="mos", mos_range=(0.0, 100.0))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(for_terminal(summary))
    assert "base[red]" in console.export_text()


def test_amplification_is_at_least_1_and_ignores_outliers():
    assert amplification(np.full(100, 0.9)) == 1
    assert amplification(np.array([1.0] + [8 / 255] * 999)) == 8
    with pytest.raises(ValueError, match="examples is empty"):
        example_grid([])


def examples():
    clean = np.random.default_rng(0).uniform(size=(20, 30, 3)).astype(np.float32)
    attacked = np.clip(clean + 8 / 255 * np.sign(clean - 0.5), 0, 1)
    return [
        Example("0.png", "base", "PGD-1", 8 / 255, 40.0, 70.0, clean, attacked),
        Example("0.png", "hard", "stAdv", None, 40.0, 50.0, clean, attacked),
    ]


@pytest.mark.slow
def test_the_report_is_complete_and_self_contained(tmp_path):
    summary = summarise(*rows(), score_range="mos", mos_range=(0.0, 100.0))
    page = write_report(tmp_path, summary, examples(), title="a <test>", facts={"command": "python x.py"})
    text = page.read_text()
    assert not re.search(r'src\s*=\s*"(?!data:)', text)
    links = set(re.findall(r'href\s*=\s*"([^"]*)"', text))
    files = {link for link in links if not link.startswith("#")}
    assert files == {"table.csv", "tidy.csv", "differences.csv", "examples.png"}
    assert all((tmp_path / name).is_file() for name in files)
    assert {link[1:] for link in links - files} == set(re.findall(r'<section id="([^"]*)"', text))
    assert "a &lt;test&gt;" in text
    assert text.count("data:image/png;base64,") == 3 + 3  # plots; one clean image and its two attacked versions
    for name in ("tradeoff.png", "curves.png", "examples.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "table.csv") as file:
        table = {row["model"]: row for row in csv.DictReader(file)}
    assert float(table["base"]["AbsGain AUC PGD-1"]) == pytest.approx(0.1975)
    assert float(table["base"]["AbsGain AUC PGD-1 std"]) == pytest.approx(0.02 / np.sqrt(2))
    markdown = (tmp_path / "table.md").read_text()
    assert "0.198 ± 0.014" in markdown or "0.197 ± 0.014" in markdown
    assert "2/255, 4/255, 8/255" in markdown


def test_examples_load_back(tmp_path):
    for number, example in enumerate(examples()):
        save(example, tmp_path / f"{number}.npz")
        back = load(tmp_path / f"{number}.npz")
        assert (back.image, back.model, back.epsilon, back.score) == (
            example.image, example.model, example.epsilon, example.score)  # fmt: skip
        np.testing.assert_array_equal(back.attacked, example.attacked)
    assert example_grid(examples()[:1]).startswith(b"\x89PNG")


def test_rows_survive_a_kill_within_a_line(tmp_path):
    path, (results, _, _) = tmp_path / "results.jsonl", rows(seeds=(0,))
    append_rows(path, results[:3])
    path.write_bytes(path.read_bytes()[:-20])
    assert read_rows(path, ResultRow) == results[:2]
    append_rows(path, results[2:4])
    assert read_rows(path, ResultRow) == results[:4]
    assert read_rows(tmp_path / "none.jsonl", ResultRow) == []


def test_damaged_rows_are_named_and_values_that_are_not_finite_are_refused(tmp_path):
    path, (results, predictions, _) = tmp_path / "results.jsonl", rows(seeds=(0,))
    append_rows(path, results[:3])
    with pytest.raises(ValueError, match="attacked=nan"):
        append_rows(path, [replace(results[0], attacked=float("nan"))])
    assert len(read_rows(path, ResultRow)) == 3
    lines = [re.sub(', "seal": "[0-9a-f]{16}"', "", line) for line in path.read_text().splitlines(keepends=True)]
    for old, new, message in (
        ('"attacked": 47.5', '"attacked": NaN', "not finite"),
        ('"attacked": 47.5', '"attacked": "47.5"', "attacked='47.5' is not"),
        ('"seed": 0', '"seed": 0.5', "seed=0.5 is not"),
        ('"seed": 0', '"grain": 0', "not a ResultRow"),
    ):
        assert old in lines[0], lines[0]
        path.write_text(lines[0].replace(old, new) + lines[1])
        with pytest.raises(ValueError, match=rf"results\.jsonl line 1.*{message}"):
            read_rows(path, ResultRow)
    path.write_bytes(b"\xff\xfe\x00\n")
    with pytest.raises(ValueError, match=r"results\.jsonl line 1 is damaged"):
        read_rows(path, ResultRow)
    path.write_text(lines[0] + lines[1][:10] + "\n" + lines[2])
    with pytest.raises(ValueError, match=r"results\.jsonl line 2 is damaged"):
        read_rows(path, ResultRow)
    append_rows(tmp_path / "other.jsonl", predictions[:1])
    with pytest.raises(ValueError, match="line 1 is not a ResultRow"):
        read_rows(tmp_path / "other.jsonl", ResultRow)


def test_every_changed_byte_of_a_sealed_line_is_detected(tmp_path):
    path, (results, _, _) = tmp_path / "results.jsonl", rows(seeds=(0,))
    append_rows(path, results[:3])
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if place == len(whole) - 1:  # the newline: the torn line is dropped and its row is made again
            assert read_rows(path, ResultRow) == results[:2]
            continue
        with pytest.raises(ValueError, match=r"results\.jsonl line [123]"):
            read_rows(path, ResultRow)


def test_old_lines_without_seals_are_accepted_only_before_sealed_ones(tmp_path):
    path, (results, _, _) = tmp_path / "results.jsonl", rows(seeds=(0,))
    append_rows(path, results[:2])
    old = [re.sub(', "seal": "[0-9a-f]{16}"', "", line) for line in path.read_text().splitlines(keepends=True)]
    path.write_text("".join(old))
    append_rows(path, results[2:4])
    assert read_rows(path, ResultRow) == results[:4]
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[2:], *old]))
    with pytest.raises(ValueError, match=r"line 3 has no seal, but a line before it has one: .*delete the line"):
        read_rows(path, ResultRow)
    path.write_text("".join([*lines[:2], lines[3]]))  # a missing line is not damage: its row is made again
    assert read_rows(path, ResultRow) == [*results[:2], results[3]]


def test_certificates_have_a_column_if_a_model_has_one():
    """3.5 per 1/255 is 7 per 2/255: 0.07 of the human scale, and a tenth of the model's own range of 70."""
    results, predictions, cards = rows(seeds=(0,))
    plain = summarise(results, predictions, cards, score_range="mos", mos_range=(0.0, 100.0))
    assert not any("certified" in column for column in tables(plain)[0].header)
    cards = [replace(card, certificate=3.5) if card.model == "hard" else card for card in cards]
    for score_range, expected in (("mos", "0.070"), ("model", "0.100")):
        table = tables(summarise(results, predictions, cards, score_range=score_range, mos_range=(0.0, 100.0)))[0]
        column = list(table.header).index("certified @ 2/255")
        cells = {row[0]: row[column] for row in table.rows}
        assert cells["hard"] == (expected, pytest.approx(float(expected)))
        assert cells["base"][0] == "–"
        assert any(note.startswith("certified @ 2/255: ") for note in table.notes)
