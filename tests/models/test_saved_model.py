import hashlib
import inspect
import json
import resource
import shutil
import signal
import struct

import jax
import numpy as np
import pytest
import safetensors.numpy
import tiny
from flax import nnx

import jaxiqa
from jaxiqa.core import differences
from jaxiqa.core.files import WriteError
from jaxiqa.models import filter_images, harden, load_run, save, saved_model
from jaxiqa.models.saved_model import run_folder
from jaxiqa.pretrained import files as weights
from jaxiqa.pretrained import key_map

X = jax.random.uniform(jax.random.key(0), (2, 40, 56, 3))


@pytest.fixture(scope="module")
def hardened():
    model = tiny.metric(taps=("layer2", "layer4"), input_size=(40, 56))
    harden(model, "after:layer2", mid=4, low_pass=0.5, shrink=0.1, unitary="cayley", rngs=nnx.Rngs(1))
    harden(model, "before:layer4.1", "bottleneck", mid=3, padding="VALID", rngs=nnx.Rngs(2))
    model.calibrate(k=1 / 3, b=-0.1, score_range=(-1.5, 7.7))
    return model


@pytest.mark.slow
def test_a_saved_model_loads_back(hardened, tmp_path):
    hardened.train()
    save(hardened, tmp_path / "new" / "folder")
    hardened.eval()
    loaded = load_run(tmp_path / "new" / "folder")
    saved, found = key_map.parameters(hardened), key_map.parameters(loaded)
    assert saved.keys() == found.keys()
    for name, variable in saved.items():
        np.testing.assert_array_equal(found[name][...], variable[...])
    assert loaded.score_range == hardened.score_range
    assert loaded.backbone.order == hardened.backbone.order
    assert nnx.split(loaded)[0] == nnx.split(hardened)[0]
    np.testing.assert_array_equal(loaded(X), hardened(X))


@pytest.mark.slow
def test_kernels_of_eight_bits(hardened, tmp_path):
    wide = tiny.metric(taps=("layer2", "layer4"))
    harden(wide, "after:layer2", mid=4, rngs=nnx.Rngs(1))
    wide.calibrate(k=1 / 3, b=-0.1, score_range=(-1.5, 7.7))
    save(wide, tmp_path / "whole")
    save(wide, tmp_path / "small", kernels="int8")
    whole, small = (tmp_path / name / "model.safetensors" for name in ("whole", "small"))
    assert small.stat().st_size < 0.4 * whole.stat().st_size
    loaded, stored = load_run(tmp_path / "small"), weights.read(small)
    np.testing.assert_allclose(loaded(X), wide(X), atol=0.02 * np.ptp(wide.score_range))
    changed = {name for name, array in stored.items() if array.dtype != np.float32}
    assert {name.rpartition(".")[2] for name in changed} == {"kernel"}
    generators = {name for name in stored if ".orthogonal." in name}
    assert generators
    assert not generators & changed
    with pytest.raises(ValueError, match="kernels='int4' is not allowed; choose from 'float32', 'int8'"):
        save(wide, tmp_path, kernels="int4")


@pytest.mark.slow
def test_saving_again_replaces_the_model_and_leaves_other_files(hardened, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}")
    other = tiny.metric()
    other.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0))
    save(other, tmp_path)
    save(hardened, tmp_path)
    assert load_run(tmp_path).taps == ("layer2", "layer4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "model.json", "model.safetensors"]


def test_options_of_numpy_are_stored_as_plain_numbers(tmp_path):
    model = tiny.metric()
    inspect.unwrap(filter_images)(model, np.float32(4 / 255))  # without the type checks of the tests
    harden(model, "after:layer2", "bottleneck", mid=np.int64(3), rngs=nnx.Rngs(0))
    model.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0))
    save(model, tmp_path / "m")
    np.testing.assert_array_equal(load_run(tmp_path / "m")(X), model(X))


