"""Pages of the site that are files outside of ``docs/``, and links to them: on a git host they lead to the files."""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
OUTSIDE = {
    "benchmarks/README.md": "project/benchmarks",
    "CONTRIBUTING.md": "project/contributing",
    "CHANGELOG.md": "project/changelog",
}
"""File below the repository -> page."""
LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)#\s]+)(#[^)\s]*)?\)")


def moved(text: str, source: Path, page: Path) -> str:
    """Return the text of ``source`` with links as they must be on ``page``, both absolute paths.

    A link to a file that is no page of the site loses its address and keeps its text.

    >>> moved("See [a](README.md) and [b](docs/attacks.md).", ROOT / "X.md", DOCS / "x.md")
    'See a and [b](attacks.md).'
    >>> moved("[speed](../benchmarks/README.md#layers)", DOCS / "scale.md", DOCS / "scale.md")
    '[speed](project/benchmarks.md#layers)'
    """

    def link(found: re.Match) -> str:
        text, path, place = found[1], found[2], found[3] or ""
        target = Path(os.path.normpath(source.parent / path))
        if target.is_relative_to(DOCS):
            new = os.path.relpath(target, page.parent)
        elif (name := OUTSIDE.get(os.path.relpath(target, ROOT))) is not None:
            new = os.path.relpath(DOCS / f"{name}.md", page.parent)
        else:
            return text
        return f"[{text}]({new}{place})"

    return LINK.sub(link, text)


def write(app: Sphinx) -> None:
    """Write the pages of `OUTSIDE` that changed."""
    for file, name in OUTSIDE.items():
        page = DOCS / f"{name}.md"
        page.parent.mkdir(exist_ok=True)
        text = moved((ROOT / file).read_text(), ROOT / file, page)
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def read(app: Sphinx, docname: str, content: list[str]) -> None:
    """Change the links of a page of ``docs/`` to files outside of it."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".md":
        content[0] = moved(content[0], path, path)


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", write)
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
