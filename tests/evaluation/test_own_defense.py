"""Custom purifiers: from a file or the command line, in errors and in the leaderboard."""

import csv
import hashlib
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from own_purifiers import MINE, evaluated, score

from jaxiqa import networks
from jaxiqa.cli.options import take_defenses
from jaxiqa.config import Defense, Network
from jaxiqa.core import registry
from jaxiqa.defenses import purify
from jaxiqa.evaluation import defense_stage
from jaxiqa.evaluation.build_defense import build, source_digest
from jaxiqa.evaluation.networks import weight_digests


def test_errors_of_a_custom_purifier_describe_the_interface(file, split, tmp_path):
    for name, options, message in (
        (f"{tmp_path}/nowhere.py:X", {}, "does not exist"),
        (f"{file}:Nothing", {}, "has no Nothing"),
        (f"{file}:number", {}, r"cannot be called; a purifier is purifier\(images, key\) -> images"),
        (f"{file}:Shift", {"amuont": 1}, r"amuont.*a purifier is"),
        (f"{file}:taller", {"amount": 1}, "takes no options"),
        (f"{file}:Unhashable", {}, "cannot be hashed"),
    ):
        with pytest.raises(ValueError, match=f"defense 'own': .*{message}"):
            build("own", Defense(name, options))
    with pytest.raises(ValueError, match="preset=1"):
        build("own", Defense(f"{file}:Shift", preset=1))
    for kind, message in (
        ("range", r"values in \[\d+\.\d+, 2\d\d"),
        ("nan", r"values in \[nan"),
        ("channels", r"\(2, 20, 28, 1\) for images"),
        ("one", r"\(20, 28, 3\) for images"),
    ):
        wrong = build("own", Defense(f"{file}:Wrong", {"kind": kind}))
        with pytest.raises(ValueError, match=f"defense 'own' returned .*{message}"):
            defense_stage.Defended(evaluated(tmp_path), "own", wrong, split, 2).clean(0)


def test_a_custom_purifier_may_be_a_function_and_change_the_size(file, split, tmp_path):
    made = defense_stage.Defended(evaluated(tmp_path), "own", build("own", Defense(f"{file}:taller")), split, 2)
    images = np.stack([split.read(0)]) / np.float32(255)
    scores, ssim, psnr = made._judge(0, images, jnp.asarray(images))
    np.testing.assert_allclose(scores, score(images[:, ::2]), atol=1e-3)  # of a scale of 100
    assert 0 < ssim[0] < 1
    assert 5 < psnr[0] < 60


def test_the_digest_of_the_file_is_part_of_the_evaluation(file):
    before = source_digest(Defense(f"{file}:Shift"))
    file.write_text(MINE + "\n# changed\n")
    assert source_digest(Defense(f"{file}:Shift")) != before
    assert source_digest(Defense("jpeg")) is None


def test_the_digest_of_the_weights_is_part_of_the_evaluation(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXIQA_DATA", str(tmp_path))
    assert weight_digests({"network": Network("facpa_unet")}) == {}
    (tmp_path / "a.safetensors").write_bytes(b"old")
    networks = {"network": Network("fcn", weights="a.safetensors")}
    before = weight_digests(networks)
    (tmp_path / "a.safetensors").write_bytes(b"new")
    assert before == {"a.safetensors": hashlib.sha256(b"old").hexdigest()} != weight_digests(networks)


def test_defenses_on_the_command_line():
    rest, found = take_defenses(
        [
            "--workdir",
            "x",
            "--defense",
            "a.py:B",
            "--defense=mild=jpeg,quality=90",
            "--defense",
            "resize,scale=0.5,preset=2",
        ]
    )
    assert rest == ["--workdir", "x"]
    assert found == {
        "B": Defense("a.py:B"),
        "mild": Defense("jpeg", {"quality": 90}),
        "resize scale=0.5 preset=2": Defense("resize", {"scale": 0.5}, preset=2),
    }
    _, found = take_defenses(["--defense", "x,size=(3, 4),variant=benchmark"])
    assert next(iter(found.values())).options == {"size": (3, 4), "variant": "benchmark"}
    for arguments, message in (
        (["--defense"], r"write --defense \[LABEL=\]NAME"),
        (["--defense", "a.py:B", "--defense", "b.py:B"], "'B' is given twice"),
        (["--defense", "jpeg,quality"], "write KEY=VALUE"),
    ):
        with pytest.raises(ValueError, match=message):
            take_defenses(arguments)


@pytest.mark.slow
@pytest.mark.release
def test_a_new_defense_enters_the_leaderboard_by_one_file(file, tmp_path):
    def run(script, *arguments):
        command = [
            sys.executable,
            script,
            "--config",
            "configs/smoke.py",
            "--workdir",
            str(tmp_path / "run"),
            *arguments,
        ]
        if script == "evaluate.py":
            command += ["--evaluation.ranks.images", "0"]  # no leaderboard depends on them
        return subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)

    def board():
        with open(tmp_path / "run" / "leaderboard.csv") as table:
            return {line["defense"]: line for line in csv.DictReader(table)}

    assert run("train.py").returncode == 0
    done = run("evaluate.py")
    assert done.returncode == 0, done.stderr
    before = board()
    assert set(before) == {"none", "flip", "noise"}
    done = run("evaluate.py", "--defense", f"{file}:Shift,amount=0.05", "--defense", f"plain={file}:Mirror")
    assert done.returncode == 0, done.stderr
    after = board()
    assert set(after) == {*before, "Shift amount=0.05", "plain"}
    for label, line in before.items():
        assert {**line, "rank": ""} == {**after[label], "rank": ""}
    assert after["plain"]["cells, adaptive"] == after["flip"]["cells, adaptive"]
    assert "Shift amount=0.05" in (tmp_path / "run" / "leaderboard.html").read_text()
    assert set(after) == (run("evaluate.py").returncode == 0 and set(board()))  # rows of others stay
    file.write_text(MINE + "# changed")
    refused = run("evaluate.py", "--defense", f"plain={file}:Mirror")
    assert "rows for a different defense plain:" in refused.stderr
    assert "use a new label" in refused.stderr
    wrong = run("evaluate.py", "--defense", f"{file}:Shift,amuont=1")
    assert "error: evaluation.defenses.Shift amuont=1: " in wrong.stderr


def test_every_purifier_with_a_network_takes_a_file_of_weights():
    with_network = [name for name, kind in purify.PURIFIERS.items() if "network" in registry.parameters(kind)]
    assert {"dncnn", "fcn", "diffpure"} <= set(with_network)
    for name in with_network:
        _, found = take_defenses(["--defense", f"a={name},weights=some/file.safetensors"])
        network = found["a"].networks["network"]
        assert (network.weights, found["a"].options) == ("some/file.safetensors", {})
        assert network.name in networks.NETWORKS


def test_a_class_of_a_user_gets_its_own_option_weights():
    _, found = take_defenses(["--defense", "a.py:B,weights=3"])
    assert found["B weights=3"].options == {"weights": 3}
    assert not found["B weights=3"].networks