def test_a_card_that_cannot_be_written_leaves_the_earlier_model(hardened, tmp_path, monkeypatch):
    save(hardened, tmp_path / "m")
    before = {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()}
    other = nnx.clone(hardened)
    other.regression.bias = nnx.Param(other.regression.bias[...] + 1.0)
    monkeypatch.setattr(saved_model, "_seal", lambda described: np.float32(1))  # no JSON has it
    with pytest.raises(TypeError):
        save(other, tmp_path / "m")
    assert {path.name: path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


def test_an_uncalibrated_model_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="no score_range yet"):
        save(tiny.metric(), tmp_path)


@pytest.mark.slow
def test_errors_name_the_damaged_file(hardened, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}.*model.json"):
        load_run(tmp_path)
    save(hardened, tmp_path)
    card, weights = tmp_path / "model.json", tmp_path / "model.safetensors"
    text, content = card.read_text(), weights.read_bytes()

    flipped = bytearray(content)
    flipped[-5] ^= 1
    weights.write_bytes(flipped)
    with pytest.raises(ValueError, match=r"model.safetensors does not match the digest"):
        load_run(tmp_path)
    weights.write_bytes(content[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors.*damaged"):
        load_run(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors"):
        load_run(tmp_path)
    weights.write_bytes(content)

    card.write_text(text[:40])
    with pytest.raises(ValueError, match=r"model.json.*damaged"):
        load_run(tmp_path)
    card.write_text(json.dumps({**json.loads(text), "format": 99}))
    with pytest.raises(ValueError, match=r"model.json.*99"):
        load_run(tmp_path)
    other = json.loads(text)
    other["options"]["width"] = 16
    card.write_text(json.dumps(other))
    with pytest.raises(ValueError, match=r"model.safetensors does not fit:\n .*which does not fit"):
        load_run(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("field", ["k", "b", "score_range"])
def test_a_changed_card_is_detected_and_an_old_card_without_a_seal_is_read(hardened, tmp_path, field):
    save(hardened, tmp_path)
    path = tmp_path / "model.json"
    card = json.loads(path.read_text())
    changed = [card[field][0], card[field][1] + 1] if field == "score_range" else card[field] + 0.5
    path.write_text(json.dumps(card | {field: changed}, indent=1))
    with pytest.raises(ValueError, match=r"model\.json is damaged: it was changed after it was written"):
        load_run(tmp_path)
    del card["seal"]
    path.write_text(json.dumps(card))
    load_run(tmp_path)


HEADERS = [*range(60, 330), *(place + 0x4B50 for place in range(-2, 3)), 0x4889, 0x3C3C, 0x7D28]


def test_safetensors_with_any_header_length_are_read(tmp_path):
    """The length may begin as a pickle (0x80), a zip file (PK), HDF5 (0x89 H), a web page (<), an old pickle."""
    values = np.arange(3, dtype=np.float32)
    path = tmp_path / "x"
    for length in HEADERS:
        entry = json.dumps({"w": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}).encode()
        if length < len(entry):
            continue
        path.write_bytes(struct.pack("<Q", length) + entry.ljust(length) + values.tobytes())
        assert weights.read(path)["w"].tolist() == [0, 1, 2], length
    for length in range(1, 130):
        safetensors.numpy.save_file({"n" * length: values}, path)
        assert weights.read(path)["n" * length].tolist() == [0, 1, 2], length


@pytest.mark.slow
def test_a_header_that_begins_like_a_zip_file_is_read(tmp_path):
    length = int.from_bytes(b"PK\3\4", "little")
    entry = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    (tmp_path / "x").write_bytes(struct.pack("<Q", length) + entry.ljust(length) + b"\7")
    assert weights.read(tmp_path / "x")["w"].tolist() == [7]


FAST = (0x28, 0x50, 0x80, 0x88)  # the first bytes of an old pickle, a zip file, a pickle and (almost) HDF5


@pytest.mark.parametrize(
    "shift", [pytest.param(byte, marks=[] if byte in FAST else pytest.mark.slow) for byte in range(0, 256, 8)]
)
def test_a_saved_model_loads_back_for_any_header_length(shift, hardened, tmp_path, monkeypatch):
    """Test every value of the first byte that a writer of padded headers can produce."""
    plain = safetensors.numpy.save

    def save_with_length(arrays):
        content = plain(arrays)
        length = int.from_bytes(content[:8], "little")
        added = (shift - length) % 256
        return struct.pack("<Q", length + added) + content[8 : 8 + length] + b" " * added + content[8 + length :]

    monkeypatch.setattr(safetensors.numpy, "save", save_with_length)
    save(hardened, tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes()[0] == shift
    assert nnx.split(load_run(tmp_path))[0] == nnx.split(hardened)[0]


@pytest.mark.slow
def test_a_run_is_found_from_its_files_and_parent_folders(hardened, tmp_path):
    folder = tmp_path / "run" / "baseline" / "seed0"
    save(hardened, folder)
    for path in (folder, folder / "model.safetensors", folder / "model.json", folder.parent, folder.parent.parent):
        assert run_folder(path) == folder
        assert load_run(path).taps == ("layer2", "layer4")
        assert jaxiqa.load("linearity", weights=str(path)).taps == ("layer2", "layer4")
    save(hardened, folder.with_name("seed1"))
    with pytest.raises(ValueError, match=r"holds 2 trained models; pass one of them:\n  .*seed0\n  .*seed1"):
        jaxiqa.load("linearity", weights=folder.parent)
    alone = tmp_path / "copy" / "model.safetensors"
    alone.parent.mkdir()
    shutil.copy(folder / "model.safetensors", alone)
    with pytest.raises(ValueError, match=r"^this seems to be the model.safetensors of a training run, .*model.json"):
        jaxiqa.load("linearity", weights=alone)
    with pytest.raises(FileNotFoundError, match="is a file of no training run; pass the run's folder"):
        load_run(alone)


def test_the_error_names_a_folder_that_cannot_be_written(hardened, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "run", tmp_path / "file"):
        with pytest.raises(WriteError, match=f"cannot write {tmp_path}/file.*choose another path"):
            save(hardened, folder)


def test_a_full_disk_leaves_the_earlier_model(hardened, tmp_path):
    save(hardened, tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limits[1]))  # like a full disk: the file is cut in the middle
    try:
        with pytest.raises(WriteError, match=rf"cannot write {tmp_path}/.*: the file is larger than"):
            save(hardened, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    load_run(tmp_path)


def test_a_long_list_of_differences_is_saved_to_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    arrays = {f"w{place}": np.zeros(1) for place in range(700)}
    with pytest.raises(ValueError, match="does not fit") as caught:
        key_map.fill(nnx.Linear(2, 3, rngs=nnx.Rngs(0)), arrays, (), source="demo")
    lines = str(caught.value).splitlines()
    (file,) = tmp_path.iterdir()
    assert len(lines) == 22
    assert lines[-1] == f"  ... and 682 more; all 702 are listed in {file}"
    assert len(file.read_text().splitlines()) == 702
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert "the whole list cannot be written (" in differences.listed(["x"] * 21)


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True])
def test_a_card_of_the_first_format_is_read(hardened, tmp_path, sealed):
    """The first format was for one metric, with options at the top level."""
    save(hardened, tmp_path)
    card = json.loads((tmp_path / "model.json").read_text())
    options = card.pop("options")
    del card["seal"]
    old = {**card, **options, "format": 1}
    seal = {"seal": hashlib.sha256(json.dumps(old).encode()).hexdigest()} if sealed else {}
    (tmp_path / "model.json").write_text(json.dumps(old | seal))
    np.testing.assert_array_equal(load_run(tmp_path)(X), hardened(X))
    assert dict(load_run(tmp_path).options) == dict(hardened.options)
    if sealed:
        (tmp_path / "model.json").write_text(json.dumps(old | seal | {"k": 2 * old["k"]}))
        with pytest.raises(ValueError, match="damaged"):
            load_run(tmp_path)
