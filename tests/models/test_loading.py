"""`jaxiqa.load` accepts weights in every form; the metric is a narrow Linearity with published names."""

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny

import jaxiqa
from jaxiqa import models
from jaxiqa.cli import convert as conversion
from jaxiqa.models import Linearity, loading
from jaxiqa.models.registry import MODELS
from jaxiqa.pretrained import download, key_map
from jaxiqa.pretrained.files import WeightsUrl

ROOT = Path(__file__).parent.parent.parent
X = jax.random.uniform(jax.random.key(0), (2, 40, 56, 3))
K, B = [8.0, 20.0, 19.0], [61.0, 60.0, 59.0]


def build(*, backbone="resnet18", rngs):
    return Linearity(backbone, width=8, input_size=(40, 56), rngs=rngs)


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    weights = {
        "koniq10k": WeightsUrl("http://127.0.0.1:9/k.npz", "a page"),
        "by_hand": WeightsUrl(None, "another page"),
    }
    monkeypatch.setitem(MODELS, "linearity", replace(MODELS["linearity"], construct=build, weights=weights))


@pytest.fixture(scope="module")
def original():
    return tiny.metric(input_size=(40, 56))


@pytest.fixture(scope="module")
def arrays(original):
    return tiny.checkpoint(original)


@pytest.fixture(scope="module")
def expected(original):
    return K[0] * original(X) + B[0]


def as_dict(arrays, folder):
    return arrays | {"k": K, "b": np.array(B)}


def as_npz(arrays, folder):
    np.savez(folder / "x.npz", **arrays, k=K, b=B)
    return folder / "x.npz"


def as_safetensors(arrays, folder):
    numbers = {"k": np.array(K), "b": np.array(B)}
    safetensors.numpy.save_file({k: np.ascontiguousarray(v) for k, v in (arrays | numbers).items()}, folder / "x.st")
    return str(folder / "x.st")


def as_torch(arrays, folder):
    torch = pytest.importorskip("torch")
    state = {f"module.{name}": torch.from_numpy(np.array(array)) for name, array in arrays.items()}
    optimizer = {"state": {0: {"exp_avg": torch.ones(3)}}}
    torch.save({"model": state, "optimizer": optimizer, "amp": {"loss_scaler0": {}}, "k": K, "b": B}, folder / "x.pth")
    return folder / "x.pth"


@pytest.mark.slow
@pytest.mark.parametrize("write", [as_dict, as_npz, as_safetensors, as_torch])
def test_every_form_gives_the_same_scores(write, arrays, expected, tmp_path):
    model = jaxiqa.load("linearity", weights=write(arrays, tmp_path))
    np.testing.assert_allclose(model(X), expected, rtol=1e-6)
    assert model.score_range == (0.0, 100.0)


def test_torch_tensors_are_accepted_as_arrays(arrays, original):
    torch = pytest.importorskip("torch")
    tensors = {name: torch.nn.Parameter(torch.tensor(array), array.dtype.kind == "f") for name, array in arrays.items()}
    np.testing.assert_allclose(jaxiqa.load("linearity", weights=tensors)(X), original(X), rtol=1e-6)


@pytest.mark.slow
def test_a_training_run_is_loaded(original, expected, tmp_path):
    model = tiny.metric(input_size=(40, 56))
    model.calibrate(k=K[0], b=B[0], score_range=(0.0, 80.0))
    models.save(model, tmp_path)
    loaded = jaxiqa.load("linearity", weights=tmp_path)
    np.testing.assert_allclose(loaded(X), expected, rtol=1e-6)
    assert loaded.score_range == (0.0, 80.0)
    with pytest.raises(ValueError, match=r"takes no options, but got backbone"):
        jaxiqa.load("linearity", weights=tmp_path, backbone="resnet18")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no trained model \(model\.json\)"):
        jaxiqa.load("linearity", weights=tmp_path / "empty")


def test_published_names_are_fetched(arrays, expected, tmp_path, monkeypatch):
    asked = []

    def fetch(source, name, *, model):
        asked.append((source.page, name, model))
        return as_npz(arrays, tmp_path)

    monkeypatch.setattr(download, "fetch", fetch)
    np.testing.assert_allclose(jaxiqa.load("linearity", weights="koniq10k")(X), expected, rtol=1e-6)
    assert asked == [("a page", "koniq10k", "linearity")]


def test_the_error_for_weights_that_cannot_be_downloaded_names_their_page():
    with pytest.raises(
        FileNotFoundError, match=r"weights='by_hand' of linearity cannot.*get the file from another page"
    ):
        jaxiqa.load("linearity", weights="by_hand")
    message = r"weights='koniq11k' is neither a file.*published weights of linearity \('koniq10k', 'by_hand'\)"
    with pytest.raises(FileNotFoundError, match=message):
        jaxiqa.load("linearity", weights="koniq11k")


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["model.", "_orig_mod.", "module._orig_mod.", "net.", "student.model.module."])
@pytest.mark.parametrize("write", [as_dict, as_safetensors])
def test_prefixes_of_wrappers_are_removed(prefix, write, arrays, expected, tmp_path):
    model = jaxiqa.load("linearity", weights=write({prefix + name: array for name, array in arrays.items()}, tmp_path))
    np.testing.assert_allclose(model(X), expected, rtol=1e-6)


def test_an_average_is_preferred_and_an_unfit_one_is_named(arrays, original):
    raw = {name: np.zeros_like(array) for name, array in arrays.items()}
    loaded = loading.load_and_report("linearity", {"model": raw, "model_ema": arrays})
    np.testing.assert_allclose(loaded.model(X), original(X), rtol=1e-6)
    assert loaded.left_out == {"model": f"{len(raw)} entries"}
    with pytest.raises(ValueError, match=r"(?s)extra: unknown.*entry 'model_ema' was taken.*not used: model"):
        jaxiqa.load("linearity", weights={"model": raw, "model_ema": {**arrays, "extra": np.zeros(1)}})


