import csv
import re
from dataclasses import replace

import numpy as np
import pytest

from jaxiqa.config.experiment import TAKEN
from jaxiqa.reports import write_defenses, write_report
from jaxiqa.reports.attacks.summary import ends_of, summarise
from jaxiqa.reports.attacks.tables import columns, strengths
from jaxiqa.reports.defenses.certified import certificates
from jaxiqa.reports.defenses.leaderboard import WHY, leaderboard, write_leaderboard
from jaxiqa.reports.defenses.summary import ADAPTIVE, MATCHED, TRANSFER, pool, summarise_defenses
from jaxiqa.reports.defenses.tables import table4
from jaxiqa.results.jsonl import append_rows, read_rows
from jaxiqa.results.rows import UNDEFENDED, CertificateRow, DefenseRow, ModelRow, ResultRow

IMAGES = [f"{i}.png" for i in range(4)]
MOS = {image: 10.0 * i for i, image in enumerate(IMAGES)}
ENDS = {("a", 0): (0.0, 100.0), ("b", 0): (0.0, 200.0)}
LEVELS = {"weak": 0.01, "medium": 0.02, "strong": 0.04}


def row(image, model, level, defense, mode, *, shift, gain):
    """Return a row with f(P(x)) = f(x) + ``shift`` and f(P(x')) = f(P(x)) + ``gain``."""
    clean = 30.0 + 5 * IMAGES.index(image)
    return DefenseRow(
        image, model, 0, "PGD", LEVELS[level] * (2 if model == "b" else 1), level, defense, mode,
        clean, clean + 40, clean + shift, clean + shift + gain, 0.9, 36.0, 0.25,
    )  # fmt: skip


def rows(defenses=("flip", "blur")):
    made = []
    for model in ("a", "b"):
        for image in IMAGES:
            for number, level in enumerate(LEVELS):
                gain = 10.0 * (number + 1)
                made.append(row(image, model, level, UNDEFENDED, "transfer", shift=0, gain=gain))
                made += [row(image, model, level, d, "transfer", shift=-5, gain=gain / 2) for d in defenses]
            made += [row(image, model, "medium", d, "adaptive", shift=-5, gain=35) for d in defenses[:1]]
    return made


def test_summaries_by_hand():
    found = summarise_defenses(rows(), ENDS, mos=MOS)
    assert found.labels == (UNDEFENDED, "flip", "blur")
    # without a defense: gains 10, 20, 30 over ranges of 100 and 200
    assert found.view(UNDEFENDED, TRANSFER)["D"].mean == pytest.approx(15)
    flip = found.view("flip", TRANSFER)
    # f(P(x')) − f(x) = −5 + 5, 10, 15 = 0, 5, 10; and 5, 10, 15 from f(P(x)); over 100 and 200
    assert flip["D"].mean == pytest.approx(3.75)
    assert flip["D(D)"].mean == pytest.approx(7.5)
    assert flip["AbsGain"].mean == pytest.approx(0.075)
    assert flip["Wasserstein"].mean == pytest.approx(0.075)
    assert flip["Q"].mean == pytest.approx(0.9 + 36 / 40)
    assert flip["Q"].interval == pytest.approx((1.8, 1.8))
    assert flip["SROCC clear"].mean == flip["SROCC adv"].mean == pytest.approx(1)
    assert found.view("flip", ADAPTIVE)["D"].mean == pytest.approx(22.5)
    # the adaptive attack uses level medium only; without a defense both modes are equal
    assert found.view("flip", MATCHED)["D"].mean == pytest.approx(3.75)
    assert found.view(UNDEFENDED, ADAPTIVE)["D"].mean == pytest.approx(15)
    assert found.view("flip", TRANSFER, model="b", strength="strong")["D"].mean == pytest.approx(5)
    assert found.view("blur", ADAPTIVE) == {}
    assert pool([]) == {}


def test_intervals_are_over_images():
    made = [replace(r, purified=r.purified + 8 * IMAGES.index(r.image)) for r in rows()]
    found = summarise_defenses(made, {("a", 0): (0.0, 100.0)}).view(UNDEFENDED, TRANSFER, strength="weak")
    # D = 10, 18, 26, 34: std √(320/3), t(0.975, 3) = 3.182446
    half = 3.182446 * np.sqrt(320 / 3 / 4)
    assert found["D"].interval == pytest.approx((22 - half, 22 + half))


