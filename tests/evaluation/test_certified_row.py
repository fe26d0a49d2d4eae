"""The row of a model that bounds its scores by its architecture has its certificate; other models have none."""

import json

import pytest
from flax import nnx

from jaxiqa import models
from jaxiqa.data import load
from jaxiqa.evaluation.clean_stage import predict
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.results.rows import ModelRow


@pytest.mark.parametrize("certified", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_certificate_is_stored_for_images_under_attack(certified, tmp_path):
    """Of 16×20 images, although the labelled ones have another size and the metric resizes both."""
    if certified:
        model = models.LipschitzIQA(channels=(8,), depth=(1,), slope=0.02, input_size=(24, 24), rngs=nnx.Rngs(0))
    else:
        model = models.build("resnet18", width=8)
    model.calibrate(k=50.0, b=0.0, score_range=(0.0, 100.0))
    models.save(model, tmp_path / "m")
    about = {"parameters": 1, "validation_srocc": 0.5, "seconds_per_epoch": 1.0}
    (tmp_path / "m" / "training.json").write_text(json.dumps(about))
    evaluated = EvaluatedModel("m", 0, root=tmp_path, folder=tmp_path / "m", size=(16, 20), batch=2)
    predict(evaluated, load("builtin", size=(36, 44), train=1, val=1, test=2)["test"], None)
    (row,) = evaluated.rows(ModelRow)
    assert row.certificate == (pytest.approx(model.certificate(1 / 255, (16, 20)), rel=1e-5) if certified else None)
