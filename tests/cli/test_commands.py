"""The command `jaxiqa`: its subcommands, quick --help, and the names that it lists."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from jaxiqa.__main__ import COMMANDS
from jaxiqa.attacks import ATTACKS, FITTED
from jaxiqa.cli.list import TABLES, main
from jaxiqa.config.loading import shipped
from jaxiqa.core.version import package_versions, source_commit
from jaxiqa.data import DATASETS
from jaxiqa.defenses.purify import PURIFIERS
from jaxiqa.defenses.smoothing import CERTIFIERS
from jaxiqa.models import BACKBONES, MODELS
from jaxiqa.models.zoo import SHIPPED
from jaxiqa.networks import NETWORKS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS)], ids=str)
def test_help_imports_nothing_heavy(words):
    """Under half a second on an idle machine; JAX alone would take more."""
    command = [sys.executable, "-X", "importtime", "-m", "jaxiqa", *words, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) > 200
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "jaxiqa" in imported
    assert not {"jax", "flax", "numpy", "scipy", "pooch", "PIL", "optax"} & imported
    assert "RuntimeWarning" not in done.stderr


def test_a_mistyped_command_gets_a_suggestion():
    done = subprocess.run([sys.executable, "-m", "jaxiqa", "scor"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "'scor'" in done.stderr
    assert "score" in done.stderr


def test_the_versions_are_one_line():
    done = subprocess.run([sys.executable, "-m", "jaxiqa", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.startswith(package_versions()), done.stderr
    assert done.stdout.strip().count("\n") == 0
    assert (source_commit() or "") in done.stdout
    assert f"jax {version('jax')}," in done.stdout


NAMES = {
    "metrics": (*SHIPPED, *MODELS),
    "backbones": BACKBONES,
    "attacks": {**ATTACKS, **FITTED},
    "defenses": PURIFIERS,
    "certifiers": CERTIFIERS,
    "networks": NETWORKS,
    "data": DATASETS,
    "configs": shipped(),
}


@pytest.mark.parametrize("section", TABLES)
def test_every_name_is_listed_with_its_needs(section):
    sheet = TABLES[section]()
    assert [row[0] for row in sheet.rows] == list(NAMES[section])
    assert all(len(row) == len(sheet.header) for row in sheet.rows)
    if section != "backbones":
        assert all(row[-1] for row in sheet.rows)


def test_needs_are_the_options_without_a_default():
    needs = {row[0]: row[3] for row in TABLES["attacks"]().rows}
    assert needs["zhang"] == "distance"
    assert needs["pgd"] == ""
    assert "network" in needs["facpa"]
    assert {row[0]: row[1] for row in TABLES["certifiers"]().rows}["rs"] == "score_range"


def test_sections_can_be_chosen(capsys):
    main(["configs", "data"])
    shown = capsys.readouterr().out
    assert "quickstart" in shown
    assert "koniq10k" in shown
    assert "square" not in shown
