"""The options --workers and --ray of `jaxiqa evaluate`."""

import subprocess
import sys
from pathlib import Path

import pytest

from jaxiqa.cli.workers import Pool, take_workers

ROOT = Path(__file__).parents[2]


def test_the_options_are_taken_from_the_command_line():
    assert take_workers(["--a", "1", "--workers", "3"]) == (["--a", "1"], Pool(3, None))
    assert take_workers(["--ray=auto", "--a"]) == (["--a"], Pool(None, "auto"))
    assert take_workers(["--ray", "host:6379", "--workers=4"]) == ([], Pool(4, "host:6379"))
    assert take_workers(["--a"]) == (["--a"], None)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--workers", "0"], "--workers '0'; expected a whole number of at least 1"),
        (["--workers=-2"], "--workers '-2'"),
        (["--workers"], "--workers ''"),
        (["--workers", "two"], "--workers 'two'"),
        (["--ray", "host"], "--ray 'host'; write HOST:PORT"),
        (["--ray", "ray://host:10001"], "write HOST:PORT"),
        (["--ray"], "--ray ''"),
        (["--workers", "1", "--workers", "2"], "--workers is given twice"),
    ],
)
def test_wrong_options_are_errors(words, message):
    with pytest.raises(ValueError, match=message):
        take_workers(words)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["--workers", "0"], ["--ray", "127.0.0.1:1"]])
def test_a_wrong_option_ends_the_program_before_it_writes(tmp_path, words):
    if words[0] == "--ray":
        pytest.importorskip("ray")
    command = [sys.executable, str(ROOT / "evaluate.py"), "--config", str(ROOT / "configs" / "smoke.py")]
    made = subprocess.run(
        [*command, "--workdir", tmp_path / "run", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert made.returncode == 1
    assert made.stderr.startswith(f"error: {words[0]} ")
    assert list(tmp_path.iterdir()) == []


def test_help_names_both_options_and_loads_neither_ray_nor_jax():
    code = "import sys; from jaxiqa.cli.evaluate import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "print({'ray', 'jax'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert "--workers N" in said
    assert "--ray ADDRESS" in said
    assert said.endswith("set()\n")
