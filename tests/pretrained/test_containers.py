"""Choice of the entry that holds the parameters, and removal of the prefixes of wrappers."""

import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import safetensors.numpy
from torch_writer import Stub, tensor, torch_legacy, torch_zip

from jaxiqa.pretrained import containers, files, key_map

RAW, AVERAGE = np.zeros(3, np.float32), np.ones(3, np.float32)
PAIRS = [
    ("params", "params_ema"),
    ("state_dict", "state_dict_ema"),
    ("state_dict", "ema_state_dict"),
    ("model", "ema"),
    ("model", "model_ema"),
    ("model", "ema_model"),
    ("model", "modelEMA"),
    ("module", "module-ema"),
    ("net", "net_ema"),
    ("g", "g_ema"),
    ("model", "model_avg"),
    ("model", "shadow_params"),
    ("net", "polyak"),
    ("model_state_dict", "model_ema_state_dict"),
    ("weights", "swa_weights"),
]


def nested(write):
    def of(path, tree):
        return write(path, {k: {"bias": tensor(v.copy(), (3,))} for k, v in tree.items()} | {"epoch": 3})

    return of


def plain(path, tree):
    path.write_bytes(pickle.dumps({k: {"bias": v} for k, v in tree.items()} | {"epoch": 3}))
    return path


def flat_safetensors(path, tree):
    safetensors.numpy.save_file({f"{name}.bias": value for name, value in tree.items()}, path)
    return path


def flat_npz(path, tree):
    file = io.BytesIO()
    np.savez(file, **{f"{name}.bias": value for name, value in tree.items()}, epoch=np.array(3))
    path.write_bytes(file.getvalue())
    return path


def hdf5(path, tree):
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for name, value in tree.items():
            file[f"{name}/bias"] = value
    return path


@pytest.mark.parametrize("write", [nested(torch_zip), nested(torch_legacy), plain, flat_safetensors, flat_npz, hdf5])
@pytest.mark.parametrize(("raw", "average"), PAIRS)
@pytest.mark.parametrize("first", ["raw", "average"])
def test_the_average_is_loaded_and_the_other_entry_reported(write, raw, average, first, tmp_path):
    tree = {raw: RAW, average: AVERAGE}
    path = write(tmp_path / "x", tree if first == "raw" else dict(reversed(tree.items())))
    found = files.contents(path)
    assert list(found.arrays) == ["bias"]
    assert found.arrays["bias"].tolist() == AVERAGE.tolist()
    assert found.entry == average
    assert found.left_out[raw] == "1 entries"
    assert files.read(path, entry=raw)["bias"].tolist() == RAW.tolist()
    with pytest.raises(ValueError, match="it has no entry 'other' with arrays, only "):
        files.read(path, entry="other")


def test_nested_and_wrapped_averages_are_found():
    found = containers.unpack({"checkpoint": {"model": {"a": RAW}, "ema": {"module": {"a": AVERAGE}}}, "epoch": 1})
    assert (found.arrays["a"][0], found.entry) == (1, "checkpoint.ema")
    found = containers.unpack({"module.params.a": RAW, "module.params_ema.a": AVERAGE})
    assert found.arrays["a"][0] == 1
    found = containers.unpack({"module": {"a": RAW}, "optimizer": {"m": AVERAGE}})  # as DeepSpeed writes it
    assert list(found.arrays) == ["a"]
    found = containers.unpack({"n_averaged": np.array(7), "module.a": AVERAGE})  # torch.optim.swa_utils
    assert list(found.arrays) == ["a"]


def test_an_average_without_arrays_is_ignored():
    for nothing in (None, 0.999, {}, {"decay": 0.9}):
        assert containers.unpack({"model": {"a": RAW}, "ema": nothing}).arrays["a"][0] == 0


def test_one_of_several_averages_must_be_chosen():
    tree = {"g_ema": {"a": RAW}, "d_ema": {"a": AVERAGE}}
    with pytest.raises(ValueError, match=r"several averages .*\(g_ema, d_ema\).*entry='g_ema'"):
        containers.unpack(tree)
    assert containers.unpack(tree, entry="d_ema").arrays["a"][0] == 1


def test_parameters_named_like_a_wrapper_are_kept(tmp_path):
    """`model`, `net` and `ema` may also be names of layers, in a flat file or in a pickled module."""
    flat = {"model.a": RAW, "fc.b": RAW, "ema.c": RAW}
    assert containers.unpack(flat).arrays.keys() == flat.keys()
    state = lambda parts, inner=(): {"_parameters": dict(parts), "_buffers": {}, "_modules": dict(inner)}  # noqa: E731
    conv = Stub("torch.nn", "Conv2d", (), state([("a", tensor(RAW.copy(), (3,)))]))
    net = Stub("__main__", "Net", (), state([], [("model", conv), ("fc", conv), ("ema", conv)]))
    for value in (net, {"net": net, "epoch": 1}):
        path = torch_zip(tmp_path / "x", value)
        assert list(files.contents(path).arrays) == ["model.a", "fc.a", "ema.a"]


@pytest.mark.parametrize(
    "shell", ["module", "_orig_mod", "module._orig_mod", "_orig_mod.module", "_fsdp_wrapped_module"]
)
@pytest.mark.parametrize("place", ["{}.conv.bias", "backbone.{}.bias", "conv.{}.bias"])
def test_prefixes_of_pytorchs_wrappers_are_removed(shell, place):
    name = place.format(shell)
    found = containers.unpack({name: RAW, "fc.weight": AVERAGE})
    assert list(found.arrays) == [name.replace(f"{shell}.", ""), "fc.weight"]


@pytest.mark.parametrize(
    "prefix", ["model", "net", "_orig_mod", "module.model", "model._orig_mod", "student.encoder.net"]
)
def test_prefixes_of_other_wrappers_are_removed(prefix):
    rules = (*key_map.conv("conv", "conv"), *key_map.linear("net.fc", "fc"))
    names = ["conv.weight", "net.fc.weight", "net.fc.bias"]
    given = OrderedDict((f"{prefix}.{name}", RAW) for name in names)
    assert list(key_map.without_prefix(containers.unpack(given).arrays, rules)) == names
    extra = given | {"loss.weight": RAW}  # Lightning stores this beside the model
    assert list(key_map.without_prefix(containers.unpack(extra).arrays, rules)) == [*names, "loss.weight"]


def test_names_without_a_prefix_are_not_changed():
    rules = (*key_map.conv("net.conv", "conv"), *key_map.linear("fc", "fc"))
    for names in (
        ["net.conv.weight", "fc.weight"],
        ["net.conv.weight", "net.unknown"],
        ["x.y"],
        ["x.fc.bias", "fc.bias"],
    ):
        assert list(key_map.without_prefix(dict.fromkeys(names, RAW), rules)) == names
