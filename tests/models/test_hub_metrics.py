"""Trained metrics on a hub: equal scores by every way to name one, and damage that is noticed."""

import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from hub_setting import fake_hub
from PIL import Image

import jaxiqa
from jaxiqa import models
from jaxiqa.cli import score as scoring
from jaxiqa.config import Data, Distil, Evaluation, Experiment, Model, Training, Variant
from jaxiqa.pretrained import hub
from jaxiqa.train.startup import check_files, check_training
from jaxiqa.train.variant import new_metric

X = jax.random.uniform(jax.random.key(0), (2, 40, 56, 3))
ADDRESS = "hf://me/mine"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained metric and its folder."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny.metric()
    model.calibrate(k=20.0, b=50.0, score_range=(10.0, 90.0))
    models.save(model, folder)
    return model, folder


@pytest.fixture
def server(run, tmp_path, monkeypatch):
    """A hub that has the metric as me/mine."""
    with fake_hub(tmp_path / "cache", monkeypatch) as found:
        found.add("me/mine", content(run[1]))
        yield found


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "load",
    [
        lambda: jaxiqa.load(ADDRESS),
        lambda: jaxiqa.load(f"{ADDRESS}@main"),
        lambda: jaxiqa.load("linearity", weights=ADDRESS),
        lambda: models.load_run(ADDRESS),
        lambda: models.build("resnet18", width=8, weights=ADDRESS),
    ],
    ids=["name", "revision", "weights", "run", "build"],
)
def test_every_way_gives_the_scores_of_the_metric(server, run, load):
    loaded = load()
    np.testing.assert_array_equal(loaded(X), run[0](X))
    assert loaded.score_range == (10.0, 90.0)


def test_it_loads_offline_from_the_cache(server, run):
    jaxiqa.load(ADDRESS)
    server.shutdown()
    server.server_close()
    np.testing.assert_array_equal(jaxiqa.load(ADDRESS)(X), run[0](X))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (ADDRESS, {"weights": "koniq10k"}, r"has weights of its own and takes no options, but got weights"),
        (ADDRESS, {"width": 8}, r"hf://me/mine has weights of its own and takes no options, but got width"),
        ("koncept512", {"weights": ADDRESS}, r"holds a trained linearity, not a koncept512"),
        ("linearity", {}, r"linearity needs weights: a file, the folder of a training run, an address on the hub"),
        ("hf://mine", {}, r"'hf://mine' is no address on the hub"),
    ],
)
def test_arguments_that_do_not_fit_are_errors(server, name, options, message):
    with pytest.raises(ValueError, match=message):
        jaxiqa.load(name, **options)


@pytest.mark.parametrize("file", hub.NEEDED)
@pytest.mark.parametrize("load", [lambda: jaxiqa.load(ADDRESS), lambda: jaxiqa.load("linearity", weights=ADDRESS)])
def test_damage_in_the_cache_is_noticed_and_the_remedy_works(server, run, file, load):
    path = hub.fetch(ADDRESS) / file
    damaged = bytearray(path.read_bytes())
    damaged[-40] ^= 1
    path.resolve().write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged.*; to download it again, delete .*models--me--mine$") as caught:
        load()
    shutil.rmtree(str(caught.value).rpartition("delete ")[2])
    np.testing.assert_array_equal(load()(X), run[0](X))


def test_weights_of_another_metric_on_the_hub_are_noticed(server, run):
    files = content(run[1])
    damaged = bytearray(files["model.safetensors"])
    damaged[-4] ^= 1
    server.add("me/mine", {**files, "model.safetensors": bytes(damaged)})
    with pytest.raises(ValueError, match=r"model\.safetensors does not match the digest in model\.json"):
        jaxiqa.load(ADDRESS)


def experiment(weights, teacher=None):
    data = Data("builtin", options={"size": (40, 56), "train": 4, "val": 4, "test": 4})
    distil = teacher and Distil(1.0, weights=teacher)
    variant = Variant(Training(epochs=1, batch_size=2, loss="mse", learning_rate=0.01, distil=distil))
    return Experiment("x", data, Model("resnet18", width=8, weights=weights), {"base": variant}, Evaluation(data, {}))


@pytest.mark.slow
def test_a_config_starts_from_a_metric_on_the_hub(server, run):
    chosen = experiment(ADDRESS, teacher=ADDRESS)
    check_training(chosen)
    assert check_files(chosen, ["base"]) == {}
    np.testing.assert_array_equal(new_metric(chosen.model, weights=True)(X), run[0](X))


def test_an_error_in_an_address_of_a_config_names_the_field(server):
    with pytest.raises(FileNotFoundError, match=r"model\.weights: hf://me/none: there is no repository me/none"):
        check_files(experiment("hf://me/none"), ["base"])
    with pytest.raises(ValueError, match=r"distil\.weights='hf://none': .*is no address on the hub"):
        check_training(experiment(None, teacher="hf://none"))
    other = replace(experiment(ADDRESS), model=Model("resnet18", width=16, weights=ADDRESS))
    with pytest.raises(
        ValueError, match=r"model\.weights: the trained model in .* has {'width': 8}, not {'width': 16}"
    ):
        check_files(other, ["base"])


@pytest.mark.slow
def test_images_are_scored_from_the_shell(server, run, tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    assert scoring.main([ADDRESS, str(tmp_path / "photo.png"), "--csv", str(tmp_path / "scores.csv")]) == 0
    score = float((tmp_path / "scores.csv").read_text().splitlines()[1].rpartition(",")[2])
    assert score == pytest.approx(float(run[0](jnp.asarray(pixels[None] / np.float32(255)))[0]), rel=1e-4)
