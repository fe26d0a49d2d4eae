"""A variant with several blocks, two of one kind, from training to report, killed once in between."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxiqa
from jaxiqa import models
from jaxiqa.config import Block, Training, Variant
from jaxiqa.data import load
from jaxiqa.train.variant import insert_blocks

ROOT = Path(__file__).parent.parent.parent
BLOCKS = (
    Block("after:layer2", options={"mid": 8}),
    Block("after:robust_block", options={"mid": 12}),
    Block("after:layer4", kind="bottleneck", options={"mid": 4}),
    Block("before:layer4", options={"mid": 6}, trainable=False),
)
NAMES = ["robust_block", "robust_block_2", "bottleneck", "robust_block_3"]
CONFIG = f"""
from jaxiqa.config import Attack, Block, Data, Defense, Evaluation, Experiment, Model, Prune, Training, Variant

def get_config():
    options = {{"size": (33, 47), "train": 24, "val": 12, "test": 12}}
    return Experiment(
        name="several blocks",
        data=Data("builtin", options=options),
        model=Model("resnet18", width=8),
        variants={{
            "baseline": Variant(Training(epochs=3, batch_size=8, learning_rate=1e-3)),
            "several": Variant(Training(epochs=3, batch_size=8), parent="baseline", prune=Prune(0.1), block={BLOCKS!r}),
        }},
        evaluation=Evaluation(
            data=Data("builtin", limit=3, options=options),
            attacks={{"PGD-1": Attack("pgd", (2 / 255, 8 / 255), {{"steps": 1}})}},
            batch_size=3,
            examples=1,
            defenses={{"flip": Defense("flip")}},
            masking=0,
            ranks=None,
        ),
    )
"""


def started(script, folder):
    command = [sys.executable, script, "--config", str(folder / "own.py"), "--workdir", str(folder / "run")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def finish(script, folder):
    process = started(script, folder)
    message = process.communicate()[1]
    assert process.returncode == 0, message


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Train, kill after the first epoch of the second variant, resume, and evaluate."""
    folder = tmp_path_factory.mktemp("several")
    (folder / "own.py").write_text(CONFIG)
    process = started("train.py", folder)
    run = folder / "run" / "several" / "seed0"
    while not list(run.glob("checkpoints/*.sha256.json")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "training.json").exists()
    finish("train.py", folder)
    finish("evaluate.py", folder)
    return folder / "run"


def parameters(model):
    flat = nnx.to_flat_state(nnx.state(model, nnx.Param))
    return {name: {path: np.asarray(leaf[...]) for path, leaf in flat if name in path} for name in NAMES}


def test_blocks_of_one_kind_are_numbered_and_may_follow_an_earlier_block():
    def made(*blocks):
        model = models.build("resnet18", width=8)
        held.append(
            insert_blocks(model, Variant(Training(epochs=1), block=blocks), rngs=nnx.Rngs(0), where="variants.x")
        )
        return model

    held = []
    model = nnx.eval_shape(lambda: made(*BLOCKS))
    assert [insertion.name for insertion in model.insertions] == NAMES
    assert held == [("robust_block_3",)]
    order = [stage for stage in model.backbone.order if stage in NAMES or stage.endswith(".1")]
    assert order == [
        "layer1.1", "layer2.1", "robust_block", "robust_block_2", "layer3.1", "robust_block_3", "layer4.1",
        "bottleneck",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"variants\.x\.block\[1\]\.where='after:robust_block_9': no stage"):
        nnx.eval_shape(lambda: made(BLOCKS[0], Block("after:robust_block_9", options={"mid": 8})))


@pytest.mark.slow
def test_only_trainable_blocks_change(workdir):
    start = models.load_run(workdir / "baseline" / "seed0")
    insert_blocks(start, Variant(Training(epochs=1), block=BLOCKS), rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    trained = jaxiqa.load("linearity", weights=workdir / "several" / "seed0")
    assert [insertion.name for insertion in trained.insertions] == NAMES
    before, after = parameters(start), parameters(trained)
    for name in NAMES:
        assert before[name].keys() == after[name].keys()
        for path, leaf in after[name].items():
            moved = np.abs(leaf - before[name][path]).max() > 0
            assert moved == (name != "robust_block_3"), path


@pytest.mark.slow
def test_the_loaded_model_scores_as_in_training_and_every_variant_is_evaluated(workdir):
    model = jaxiqa.load("linearity", weights=workdir / "several" / "seed0")
    split = load("builtin", size=(33, 47), train=24, val=12, test=12)["test"]
    images = np.stack([split.read(i) for i in range(len(split))]).astype(np.float32) / 255
    scores = models.score_fn(model, images.shape[1:3])(jnp.asarray(images))
    rows = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    stored = {row["image"]: row["score"] for row in rows if row["model"] == "several"}
    assert np.std(list(stored.values())) > 0.1
    np.testing.assert_allclose(scores, [stored[name] for name in split.ids], rtol=1e-6, atol=1e-5)
    results = [json.loads(line) for line in (workdir / "results.jsonl").read_text().splitlines()]
    assert sum(row["model"] == "several" for row in results) == 3 * 2
    assert all(row["attacked"] != row["score"] for row in results)
    with open(workdir / "table.csv") as file:
        assert {line["model"] for line in csv.DictReader(file)} == {"baseline", "several"}
    assert "several" in (workdir / "report.html").read_text()
