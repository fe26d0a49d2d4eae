"""Every metric trains at its published size, by its published recipe, from random weights, within the stated memory."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxiqa.models import MODELS

ROOT = Path(__file__).parent.parent.parent
MODEL = {
    "hyperiqa": 'Model(metric="hyperiqa", options={"crops": 2})',
    "linearity": 'Model("resnext101_32x8d", input_size=(498, 664))',
    "maniqa": 'Model(metric="maniqa", options={"protocol": "resize"})',
    "tres": 'Model(metric="tres", options={"protocol": "whole"})',
}
"""The published network; validation images are one or two crops instead of 20 to 50."""
SIZES = {"linearity": (498, 664), "koncept512": (384, 512), "fpr": (128, 192), "brisque": (128, 192)}
"""(height, width) of the images; 260x300 for the others, which cut them into crops or resize them."""
LEARNT_NOTHING = "the metric has learnt nothing"
"""Two steps train the weights, but the running statistics of batch norms are still near their initial values. So it is
chance whether the scores rise with the labels; if they do not, `train_variant` says so and saves no model."""
GIB = {
    **{"brisque": 0.6, "fpr": 1.2, "hyperiqa": 2.6, "koncept512": 4.8, "linearity": 8.9, "lipschitz_iqa": 0.7},
    **{"maniqa": 6.2, "metaiqa": 1.4, "norm_controlled": 1.4, "paq2piq": 1.3, "spaq_bl": 2.0, "tres": 7.0},
}
"""Largest memory of the process as measured, in GiB, with two images per step; docs/models.md lists it."""
SPARE = 1.3
"""Share of it that a test may use: another CPU or version of XLA plans memory differently."""

SCRIPT = """
import sys
from jaxiqa.config import *
from jaxiqa.train.experiment import load_data, train_variant
from jaxiqa.train.startup import check_training
name, model, size, folder = sys.argv[1], eval(sys.argv[2]), eval(sys.argv[3]), sys.argv[4]
data = Data("builtin", options={"size": size, "train": 4, "val": 2, "test": 2})
crops = {"crops": 1} if name in ("tres", "hyperiqa") else {}  # instead of 50 and 25
variants = {"base": Variant(Training(epochs=1, batch_size=2, **crops))}
experiment = Experiment("published", data, model, variants, Evaluation(data, {}), workdir=folder)
check_training(experiment)
try:
    print(train_variant(experiment, "base", 0, load_data(experiment, ["base"]), {}, {})["parameters"], "parameters")
except FloatingPointError as error:
    print(error)
with open("/proc/self/status") as status:  # getrusage counts the process that started this one, too
    (peak,) = (line.split()[1] for line in status if line.startswith("VmHWM"))
print(int(peak) / 2**20)
"""


def test_the_documentation_lists_this_memory():
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| [\d,]+ \| ([\d.]+) \|$", (ROOT / "docs" / "models.md").read_text(), re.M)
    assert {name: float(memory) for name, memory in rows} == GIB
    assert GIB.keys() == MODELS.keys()


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells the largest memory of a process")
@pytest.mark.parametrize("name", MODELS)
def test_two_steps_at_published_size(name, tmp_path):
    model = MODEL.get(name, f'Model(metric="{name}")')
    arguments = [name, model, str(SIZES.get(name, (260, 300))), str(tmp_path)]
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0", "JAX_NUM_CPU_DEVICES": "1"}
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - began
    assert done.returncode == 0, done.stderr[-3000:]
    *said, memory = done.stdout.strip().splitlines()
    folder = tmp_path / "base" / "seed0"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2]
    assert rows[0]["loss"] > 0
    if not (folder / "model.json").exists():
        assert LEARNT_NOTHING in said[-1]
    print(f"{name}: {said[-1]}, {float(memory):.1f} GiB, {seconds:.0f} s")
    assert float(memory) < SPARE * GIB[name]
