"""The Python sessions of the documentation run, from top to bottom, as one session each.

Blocks marked "python" are run; those that need files which only a reader has are marked "py".
"""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if "```python" in page.read_text()]


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


def check_clever(found):
    """The estimates that the page prints are neither below what was sampled nor beyond the stated limit."""
    assert (found.sampled <= found.estimate).all()
    assert (found.estimate <= 2 * found.sampled).all()
    assert found.fitted.any() or (found.estimate == found.sampled).all()


def test_there_are_sessions_to_run():
    assert {page.name for page in PAGES} >= {"lipschitz.md"}