def test_equal_images_are_counted_and_capped():
    made = [replace(r, psnr=None) if r.image == "0.png" else r for r in rows()]
    found = summarise_defenses(made, ENDS)
    assert found.capped == sum(r.image == "0.png" for r in made)
    quality = found.view("blur", TRANSFER)["Q"]
    assert quality.mean == pytest.approx(0.9 + (60 + 3 * 36) / 4 / 40)
    assert any("60 dB at most" in note for note in table4(found)[0].notes)
    benchmark = summarise_defenses(made, ENDS, psnr_cap=np.inf).view("blur", TRANSFER)["Q"]
    assert (benchmark.mean, benchmark.interval) == (np.inf, None)


def test_missing_rows_are_reported_and_duplicates_refused():
    made = rows()
    gone = [
        r for r in made if not (r.defense == "flip" and r.model == "b" and r.level == "weak" and r.image == "1.png")
    ]
    found = summarise_defenses(gone, ENDS)
    assert found.missing == ("b seed 0: PGD, flip, transfer: 3 of 4 images",)
    assert len(found.chosen("flip", TRANSFER)) == 5
    assert summarise_defenses(made, {("a", 0): (0.0, 1.0)}).missing[0] == "b seed 0: none: no score range"
    constant = [replace(r, purified=1.0, purified_clean=1.0) for r in made]
    assert any("SROCC adv" in what for what in summarise_defenses(constant, ENDS, mos=MOS).missing)
    with pytest.raises(ValueError, match=r"'0\.png' has two defense rows"):
        summarise_defenses([*made, made[0]], ENDS)
    empty = summarise_defenses([], ENDS)
    assert (empty.labels, empty.cells, empty.images) == ((), (), 0)


def test_the_leaderboard_ranks_defenses_with_all_cells():
    table = leaderboard(summarise_defenses([*rows(("flip", "blur", "late"))], ENDS, mos=MOS))
    by_name = {line[0]: line for line in table.rows}
    assert [line[0] for line in table.rows] == [UNDEFENDED, "flip", "blur", "late"]
    assert by_name["flip"][1][0] == "1"
    assert by_name["blur"][1][0] == by_name[UNDEFENDED][1][0] == "–"
    assert by_name["flip"][2][0] == "22.50"
    why = table.header.index(WHY)
    assert [by_name[name][why] for name in ("flip", "blur", UNDEFENDED)] == [
        "", "no adaptive attack", "the metric alone",
    ]  # fmt: skip
    assert by_name["blur"][2] == ("–", None)
    alike = [replace(r, defense="mine", purified=r.purified - 12) for r in rows() if r.defense == "flip"]
    table = leaderboard(summarise_defenses([*rows(), *alike], ENDS))
    assert [(line[0], line[1][0]) for line in table.rows][:3] == [
        ("mine", "1"),
        (UNDEFENDED, "–"),
        ("flip", "2"),
    ]
    assert not any(
        name.startswith("SROCC") and line[i][1] for line in table.rows for i, name in enumerate(table.header)
    )


@pytest.mark.parametrize("names", [("flip",), ("flip", "blur"), ("mine", "blur", "jpeg")])
def test_no_output_has_a_rank_without_adaptive_attacks(names, tmp_path):
    found = summarise_defenses([r for r in rows(names) if r.mode == "transfer"], ENDS, mos=MOS)
    table = write_leaderboard(found, tmp_path, title="t", facts={})
    assert {line[1][0] for line in table.rows} == {"–"}
    assert any("none has a rank" in note and "evaluation.adaptive.attacks" in note for note in table.notes)
    with open(tmp_path / "leaderboard.csv") as file:
        board = list(csv.DictReader(file))
    assert {
        line["defense"]: (line["rank"], line["worst D"], line[WHY]) for line in board if line["defense"] in names
    } == dict.fromkeys(names, ("", "", "no adaptive attack"))
    html = (tmp_path / "leaderboard.html").read_text()
    assert html.count("no adaptive attack") == len(names)
    assert "none has a rank" in html
    assert sum("no adaptive attack" in line for line in table.markdown()) == len(names)


