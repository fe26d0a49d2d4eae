"""A run that is killed and started again ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

ROOT = Path(__file__).parent.parent.parent
COMMAND = [sys.executable, "train.py", "--config", "configs/smoke.py", "--variants.baseline.training.epochs", "4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")

    def start(workdir):
        environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(cache)}
        return subprocess.Popen(
            [*COMMAND, "--workdir", str(workdir)], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
        )

    return start


@pytest.fixture(scope="module")
def uninterrupted(run, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    process = run(workdir)
    assert process.wait() == 0, process.stderr.read()
    return workdir


def parameters(workdir):
    return safetensors.numpy.load_file(workdir / "hardened" / "seed0" / "model.safetensors")


def assert_same(first, second):
    ours, theirs = parameters(first), parameters(second)
    assert set(ours) == set(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    for variant in ("baseline", "hardened"):
        rows = [
            [json.loads(line) for line in (w / variant / "seed0" / "metrics.jsonl").read_text().splitlines()]
            for w in (first, second)
        ]
        for a, b in zip(*rows, strict=True):
            assert {**a, "seconds": 0} == {**b, "seconds": 0}


def wait_for(condition, process):
    for _ in range(3000):
        if condition():
            return
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("it never came so far")


@pytest.mark.slow
def test_two_kills_change_nothing(run, uninterrupted, tmp_path):
    folder = tmp_path / "baseline" / "seed0"
    steps = lambda: [int(path.name.split(".")[0]) for path in folder.glob("checkpoints/*.sha256.json")]  # noqa: E731
    for reached in (1, 9):  # after the first epoch, and in the third
        process = run(tmp_path)
        wait_for(lambda reached=reached: any(step >= reached for step in steps()), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (folder / "training.json").exists()
    process = run(tmp_path)
    assert process.wait() == 0, process.stderr.read()
    assert_same(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_run_stopped_by_sigterm_resumes_exactly(run, uninterrupted, tmp_path):
    process = run(tmp_path)
    wait_for((tmp_path / "baseline" / "seed0" / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait() != 0
    assert "run the same command to resume" in process.stderr.read()
    process = run(tmp_path)
    assert process.wait() == 0, process.stderr.read()
    assert_same(tmp_path, uninterrupted)


@pytest.mark.slow
def test_a_finished_run_is_kept_and_another_configuration_is_refused(run, uninterrupted):
    process = run(uninterrupted)
    assert process.wait() == 0
    other = subprocess.run(
        [*COMMAND[:-1], "5", "--workdir", str(uninterrupted)], cwd=ROOT, capture_output=True, text=True
    )
    assert other.returncode != 0
    assert "holds another training (variants.baseline.training.epochs: 4 -> 5)" in other.stderr
    assert "Traceback" not in other.stderr
