"""Stored files of an evaluation are sealed: a changed byte is detected and named, and the file is made again."""

import json
import logging

import jax.numpy as jnp
import numpy as np
import pytest
from own_purifiers import evaluated

from jaxiqa.attacks.engine.storage import read, write
from jaxiqa.config import Align, Attack, Data, Evaluation
from jaxiqa.core.files import DamagedError, open_sealed, sealed_json
from jaxiqa.evaluation import adversarial_set
from jaxiqa.evaluation.attack_stage import example_path, run_attacks
from jaxiqa.evaluation.fitted_attacks import fitted_attacks
from jaxiqa.evaluation.strengths import strengths_of
from jaxiqa.results.examples import load
from jaxiqa.results.rows import ResultRow, StoredRow

OTHERS = Data("builtin", options={"size": (20, 28), "train": 3, "val": 2, "test": 1})
UAP = Attack("uap", (0.1,), {"epochs": 1}, fit_on=OTHERS, fit_split="train")
ALIGNED = Attack("ifgsm", None, {"steps": 1}, aligned=Align("psnr", ladder=(0.01, 0.05), images=2))


def damages(content):
    """Yield the content with flipped bytes, cut, emptied, and extended."""
    for place in {*range(0, len(content), max(1, len(content) // 25)), len(content) - 1}:
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        yield bytes(changed)
    yield from (content[:-1], content[: len(content) // 2], b"", content + b" ")


@pytest.mark.slow
def test_every_flipped_byte_of_a_fitted_file_is_detected(tmp_path):
    path = tmp_path / "a.safetensors"
    arrays = {"delta": jnp.arange(6.0).reshape(1, 2, 3), "a.b": jnp.ones(())}
    write(path, "uap", arrays, {"amplitude": 0.5})
    whole = path.read_bytes()
    for place in range(len(whole)):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            path.write_bytes(changed)
            with pytest.raises(DamagedError, match=r"a\.safetensors: damaged file"):
                read(path, "uap")
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedError, match=r"a\.safetensors: damaged file"):
            read(path, "uap")


@pytest.mark.parametrize(
    "content", [{"weak": {"strength": 0.125, "curve": [[0.1, 2.5], [0.2, 3]]}}, {"步": "é", "n": 1}]
)
def test_every_flipped_byte_of_sealed_json_is_detected(content):
    text = sealed_json(content)
    assert open_sealed(text) == content
    assert json.loads(text).keys() == {*content, "sha256"}
    for place in range(len(text)):
        for bit in range(7):
            with pytest.raises(DamagedError):
                open_sealed(text[:place] + chr(ord(text[place]) ^ 1 << bit) + text[place + 1 :])
        with pytest.raises(DamagedError):
            open_sealed(text[:place])
    for other in ("[]", "null", "3", "{}", '{"sha256": null}', "[" * 100_000):
        with pytest.raises(DamagedError):
            open_sealed(other)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fitted", "aligned"])
def test_damaged_fitted_files_are_fitted_again(tmp_path, split, kind, caplog):
    made = evaluated(tmp_path)

    def learn():
        if kind == "fitted":
            return np.asarray(fitted_attacks(made, "x", UAP, (0.1,))[0].delta)
        return np.array([strength.epsilon for strength in strengths_of(made, "x", ALIGNED, split)])

    first = learn()
    (path,) = [path for path in (tmp_path / kind).rglob("*") if path.is_file()]
    whole = path.read_bytes()
    learn()
    assert not caplog.records
    for damaged in [*damages(whole)][::6]:
        caplog.clear()
        path.write_bytes(damaged)
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(learn(), first)
        assert str(path) in caplog.text
        assert "made again" in caplog.text
        caplog.clear()
        np.testing.assert_array_equal(learn(), first)
        assert not caplog.records
    path.unlink()
    np.testing.assert_array_equal(learn(), first)


def test_another_digit_in_an_aligned_strength_is_detected(tmp_path, split, caplog):
    made = evaluated(tmp_path)
    first = strengths_of(made, "x", ALIGNED, split)
    (path,) = (tmp_path / "aligned").rglob("*.json")
    content = json.loads(path.read_text())
    content["strong"]["strength"] *= 2
    path.write_text(json.dumps(content, indent=1))
    assert strengths_of(made, "x", ALIGNED, split) == first
    assert "changed after it was written" in caplog.text


@pytest.mark.slow
def test_damaged_stored_images_and_examples_are_made_again(tmp_path, split, caplog):
    made = evaluated(tmp_path)
    evaluation = Evaluation(data=OTHERS, attacks={"A": Attack("ifgsm", (0.1,), {"steps": 1})})
    run = lambda: run_attacks(made, evaluation, split, store=True, examples=1)  # noqa: E731
    run()
    rows, images = made.rows(ResultRow), sorted((tmp_path / "images").rglob("*.png"))
    before = [path.read_bytes() for path in images]
    for place in (5, len(before[1]) // 2, len(before[1]) - 3):
        changed = bytearray(before[1])
        changed[place] ^= 4
        images[1].write_bytes(changed)
        images[3].write_bytes(before[3][:-9])
        caplog.clear()
        run()
        assert [path.read_bytes() for path in images] == before
        assert [str(path) for path in images if f"{path} is damaged" in caplog.text] == [str(images[1]), str(images[3])]
    assert made.rows(ResultRow) == rows
    assert adversarial_set.digests(made, verify=True).keys() == {
        (row.attack, row.image, 0.1) for row in made.rows(StoredRow)
    }
    path = example_path(tmp_path, "m", "A", 0)
    for damaged in damages(path.read_bytes()):
        path.write_bytes(damaged)
        run()
        load(path)
    assert made.rows(ResultRow) == rows
    assert [path.read_bytes() for path in images] == before
