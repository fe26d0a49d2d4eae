"""Checks of the architecture: allowed imports between folders, registries, file lengths, references in docs."""

import ast
import itertools
import pkgutil
import re
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parent.parent / "jaxiqa"
BASE = {"core"}
ALLOWED = {
    "core": set(),
    "references": {"attacks", "config", "defenses.purify", "defenses.smoothing", "models", "networks"},
    "config": BASE,
    "ops": BASE,
    "measures": BASE,
    "results": BASE,
    "pretrained": BASE,
    "data": BASE,
    "data.datasets": BASE | {"data"},
    "data.synthetic": BASE | {"data"},
    "nn.kernels": BASE,
    "layers": BASE | {"nn.kernels"},
    "lipschitz": BASE | {"layers", "nn.kernels"},
    "nn": BASE | {"layers", "nn.kernels", "pretrained"},
    "nn.backbones": BASE | {"layers", "nn", "nn.kernels", "pretrained"},
    "networks": BASE | {"nn", "nn.backbones", "nn.kernels", "pretrained"},
    "models": BASE | {"layers", "nn", "nn.backbones", "nn.kernels", "ops", "pretrained"},
    "attacks.engine": BASE,
    "attacks": BASE | {"attacks.engine", "ops"},
    "attacks.wrappers": BASE | {"attacks", "attacks.engine", "ops"},
    "defenses": BASE | {"ops"},
    "defenses.purify": BASE | {"defenses", "ops"},
    "defenses.smoothing": BASE | {"defenses", "ops"},
    "reports": BASE | {"measures", "results"},
    "reports.attacks": BASE | {"measures", "reports", "results"},
    "reports.defenses": BASE | {"measures", "reports", "results"},
    "reports.papers": BASE | {"measures", "reports", "reports.attacks", "results"},
    "train": BASE | {"attacks", "config", "data", "defenses", "layers", "measures", "models", "networks", "nn", "ops"},
    "evaluation": BASE
    | {
        "attacks",
        "attacks.wrappers",
        "config",
        "data",
        "defenses",
        "defenses.purify",
        "defenses.smoothing",
        "lipschitz",
    }
    | {"measures", "models", "networks", "ops", "reports", "reports.attacks", "reports.defenses", "reports.papers"}
    | {"results", "train"},
}
"""Folder -> the folders that it may import. `cli` may import all. Nothing imports `cli`."""

REGISTRIES = {  # files that list or combine all parts of a folder import its subfolders
    "attacks": {"attacks.wrappers"},
    "data": {"data.datasets", "data.synthetic"},
    "reports.write": {"reports.attacks", "reports.defenses"},
    "models": {"nn", "nn.backbones"},
}
EXHIBITS = ("attacks", "data.datasets", "defenses.purify", "reports.papers")
"""Folders whose files import no sibling."""
SIBLINGS = {("attacks.fgsm", "attacks.pgd"), ("defenses.purify.jpeg", "defenses.purify.diffjpeg")}
SHARED = {"defenses.purify.purifier", "reports.papers.paper"}
"""Files of such a folder that all others may import."""


def name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").rstrip(".")


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
FILES = [name for name in MODULES if name]


def imports(name):
    """Return the modules of this project that a module imports, also inside functions but not in docstrings."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} uses a relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        inside = [one.partition(".")[2] for one in names if one == "jaxiqa" or one.startswith("jaxiqa.")]
        known = [one for one in inside if one in MODULES and one]
        found |= set(known[1:] if len(known) > 1 and isinstance(node, ast.ImportFrom) else known)
    return found - {name}


GRAPH = {name: imports(name) for name in MODULES}


def room(name):
    """Return the innermost folder of a module; a package belongs to its own folder."""
    parts = name.split(".")
    if name in ("", "__main__", "cli"):
        return "cli"
    return next(".".join(parts[:n]) for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in {*ALLOWED, "cli"})


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith(("cli", "__main__"))])
def test_a_folder_imports_only_allowed_folders(name):
    own = room(name)
    allowed = ALLOWED[own] | {own} | REGISTRIES.get(name, set())
    others = {target for target in GRAPH[name] if room(target) not in allowed}
    assert not others, f"{name} imports {sorted(others)}"


def test_nothing_imports_cli():
    assert {name for name in FILES if room(name) != "cli" for target in GRAPH[name] if room(target) == "cli"} == set()


@pytest.mark.parametrize("own", EXHIBITS)
def test_a_file_of_a_registry_imports_no_sibling(own):
    files = [name for name in FILES if room(name) == own and name != own]
    found = {(name, target) for name in files for target in GRAPH[name] & set(files) if target not in SHARED}
    assert found <= SIBLINGS


def test_there_are_no_import_cycles():
    """Imports inside functions count too."""
    left = {name: set(targets) for name, targets in GRAPH.items()}
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert left == {}


def test_files_are_short():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: length for name, length in lengths.items() if length > 300} == {}
    assert median(lengths.values()) <= 150


def test_every_file_of_a_registry_is_registered():
    from jaxiqa import attacks, data
    from jaxiqa.defenses.purify import PURIFIERS
    from jaxiqa.nn.backbones import BACKBONES

    def files(folder):
        return {path.stem for path in (ROOT / folder).glob("*.py")} - {"__init__"}

    def homes(values):
        return {value.__module__.rpartition(".")[2] for value in values}

    registered = [*attacks.ATTACKS.values(), *(kind.fit for kind in attacks.FITTED.values())]
    assert files("attacks") == homes(registered)
    assert files("defenses/purify") - {"purifier"} == homes(PURIFIERS.values())
    assert files("data/datasets") == homes(data.DATASETS.values()) - {"dataset"}
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


def test_the_checks_find_cycles_and_imports():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}
    left = {name: set(targets) for name, targets in graph.items()}
    while free := {name for name, targets in left.items() if not targets & left.keys()}:
        left = {name: targets for name, targets in left.items() if name not in free}
    assert set(left) == {"a", "b", "c", "d"}
    arrows = list(itertools.chain.from_iterable(GRAPH.values()))
    assert len(arrows) > 500
    assert "core.checks" in GRAPH["attacks.pgd"]
    assert room("attacks.engine.loop") == "attacks.engine"
    assert room("attacks.pgd") == "attacks"
