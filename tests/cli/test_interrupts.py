"""Ctrl-C at any time in every program: status 130, one line, no partial files; the next run resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "score": ["-m", "jaxiqa", "score", "linearity", "--weights", "w", "x"],
    "prepare": ["-m", "jaxiqa", "prepare", "builtin", "--out", "x"],
    "convert": ["-m", "jaxiqa", "convert", "linearity", "w", "x.safetensors"],
    "train_filter": ["-m", "jaxiqa", "train-filter", "x.safetensors", "--network", "dncnn"],
    "train": [str(ROOT / "train.py"), "--config", str(ROOT / "configs" / "smoke.py")],
    "evaluate": [str(ROOT / "evaluate.py"), "--config", str(ROOT / "configs" / "smoke.py")],
}


def start(arguments, folder, before=""):
    """Start a program with SIGINT handled as in a foreground job; Python runs ``before`` first."""
    (folder / "sitecustomize.py").write_text(
        f"import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n{before}"
    )
    paths = os.pathsep.join([str(folder), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *map(str, arguments)], cwd=folder, env=environment, **pipes)


def stopped(process, moment):
    """Send Ctrl-C at a moment; return the last line of the program, or None if it had already ended."""
    for _ in range(6000):
        if moment() or process.poll() is not None:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert "Traceback" not in said, said
    if process.returncode == 0:
        return None
    assert process.returncode == 130, said
    line = said.strip().splitlines()[-1]
    assert line.startswith("stopped"), said
    return line


WHILE_IMPORTING = """
import os, sys
class Finder:  # Ctrl-C falls into the import of what is imported first after the program's package
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("module", ["tyro", "rich.console", "numpy"])
def test_ctrl_c_during_imports_prints_one_line(tmp_path, name, module):
    process = start(PROGRAMS[name], tmp_path, WHILE_IMPORTING.format(name=module))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.strip().startswith("stopped")
    assert len(said.strip().splitlines()) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"sitecustomize.py"}


IN_A_CALLBACK = """
import gc, os, time
from jaxiqa.core.interrupts import quiet
from jaxiqa.cli.runtime import explained
quiet()
def collected(phase, about):
    gc.callbacks.remove(collected)
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(1000))
with explained("mine"):
    gc.callbacks.append(collected)
    gc.collect()
    time.sleep(20)
"""


def test_ctrl_c_during_a_garbage_collector_callback_is_not_lost(tmp_path):
    process = start(["-c", f"import signal\n{IN_A_CALLBACK}"], tmp_path)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "\nstopped; mine\n")


CLEARED = """
import os, time
from jaxiqa.core.interrupts import quiet
from jaxiqa.core.progress import progress_bar
from jaxiqa.cli.runtime import explained
quiet()
with explained("mine"), progress_bar("scoring", "images") as update:
    for done in range(100):
        update(done, 100)
        try:  # as compiled code does that ignores what its callback raises
            os.kill(os.getpid(), signal.SIGINT) if done == 3 else time.sleep(0.2)
            sum(range(1000))
        except KeyboardInterrupt:
            pass
        assert done < 4
"""


def test_ctrl_c_that_other_code_has_cleared_stops_the_next_step(tmp_path):
    process = start(["-c", f"import signal\n{CLEARED}"], tmp_path)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "\nstopped; mine\n")


AT_THE_END = """
import os, signal
from jaxiqa.core.interrupts import quiet
class Late:  # Python deletes the variables of modules after it has restored the handlers of signals
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)
quiet()
late = Late()
print("done")
"""


def test_ctrl_c_while_python_ends_changes_nothing(tmp_path):
    process = start(["-c", AT_THE_END], tmp_path)
    assert process.communicate(timeout=60) == ("done\n", "")
    assert process.returncode == 0


def test_other_errors_keep_their_traceback(tmp_path):
    process = start(["-c", "from jaxiqa.core.interrupts import quiet; quiet(); 1 / 0"], tmp_path)
    assert "ZeroDivisionError" in process.communicate(timeout=60)[1]
    assert process.returncode == 1


