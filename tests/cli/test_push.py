"""A push from the shell: what is uploaded loads with equal scores, and nothing is written on this machine."""

import json
import shlex

import jax
import numpy as np
import pytest
import tiny
from hub_setting import fake_hub

import jaxiqa
from jaxiqa import models
from jaxiqa.cli import push, train
from jaxiqa.core.version import __version__, source_commit
from jaxiqa.evaluation.fingerprint import model_digest
from jaxiqa.results.jsonl import append_rows
from jaxiqa.results.rows import FILES, ModelRow, PredictionRow, ResultRow

X = jax.random.uniform(jax.random.key(0), (2, 40, 56, 3))
TRAINING = {
    "parameters": 1234,
    "validation_srocc": 0.81234,
    "best_epoch": 3,
    "seconds_per_epoch": 1.5,
    "variant": "base",
    "command": "jaxiqa train --config /home/me/mine.py --workdir /data/runs --seeds 0",
    "version": "0.1.0",
    "commit": "f" * 40,
}
CONFIG = {
    "data": {"name": "folder", "source": "/home/me/photos", "limit": None, "options": {"csv": "/home/me/labels.csv"}},
    "model": {"backbone": "resnet18", "weights": None, "input_size": [40, 56]},
    "variants": [{"training": {"epochs": 3, "loss": "mse"}, "parent": None, "block": None}],
    "seed": 0,
}


@pytest.fixture
def run(tmp_path):
    """The folder of a finished training."""
    folder = tmp_path / "work" / "base" / "seed0"
    model = tiny.metric()
    model.calibrate(k=20.0, b=50.0, score_range=(10.0, 90.0))
    models.save(model, folder)
    (folder / "training.json").write_text(json.dumps(TRAINING))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    with fake_hub(tmp_path / "cache", monkeypatch) as found:
        yield found


def evaluate(run):
    """Write the rows of an evaluation of the run and of another model."""
    root = run.parents[1]
    known = {"model base seed 0": model_digest(run / "model.json"), "model other seed 0": "another digest"}
    (root / "evaluation.json").write_text(json.dumps(known))
    for name, gain in (("base", 8.0), ("other", 40.0)):
        append_rows(root / FILES[ModelRow], [ModelRow(name, 0, 1234, 10.0, 90.0, 0.8, 1.5, 0.1, 3, certificate=0.4)])
        append_rows(root / FILES[PredictionRow], [PredictionRow(str(i), name, 0, float(i), float(i)) for i in range(3)])
        rows = [
            ResultRow(str(i), name, 0, "PGD", 0.01, 50.0, 50.0 + gain, 50.0 + gain, 0.01, 1.0, 0.9, None, 0.1)
            for i in range(3)
        ]
        append_rows(root / FILES[ResultRow], rows)
    return root


def state(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
def test_what_is_pushed_loads_with_equal_scores(server, run, capsys):
    before = state(run.parents[1])
    push.main([str(run), "me/mine", "--licence", "apache-2.0"])
    said = capsys.readouterr().out
    assert f"{server.url}/me/mine" in said
    assert 'jaxiqa.load("hf://me/mine")' in said
    np.testing.assert_array_equal(jaxiqa.load("hf://me/mine")(X), models.load_run(run)(X))
    (files,) = server.repositories["me/mine"].commits.values()
    assert set(files) == {"model.json", "model.safetensors", "README.md"}
    assert state(run.parents[1]) == before


@pytest.mark.slow
def test_the_card_says_what_the_run_and_its_evaluation_know(server, run):
    root = evaluate(run)
    push.main([str(run), "me/mine", "--evaluation", str(root), "--data-licence", "CC BY 4.0"])
    (files,) = server.repositories["me/mine"].commits.values()
    card = files["README.md"].decode()
    for line in (
        "| architecture | linearity |",
        "| parameters | 1,234 |",
        "| scores | about 10 to 90 |",
        "| data | folder |",
        "| options of the data | csv = labels.csv |",
        "| training | epochs = 3, loss = mse |",
        "| validation SROCC | 0.8123 |",
        f"| commit of jaxiqa | {'f' * 40} |",
        "jaxiqa train --config mine.py --seeds 0",
        "| model | SROCC | PLCC | AbsGain AUC PGD | R-score AUC PGD | certified @ 2/255 | s / epoch | s / test |",
        'model = jaxiqa.load("hf://me/mine")',
    ):
        assert line in card.splitlines()
    row = next(line for line in card.splitlines() if line.startswith("| base |")).split(" | ")
    assert row[1:4] == ["1.000", "1.000", "0.100"]  # 8 of a range of 80
    assert row[5] == "0.010"  # twice 0.4 of 80
    assert "| data | CC BY 4.0 |" in card
    assert "other" not in card
    assert "/home/me" not in card
    assert "/data" not in card


@pytest.mark.slow
def test_a_dry_run_prints_the_card_and_uploads_nothing(server, run, capsys):
    push.main([str(run.parent), "me/mine", "--dry-run", "--revision", "trial"])
    said = capsys.readouterr()
    assert 'jaxiqa.load("hf://me/mine@trial")' in said.out
    assert "model.safetensors" in said.err
    assert (server.asked, server.repositories) == ([], {})


@pytest.mark.slow
def test_a_branch_and_a_private_repository(server, run):
    push.main([str(run), "me/mine", "--private"])
    push.main([str(run), "me/mine", "--private", "--revision", "trial", "--licence", "mit"])
    repository = server.repositories["me/mine"]
    assert repository.private
    assert b"license" not in repository.commits[repository.branches["main"]]["README.md"]
    assert b'license: "mit"' in repository.commits[repository.branches["trial"]]["README.md"]


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["model.safetensors", "model.json", "training.json", "config.json"])
def test_a_damaged_run_is_not_uploaded(server, run, damaged):
    content = (run / damaged).read_bytes()
    (run / damaged).write_bytes(content[:-8] + b"12345678")
    with pytest.raises(SystemExit, match=rf"^error: .*{damaged} .*(damaged|match)"):
        push.main([str(run), "me/mine"])
    assert server.asked == []