def test_a_missing_rank_names_missing_cells_and_a_weak_adaptive_attack():
    made = [r for r in rows() if not (r.defense == "blur" and r.level == "weak")]
    made += [replace(r, defense="blur", mode="adaptive") for r in made if (r.defense, r.level) == ("blur", "medium")]
    table = leaderboard(summarise_defenses(made, ENDS))
    reasons = {line[0]: line[table.header.index(WHY)] for line in table.rows}
    assert reasons["blur"] == "4 of 6 transferred cells"
    assert not any("did less" in note for note in table.notes)
    feeble = [
        replace(r, purified=r.purified_clean) if r.mode == "adaptive" and r.defense == "flip" else r for r in made
    ]
    notes = leaderboard(summarise_defenses(feeble, ENDS)).notes
    assert any("Adaptive attacks on flip did less" in note for note in notes)


def proofs():
    made = []
    for number, image in enumerate(IMAGES):
        common = {"image": image, "model": "a", "seed": 0, "n": 100, "sigma": 0.12, "seconds": 2.0}
        clean = {"attack": None, "epsilon": None, "level": None}
        attacked = {"attack": "PGD", "epsilon": 0.02, "level": "medium"}
        bounded = {"lower": 10.0 * number - 4, "upper": 10.0 * number + 2, "radius": 0.05, "abstained": False}
        made.append(CertificateRow(**common, **clean, certifier="MS", score=10.0 * number, **bounded))
        voted = {"score": None if number == 0 else 3.0, "lower": None, "upper": None}
        voted |= {"radius": 0.0 if number == 0 else 0.2, "abstained": number == 0}
        made.append(CertificateRow(**common, **clean, certifier="RS", **voted))
        made.append(CertificateRow(**common, **attacked, certifier="RS", **{**voted, "abstained": True}))
    return made


def test_certified_defenses_by_hand():
    table = certificates(proofs(), ENDS, MOS)
    lines = {(line[0], line[2]): dict(zip(table.header, line, strict=True)) for line in table.rows}
    assert set(lines) == {("MS", "clean"), ("RS", "clean"), ("RS", "PGD (medium)")}
    assert lines["MS", "clean"]["Cert.RD full"][1] == pytest.approx(0.06)
    assert lines["MS", "clean"]["Cert.RD one"][1] == pytest.approx(0.04)
    assert lines["MS", "clean"]["SROCC"][1] == pytest.approx(1)
    assert lines["MS", "clean"]["Cert.R"] == ("–", None)
    assert lines["RS", "clean"]["Cert.R"][1] == pytest.approx(0.15)
    assert lines["RS", "clean"]["Abst."][1] == 25
    assert lines["RS", "PGD (medium)"]["Cert.R"][1] == 0
    assert lines["RS", "clean"]["SROCC"] == ("–", None)  # one class
    assert certificates([], ENDS, MOS) is None


@pytest.mark.parametrize("known", [True, False])
def test_a_model_without_a_score_range_is_named_and_keeps_its_other_numbers(known):
    others = [replace(row, model="b", seed=seed) for row in proofs() for seed in (0, 3)]
    ends = ENDS if known else {}
    assert ("b", 3) not in ends
    table = certificates([*proofs(), *others], ends, MOS)
    lines = {(line[0], line[1], line[2]): dict(zip(table.header, line, strict=True)) for line in table.rows}
    for model in {f"{m} seed {s}" for m, s in [("a", 0), ("b", 0), ("b", 3)] if (m, s) not in ends}:
        assert lines["MS", model, "clean"]["Cert.RD full"] == ("–", None)
        assert lines["MS", model, "clean"]["SROCC"][1] == pytest.approx(1)
        assert lines["RS", model, "clean"]["Cert.R"][1] == pytest.approx(0.15)
        assert [note for note in table.notes if note.startswith(f"{model} has no score range, so Cert.RD of MS is")]
    assert known == (lines["MS", "a seed 0", "clean"]["Cert.RD full"][1] is not None)
    assert known == (not any(note.startswith("a seed 0 has") for note in table.notes))


