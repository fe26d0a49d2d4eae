"""Every format of published weights is read bit by bit; torch is the reference if installed."""

import pickle
import struct
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from torch_writer import Stub, tensor, torch_legacy, torch_zip

from jaxiqa.pretrained import files

ARRAYS = {
    "conv.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "conv.bias": np.array([0.5, -1.0], np.float32),
    "bn.num_batches_tracked": np.array(7),
}


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


def state_dict():
    return OrderedDict((name, tensor(array.reshape(-1).copy(), array.shape)) for name, array in ARRAYS.items())


WRITERS = pytest.mark.parametrize("write", [torch_zip, torch_legacy])


@WRITERS
def test_a_state_dict_is_read(write, tmp_path):
    same(files.read(write(tmp_path / "bestmodel_1_2021", state_dict())), ARRAYS)


@WRITERS
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "params", "net", "anything"])
def test_containers_are_unpacked_and_other_entries_reported(write, wrapper, tmp_path):
    moment = tensor(np.ones(3, np.float32), (3,))
    checkpoint = {
        "epoch": 3,
        "optimizer": {"state": {0: {"exp_avg": moment}}, "param_groups": [{"lr": 0.1}]},
        wrapper: OrderedDict((f"module.{name}", value) for name, value in state_dict().items()),
        "amp": Stub("apex.amp", "State", ()),
        "k": [8.0, 20.0, 19.0],
        "b": [Stub("numpy.core.multiarray", "scalar", (Stub("numpy", "dtype", ("f8", 0, 1)), struct.pack("<d", 6.5)))],
        "args": "--lr 1",
    }
    found = files.contents(write(tmp_path / "x.pth", checkpoint))
    same(found.arrays, ARRAYS)
    assert {name: array.tolist() for name, array in found.numbers.items()} == {
        "epoch": 3,
        "k": [8.0, 20.0, 19.0],
        "b": [6.5],
    }
    assert found.left_out == {
        "optimizer": "2 entries",
        "amp": "a call of apex.amp.State, not executed",
        "args": "'--lr 1'",
    }
    assert files.read(tmp_path / "x.pth").keys() == {*ARRAYS, "k", "b"}


@WRITERS
def test_views_strides_and_shared_data(write, tmp_path):
    flat = np.arange(12, dtype=np.float32)
    value = {
        "all": tensor(flat, (3, 4)),
        "transposed": tensor(flat, (4, 3), stride=(1, 4)),
        "part": tensor(flat, (2, 2), offset=5, stride=(4, 1)),
        "empty": tensor(flat, (0, 4)),
        "scalar": tensor(flat, (), offset=11),
    }
    expected = {
        "all": flat.reshape(3, 4),
        "transposed": flat.reshape(3, 4).T,
        "part": flat.reshape(3, 4)[1:3, 1:3],
        "empty": flat.reshape(3, 4)[:0],
        "scalar": flat[11],
    }
    same(files.read(write(tmp_path / "x", value)), expected)


@WRITERS
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(write, dtype, tmp_path):
    flat = np.array([1.5, -3.0, 0.1]).astype(dtype if dtype == "float16" else ml_dtypes.bfloat16)
    same(files.read(write(tmp_path / "x", {"a": tensor(flat, (3,))})), {"a": flat})


def module(name, *, parameters=(), buffers=(), modules=()):
    """Return a pickled `torch.nn.Module` of a class that does not exist here."""
    parts = {"_parameters": OrderedDict(parameters), "_buffers": OrderedDict(buffers)}
    state = {"training": False, **parts, "_modules": OrderedDict(modules), "_backward_hooks": OrderedDict()}
    return Stub("__main__", name, (), state)


