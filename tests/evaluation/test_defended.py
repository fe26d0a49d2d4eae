"""Defenses against transferred and adaptive attacks: rows and files that are written and read back."""

import hashlib
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from own_purifiers import MINE, evaluated, score
from PIL import Image

from jaxiqa.config import Adaptive, Align, Attack, Data, Defense, Evaluation
from jaxiqa.evaluation import adversarial_set, defense_stage
from jaxiqa.evaluation import attack_stage as attacking_stage
from jaxiqa.evaluation.attack_stage import run_attacks
from jaxiqa.evaluation.build_defense import build
from jaxiqa.evaluation.defense_stage import defend_all
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.strengths import strengths_of
from jaxiqa.results.rows import DefenseRow, ResultRow, StoredRow, Strength

VISIBLE = Attack("ifgsm", options={"steps": 2}, aligned=Align("psnr", ladder=(0.002, 0.1), images=2))


@pytest.fixture
def evaluation(file):
    return Evaluation(
        data=Data("builtin"),
        attacks={
            "IFGSM": Attack("ifgsm", (2 / 255, 8 / 255), {"steps": 2}),
            "visible": VISIBLE,
        },
        defenses={"shift": Defense(f"{file}:Shift", {"amount": 0.2}), "mirror": Defense(f"{file}:Mirror")},
        adaptive=Adaptive(("IFGSM",), strengths="strongest", draws=2),
    )


def run(root, evaluation, split):
    run_attacks(evaluated(root), evaluation, split, store=True, examples=1)
    defend_all(evaluated(root), evaluation, split)
    return evaluated(root).rows(DefenseRow)


def key_of(row):
    return row.mode, row.defense, row.attack, row.level or row.epsilon, row.image


@pytest.fixture(scope="module")
def whole(tmp_path_factory, split):
    root = tmp_path_factory.mktemp("whole")
    (root / "mine.py").write_text(MINE)
    return root, run(root, evaluation.__wrapped__(root / "mine.py"), split)


@pytest.mark.slow
def test_every_cell_has_rows_with_correct_numbers(whole, split):
    root, rows = whole
    strengths = {"IFGSM": [2 / 255, 8 / 255], "visible": ["weak", "medium", "strong"]}
    expected = {
        ("transfer", defense, attack, strength, image)
        for defense in ("none", "shift", "mirror")
        for attack, several in strengths.items()
        for strength in several
        for image in split.ids
    }
    expected |= {
        ("adaptive", defense, "IFGSM", 8 / 255, image) for defense in ("shift", "mirror") for image in split.ids
    }
    assert sorted(map(key_of, rows), key=str) == sorted(expected, key=str)
    results = {(row.attack, row.level or row.epsilon, row.image): row for row in evaluated(root).rows(ResultRow)}
    for row in rows:
        result = results[row.attack, row.level or row.epsilon, row.image]
        assert (row.clean, row.epsilon) == (pytest.approx(result.score, abs=1e-3), result.epsilon)
        if row.mode == "transfer":
            assert row.attacked == result.rounded
        if row.defense == "none":
            assert (row.purified, row.purified_clean) == pytest.approx((result.rounded, result.score), abs=1e-3)
        if row.defense == "mirror":
            assert row.purified_clean == pytest.approx(float(score(pixels(split, row.image)[:, :, ::-1])[0]), abs=1e-3)


def pixels(split, image):
    return split.read(split.ids.index(image))[None] / np.float32(255)


@pytest.mark.slow
def test_an_adaptive_attack_raises_scores_behind_the_defense(whole):
    """Behind the mirror only an attack through the mirror raises the score."""
    gains = {
        mode: np.mean([r.purified - r.purified_clean for r in whole[1] if (r.mode, *key_of(r)[1:4]) == (mode, *cell)])
        for cell in [("mirror", "IFGSM", 8 / 255)]
        for mode in ("transfer", "adaptive")
    }
    assert gains["transfer"] < 1 < gains["adaptive"]
    for row in whole[1]:
        if row.mode == "adaptive" and row.defense == "mirror":
            assert row.purified > row.purified_clean


@pytest.mark.slow
def test_a_clean_and_its_attacked_image_share_a_draw_and_images_do_not(whole, split):
    root, _ = whole
    made = defense_stage.Defended(evaluated(root), "shift", build("shift", Defense(f"{root}/mine.py:Shift")), split, 2)
    images = np.stack([split.read(i) for i in range(3)]) / np.float32(255)
    images = jnp.asarray(np.clip(images, 0.4, 0.6))
    moved = made._purified(0, images) - images
    again = made._purified(0, images + 0.01) - images - 0.01
    np.testing.assert_allclose(moved, again, atol=1e-6)
    assert float(jnp.abs(moved[0] - moved[1]).max()) > 1e-3
    np.testing.assert_allclose(made._purified(2, images[2:]) - images[2:], moved[2:], atol=1e-6)


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_rows(whole, tmp_path, evaluation, split, monkeypatch):
    add, calls = EvaluatedModel.add, []

    def killed(self, rows):
        calls.append(rows)
        if len(calls) % 4 == 0:
            raise KeyboardInterrupt
        add(self, rows)

    monkeypatch.setattr(EvaluatedModel, "add", killed)
    for _ in range(100):
        try:
            rows = run(tmp_path, evaluation, split)
            break
        except KeyboardInterrupt:
            continue
    assert len(calls) > 10
    expected = {key_of(row): row for row in whole[1]}
    assert len(rows) == len(expected)
    for row in rows:
        assert replace(row, seconds=0.0) == replace(expected[key_of(row)], seconds=0.0)
    assert len(evaluated(tmp_path).rows(ResultRow)) == 5 * 5


