"""The device day: every step has its time, whatever becomes of the others, and its rows come into the tables."""

import doctest
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import attack_rows  # noqa: E402
import device_day  # noqa: E402
import device_tables  # noqa: E402
import history  # noqa: E402
import layers  # noqa: E402

CHILD = """
import json, os, pathlib, sys, time
path = pathlib.Path(sys.argv[1]) / "rows.jsonl"
def note(**line):
    with open(path, "a") as file:
        file.write(json.dumps(line) + "\\n")
for step in sys.argv[2:]:
    note(step=step, event="began", at=time.time())
    note(step=step, case="first", numbers={})
    if step == "hangs":
        time.sleep(60)
    if step == "dies":
        with open(path, "a") as file:
            file.write('{"step": "dies", "case": "se')
        os._exit(3)
    error = {"error": "ValueError: no"} if step == "fails" else {}
    note(step=step, event="failed" if error else "done", at=time.time(), **error)
"""


@pytest.mark.parametrize("module", [device_day, device_tables])
def test_examples(module):
    found = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert found.attempted
    assert not found.failed


@pytest.mark.slow
def test_a_step_that_fails_hangs_or_dies_does_not_stop_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(device_day, "POLL", 0.02)
    saved = []
    budgets = {"hangs": 1.5, "good": 20.0, "fails": 20.0, "dies": 20.0, "last": 20.0}
    began = time.time()
    device_day.watch([sys.executable, "-c", CHILD, tmp_path], tmp_path, budgets, seconds=81.5, save=saved.append)
    assert time.time() - began < 40
    found = saved[-1]
    statuses = {name: report["status"] for name, report in found.items()}
    assert statuses == {
        "hangs": "out of time",
        "good": "done",
        "fails": "failed",
        "dies": "crashed",
        "last": "done",
    }
    assert all(report["rows"] == [{"case": "first", "numbers": {}}] for report in found.values())
    assert found["fails"]["error"] == "ValueError: no"
    assert "status 3" in found["dies"]["error"]
    assert found["hangs"]["seconds"] < 10
    assert saved[0]["last"]["status"] == "not run"


@pytest.mark.slow
def test_a_step_may_use_the_time_that_others_left(tmp_path, monkeypatch):
    monkeypatch.setattr(device_day, "POLL", 0.02)
    slow = CHILD.replace("time.sleep(60)", "time.sleep(1.5)")
    saved = []
    budgets = {"good": 20.0, "hangs": 0.5, "last": 0.5}
    device_day.watch([sys.executable, "-c", slow, tmp_path], tmp_path, budgets, seconds=21, save=saved.append)
    assert [report["status"] for report in saved[-1].values()] == ["done", "done", "done"]
    assert saved[-1]["hangs"]["seconds"] > 1


def layer_row() -> list:
    names = [f"{kind} {name}" for name in layers.OURS for kind in ("fwd", "fwd+bwd", "cached")]
    rows = [[name, 0.002, 1.0, None] for name in ("build taylor", "cached unconstrained", *names)]
    return ["Chip X, jax 1.0, batch 8", "64, 32x32", 1e13, 1e9, rows]


