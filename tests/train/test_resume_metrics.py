"""A training of a published metric that is killed and started again ends with the same bits.

BRISQUE is no network; KonCept512 has three learning rates, batch norm and dropout; TReS crops, dropout and a ranking of
the batch. `test_resume` kills the program itself.
"""

import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from jaxiqa.config import Data, Evaluation, Experiment, Model, Training, Variant
from jaxiqa.train import experiment as program
from jaxiqa.train.startup import check_training

TRAIN, EPOCHS = 12, 3
THREE_RATES = ((0, 1e-3), (1, 5e-4), (2, 1e-4))
"""KonCept512's recipe has them too, from epochs 0, 40 and 60 on; higher ones for a training of 9 steps."""
TRAININGS = {
    "brisque": Training(epochs=EPOCHS, batch_size=4, learning_rate=0.1),
    "koncept512": Training(epochs=EPOCHS, batch_size=4, learning_rate=THREE_RATES),
    "tres": Training(epochs=EPOCHS, batch_size=8, crops=2, learning_rate=THREE_RATES),
}
MODELS = {
    "brisque": Model(metric="brisque", options={"vectors": 5}),
    "koncept512": Model("resnet18", width=4, metric="koncept512"),
    "tres": Model(metric="tres", width=4, options={"protocol": "whole"}),
}
"""Small ones: KonCept512's head over a ResNet-18, which compiles sooner than its own network; TReS is validated on one
crop instead of 50."""
SIZES = {"brisque": (64, 80), "koncept512": (96, 112), "tres": (230, 240)}
STEPS = 3
"""Per epoch."""


def release(*values):
    return [pytest.param(value, marks=pytest.mark.release) for value in values]


def make(name, workdir):
    data = Data("builtin", options={"size": SIZES[name], "train": TRAIN, "val": 8, "test": 4})
    variants = {"base": Variant(TRAININGS[name])}
    return Experiment(name, data, MODELS[name], variants, Evaluation(data, {}), workdir=str(workdir))


def train(name, workdir, monkeypatch, at=None, seen=None):
    """Train as `train.py` does; call ``at[1]()`` after step ``at[0]``. Return the first and the last step."""
    steps = [] if seen is None else seen
    steps.clear()

    @contextmanager
    def bar(what, unit=""):
        def update(done, total, note=""):
            steps.append(done)
            if at and done == at[0]:
                at[1]()

        yield update

    monkeypatch.setattr(program, "progress_bar", bar)
    # Nine steps may leave scores that fall as labels rise, which is an error.
    monkeypatch.setattr(program, "fit_linear", lambda raw, mos: (float(np.std(mos) / np.std(raw)), float(np.mean(mos))))
    experiment = make(name, workdir)
    program.train_variant(experiment, "base", 0, program.load_data(experiment, ["base"]), {}, {})
    return steps[0], steps[-1]


def results(workdir):
    """Return all that a training leaves, without the seconds that it took."""
    folder = Path(workdir) / "base" / "seed0"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    row = json.loads((folder / "training.json").read_text())
    assert [row.pop("seconds") > 0 for row in rows] == [True] * EPOCHS
    assert row.pop("seconds_per_epoch") > 0
    return (folder / "model.safetensors").read_bytes(), (folder / "model.json").read_text(), rows, row


def raises():
    raise MemoryError("killed")


def terminated():
    os.kill(os.getpid(), signal.SIGTERM)


KILLS = (
    (2, raises, MemoryError, 1),  # in the first epoch, before there is a checkpoint
    (3, raises, MemoryError, 1),  # at the end of the first epoch, before its checkpoint
    (5, terminated, SystemExit, 1),  # in the second epoch; SIGTERM saves the step
    (8, raises, MemoryError, 6),  # in the third epoch, with a checkpoint of the second
)
"""Step, how, with which error, and the step with which this start began."""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["brisque", *release("koncept512", "tres")])
def test_a_killed_training_ends_with_the_same_bits(name, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    check_training(make(name, whole))
    assert train(name, whole, monkeypatch) == (1, STEPS * EPOCHS)
    seen = []
    for step, how, error, began in KILLS[-2:] if name == "tres" else KILLS:  # TReS starts in half a minute
        with pytest.raises(error):
            train(name, killed, monkeypatch, at=(step, how), seen=seen)
        assert (seen[0], seen[-1]) == (began, step)
        assert not (killed / "base" / "seed0" / "model.json").exists()
    assert train(name, killed, monkeypatch) == (2 * STEPS + 1, STEPS * EPOCHS)
    assert results(killed) == results(whole)