@pytest.mark.slow
def test_the_adversarial_set_is_written_once_and_read_by_every_defense(whole, evaluation, split, monkeypatch):
    root, rows = whole
    files = {path: path.stat().st_mtime_ns for path in (root / "images").rglob("*.png")}
    assert len(files) == 5 * 5
    monkeypatch.setattr(attacking_stage, "attack_block", lambda *_, **__: pytest.fail("attacked again"))
    more = replace(evaluation, defenses={"late": Defense(f"{root}/mine.py:Mirror")}, adaptive=Adaptive())
    late = [row for row in run(root, more, split) if row.defense == "late"]
    assert {path: path.stat().st_mtime_ns for path in files} == files
    mirror = {key_of(replace(r, defense="late")): r.purified for r in rows if r.defense == "mirror"}
    assert {key_of(row): row.purified for row in late} == {k: v for k, v in mirror.items() if k[0] == "transfer"}
    # The pixels of the stored file are scored, not those in memory.
    row = next(row for row in late if row.level == "strong")
    path = adversarial_set.png_path(evaluated(root), "visible", Strength(None, "strong"), row.image)
    assert path.is_relative_to(root / "images" / "m-seed0" / "visible" / "strong")
    stored_score = score(np.asarray(Image.open(path))[None, :, ::-1] / np.float32(255))
    assert row.purified == pytest.approx(float(stored_score[0]), abs=1e-3)


def test_a_damaged_image_is_detected_and_a_missing_one_is_attacked_again(tmp_path, evaluation, split):
    less = replace(evaluation, attacks={"IFGSM": Attack("ifgsm", (8 / 255,), {"steps": 1})}, adaptive=Adaptive())
    run_attacks(evaluated(tmp_path), less, split, store=True, examples=0)
    path = adversarial_set.png_path(evaluated(tmp_path), "IFGSM", Strength(8 / 255), split.ids[1])
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    Image.new("RGB", (28, 20)).save(path)
    with pytest.raises(ValueError, match=r"\.png was changed after it was stored; delete it"):
        defend_all(evaluated(tmp_path), less, split)
    path.unlink()
    run_attacks(evaluated(tmp_path), less, split, store=True, examples=0)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    defend_all(evaluated(tmp_path), less, split)
    assert len(evaluated(tmp_path).rows(ResultRow)) == 5
    assert len(evaluated(tmp_path).rows(StoredRow)) == 6
    assert len(evaluated(tmp_path).rows(DefenseRow)) == 15


def test_images_that_were_not_stored_are_attacked_again_for_a_defense(tmp_path, evaluation, split):
    less = replace(evaluation, attacks={"IFGSM": Attack("ifgsm", (8 / 255,), {"steps": 1})}, defenses={})
    run_attacks(evaluated(tmp_path), less, split, store=False, examples=0)
    rows = evaluated(tmp_path).rows(ResultRow)
    assert not (tmp_path / "images").exists()
    run_attacks(evaluated(tmp_path), less, split, store=True, examples=0)
    assert evaluated(tmp_path).rows(ResultRow) == rows
    assert len(list((tmp_path / "images").rglob("*.png"))) == 5


def test_aligned_strengths_are_found_once_and_reach_the_psnr(whole, split):
    root, _ = whole
    path = root / "aligned" / "m-seed0" / "visible.json"
    before = path.stat().st_mtime_ns
    found = strengths_of(evaluated(root), "visible", VISIBLE, split)
    assert path.stat().st_mtime_ns == before
    assert [strength.level for strength in found] == ["weak", "medium", "strong"]
    assert found[0].epsilon < found[1].epsilon < found[2].epsilon
    rows = [row for row in evaluated(root).rows(ResultRow) if row.attack == "visible" and row.image in split.ids[:2]]
    for level, wanted in {"weak": 40, "medium": 35, "strong": 30}.items():
        psnr = [-20 * np.log10(row.l2 / np.sqrt(20 * 28 * 3)) for row in rows if row.level == level]
        assert np.mean(psnr) == pytest.approx(wanted, abs=0.9)  # a tenth of the amplitude


def test_levels_of_a_budget_need_no_run(split, tmp_path):
    found = strengths_of(evaluated(tmp_path), "x", Attack("square", aligned=Align("budget")), split)
    assert found == (Strength(2 / 255, "weak"), Strength(4 / 255, "medium"), Strength(8 / 255, "strong"))
    assert not list(tmp_path.iterdir())
