"""The Python code of every documentation page runs from top to bottom, as one session.

Blocks marked "python" are run. Blocks marked "py" are not: they need files of the reader.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jaxiqa.__main__ import COMMANDS

DOCS = Path(__file__).parent.parent / "docs"
NAMES = "|".join(COMMANDS)
ELSEWHERE = {"start", "own_data", "attacks_by_example", "certificates", "training", "scale", "glossary"}
"""Pages that test_site.py runs."""
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text() and page.stem not in ELSEWHERE]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_session_runs(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.S):
        exec(compile(block, page.name, "exec"), scope)
    assert capsys.readouterr().out
    if page.name == "lipschitz.md":
        assert all(row.upper <= 1 + 1e-5 for row in scope["block"])
        assert scope["small"].bound < 5
        check_clever(scope["estimate"])
        assert (tmp_path / "report.png").exists()


def commands():
    """Return the documented commands with their pages: (script or module, config) -> options."""
    found = {}
    pages = [DOCS.parent / "README.md", *DOCS.glob("*.md"), *(DOCS.parent / "configs").rglob("*.py")]
    for line in (line for page in pages for line in page.read_text().splitlines()):
        for script, command, rest in re.findall(rf"(?:python (\w+\.py)|\bjaxiqa ({NAMES})(?![\w-]))([^`#]*)", line):
            # any config in place of the reader's own and of placeholders
            rest = re.sub(r"--config ((?:mine|robust)\.py|NAME\b|\.\.\.)", "--config configs/quickstart.py", rest)
            config = re.search(r"--config (\S+)", rest)
            program = (script,) if script else ("-m", "jaxiqa", command)
            options = found.setdefault((*program, *(("--config", config[1]) if config else ())), set())
            options |= set(re.findall(r"(?<!\S)--[\w.-]+", rest)) - {"--config", "--help"}
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(commands()), ids=" ".join)
def test_every_documented_command_has_the_options_it_is_shown_with(command):
    done = subprocess.run([sys.executable, *command, "--help"], capture_output=True, text=True, cwd=DOCS.parent)
    assert done.returncode == 0, done.stderr
    assert {option for option in commands()[command] if option not in done.stdout} == set()


def test_the_documented_commands_are_found():
    assert {("-m", "jaxiqa", "train-filter"), ("-m", "jaxiqa", "score")} <= set(commands())
    assert {"--attack", "--sigma", "--size"} <= commands()["-m", "jaxiqa", "train-filter"]
    assert len(commands()) > 15


def check_clever(found):
    """Check that the printed estimates are between the sampled values and the stated limit."""
    assert (found.sampled <= found.estimate).all()
    assert (found.estimate <= 2 * found.sampled).all()
    assert found.fitted.any() or (found.estimate == found.sampled).all()


def test_there_are_sessions_to_run():
    assert {page.name for page in PAGES} >= {"lipschitz.md"}
