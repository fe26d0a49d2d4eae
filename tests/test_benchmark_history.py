"""The history of benchmarks: what is appended is read back, and two entries are compared."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

import history  # noqa: E402


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for commit, seconds in (("aaa111", 4.0), ("bbb222", 2.0), ("ccc333+", 1.0)):
        monkeypatch.setattr(history, "commit", lambda commit=commit: commit)
        history.append("layers", "CPU, jax 1.0", "64", {"jaxiqa": seconds, "torch": 8.0}, folder=tmp_path)
        history.append("layers", "CPU, jax 1.0", f"only {commit}", {"jaxiqa": 1.0}, folder=tmp_path)
    history.append("layers", "GPU", "64", {"jaxiqa": 0.1}, folder=tmp_path)
    return tmp_path


def test_lines_are_entries_by_commit_and_device(folder):
    found = history.entries("layers", folder=folder)
    assert list(found) == [("aaa111", "CPU"), ("bbb222", "CPU"), ("ccc333+", "CPU"), ("ccc333+", "GPU")]
    line = found["bbb222", "CPU"][0]
    assert line["numbers"] == {"jaxiqa": 2.0, "torch": 8.0}
    assert {"jax", "numpy"} <= line["versions"].keys()
    assert line["date"].startswith("20")


def test_two_entries_of_one_device_are_compared(folder):
    found = history.entries("layers", folder=folder)
    with pytest.raises(ValueError, match="layers has no other entry on GPU"):
        history.choose("layers", None, None, folder=folder)
    assert history.choose("layers", None, "bbb", folder=folder) == (("aaa111", "CPU"), ("bbb222", "CPU"))
    old, new = history.choose("layers", "aaa", "bbb", folder=folder)
    table = history.compare(found[old], found[new]).splitlines()
    assert table[:2] == ["64 | jaxiqa | 4 | 2 | 0.50", "64 | torch | 8 | 8 | 1.00"]
    assert "only bbb222 | jaxiqa | | 1 | new" in table
    assert table[-2:] == ["mean | jaxiqa | | | 0.50", "mean | torch | | | 1.00"]


def test_errors_name_what_exists(folder):
    with pytest.raises(FileNotFoundError, match="models has no history; choose from layers"):
        history.entries("models", folder=folder)
    with pytest.raises(ValueError, match="no entry of commit zzz; it has aaa111, bbb222"):
        history.choose("layers", "aaa", "zzz", folder=folder)
    path = folder / "layers.jsonl"
    path.write_text(path.read_text() + '{"commit": "ddd"\n')
    with pytest.raises(ValueError, match=r"layers\.jsonl: line 8 is damaged"):
        history.entries("layers", folder=folder)


def test_the_committed_history_can_be_read_and_listed():
    known = {"accelerators", "allocator", "attacks", "compiling", "defenses", "layers", "models", "smoothing"}
    assert set(history.names()) - {"devices"} == known  # the latter once a device was measured
    for name in history.names():
        for lines in history.entries(name).values():
            positive = all(min(line["numbers"].values()) > 0 for line in lines)
            assert positive or name == "devices"  # which has correlations and differences too
            assert len({line["case"] for line in lines}) == len(lines)
    done = subprocess.run([sys.executable, ROOT / "benchmarks" / "history.py"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "layers | 75749a24ce97 | 2 CPU cores (x86_64)" in done.stdout
    assert json.loads((ROOT / "benchmarks" / "history" / "layers.jsonl").read_text().splitlines()[0])["versions"]["jax"]


def test_every_benchmark_appends_what_it_stores():
    sources = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    for path in (ROOT / "benchmarks").glob("*.json"):
        assert f'history.append("{path.stem}", ' in sources
