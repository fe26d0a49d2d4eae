"""Saved metrics as variants: evaluated as they are, members of averages, refused early where they do not exist."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from configs.smoke import get_config
from jaxiqa import models
from jaxiqa.cli.train import train
from jaxiqa.config import Average, Block, Saved, Training, Variant, check_experiment, describe, run_folder
from jaxiqa.train.startup import check_training


@pytest.fixture(scope="module")
def smoke():
    return get_config()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two calibrated metrics in folders."""
    folder = tmp_path_factory.mktemp("saved")
    for number in range(2):
        model = tiny.metric(seed=number)
        model.calibrate(k=2.0 - 4.0 * number, b=3.0, score_range=(0.0, 100.0))
        models.save(model, folder / str(number))
    return folder


def experiment(smoke, tmp_path, **variants):
    return replace(smoke, variants=variants, workdir=str(tmp_path), seeds=(0,))


@pytest.mark.slow
def test_a_saved_metric_keeps_its_scores_and_its_map(smoke, tmp_path, saved, capsys):
    chosen = experiment(smoke, tmp_path, first=Saved(str(saved / "0")), both=Average(("first", "second")))
    chosen = replace(chosen, variants={"second": Saved(str(saved / "1")), **chosen.variants})
    train(chosen)
    images = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 40, 56, 3)), jnp.float32)
    scores = {name: np.asarray(models.load_run(run_folder(chosen, name, 0))(images)) for name in chosen.variants}
    for name, number in (("first", "0"), ("second", "1")):
        np.testing.assert_array_equal(scores[name], np.asarray(models.load_run(saved / number)(images)))
    # The average is an increasing map of the mean, as everything behind its members is linear.
    mean = (scores["first"] + scores["second"]) / 2
    assert np.sign(np.diff(scores["both"])) == np.sign(np.diff(mean))
    assert "first seed 0: validation SROCC" in capsys.readouterr().out


@pytest.mark.slow
def test_the_description_names_the_metric(smoke, tmp_path, saved):
    one, other = (describe(experiment(smoke, tmp_path, a=Saved(str(saved / n))), "a", 0) for n in "01")
    assert one["variants"] == [{"weights": str(saved / "0")}]
    assert one != other


def test_a_missing_metric_is_named_before_any_training(smoke, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"variants.a.weights='.*nowhere'"):
        check_training(experiment(smoke, tmp_path, a=Saved(str(tmp_path / "nowhere"))))


@pytest.mark.slow
def test_a_saved_metric_is_no_parent(smoke, tmp_path, saved):
    child = Variant(Training(epochs=1), parent="a", block=Block("after:layer1", options={"mid": 2}))
    with pytest.raises(ValueError, match=r"variants.b.parent='a' is a Saved metric, which is not trained"):
        check_experiment(experiment(smoke, tmp_path, a=Saved(str(saved / "0")), b=child))
