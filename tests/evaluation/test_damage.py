"""Evaluation files that are cut, emptied, deleted or changed; strengths, names and balls of stored images."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from own_purifiers import evaluated, score
from PIL import Image
from quick import every

from jaxiqa.attacks.wrappers.masking import Check
from jaxiqa.config import Attack, Data, Evaluation
from jaxiqa.core.files import WriteError
from jaxiqa.evaluation import adversarial_set, attack_plan, attack_stage, clean_stage
from jaxiqa.evaluation.attack_loop import to_8_bits
from jaxiqa.evaluation.attack_stage import example_path, run_attacks
from jaxiqa.evaluation.clean_stage import check_gradients, predict
from jaxiqa.results.rows import MaskingRow, ModelRow, ResultRow, StoredRow, Strength


@pytest.fixture
def model(monkeypatch, tmp_path):
    monkeypatch.setattr(clean_stage.models, "load_run", lambda folder: SimpleNamespace(score_range=(0.0, 1.0)))
    monkeypatch.setattr(clean_stage.models, "score_fn", lambda model, size: score)
    (tmp_path / "m").mkdir()
    training = {"parameters": 1, "validation_srocc": 0.5, "seconds_per_epoch": 1.0}
    (tmp_path / "m" / "training.json").write_text(json.dumps(training))
    return evaluated(tmp_path)


@pytest.mark.parametrize("damage", ["half a line", "a line", "emptied", "deleted"])
def test_missing_predictions_are_computed_again(model, split, damage):
    predict(model, split, None)
    path = model.root / "predictions.jsonl"
    whole = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        lines = whole.splitlines(keepends=True)
        path.write_bytes(
            {"half a line": whole[:-70], "a line": b"".join(lines[:2] + lines[3:]), "emptied": b""}[damage]
        )
    predict(model, split, None)
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.splitlines())
    assert len(model.rows(ModelRow)) == 1


@pytest.mark.parametrize("name", ["predictions.jsonl", "models.jsonl"])
def test_a_changed_digit_is_detected_by_every_reader(model, split, name):
    predict(model, split, None)
    path = model.root / name
    text = path.read_text()
    place = text.index('"seed": 0') + 8
    path.write_text(text[:place] + "1" + text[place + 1 :])
    with pytest.raises(ValueError, match=rf"{name} line 1 does not fit its seal: .*delete the line"):
        predict(model, split, None)


def test_masking_checks_are_stored_per_number_of_images_and_missing_ones_are_run(tmp_path, split, monkeypatch):
    checks = tuple(Check(name, 0.0, 1.0, False) for name in ("gradient is zero", "noise beats pgd", "square beats pgd"))
    monkeypatch.setattr(clean_stage, "check_masking", lambda *_, **__: checks)
    made = evaluated(tmp_path)
    check_gradients(made, split, 2)
    rows = made.rows(MaskingRow)
    assert {(row.images, row.checks) for row in rows} == {(2, len(rows))}
    path = tmp_path / "masking.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-2]))
    check_gradients(made, split, 2)
    assert made.rows(MaskingRow) == rows
    check_gradients(made, split, 1)
    assert {row.images for row in made.rows(MaskingRow)} == {1, 2}


EVALUATION = Evaluation(data=Data("builtin"), attacks={"A": Attack("ifgsm", (2 / 255, 5.01e-5, 4.96e-5), {"steps": 1})})


def with_strengths(*strengths):
    return replace(EVALUATION, attacks={"A": replace(EVALUATION.attacks["A"], epsilons=strengths)})


@pytest.mark.slow
def test_changed_strengths_reuse_the_rows_of_unchanged_ones(tmp_path, split, monkeypatch):
    made = evaluated(tmp_path)
    run_attacks(made, with_strengths(2 / 255, 8 / 255), split, store=True, examples=1)
    before, ran = made.rows(ResultRow), []
    runner = attack_plan.attack_runner
    monkeypatch.setattr(attack_plan, "attack_runner", lambda n, o, e, *rest: ran.append(e) or runner(n, o, e, *rest))
    run_attacks(made, with_strengths(2 / 255, 4 / 255), split, store=True, examples=1)
    assert ran == [(4 / 255,)]
    assert made.rows(ResultRow)[: len(before)] == before
    assert {row.epsilon for row in made.rows(ResultRow)[len(before) :]} == {4 / 255}
    example = attack_stage.load(example_path(tmp_path, "m", "A", 0))
    assert example.epsilon == 4 / 255  # the largest of today
    run_attacks(made, with_strengths(2 / 255, 4 / 255), split, store=True, examples=1)
    assert len(ran) == 1
    example_path(tmp_path, "m", "A", 0).write_bytes(b"damaged")
    rows = made.rows(ResultRow)
    run_attacks(made, with_strengths(2 / 255, 4 / 255), split, store=True, examples=1)
    assert attack_stage.load(example_path(tmp_path, "m", "A", 0)).epsilon == 4 / 255
    assert made.rows(ResultRow) == rows


@pytest.mark.slow
def test_strengths_equal_to_six_decimals_have_different_files(tmp_path, split):
    made = evaluated(tmp_path)
    run_attacks(made, EVALUATION, split, store=True, examples=0)
    assert len(list((tmp_path / "images").rglob("*.png"))) == 3 * len(split)
    assert len(made.rows(StoredRow)) == len({row.sha256 for row in made.rows(StoredRow)}) + len(split)  # both: clean
    assert adversarial_set.png_path(made, "A", Strength(5.01e-5), "i") != adversarial_set.png_path(
        made, "A", Strength(4.96e-5), "i"
    )


def test_stored_images_stay_in_the_ball_of_the_attack():
    random = np.random.default_rng(0)
    clean_images = random.integers(0, 256, (64, 6, 6, 3)).astype(np.float32) / 255
    for epsilon in (0.4 / 255, 1 / 255, 0.01, 8 / 255):
        change = epsilon * random.uniform(-1, 1, clean_images.shape)
        change[:32] = epsilon * np.sign(change[:32])
        attacked = np.clip(clean_images + change.astype(np.float32), 0, 1)
        kept = np.asarray(to_8_bits(jnp.asarray(attacked), jnp.asarray(clean_images)))
        np.testing.assert_allclose(255 * kept, np.round(255 * kept), atol=1e-4)
        assert np.abs(kept - clean_images).max() <= epsilon + 1e-6
        far, near = (np.linalg.norm((x - clean_images).reshape(64, -1), axis=1) for x in (attacked, kept))
        assert (near <= far + 1e-5).all()
    whole = np.clip(clean_images + 8 / np.float32(255), 0, 1)  # whole steps are kept
    np.testing.assert_allclose(to_8_bits(jnp.asarray(whole), jnp.asarray(clean_images)), whole, atol=1e-6)


def test_the_stored_file_is_scored(tmp_path, split):
    made = evaluated(tmp_path)
    run_attacks(made, with_strengths(0.01), split, store=True, examples=0)
    for row in made.rows(ResultRow):
        pixels = np.asarray(Image.open(adversarial_set.png_path(made, "A", Strength(0.01), row.image)))
        original = split.read(split.ids.index(row.image))
        assert np.abs(pixels.astype(int) - original.astype(int)).max() == 2  # 2.55 steps are allowed
        assert row.rounded == pytest.approx(float(score(pixels[None] / np.float32(255))[0]), abs=1e-3)


@pytest.mark.parametrize(
    "name", ["城市公园秋天傍晚湖边散步的老人与孩子拍摄的照片原始文件" * 3, "a/" * 90 + "b.png", "../../up", "n" * 300]
)
def test_images_and_labels_of_any_name_are_stored(tmp_path, split, name):
    ids = (name, name + "2", *split.ids[2:])
    renamed = replace(split, ids=ids)
    labelled = replace(EVALUATION, attacks={name: Attack("ifgsm", (0.1,), {"steps": 1})})
    run_attacks(evaluated(tmp_path), labelled, renamed, store=True, examples=2)
    files = list((tmp_path / "images").rglob("*.png"))
    assert len(files) == len(split)
    assert len(adversarial_set.digests(evaluated(tmp_path))) == len(split)
    assert all(len(path.name.encode()) < 200 for path in tmp_path.rglob("*"))
    assert not (tmp_path.parent / "up.png").exists()


def test_errors_name_the_path_that_cannot_be_written(tmp_path, split):
    (tmp_path / "images").write_text("")
    with pytest.raises(WriteError, match=r"images.*: a file is where a folder should be; move it"):
        run_attacks(evaluated(tmp_path), with_strengths(0.1), split, store=True, examples=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", every(2, ["fgsm", "ifgsm", "one_pixel", "square"]))
def test_a_metric_that_becomes_nan_is_named_with_its_attack_and_earlier_rows_are_kept(tmp_path, split, name):
    options = {"ifgsm": {"steps": 3}, "one_pixel": {"pixels": 2, "population": 8, "generations": 2}}.get(name, {})
    options |= {"queries": 20} if name == "square" else {}
    chosen = Evaluation(
        data=Data("builtin"), attacks={"mine": Attack(name, None if name == "one_pixel" else (0.1,), options)}
    )
    last = jnp.asarray(split.read(4), jnp.float32) / 255  # a different scene

    def broken(images):
        near = jnp.abs(images - last).mean((1, 2, 3)) < 0.12
        return jnp.where(near & (jnp.abs(images - last).max((1, 2, 3)) > 0), jnp.nan, score(images))

    made = evaluated(tmp_path)  # two images at once
    made.__dict__["score_fn"] = broken
    with pytest.raises(ValueError, match=r"^m seed 0: mine: .*non-finite score.*; the finished batches are kept"):
        run_attacks(made, chosen, split, store=True, examples=1)
    rows = made.rows(ResultRow)
    assert [row.image for row in rows] == list(split.ids[:4])
    whole = evaluated(tmp_path)
    run_attacks(whole, chosen, split, store=True, examples=1)
    assert whole.rows(ResultRow)[:4] == rows
    assert len(whole.rows(ResultRow)) == len(split)