@pytest.mark.slow
def test_all_tables_and_plots_are_on_the_page(tmp_path):
    found = summarise_defenses(rows(), ENDS, mos=MOS)
    other = summarise_defenses([*rows(), *(replace(r, defense="<mine>") for r in rows() if r.defense == "flip")], ENDS)
    options = {"title": "a test", "facts": {"command": "python x.py"}}
    defended = write_defenses(tmp_path, found, other, certificates(proofs(), ENDS, MOS), **options)
    results = [
        ResultRow(
            r.image, r.model, 0, r.attack, r.epsilon, r.clean, r.attacked, r.attacked, 0.1, 1.0, 0.9, None, 0.1, r.level
        )
        for r in rows()
        if r.defense == UNDEFENDED
    ]  # fmt: skip
    cards = [ModelRow(model, 0, 1000, 0.0, 100.0, 0.8, 1.5, 0.2, 0) for model in ("a", "b")]
    summary = summarise(results, [], cards, score_range="model")
    page = write_report(tmp_path, summary, [], defended=defended, **options).read_text()
    assert not re.search(r'src\s*=\s*"(?!data:)', page)
    assert page.count("data:image/png;base64,") == 6
    for title in ("transfer", "adaptive", "matched", "Leaderboard", "Certified defenses"):
        assert title in page
    for name in ("tradeoff", "by_attack", "by_strength"):
        assert (tmp_path / f"defenses_{name}.png").read_bytes().startswith(b"\x89PNG")
    with open(tmp_path / "leaderboard.csv") as file:
        board = {line["defense"]: line for line in csv.DictReader(file)}
    assert set(board) == {UNDEFENDED, "flip", "blur", "<mine>"}
    assert float(board["flip"]["D, adaptive"]) == pytest.approx(22.5)
    assert board["blur"]["rank"] == ""
    assert "&lt;mine&gt;" in (tmp_path / "leaderboard.html").read_text()
    with open(tmp_path / "defenses.csv") as file:
        cells = list(csv.DictReader(file))
    assert len(cells) == 2 * 3 * 3 + 2
    chosen = [c for c in cells if (c["model"], c["strength"], c["defense"]) == ("b", "strong", "flip")]
    assert float(chosen[0]["D"]) == pytest.approx(5)
    assert float(chosen[0]["AbsGain low"]) == pytest.approx(0.075)
    assert {path.name for path in tmp_path.iterdir()} <= set(TAKEN)  # not a valid name of a variant
    markdown = (tmp_path / "defenses.md").read_text()
    assert "| flip | 3.75 ± 0.00 |" in markdown


def test_attacks_at_levels_compare_between_models_whose_strengths_differ():
    results = []
    for r in rows(()):
        gain = 10.0 * (list(LEVELS).index(r.level) + 1)
        results.append(
            ResultRow(
                r.image, r.model, 0, "PGD", r.epsilon, r.clean, r.clean + gain, r.clean + gain, 0.1, 1.0, 0.9,
                None, 0.1, r.level,
            )
        )  # fmt: skip
    cards = [ModelRow(model, 0, 1000, 0.0, 100.0, 0.8, 1.5, 0.2, 0) for model in ("a", "b")]
    summary = summarise(results, [], cards, score_range="model")
    assert summary.attacks == {"PGD": ("weak", "medium", "strong")}
    assert summary.cells["b", "AbsGain mean PGD"].mean == pytest.approx(0.2)
    assert summary.cells["a", "AbsGain PGD @ strong"].mean == pytest.approx(0.3)
    assert "AbsGain mean PGD" in columns(summary, every_strength=False)
    assert strengths(summary)[1][0][:3] == ["PGD", ("weak", 0.0), "a"]
    with pytest.raises(ValueError, match="with and without a level"):
        summarise([*results, replace(results[0], level=None)], [], cards, score_range="model")
    assert ends_of(cards, results, score_range="baseline") == {("a", 0): (30.0, 45.0), ("b", 0): (30.0, 45.0)}


def test_old_rows_without_levels_are_read(tmp_path):
    result = ResultRow("i", "a", 0, "PGD", 0.1, 1.0, 2.0, 2.0, 0.1, 1.0, 0.9, None, 0.1)
    append_rows(tmp_path / "rows.jsonl", [result])
    text = (tmp_path / "rows.jsonl").read_text()
    assert ', "level": null' in text
    (tmp_path / "rows.jsonl").write_text(re.sub(', "level": null, "seal": ".*?"', "", text))
    assert read_rows(tmp_path / "rows.jsonl", ResultRow) == [result]