def unfinished(folder):
    return [path for path in folder.rglob("*") if "tmp" in path.name or "incomplete" in path.name]


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0.0, 0.3, 1.0])
def test_a_stopped_preparation_leaves_no_set_and_is_repeated(tmp_path, wait):
    options = ["--options", "size=128,128", "train=300", "val=4", "test=4"]
    command = ["-m", "jaxiqa", "prepare", "builtin", "--out", tmp_path / "out", *options]
    process = start(command, tmp_path)
    begun: list[float] = []

    def moment():
        if any((tmp_path / "out").rglob("incomplete*")):
            begun.append(time.monotonic())
        return begun and time.monotonic() > begun[0] + wait

    line = stopped(process, moment)
    assert line is None or "the unfinished data set is not used" in line
    assert not unfinished(tmp_path)
    killed = start(command, tmp_path)
    while killed.poll() is None and not any((tmp_path / "out").rglob("incomplete*")):
        time.sleep(0.02)
    killed.kill()
    killed.communicate()
    again = start(command, tmp_path)
    said = again.communicate(timeout=200)[1]
    assert again.returncode == 0 or (line is None and "already holds" in said)
    assert not unfinished(tmp_path)
    assert (tmp_path / "out" / "builtin" / "1.0.0" / "dataset_info.json").exists()


@pytest.mark.slow
@pytest.mark.release
def test_a_filter_that_was_stopped_several_times_ends_with_the_same_bits(tmp_path):
    sizes = ["--network", "dncnn", "--depth", "3", "--width", "8", "--limit", "10", "--size", "24", "20"]
    command = lambda out: ["-m", "jaxiqa", "train-filter", out, *sizes, "--epochs", "16"]  # noqa: E731
    whole = tmp_path / "whole.safetensors"
    start(command(whole), tmp_path).communicate(timeout=300)
    out, stops = tmp_path / "out.safetensors", 0
    steps = lambda: {p.name for p in (tmp_path / "out.safetensors.run").glob("checkpoints/*.json")}  # noqa: E731
    for wait in (0.0, 0.05, 0.1):
        seen, process = steps(), start(command(out), tmp_path)
        line = stopped(process, lambda seen=seen, wait=wait: steps() - seen and not time.sleep(wait))
        stops += line is not None
        assert not unfinished(tmp_path)
    assert stops
    last = start(command(out), tmp_path)
    said = last.communicate(timeout=300)[1]
    assert last.returncode == 0, said
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_stopped_training_saves_a_checkpoint(tmp_path):
    command = [*PROGRAMS["train"], "--workdir", tmp_path / "run", "--variants.baseline.training.epochs", "6"]
    folder = tmp_path / "run" / "baseline" / "seed0"
    line = stopped(start(command, tmp_path), (folder / "metrics.jsonl").exists)
    assert "is saved; run the same command" in line
    assert not unfinished(tmp_path / "run")
    saved = max(int(path.name.split(".")[0]) for path in folder.glob("checkpoints/*.sha256.json"))
    assert f"step {saved} of 24" in line


@pytest.mark.slow
def test_stopped_scoring_writes_the_scores_so_far(tmp_path):
    random = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for i in range(200):
        Image.fromarray(random.integers(0, 256, (40 + i, 50, 3), np.uint8)).save(tmp_path / "in" / f"{i:03}.png")
    weights = tmp_path / "w"
    made = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'tests' / 'helpers')!r}); import tiny; from jaxiqa import models\n"
    )
    made += f"m = tiny.metric(); m.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0)); models.save(m, {str(weights)!r})"
    subprocess.run([sys.executable, "-c", made], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    out = tmp_path / "out.csv"
    process = start([*PROGRAMS["score"][:4], "--weights", weights, tmp_path / "in", "--csv", out], tmp_path)
    line = stopped(process, out.exists)  # first written after ten seconds
    assert line is None or f"scores so far are in {out}" in line
    assert len(out.read_text().splitlines()) > 1
