"""Training over 2 and 4 processes of this machine equals one process; killed or stopped, any number goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent.parent
WORKER = ROOT / "tests" / "helpers" / "process_worker.py"
LIMIT = 300
"""Seconds in which whatever a test waits for has come."""


def start(folder, count, pause=0.0):
    """Start all processes of a training; their output goes to files."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    # Process 0 stores even the smallest compiled program for the others.
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "PYTHONPATH": str(ROOT)}
    environment |= {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    processes = []
    for index in range(count):
        log = (folder / f"log{index}.txt").open("w")
        words = ["fit", str(folder), address, str(count), str(index), str(pause)]
        command = [sys.executable, str(WORKER), *words]
        processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log))
    return processes


def wait(processes, seconds=LIMIT):
    try:
        return [process.wait(seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()


def logs(folder):
    return "\n".join(path.read_text() for path in sorted(folder.glob("log*.txt")))


def sealed(folder):
    return sorted(int(path.name.split(".")[0]) for path in folder.glob("run/checkpoints/*.sha256.json"))


def wait_for(condition, processes, folder):
    until = time.monotonic() + LIMIT
    while not condition():
        assert all(process.poll() is None for process in processes), logs(folder)
        assert time.monotonic() < until, logs(folder)
        time.sleep(0.05)


def result(folder, index=0):
    with np.load(folder / f"result{index}.npz") as arrays:
        return dict(arrays)


def rows(folder):
    return [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]


def assert_same(folder, one, index=0):
    """Compare parameters, statistics and rows with those of the run of one process."""
    ours, theirs = result(folder, index), result(one)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5, err_msg=name)
    for a, b in zip(rows(folder), rows(one), strict=True):
        assert {**a, "seconds": 0} == pytest.approx({**b, "seconds": 0}, abs=1e-5)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    assert wait(start(folder, 1)) == [0], logs(folder)
    trained = result(folder)
    assert sum(array.dtype == np.float64 for array in trained.values()) > 20
    assert [row["step"] for row in rows(folder)] == [5, 10]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.release)])
def test_ten_steps_of_several_processes_equal_those_of_one(count, one, tmp_path):
    assert wait(start(tmp_path, count)) == [0] * count, logs(tmp_path)
    assert f"done {count} {count}" in (tmp_path / "log0.txt").read_text()
    for index in range(count):
        assert_same(tmp_path, one, index)
    assert sealed(tmp_path) == [5, 10]


@pytest.mark.slow
@pytest.mark.release
def test_killed_and_stopped_processes_go_on_in_another_number(one, tmp_path):
    four = start(tmp_path, 4, pause=0.5)
    wait_for(lambda: sealed(tmp_path) == [5], four, tmp_path)
    four[2].kill()
    assert wait(four, 120) == [1, 1, -signal.SIGKILL, 1], logs(tmp_path)  # and not only after a timeout of minutes
    assert "process 0: error: another process has ended; saved steps are kept" in logs(tmp_path)
    assert sealed(tmp_path) == [5]

    two = start(tmp_path, 2, pause=2.0)
    wait_for(lambda: "step 6" in logs(tmp_path), two, tmp_path)
    two[1].send_signal(signal.SIGTERM)
    assert wait(two) == [1, 1], logs(tmp_path)
    (step,) = set(sealed(tmp_path)) - {5}
    assert 6 <= step < 10
    assert logs(tmp_path).count(f"stopped; step {step} of 10 is saved; run the same command to resume") == 2

    again = start(tmp_path, 2, pause=5.0)
    wait_for(lambda: f"step {step + 1}" in logs(tmp_path), again, tmp_path)
    for process in again:
        process.kill()
    assert wait(again) == [-signal.SIGKILL] * 2
    assert not list(tmp_path.glob("result*"))

    assert wait(start(tmp_path, 1)) == [0], logs(tmp_path)
    assert_same(tmp_path, one)
