"""The studies by folds: numbers that are stored go on from there, and those of another config are refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CONFIG = """
from jaxiqa.config import Data, Evaluation, Experiment, Model, Training, Variant, recommended_training

def get_config() -> Experiment:
    images = Data("builtin", options={"size": (32, 36), "train": 24, "val": 8, "test": 8})
    plain = Training(epochs=1, batch_size=8, loss="norm_in_norm", learning_rate=1e-3)
    robust = recommended_training("base", epochs=1, crop=(32, 32))
    return Experiment(
        "tiny", images, Model("resnet18", width=4, input_size=(32, 36)),
        {"base": Variant(plain), "robust": Variant(robust, parent="base", activation="smooth")},
        Evaluation(images, {}),
    )
"""


def run(script: str, folder: Path, *options: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--config", str(folder / "tiny.py")]
    command += ["--workdir", str(folder / script), "--rows", str(folder / f"{script}.json"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("study")
    (found / "tiny.py").write_text(CONFIG)
    return found


@pytest.mark.slow
def test_a_saved_metric_of_a_fold_is_attacked_beside_the_variants(folder):
    options = ("--images", "6", "--rows", str(folder / "saved.json"))
    first = run("hardening", folder, "--fold", "1", *options, "--variants", "robust")
    assert first.returncode == 0, first.stderr
    place = "other=" + str(folder / "hardening" / "fold{fold}" / "robust" / "seed0")
    missing = run("hardening", folder, "--fold", "0", *options, "--saved", place)
    assert missing.returncode != 0
    assert str(folder / "hardening" / "fold0" / "robust" / "seed0") in missing.stderr
    refused = run("hardening", folder, "--fold", "0", *options, "--saved", place.removeprefix("other="))
    assert refused.returncode != 0
    assert "expected NAME=FOLDER" in refused.stderr
    beside = run("hardening", folder, "--fold", "1", *options, "--saved", place)
    assert beside.returncode == 0, beside.stderr
    _, robust, other = (row for row in json.loads((folder / "saved.json").read_text()) if row["fold"] == 1)
    assert (robust["model"], other["model"]) == ("robust", "other")
    assert other["srocc"] == robust["srocc"]
    assert other["left"]["1"]["srocc"] == robust["left"]["1"]["srocc"]  # the same metric, by the same attacks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "options", "models"),
    [
        ("folds", ("--folds", "2", "--variants", "base"), [(0, "base"), (0, "ridge"), (1, "base"), (1, "ridge")]),
        ("hardening", ("--fold", "1", "--images", "6", "--variants", "robust"), [(1, "base"), (1, "robust")]),
    ],
)
def test_stored_folds_are_not_trained_again(script, options, models, folder):
    ended = run(script, folder, *options)
    assert ended.returncode == 0, ended.stderr
    rows = json.loads((folder / f"{script}.json").read_text())
    assert [(row["fold"], row["model"]) for row in rows] == models
    assert all(-1 <= row["srocc"] <= 1 for row in rows)
    if script == "hardening":
        for row in rows:
            left = row["left"]
            assert list(left) == ["0", "0.5", "1", "2", "4"]
            assert left["2"]["srocc"] <= left["1"]["srocc"] <= left["0"]["srocc"]
            assert 0 == left["0"]["gain"] < left["0.5"]["gain"] < left["2"]["gain"]
            assert row["slope"] > 0
            gains = [found["gain"] for found in row["raised"].values()]
            assert 0 < gains[0] < gains[1] < gains[2]
        assert (folder / "hardening.png").read_bytes().startswith(b"\x89PNG")
    # The trained models are gone, as on another machine; the numbers stay.
    (folder / f"{script}.json").write_text(json.dumps(rows))
    again = run(script, folder, *options, "--workdir", str(folder / "other"))
    assert again.returncode == 0, again.stderr
    assert not (folder / "other").exists()
    assert json.loads((folder / f"{script}.json").read_text()) == rows
    rows[0]["config"] = "another"
    (folder / f"{script}.json").write_text(json.dumps(rows))
    refused = run(script, folder, *options)
    assert refused.returncode != 0
    assert "belongs to another config; name another file" in refused.stderr