def test_a_long_list_of_faults_is_shortened_and_saved_to_a_file(arrays, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(ValueError, match=r"more; all \d+ are listed in ") as caught:
        jaxiqa.load("linearity", weights={f"layer{place}.weight": np.zeros(3) for place in range(700)})
    assert len(str(caught.value).splitlines()) < 25
    (file,) = tmp_path.iterdir()
    assert len(file.read_text().splitlines()) > 700


def test_all_faults_are_in_one_error(arrays):
    faulty = {name: array for name, array in arrays.items() if name != "regr6.bias"}
    faulty |= {"features.0.weight": np.zeros((8, 4, 7, 7), np.float32), "extra.weight": np.zeros(3), "gamma": [1.0]}
    with pytest.raises(ValueError, match="weights of linearity does not fit") as caught:
        jaxiqa.load("linearity", weights=faulty)
    assert str(caught.value).splitlines()[1:] == [
        "  extra.weight: unknown",
        "  features.0.weight: has shape (8, 4, 7, 7), which does not fit backbone.stage.conv1.conv.kernel (7, 7, 3, 8)",
        "  gamma: unknown",
        "  regr6.bias: missing",
    ]


def test_the_error_names_the_model_that_a_checkpoint_belongs_to(monkeypatch, arrays):
    rules = ((r"body\.(\d+)\.weight", r"net.\1.kernel", key_map.same),)
    monkeypatch.setitem(MODELS, "other", replace(MODELS["linearity"], rules=rules, extras=("scale",)))
    theirs = {"body.0.weight": np.zeros(3), "body.1.weight": np.zeros(3), "scale": np.ones(1)}
    message = r"^this seems to be a checkpoint of other, to be loaded as jaxiqa\.load\('other', \.\.\.\): .*\n  body\.0"
    with pytest.raises(ValueError, match=message):
        jaxiqa.load("linearity", weights=theirs)
    classifier = {"conv1.weight": np.zeros((8, 3, 7, 7)), "fc.bias": np.zeros(10)}
    with pytest.raises(ValueError, match=r"^this seems to be an image classifier such as resnet18"):
        jaxiqa.load("linearity", weights=classifier)
    with pytest.raises(ValueError, match=r"^weights of linearity does not fit"):
        jaxiqa.load("linearity", weights={"neither": np.zeros(3)})


def test_unknown_names_and_options_are_listed():
    with pytest.raises(ValueError, match="name='Linearity' is not allowed; choose from 'jaxiqa-base'"):
        jaxiqa.load("Linearity", weights={})
    with pytest.raises(ValueError, match="option of linearity='protocol' is not allowed; choose from 'backbone'"):
        jaxiqa.load("linearity", weights={}, protocol="pyiqa")
    with pytest.raises(ValueError, match="weights: it holds no arrays"):
        jaxiqa.load("linearity", weights={})


def test_converted_files_load_and_the_command_prints_the_mapping(arrays, expected, tmp_path, capsys):
    source, out = as_torch(arrays, tmp_path), tmp_path / "new" / "out.safetensors"
    assert conversion.main(["linearity", str(source), str(out), "--options", "backbone=resnet18"]) is None
    lines = capsys.readouterr().out.splitlines()
    row = next(line for line in lines if line.startswith("features.0.weight"))
    assert row.split() == ["features.0.weight", "8x3x7x7", "->", "backbone.stage.conv1.conv.kernel", "7x7x3x8"]
    norms = sum(name.endswith("num_batches_tracked") for name in arrays)
    placed = len(arrays) - norms
    assert sum(" -> " in line for line in lines) == placed
    for line in (
        "  k = [8.0, 20.0, 19.0]",
        "  features.1.num_batches_tracked  scalar",
        "  optimizer: 1 entries",
        "  amp: 1 entries",
    ):
        assert line in lines
    numbers = sum(array.size for array in arrays.values()) - norms
    assert (
        f"{placed} arrays with {numbers:,} numbers mapped, {norms} dropped, 2 other entries of the file left out"
        in lines
    )
    np.testing.assert_allclose(jaxiqa.load("linearity", weights=out)(X), expected, rtol=1e-6)
    assert loading.load_and_report("linearity", out).options == {"backbone": "resnet18"}


def test_a_converted_file_of_another_model_is_refused(arrays, tmp_path, monkeypatch):
    out = tmp_path / "out.safetensors"
    conversion.main(["linearity", str(as_npz(arrays, tmp_path)), str(out)])
    monkeypatch.setitem(MODELS, "other", MODELS["linearity"])
    with pytest.raises(ValueError, match=r"holds a converted linearity; load it as such: jaxiqa\.load\('linearity', "):
        jaxiqa.load("other", weights=out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["linearity", "gone.pth", "out.safetensors"], "error: weights='gone.pth' is neither a file"),
        (["linearity", "gone.pth", "out.pth"], "error: out='out.pth' must end in .safetensors"),
        (["musiq", "gone.pth", "out.safetensors"], "error: name='musiq' is not allowed"),
    ],
)
def test_the_command_prints_errors(arguments, message):
    with pytest.raises(SystemExit, match=message):
        conversion.main(arguments)


def test_public_names_exist():
    assert jaxiqa.load is models.load is loading.load
    for module in (jaxiqa, models):
        assert all(getattr(module, name) is not None for name in module.__all__)
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            module.nothing  # noqa: B018