@WRITERS
def test_a_whole_pickled_module_gives_its_state_dict(write, tmp_path):
    weight, bias = (
        tensor(ARRAYS[f"conv.{part}"].reshape(-1).copy(), ARRAYS[f"conv.{part}"].shape) for part in ("weight", "bias")
    )
    parameter = Stub("torch._utils", "_rebuild_parameter", (weight, True, OrderedDict()))
    count = tensor(np.array([7]), ())
    net = module(
        "Net",
        modules=[
            ("conv", module("Conv2d", parameters=[("weight", parameter), ("bias", bias)])),
            ("relu", module("ReLU", parameters=[("nothing", None)])),
            ("bn", module("BatchNorm2d", buffers=[("num_batches_tracked", count)])),
        ],
    )
    same(files.read(write(tmp_path / "x.pt", net)), ARRAYS)
    same(files.read(write(tmp_path / "x.pt", module("DataParallel", modules=[("module", net)]))), ARRAYS)
    same(files.read(write(tmp_path / "x.pt", {"net": net, "epoch": 1})), ARRAYS)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_agrees(legacy, tmp_path):
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    net[0].weight.data = net[0].weight.data.permute(0, 1, 3, 2)  # not contiguous
    tensors = dict(net.state_dict())
    tensors["half"] = torch.linspace(0, 1, 7).half()
    tensors["bfloat"] = torch.linspace(0, 1, 7).bfloat16()
    tensors["double"], tensors["tied"] = (torch.linspace(0, 1, 7).double(),) * 2
    tensors["row"] = torch.arange(12.0).reshape(3, 4)[:, 1]
    tensors["flags"] = torch.tensor([True, False])
    tensors["small"] = torch.tensor([-3, 4], dtype=torch.int8)
    path = tmp_path / "x.pth"
    torch.save({"state_dict": tensors, "epoch": 2}, path, _use_new_zipfile_serialization=not legacy)
    found = files.read(path)
    assert list(found) == list(tensors)
    for name, value in tensors.items():
        expected = value.float().numpy().astype(ml_dtypes.bfloat16) if name == "bfloat" else value.numpy()
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name], expected)
    torch.save(torch.nn.DataParallel(net), path, _use_new_zipfile_serialization=not legacy)
    found = files.read(path)
    assert list(found) == list(net.state_dict())
    np.testing.assert_array_equal(found["0.weight"], net[0].weight.detach().numpy())


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_arrays_and_of_tensors(protocol, tmp_path):
    path = tmp_path / "x.pkl"
    value = ARRAYS | {"fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)), "big": np.arange(3, dtype=">f4")}
    path.write_bytes(pickle.dumps({"params": value, "note": b"n"}, protocol=protocol))
    found = files.read(path)
    assert found["big"].dtype == np.float32
    same(found, value | {"big": np.arange(3, dtype=np.float32)})
    torch = pytest.importorskip("torch")
    path.write_bytes(pickle.dumps({"a": torch.arange(5.0)[1:]}, protocol=protocol))
    same(files.read(path), {"a": np.arange(1, 5, dtype=np.float32)})


def test_npz_and_safetensors(tmp_path):
    np.savez(tmp_path / "x.npz", **ARRAYS)
    same(files.read(tmp_path / "x.npz"), ARRAYS)
    safetensors.numpy.save_file(ARRAYS, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = files.contents(tmp_path / "x.safetensors")
    assert found.arrays.keys() == ARRAYS.keys()
    assert found.metadata == {"format": "pt"}
    header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
    values = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    (tmp_path / "half").write_bytes(struct.pack("<Q", len(header)) + header + values.tobytes())
    same(files.read(tmp_path / "half"), {"a": values})


def test_keras_files(tmp_path):
    h5py = pytest.importorskip("h5py")

    def write(group):
        group.attrs["layer_names"] = [b"conv1", b"relu"]
        layer = group.create_group("conv1")
        layer.attrs["weight_names"] = [b"conv1/kernel:0"]
        layer["conv1/kernel:0"] = np.ones((3, 3), np.float32)
        group.create_group("relu").attrs["weight_names"] = []

    with h5py.File(tmp_path / "weights.h5", "w") as file:
        write(file)
    with h5py.File(tmp_path / "model.h5", "w") as file:
        write(file.create_group("model_weights"))
        file.create_group("optimizer_weights")["conv1/m:0"] = np.zeros(3)
    with h5py.File(tmp_path / "new.weights.h5", "w") as file:
        file["layers/conv2d/vars/0"] = np.ones((3, 3), np.float32)
    kernel = np.ones((3, 3), np.float32)
    same(files.read(tmp_path / "weights.h5"), {"conv1.kernel": kernel})
    found = files.contents(tmp_path / "model.h5")
    same(found.arrays, {"conv1.kernel": kernel})
    assert found.left_out == {"optimizer_weights": "1 entries"}
    same(files.read(tmp_path / "new.weights.h5"), {"layers.conv2d.vars.0": kernel})
    content = (tmp_path / "model.h5").read_bytes()
    (tmp_path / "model.h5").write_bytes(content[:600])
    with pytest.raises(ValueError, match=r"model\.h5' is damaged or cannot be read: not a whole HDF5 file"):
        files.read(tmp_path / "model.h5")


def test_without_h5py_the_error_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "x.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"x\.h5' needs h5py.*jaxiqa\[h5\]"):
        files.read(tmp_path / "x.h5")


@WRITERS
def test_errors_name_truncated_and_altered_files(write, tmp_path):
    content = write(tmp_path / "good", state_dict()).read_bytes()
    for length in (1, 12, 60, len(content) // 2, len(content) - 30, len(content) - 1):
        (tmp_path / "bad.pth").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"bad\.pth' is damaged or cannot be read"):
            files.read(tmp_path / "bad.pth")


def test_altered_numbers_in_a_zip_file_are_detected(tmp_path):
    content = bytearray(torch_zip(tmp_path / "x", state_dict()).read_bytes())
    content[content.index(ARRAYS["conv.weight"].tobytes()) + 5] ^= 1
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ValueError, match="Bad CRC"):
        files.read(tmp_path / "x")


def test_errors_name_unreadable_files(tmp_path):
    good = tmp_path / "good.safetensors"
    safetensors.numpy.save_file({"a": np.arange(100, dtype=np.float32)}, good)
    content = good.read_bytes()
    for name, data in {
        "short": content[:-50],
        "header": content[:20],
        "empty": b"",
        "text": b"hello world" * 9,
    }.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}\.safetensors' is damaged"):
            files.read(path)
    with pytest.raises(FileNotFoundError, match=r"gone\.safetensors' does not exist"):
        files.read(tmp_path / "gone.safetensors")
    with pytest.raises(FileNotFoundError, match=r"is a folder"):
        files.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>", "it is a web page, not weights; download the file again"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            r"its first bytes are b'version https://'; supported are \.safeten",
        ),
        (pickle.dumps([1, 2, 3]), "it holds a list of 3 instead of named arrays"),
        (pickle.dumps({"a": 1, "b": "text"}), r"it holds no arrays, only b \('text'\)"),
    ],
)
def test_the_error_for_a_file_without_weights_states_its_type(content, message, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        files.read(tmp_path / "x.pth")


def test_big_endian_files_are_refused(tmp_path):
    torch_zip(tmp_path / "a", state_dict(), byteorder=b"big")
    torch_legacy(tmp_path / "b", state_dict(), little=False)
    for name in "ab":
        with pytest.raises(ValueError, match="big-endian machine, which is not supported"):
            files.read(tmp_path / name)


def test_zip_files_without_weights_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("sv/bestmodel_1_2021", b"...")
    with pytest.raises(ValueError, match=r"a zip file of sv/bestmodel_1_2021 without PyTorch's"):
        files.read(tmp_path / "x.zip")
    torch_zip(tmp_path / "x.zip", state_dict())
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr("archive/code/__torch__.py", b"")
    with pytest.raises(ValueError, match="a TorchScript program; save its state_dict instead"):
        files.read(tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("size", "offset", "stride"),
    [((5,), 0, (1,)), ((2,), 3, (1,)), ((2, 2), 0, (3, 1)), ((2,), -1, (1,)), ((2,), 0, ("a",))],
)
def test_tensors_beyond_their_data_are_refused(size, offset, stride, tmp_path):
    value = {"a": tensor(np.arange(4, dtype=np.float32), size, offset=offset, stride=stride)}
    with pytest.raises(ValueError, match=r"outside its data|impossible shape"):
        files.read(torch_zip(tmp_path / "x", value))
