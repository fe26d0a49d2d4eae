"""Scoring from the shell: the numbers are the model's own, and nothing is passed over in silence."""

import csv
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent / "models"))
import tiny

from jaxiqa import models, scoring
from jaxiqa.data import read_image

GENERATOR = np.random.default_rng(0)


def picture(height, width, channels=3, dtype=np.uint8):
    values = GENERATOR.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype)
    return Image.fromarray(values if channels > 1 else values[..., 0])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures of all kinds, two that are none, and a file that does not claim to be one."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "inner").mkdir()
    for i in range(5):
        picture(40, 56).save(folder / f"same{i}.png")
    picture(44, 40).save(folder / "other.jpg", quality=95)
    picture(40, 44, 1).save(folder / "grey.png")
    picture(40, 44, 4).save(folder / "alpha.png")
    picture(40, 44, 1, np.uint16).save(folder / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture(40, 44).save(folder / "inner" / "turned.jpg", exif=exif)
    (folder / "broken.png").write_bytes((folder / "same0.png").read_bytes()[:300])
    (folder / "text.jpg").write_text("no picture")
    (folder / "notes.txt").write_text("none either")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A trained metric that takes pictures as they are, and one that resizes them."""
    folder = tmp_path_factory.mktemp("runs")
    for name, size in (("native", None), ("resized", (40, 56))):
        model = tiny.metric(input_size=size)
        model.calibrate(k=1.0, b=0.0, score_range=(-10.0, 10.0))
        models.save(model, folder / name)
    return folder


def read(path):
    with open(path, newline="") as file:
        return {row["image"]: float(row["score"]) for row in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.parametrize("run", ["native", "resized"])
def test_scores_are_those_of_the_model_and_faults_are_listed(run, folder, runs, tmp_path, capsys):
    out = tmp_path / "out" / "scores.csv"
    status = scoring.main(
        ["linearity", "--weights", str(runs / run), str(folder), "--csv", str(out), "--batch-size", "3"]
    )
    printed = capsys.readouterr().out
    assert status == 1
    scores, model = read(out), models.load_run(runs / run)
    names = ["alpha.png", "deep.png", "grey.png", "inner/turned.jpg", "other.jpg", *(f"same{i}.png" for i in range(5))]
    assert list(scores) == [str(folder / name) for name in names]
    for path, score in scores.items():
        pixels = jnp.asarray(read_image(Path(path)), jnp.float32)[None] / 255
        assert score == pytest.approx(float(model(pixels)[0]), abs=1e-4), path  # of a range of 20
    assert "2 of 12 pictures could not be scored:" in printed
    assert f"{folder / 'broken.png'}: cannot be decoded" in printed
    assert f"{folder / 'text.jpg'}: cannot be decoded" in printed
    assert "1 other files in the folders are no pictures by their names" in printed


def test_named_files_come_in_their_order_and_a_table_is_printed(folder, runs, capsys):
    named = [str(folder / name) for name in ("same1.png", "same0.png", "same1.png")]
    assert scoring.main(["linearity", *named, "--weights", str(runs / "native")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == named[:2]
    assert all(np.isfinite(float(line.split()[1])) for line in lines)


def test_a_named_file_that_does_not_exist_is_a_fault(folder, runs, capsys):
    named = [str(folder / "same1.png"), str(folder / "gone.png"), str(folder / "notes.txt")]
    assert scoring.main(["linearity", "--weights", str(runs / "native"), *named]) == 1
    printed = capsys.readouterr().out
    assert f"{folder / 'gone.png'}: no such file" in printed
    assert f"{folder / 'notes.txt'}: cannot be decoded" in printed


@pytest.mark.slow
def test_pictures_that_wait_do_not_fill_the_memory(folder, runs, monkeypatch):
    """With room for one, everything is scored at once; the numbers stay."""
    paths, _ = scoring.find([folder])
    model = models.load_run(runs / "native")
    batches = {}
    for waiting, pixels in ((scoring.WAITING, scoring.PIXELS), (1, scoring.PIXELS), (scoring.WAITING, 2 * 40 * 56)):
        monkeypatch.setattr(scoring, "WAITING", waiting)
        monkeypatch.setattr(scoring, "PIXELS", pixels)
        batches[waiting, pixels] = [d for d in scoring.score_files(model, paths, {}, batch_size=4) if d]
    whole, single, pairs = (
        {path: score for part in parts for path, score in part.items()} for parts in batches.values()
    )
    for other in (single, pairs):
        assert other.keys() == whole.keys()
        np.testing.assert_allclose([other[p] for p in whole], list(whole.values()), rtol=1e-4, atol=1e-5)
    assert [max(map(len, parts)) for parts in batches.values()] == [4, 1, 2]


def test_scores_that_are_no_numbers_and_sizes_that_are_refused_are_faults(folder, monkeypatch):
    paths = [folder / "same0.png", folder / "other.jpg"]

    def score(pixels):
        if pixels.shape[1] < 44:
            raise ValueError("images is 40x56; both sides must be at least 44 pixels")
        return np.full(len(pixels), np.nan)

    monkeypatch.setattr(scoring, "_compiled", lambda model: score)
    monkeypatch.setattr(scoring, "_shrinker", lambda model: lambda pixels: pixels)
    faults = {}
    assert not any(scoring.score_files(None, paths, faults, batch_size=4))
    assert faults == {
        paths[0]: "images is 40x56; both sides must be at least 44 pixels",
        paths[1]: "its score is nan",
    }


def test_bad_arguments_end_with_the_message(folder, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["musiq", str(folder), "--weights", "x"], "error: name='musiq' is not allowed"),
        (["linearity", str(folder), "--weights", "gone"], "error: weights='gone' is neither a file"),
        (["linearity", str(tmp_path / "empty"), "--weights", str(runs / "native")], "error: there are no pictures in"),
        (["linearity", str(folder), "--weights", "x", "--batch-size", "0"], "error: batch_size=0 is outside"),
    ):
        with pytest.raises(SystemExit, match=message):
            scoring.main(arguments)