@pytest.mark.slow
def test_an_evaluation_of_another_metric_is_refused(server, run, tmp_path):
    root = evaluate(run)
    (root / "evaluation.json").write_text(json.dumps({"model other seed 0": "another digest"}))
    with pytest.raises(SystemExit, match=r"is no evaluation of the metric in .*seed0, but of model other seed 0"):
        push.main([str(run), "me/mine", "--evaluation", str(root)])
    with pytest.raises(SystemExit, match=r"has no evaluation\.json; give the --workdir of `jaxiqa evaluate`"):
        push.main([str(run), "me/mine", "--evaluation", str(tmp_path / "nowhere")])
    assert server.asked == []


def test_a_failed_push_leaves_nothing_here(server, run):
    before = state(run.parents[1])
    server.refused["PUT .*"] = 422
    with pytest.raises(SystemExit, match=r"^error: me/mine at http.*: not uploaded"):
        push.main([str(run), "me/mine"])
    assert state(run.parents[1]) == before
    assert server.repositories["me/mine"].commits == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mine", "me/mine/x", "me/.."])
def test_a_name_that_the_hub_does_not_allow_is_refused_at_once(run, name):
    with pytest.raises(SystemExit, match=r"is no address on the hub; write hf://owner/name"):
        push.main([str(run), name])


@pytest.mark.slow
def test_a_bare_metric_has_a_short_card(run, capsys):
    for name in ("training.json", "config.json"):
        (run / name).unlink()
    push.main([str(run), "me/mine", "--dry-run"])
    said = capsys.readouterr().out
    assert "## Metric" in said
    assert "## Training" not in said
    assert "None" not in said


OWN = """
from jaxiqa.config import Data, Evaluation, Experiment, Model, Training, Variant


def get_config():
    data = Data("builtin", options={"size": (24, 32), "train": 16, "val": 8, "test": 4})
    model = Model(metric="lipschitz_iqa", options={"channels": (8,), "depth": (1,), "slope": 0.05})
    training = Training(epochs=6, batch_size=4, loss="mse", labels="unit", learning_rate=0.01)
    return Experiment("own", data, model, {"base": Variant(training)}, Evaluation(data, {}))
"""


@pytest.mark.slow
def test_a_training_records_what_its_card_says(tmp_path, capsys):
    (tmp_path / "own.py").write_text(OWN)
    words = ["--config", str(tmp_path / "own.py"), "--workdir", str(tmp_path / "runs"), "--seeds", "3"]
    train.main(words)
    folder = tmp_path / "runs" / "base" / "seed3"
    recorded = json.loads((folder / "training.json").read_text())
    assert recorded["command"] == shlex.join(["jaxiqa", "train", *words])
    assert (recorded["variant"], recorded["version"], recorded["commit"]) == ("base", __version__, source_commit())
    capsys.readouterr()
    push.main([str(tmp_path / "runs"), "me/own", "--dry-run"])
    card = capsys.readouterr().out
    assert "jaxiqa train --config own.py --seeds 3" in card.splitlines()
    assert str(tmp_path) not in card
    assert f"| validation SROCC | {recorded['validation_srocc']:.4f} |" in card
