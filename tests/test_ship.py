"""A metric put into the package: it loads, its card says what it reaches, and a failure leaves the old files."""

import importlib.util
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxiqa import data, models
from jaxiqa.models import zoo

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "ship.py"


@pytest.fixture
def ship(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("ship", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ZOO", tmp_path / "zoo")
    return module


@pytest.fixture
def run(tmp_path):
    metric = tiny.metric(input_size=(40, 56))
    metric.calibrate(k=10.0, b=50.0, score_range=(0.0, 100.0))
    folder = tmp_path / "run"
    models.save(metric, folder)
    chosen = {"name": "builtin", "source": None, "limit": None, "options": {"size": (40, 56), "train": 8, "val": 4}}
    chosen["options"] |= {"test": 6}
    config = {"data": chosen, "model": {"backbone": "resnet18"}, "variants": [], "seed": 0}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "training.json").write_text(json.dumps({"validation_srocc": 0.5, "parameters": 9}))
    return folder


def arguments(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["ship.py", *map(str, words)])


@pytest.mark.slow
def test_it_loads_and_its_card_says_what_the_stored_metric_reaches(ship, run, monkeypatch):
    arguments(monkeypatch, "jaxiqa-base", "--run", run, "--kernels", "int8", "--command", "jaxiqa train --config mine")
    ship.main()
    folder = ship.ZOO / "jaxiqa-base"
    loaded = models.load_run(folder)
    split = data.load("builtin", size=(40, 56), train=8, val=4, test=6)["test"]
    scores = [np.asarray(models.load_run(path)(jnp.asarray(split.images()))) for path in (run, folder)]
    change = np.abs(scores[0] - scores[1]).max()
    assert change > 0
    card = (folder / "README.md").read_text()
    assert f"{change:.2g} |" in card
    assert 'jaxiqa.load("jaxiqa-base")' in card
    assert "jaxiqa train --config mine" in card
    assert json.loads((folder / "model.json").read_text())["sha256"] in card
    assert loaded.score_range == (0.0, 100.0)
    assert zoo.SHIPPED["jaxiqa-base"] in card


@pytest.mark.slow
def test_an_evaluation_of_another_metric_is_an_error_that_changes_nothing(ship, run, tmp_path, monkeypatch):
    (tmp_path / "evaluation.json").write_text(json.dumps({"model base seed 0": "another"}))
    arguments(monkeypatch, "jaxiqa-base", "--run", run, "--evaluation", tmp_path)
    with pytest.raises(ValueError, match="is no evaluation of the metric"):
        ship.main()
    assert not ship.ZOO.exists()
