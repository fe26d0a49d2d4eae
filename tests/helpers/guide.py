"""Install the examples of docs/guides: import each under its stated name and register it by its shown diff."""

import importlib
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = {page.stem: page for page in sorted((ROOT / "docs" / "guides").glob("*.md"))}

FOLDERS = {
    "test_attacks": "attacks",
    "test_datasets": "data",
    "test_defense_precision": "defenses",
    "test_every_metric": "train",
    "test_published_report": "models",
    "test_purifiers_contract": "defenses",
}
"""Folders of the contract tests."""


def contract(name):
    """Import a test module from `FOLDERS` by name."""
    folder = str(ROOT / "tests" / FOLDERS[name])
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def blocks(name, kind="python"):
    """Return the code of all blocks of one kind on a page."""
    return re.findall(rf"^```{kind}\n(.*?)^```", PAGES[name].read_text(), re.S | re.M)


@contextmanager
def installed(name, folder):
    """Import the example of a page under the name its first line states, and add it to the registry.

    The file is written to ``folder``. The registry is restored afterwards. Yields the module.
    """
    (source,), (diff,) = blocks(name), blocks(name, "diff")
    path = re.match(r"# file: (\S+)\.py\n", source)[1]
    module_name, package_name = path.replace("/", "."), path.rpartition("/")[0].replace("/", ".")
    (folder / f"{Path(path).name}.py").write_text(source)
    package = importlib.import_module(package_name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "__path__", [*package.__path__, str(folder)])
        patch.setattr(package, Path(path).name, None, raising=False)  # undo the attribute that the import sets
        patch.syspath_prepend(str(folder))  # also clears the caches of the import system
        try:
            module = importlib.import_module(module_name)
            assert Path(module.__file__).parent == folder, f"{path}.py is in the library already"
            registry, key, value = _registration(diff, module_name)
            assert key not in registry
            patch.setitem(registry, key, getattr(module, value))
            yield module
        finally:
            sys.modules.pop(module_name, None)


def _registration(diff, module_name):
    """Return the registry, key and value name that a diff adds; its context lines must be in the file it names."""
    file, context = (re.search(pattern, diff, re.M)[1] for pattern in (r"^ # (\S+?\.py)", r"^ (\w+.* = \{)$"))
    assert f"\n{context}" in (ROOT / file).read_text()
    imported, entry = re.findall(r"^\+(.*)$", diff, re.M)
    key, value = re.fullmatch(r' *"(\w+)": (\w+),', entry).groups()
    assert imported == f"from {module_name} import {value}"
    home = importlib.import_module(file.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    return getattr(home, context.partition(":")[0].partition(" ")[0]), key, value
