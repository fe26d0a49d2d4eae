"""Gradual pruning in a training: killed runs end with the same bits, devices change nothing, faults are found first."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from test_gradual import Tiny, run, zeros

from jaxiqa.config import Prune, Training, Variant, check_experiment, describe, load_config
from jaxiqa.train.gradual import check_prune
from jaxiqa.train.startup import check_training
from jaxiqa.train.state import split_model

ROOT = Path(__file__).parent.parent.parent


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.fixture(scope="module", params=["l2", *slow("l1", "displs")])
def whole(request, tmp_path_factory):
    chosen = Prune(0.5, request.param, images=12, steps=3)
    return chosen, run(tmp_path_factory.mktemp("whole"), chosen)


# Two steps per epoch; a step of the pruning begins after 0, 4 and 8 steps. Checkpoints are written after each epoch.
@pytest.mark.slow
@pytest.mark.parametrize("killed", [*slow(1, 3, 4), 5, *slow(7, 8, 9, 11)])
def test_a_run_killed_anywhere_ends_with_the_same_bits(whole, killed, tmp_path):
    chosen, expected = whole

    def kill(step, steps, loss, best):
        if step == killed:
            raise MemoryError("killed")

    with pytest.raises(MemoryError):
        run(tmp_path, chosen, progress=kill)
    same(run(tmp_path, chosen), expected)


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [3, *slow(4, 5)])  # 3 is within an epoch
def test_a_run_stopped_between_two_steps_ends_with_the_same_bits(whole, stopped, tmp_path):
    chosen, expected = whole

    def stop(step, steps, loss, best):
        if step == stopped:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit, match=f"step {stopped} of 12 is saved"):
        run(tmp_path, chosen, progress=stop)
    same(run(tmp_path, chosen), expected)


def same(found, expected):
    jax.tree.map(np.testing.assert_array_equal, found.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, found.batch_stats, expected.batch_stats)
    assert (found.best_epoch, found.best_correlation) == (expected.best_epoch, expected.best_correlation)


@pytest.mark.slow
def test_the_number_of_devices_does_not_change_what_is_removed(tmp_path):
    one, two = (run(tmp_path / str(count), Prune(0.5, "pls", images=12, steps=2), devices=count) for count in (1, 2))
    for path, gone in zeros(one.params).items():
        np.testing.assert_array_equal(zeros(two.params)[path], gone)


@pytest.fixture(scope="module")
def smoke():
    return load_config(ROOT / "configs" / "smoke.py")


def variant(smoke, chosen, epochs=3):
    odd = Variant(Training(epochs=epochs, batch_size=8), parent="baseline", prune=chosen)
    return replace(smoke, variants={"baseline": smoke.variants["baseline"], "odd": odd})


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (Prune(0.5, steps=0), r"variants\.odd\.prune\.steps=0; expected at least 1"),
        (Prune(0.5, steps=4), r"variants\.odd\.prune: steps=4 in a training of epochs=3"),
        (Prune(0.01, steps=3), r"variants\.odd\.prune: the first of steps=3: amount=0\.0033.* removes nothing.*fewer"),
        (Prune(0.99, steps=2), r"variants\.odd\.prune: amount=0\.99 removes all 8 filters"),
    ],
)
def test_steps_that_cannot_work_are_refused_at_once(smoke, chosen, message):
    with pytest.raises(ValueError, match=message):
        check_training(variant(smoke, chosen))


def test_steps_that_work_pass_and_older_runs_continue(smoke):
    check_training(variant(smoke, Prune(0.5, steps=3)))
    check_prune(split_model(Tiny(rngs=nnx.Rngs(0))).params, Prune(0.0, steps=2), 2)
    older = describe(variant(smoke, Prune(0.1)), "odd", 0)["variants"][1]["prune"]
    assert older == {"amount": 0.1, "criterion": "l2"}
    assert describe(variant(smoke, Prune(0.1, steps=2)), "odd", 0)["variants"][1]["prune"]["steps"] == 2
    check_experiment(variant(smoke, Prune(0.1, steps=2)))


CONFIG = """
from dataclasses import replace
from jaxiqa.config import Attack, Data, Evaluation, Experiment, Model, Prune, Training, Variant

def get_config():
    training = Training(epochs=6, batch_size=8)
    data = Data("builtin", options={"size": (32, 32), "train": 24, "val": 12, "test": 4})
    return Experiment(
        name="gradual",
        data=data,
        model=Model("resnet18", width=8),
        variants={"pruned": Variant(training, prune=Prune(0.5, steps=3))},
        evaluation=Evaluation(data, {"FGSM": Attack("fgsm", (8 / 255,))}),
    )
"""


@pytest.mark.slow
@pytest.mark.release
def test_the_program_killed_between_two_steps_writes_the_same_model(tmp_path):
    (tmp_path / "gradual.py").write_text(CONFIG)
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache")}

    def begin(workdir):
        command = [sys.executable, "train.py", "--config", str(tmp_path / "gradual.py"), "--workdir", str(workdir)]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    process = begin(tmp_path / "whole")
    assert process.wait() == 0, process.stderr.read()
    folder = tmp_path / "killed" / "pruned" / "seed0"
    for reached in (9, 15):  # three steps per epoch, two epochs per step of the pruning
        process = begin(tmp_path / "killed")
        while not any(int(path.name.split(".")[0]) >= reached for path in folder.glob("checkpoints/*.sha256.json")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "training.json").exists()
    process = begin(tmp_path / "killed")
    assert process.wait() == 0, process.stderr.read()
    found, expected = (
        safetensors.numpy.load_file(tmp_path / run / "pruned" / "seed0" / "model.safetensors")
        for run in ("killed", "whole")
    )
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    kernel = found["backbone.stage.layer2.0.conv1.kernel"]
    assert (kernel == 0).all((0, 1, 2)).sum() == kernel.shape[-1] // 2
