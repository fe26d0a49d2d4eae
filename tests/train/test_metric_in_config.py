"""Configs name any metric: it is checked, trained, hardened, saved and scored as linearity is."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from quick import every

from jaxiqa import models
from jaxiqa.config import Block, Data, Evaluation, Experiment, Model, Training, Variant, describe, run_folder
from jaxiqa.train.experiment import finished_runs, load_data, train_variant
from jaxiqa.train.startup import check_files, check_training
from jaxiqa.train.variant import new_metric

SMALL = {
    "brisque": Model(metric="brisque"),
    "fpr": Model(metric="fpr", width=8),
    "hyperiqa": Model("resnet18", width=4, metric="hyperiqa", options={"crops": 1}),
    "koncept512": Model("mobilenet_v2", width=8, metric="koncept512"),
    "linearity": Model("resnet18", width=8),
    "lipschitz_iqa": Model(metric="lipschitz_iqa", options={"channels": (8, 12), "depth": (1, 1)}),
    "maniqa": Model(metric="maniqa", width=24, options={"protocol": "resize"}),
    "metaiqa": Model(metric="metaiqa", width=8),
    "norm_controlled": Model("resnet18", width=8, metric="norm_controlled", options={"channels": 8}),
    "paq2piq": Model(metric="paq2piq", width=8),
    "spaq_bl": Model(metric="spaq_bl", width=4),
    "tres": Model("resnet18", width=4, metric="tres"),
}
PLACES = {"fpr": "sfl22", "koncept512": "block12", "maniqa": "vit"}


def experiment(model, where, workdir=""):
    size = (224, 232) if model.metric == "spaq_bl" else (64, 72)
    data = Data("builtin", options={"size": size, "train": 8, "val": 4, "test": 4})
    training = Training(epochs=1, batch_size=4, learning_rate=1e-4, crops=0)
    variants = {
        "base": Variant(training),
        "hard": Variant(training, parent="base", block=Block(f"after:{where}", "bottleneck", {"mid": 2})),
    }
    if model.metric in ("brisque", "lipschitz_iqa"):  # they are no networks of stages
        del variants["hard"]
    return Experiment("any", data, model, variants, Evaluation(data, {}), workdir=str(workdir))


def test_no_metric_is_left_out():
    assert SMALL.keys() == models.MODELS.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", every(3, SMALL))
def test_an_experiment_on_any_metric_passes_the_checks(name):
    check_training(experiment(SMALL[name], PLACES.get(name, "layer2")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["metaiqa", pytest.param("koncept512", marks=pytest.mark.release)])
def test_a_metric_is_trained_hardened_and_loaded(name, tmp_path):
    chosen = experiment(SMALL[name], PLACES.get(name, "layer2"), tmp_path)
    check_training(chosen)
    splits = load_data(chosen, ["base", "hard"])
    for variant in chosen.variants:
        train_variant(chosen, variant, 0, splits, {}, {})
    assert set(finished_runs(chosen)) == {(0, "base"), (0, "hard")}
    loaded = models.load_run(run_folder(chosen, "hard", 0))
    assert type(loaded) is models.MODELS[name].metric
    assert [block.where for block in loaded.insertions] == [chosen.variants["hard"].block.where]
    assert np.isfinite(loaded(jnp.asarray(splits["val"].images()))).all()
    goes_on = replace(chosen.model, weights=str(run_folder(chosen, "base", 0)))
    check_files(replace(chosen, model=goes_on), ["base"])
    again = new_metric(goes_on, weights=True)
    images = jnp.asarray(splits["val"].images())
    np.testing.assert_array_equal(again(images), models.load_run(run_folder(chosen, "base", 0))(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metric": "koncpt512"}, r"model\.metric='koncpt512'.*koncept512"),
        ({"backbone": "resnet19"}, r"model\.backbone='resnet19'.*resnet18"),
        ({"metric": "tres", "taps": ("a", "b")}, r"model\.taps=\('a', 'b'\): tres has no taps; leave it out"),
        (
            {"metric": "tres", "options": {"protocl": "pyiqa"}},
            r"model\.options: tres has no option 'protocl'.*protocol",
        ),
        ({"options": {"width": 8}}, r"model\.options: linearity has no option 'width'"),
        ({"metric": "maniqa"}, r"model: backbone='resnet18' is not allowed: maniqa has its own network"),
        ({"metric": "tres", "backbone": "vgg16"}, r"model: backbone='vgg16' is not allowed; choose from"),
    ],
)
def test_faults_name_the_field(changes, message):
    with pytest.raises(ValueError, match=message):
        check_training(experiment(replace(Model("resnet18"), **changes), "layer2"))


def test_fields_that_are_not_used_do_not_change_a_run():
    """Runs from before ``metric`` and ``options`` existed can continue."""
    described = describe(experiment(Model("resnet18", width=8), "layer2"), "base", 0)
    assert described["model"].keys() == {"backbone", "width", "weights", "input_size", "taps"}
    other = describe(experiment(SMALL["tres"], "layer2"), "base", 0)
    assert other["model"]["metric"] == "tres"