@pytest.fixture
def day() -> dict:
    ours = ["Chip X, jax 1.0", "resnet50", "pgd", {"jaxiqa": 0.0125}, 9.0, 200.0]
    done = {"status": "done", "budget": 9, "seconds": 8.5}
    steps = {
        "device": {**done, "rows": [{"case": "Chip X", "numbers": {"devices": 1}, "note": "jax 1.0, gpu"}]},
        "parity": {**done, "rows": [{"case": "TF32", "numbers": {"max |Δ score|": 0.03}}]},
        "layers": {**done, "rows": [{"layers": layer_row()}]},
        "attacks": {**done, "status": "out of time", "error": "ended", "rows": [{"attacks": ours}]},
        "smoke": {"status": "failed", "budget": 9, "rows": [], "error": "Traceback\nValueError: a|b"},
    }
    return {
        "tiny": False,
        "commit": "abc123",
        "date": "2030-01-02T03:04:05",
        "versions": {"jax": "1.0"},
        "steps": steps,
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    marks = [f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("devices", "layers", "attacks")]
    (tmp_path / "README.md").write_text("top\n" + "between\n".join(marks) + "bottom\n")
    return tmp_path


def test_a_day_comes_into_the_tables(day, folder):
    assert device_tables.merge(day, folder=folder) == ["smoke: failed, no rows"]
    page = (folder / "README.md").read_text()
    assert page.startswith("top\n")
    assert page.endswith("bottom\n")
    assert page.count("between\n") == 2
    assert "### Chip X\n" in page
    assert "| smoke | failed: ValueError: a\\|b | 0 |" in page
    assert "| attacks | out of time: ended | 1 | 8.5 | abc123, 2030-01-02 |" in page
    assert "| TF32 | 0.03 |" in page
    assert "| 64, 32x32 | build taylor | 2.0 | 1.0 |  |" in page
    assert "| PGD-8, one ε | 0.0125 |  |  |  | 9.0 | 200 |" in page
    for name in ("layers", "attacks", "devices"):
        (((commit, _), lines),) = history.entries(name, folder=folder / "history").items()
        assert commit == "abc123"
        assert {line["date"] for line in lines} == {"2030-01-02T03:04:05"}


def test_a_second_day_replaces_the_steps_that_measured_something(day, folder):
    device_tables.merge(day, folder=folder)
    day["date"] = "2031-01-01T00:00:00"
    day["steps"]["parity"]["rows"][0]["numbers"]["max |Δ score|"] = 0.04
    day["steps"]["device"]["rows"][0]["note"] = "jax 2.0, gpu"
    day["steps"]["layers"]["rows"] = []
    assert "layers: done, no rows; the rows of 2030-01-02 stay" in device_tables.merge(day, folder=folder)
    page = (folder / "README.md").read_text()
    assert page.count("### Chip X\n") == 1
    assert "| TF32 | 0.04 |" in page
    assert "| TF32 | 0.03 |" not in page
    assert "| layers | done | 1 | 8.5 | abc123, 2030-01-02 |" in page
    assert "| 64, 32x32 | build taylor" in page


def test_a_file_that_cannot_be_merged_is_refused(day, tmp_path):
    path = tmp_path / "device.json"

    def refused(text: str, **changes: object) -> None:
        path.write_text(json.dumps(day | changes))
        with pytest.raises(ValueError, match=text):
            device_tables.read(path)

    refused("made with --tiny", tiny=True)
    refused("give it by --commit", commit="unknown")
    refused("did not say what the device is", steps={})
    path.write_text("{")
    with pytest.raises(ValueError, match=r"is no device\.json"):
        device_tables.read(path)
    path.write_text(json.dumps(day | {"commit": "unknown"}))
    assert device_tables.read(path, "def456")["commit"] == "def456"


def test_the_stored_tables_are_those_of_the_page():
    """The page shows what the files hold: a change of a table's code must not wait for the next measurement."""
    page = (ROOT / "benchmarks" / "README.md").read_text()
    stored = json.loads((ROOT / "benchmarks" / "attacks.json").read_text())
    assert attack_rows.show([attack_rows.Result(*row) for row in stored]) in page
    assert layers.show(layers.stored()) in page


@pytest.mark.slow
def test_a_whole_day_on_tiny_arrays(tmp_path):
    command = [ROOT / "benchmarks" / "device_day.sh", "--tiny"]
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    day = json.loads((tmp_path / "device.json").read_text())
    statuses = {name: report["status"] for name, report in day["steps"].items()}
    assert statuses == dict.fromkeys(device_day.BUDGETS, "done"), (tmp_path / "device.log").read_text()[-3000:]
    assert done.returncode == 0
    assert all(report["rows"] for report in day["steps"].values())
    assert day["versions"]["jax"]
