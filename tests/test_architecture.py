"""Imports go one way, so that every part can be read, tested and used without those above it."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "jaxiqa"
FOUNDATION = {"types", "checks", "arguments", "files", "options"}
ALLOWED = {
    "types": set(),
    "checks": set(),
    "arguments": {"types", "checks"},
    "files": set(),
    "precision": set(),
    "options": set(),
    "config": {"options", "files"},
    "interrupts": set(),
    "terminal": {"files", "interrupts"},
    "compiled": set(),
    "ops": {"types", "checks", "precision"},
    "layers": {"types", "checks", "ops", "precision"},
    "lipschitz": {"types", "checks", "arguments", "ops", "layers", "precision"},
    "models": FOUNDATION | {"ops", "layers", "precision"},
    "attacks": FOUNDATION | {"ops"},
    "defenses": {"types", "checks", "arguments", "ops"},
    "metrics": {"types", "checks", "ops"},
    "pruning": {"checks"},
    "data": FOUNDATION | {"ops"},
    "reports": FOUNDATION | {"metrics"},
    "train": FOUNDATION | {"data", "models", "attacks", "metrics", "pruning", "ops"},
    "scoring": FOUNDATION | {"compiled", "data", "models", "terminal"},
    "__main__": {"scoring", "terminal"},
    "evaluation": FOUNDATION
    | {"config", "data", "models", "attacks", "defenses", "metrics", "ops", "reports", "terminal"},
}
EXECUTABLES = {
    Path("defenses", "train_filter.py"): {"models", "attacks", "data", "train", "terminal", "files", "options"},
    Path("data", "prepare.py"): {"terminal"},
    Path("models", "conversion.py"): {"terminal"},
    Path("train", "startup.py"): {"config"},
    Path("train", "runs.py"): {"config"},
    Path("train", "variant.py"): {"config", "defenses", "layers"},
}
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} uses a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_one_way(file):
    part = file.parts[0].removesuffix(".py")
    used = {name.split(".")[1] for name in imports(ROOT / file) if name.startswith("jaxiqa.")}
    allowed = ALLOWED[part] | EXECUTABLES.get(file, set()) | {part}
    assert used <= allowed, f"{file} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("file", FILES, ids=str)
def test_no_file_has_grown_too_long(file):
    assert len((ROOT / file).read_text().splitlines()) <= 350


def test_every_attack_purifier_data_set_and_backbone_is_registered():
    from jaxiqa import attacks, data
    from jaxiqa.defenses.purify import PURIFIERS
    from jaxiqa.models import BACKBONES

    around = {
        "batch",
        "loop",
        "threat",
        "objective",
        "variant",
        "queries",
        "searcher",
        "schedule",
        "fitting",
        "generator",
        "storage",
    }
    around |= {"__init__", "sweep", "bounds", "restarts", "one_by_one", "align", "masking", "memory", "external"}
    files = {path.stem for path in (ROOT / "attacks").glob("*.py")} - around
    registered = [*attacks.ATTACKS.values(), *(kind.fit for kind in attacks.FITTED.values())]
    modules = {value.__module__.rpartition(".")[2] for value in registered}
    assert files == modules
    purifiers = {path.stem for path in (ROOT / "defenses" / "purify").glob("*.py")} - {"__init__", "purifier"}
    assert purifiers == {value.__module__.rpartition(".")[2] for value in PURIFIERS.values()}
    assert {value.__module__.rpartition(".")[2] for value in data.DATASETS.values()} == set(data.DATASETS)
    assert {"mobilenet_v2", "resnet18", "resnet50", "resnet101", "resnext101_32x8d"} <= set(BACKBONES)


def test_what_the_documentation_refers_to_exists():
    pages = [*ROOT.rglob("*.py"), *(ROOT.parent / "docs").glob("*.md"), ROOT.parent / "README.md"]
    named = {name for page in pages for name in re.findall(r"`(jaxiqa(?:\.\w+)+)`", page.read_text())}
    assert len(named) > 50
    missing = []
    for name in sorted(named):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            missing.append(name)
    assert missing == []
