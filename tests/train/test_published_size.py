"""Every metric trains at its published size, by its published recipe, from random weights, within the stated memory."""

import json
import os
import subprocess
import sys

import pytest

from jaxiqa.models import MODELS

BUILD = {"linearity": 'Model("resnext101_32x8d", input_size=(498, 664))'}
SIZES = {"linearity": (498, 664), "koncept512": (384, 512), "fpr": (128, 192), "brisque": (128, 192)}
"""(height, width) of the images; 260x300 for the others, which cut them into crops or resize them."""
GIB = dict.fromkeys(MODELS, 12)
"""Largest memory of the process, in GiB, with two images per step."""

SCRIPT = """
import resource, sys
from jaxiqa.config import *
from jaxiqa.train.experiment import load_data, train_variant
from jaxiqa.train.startup import check_training
name, model, size, folder = sys.argv[1], eval(sys.argv[2]), eval(sys.argv[3]), sys.argv[4]
data = Data("builtin", options={"size": size, "train": 4, "val": 2, "test": 2})
crops = {"crops": 1} if name in ("tres", "hyperiqa") else {}  # instead of 50 and 25
variants = {"base": Variant(Training(epochs=1, batch_size=2, **crops))}
experiment = Experiment("published", data, model, variants, Evaluation(data, {}), workdir=folder)
check_training(experiment)
row = train_variant(experiment, "base", 0, load_data(experiment, ["base"]), {}, {})
print(row["parameters"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_two_steps_at_published_size(name, tmp_path):
    model = BUILD.get(name, f'Model(metric="{name}")')
    options = {"hyperiqa": '{"crops": 2}', "maniqa": '{"protocol": "resize"}'}
    if name in options:
        model = f'Model(metric="{name}", options={options[name]})'
    arguments = [name, model, str(SIZES.get(name, (260, 300))), str(tmp_path)]
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=1", "JAX_NUM_CPU_DEVICES": "1"}
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    parameters, memory = map(float, done.stdout.split()[-2:])
    rows = [json.loads(line) for line in (tmp_path / "base" / "seed0" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2]
    assert rows[0]["loss"] > 0
    print(f"{name}: {parameters:.0f} parameters, {memory:.1f} GiB, {rows[0]['seconds']:.0f} s")
    assert memory < GIB[name]
