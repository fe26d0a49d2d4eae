"""Write the pages of the API before a build: one page per folder of the package, one section per module.

The pages are made from the files of the package, so that no module can be forgotten.
"""

import importlib
from pathlib import Path

from sphinx.application import Sphinx

PACKAGE = Path(__file__).parents[2] / "jaxiqa"
HEADER = "..\n   Written by docs/_ext/api_pages.py; do not edit.\n\n"


def folders() -> dict[str, Path]:
    """Return the package and its subpackages by dotted name."""
    found = {}
    for init in sorted(PACKAGE.rglob("__init__.py")):
        found[".".join(("jaxiqa", *init.parent.relative_to(PACKAGE).parts))] = init.parent
    return found


def modules(folder: Path) -> list[str]:
    """Return the public modules of one folder."""
    return sorted(file.stem for file in folder.glob("*.py") if not file.stem.startswith("_"))


def heading(text: str, line: str) -> str:
    return f"{text}\n{line * len(text)}\n\n"


def page(name: str, folder: Path) -> str:
    """Return the page of one folder in reStructuredText."""
    text = HEADER + heading(name, "=") + members(name)
    if exported := names(folder):
        text += "From here: " + ", ".join(f":py:obj:`{one} <{name}.{one}>`" for one in exported) + ".\n\n"
    for module in modules(folder):
        text += heading(module, "-") + members(f"{name}.{module}")
    return text


def members(module: str) -> str:
    """Return the directive that documents what a module defines itself."""
    return f".. automodule:: {module}\n   :members:\n   :ignore-module-all:\n\n"


def names(folder: Path) -> list[str]:
    """Return the names in ``__all__`` of a package."""
    package = ".".join(("jaxiqa", *folder.relative_to(PACKAGE).parts))
    return sorted(getattr(importlib.import_module(package), "__all__", []), key=str.lower)


def write(app: Sphinx) -> None:
    """Write all pages that changed, and remove pages of folders that are gone."""
    out = Path(app.srcdir) / "api"
    pages = {f"{name}.rst": page(name, folder) for name, folder in folders().items()}
    for old in out.glob("jaxiqa*.rst"):
        if old.name not in pages:
            old.unlink()
    for file, text in pages.items():
        if not (out / file).exists() or (out / file).read_text() != text:
            (out / file).write_text(text)


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", write)
    return {"parallel_read_safe": True}
