"""The README's commands, Python example and links are correct."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def commands():
    first_screen = README[: README.index("\n## ")]
    return [line for block in re.findall(r"```sh\n(.*?)```", first_screen, re.S) for line in block.splitlines()]


def test_the_first_block_has_exactly_two_commands():
    run, test = commands()
    for line in (run, test):
        assert line.startswith("python3 -m venv .venv && .venv/bin/pip install -q -r requirements")
        for file in re.findall(r"[\w./-]+\.(?:txt|py)", line):
            assert (ROOT / file).is_file(), file
    assert "train.py --config configs/quickstart.py" in run
    assert "evaluate.py --config configs/quickstart.py" in run
    assert "pytest" in test


def test_continuous_integration_runs_the_readme_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    pattern = re.search(r"grep -m1 -E '(.*?)' README\.md", script).group(1)
    found = [line for line in README.splitlines() if re.search(pattern, line)]
    assert found[:1] == commands()[1:]


@pytest.mark.slow
def test_the_example_with_shipped_metrics_prints_what_it_says(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(example, "README.md", "exec"), {})
    said = [re.findall(r"[\d.]+", text) for text in re.findall(r"^# (.*)", example, re.M)]
    printed = [re.findall(r"[\d.]+", line) for line in capsys.readouterr().out.splitlines()]
    assert len(said) == len(printed) == 4
    for one, other, tolerance in zip(said, printed, (5.0, 3.0, 1.0, 0.05), strict=True):  # an attack is a path of signs
        assert [float(number) for number in other] == pytest.approx([float(number) for number in one], abs=tolerance)


def test_every_link_into_the_project_exists():
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_help_is_quick_and_lists_the_configs(script):
    began = time.perf_counter()
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, cwd=ROOT)
    seconds = time.perf_counter() - began
    assert done.returncode == 0
    assert "  quickstart\n" in done.stdout
    assert seconds < 5, "it takes 0.2 s alone; far longer means that something heavy is imported"


def test_config_help_lists_every_field_and_a_typo_gets_a_suggestion():
    command = [sys.executable, "train.py", "--config", "configs/quickstart.py"]
    helped = subprocess.run([*command, "--help"], capture_output=True, text=True, cwd=ROOT)
    assert "--variants.baseline.training.epochs" in helped.stdout
    failed = subprocess.run([*command, "--workdirr", "x"], capture_output=True, text=True, cwd=ROOT)
    assert failed.returncode != 0
    assert "--workdir" in failed.stderr + failed.stdout
