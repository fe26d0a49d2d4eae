"""Certified intervals from the shell: those of each image's own size, and clear errors."""

import csv

import numpy as np
import pytest
import tiny
from flax import nnx
from PIL import Image

from jaxiqa import models
from jaxiqa.cli import score as scoring

SIZES = {"one.png": (40, 56), "two.png": (44, 40)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, size in SIZES.items():
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    """A certified metric that resizes images, so that the size of the file decides the certificate."""
    model = models.LipschitzIQA(channels=(8,), depth=(1,), slope=0.02, input_size=(16, 24), rngs=nnx.Rngs(0))
    model.calibrate(k=50.0, b=0.0, score_range=(0.0, 100.0))
    run = tmp_path_factory.mktemp("certified") / "run"
    models.save(model, run)
    return model, run


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "norm"), [("2/255", "linf"), ("0.5", "l2")])
def test_certified_intervals_are_those_of_each_images_own_size(folder, certified, tmp_path, capsys, epsilon, norm):
    model, run = certified
    out = tmp_path / "scores.csv"
    files = [str(folder / name) for name in SIZES]
    arguments = ["lipschitz_iqa", *files, "--weights", str(run), "--epsilon", epsilon, "--norm", norm]
    assert scoring.main([*arguments, "--csv", str(out)]) == 0
    with open(out) as table:
        rows = list(csv.DictReader(table))
    for row, size in zip(rows, SIZES.values(), strict=True):
        radius = 2 / 255 if norm == "linf" else 0.5
        expected = model.certificate(radius, size, norm=norm)
        assert float(row["high"]) - float(row["score"]) == pytest.approx(expected, rel=1e-5)
        assert float(row["score"]) - float(row["low"]) == pytest.approx(expected, rel=1e-5)
    capsys.readouterr()
    assert scoring.main(arguments) == 0
    assert f"  [{float(rows[0]['low']):.4f}, {float(rows[0]['high']):.4f}]" in capsys.readouterr().out


def test_a_norm_without_a_radius_is_refused(folder, capsys):
    with pytest.raises(SystemExit) as stop:
        scoring.main(["jaxiqa-certified", str(folder / "one.png"), "--norm", "l2"])
    said = str(stop.value) + capsys.readouterr().err
    assert "norm=l2 has no effect without epsilon, such as --epsilon 2/255" in said


@pytest.mark.parametrize(
    ("model", "epsilon", "message"),
    [
        ("linearity", "2/255", "epsilon=2/255: linearity has no certificate; jaxiqa-certified has one"),
        ("lipschitz_iqa", "-1", "epsilon=-1"),
        ("lipschitz_iqa", "much", "much"),
    ],
)
def test_a_wrong_epsilon_is_an_error_at_the_start(folder, tmp_path, certified, capsys, model, epsilon, message):
    weights = certified[1]
    if model == "linearity":
        weights = tmp_path / "run"
        plain = tiny.metric()
        plain.calibrate(k=1.0, b=0.0, score_range=(-10.0, 10.0))
        models.save(plain, weights)
    with pytest.raises(SystemExit) as stop:
        scoring.main([model, str(folder / "one.png"), "--weights", str(weights), f"--epsilon={epsilon}"])
    assert message in str(stop.value) + capsys.readouterr().err
