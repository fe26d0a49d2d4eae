"""Small files that would take hours or gigabytes are refused in seconds, with an error that names the limit."""

import io
import json
import pickle
import struct
import time
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest
import safetensors.numpy
from torch_writer import Stub, dumps, tensor, torch_zip

from jaxiqa.pretrained import budget, files, pickles

ONE = np.ones(3, np.float32)


def refused(path, message, *, seconds=20.0, bytes_=None):
    """Check that the file is refused with this message, within the time of a slow, busy machine under type checks."""
    began = time.monotonic()
    if bytes_:
        tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            files.read(path)
        assert not bytes_ or tracemalloc.get_traced_memory()[1] < bytes_
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < seconds


def doubled(start, step, times):
    """Return a pickle whose value contains itself twice at every level; ``step`` acts on the value in memo 0."""
    return b"\x80\x04" + start + b"q\x00" + (step + b"q\x00") * times


NAME = b"\x8c\x01a"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (doubled(NAME + NAME + b"\x93", b"h\x00h\x00\x93", 50) + b".", "it names a Global of a Global, not a text"),
        (doubled(b")", b"h\x00h\x00\x86", 60) + b"h\x00\x93.", "it names a tuple of a tuple, not a text"),
        (doubled(b")", b"h\x00h\x00\x86", 60) + b"Q.", "holds a .* instead of named arrays"),
        (doubled(b")", b"h\x00h\x00\x86", 60) + b")R.", "a call of a tuple, not executed"),
        (doubled(b")", b"h\x00h\x00\x86", 60) + b"}K\x01h\x00s.", "holds no arrays, only 1 "),
        (doubled(b"]", b"](h\x00h\x00e", 60) + b".", "a list of 2 instead of named arrays"),
    ],
)
def test_doubling_values_are_not_printed_in_full(content, message, tmp_path):
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", message, seconds=5, bytes_=2**24)


def test_doubling_names_in_nested_dicts_are_refused(tmp_path):
    name, tree = "n" * 20_000, {"w": ONE}
    for _ in range(60):
        tree = {f"{name}1": tree, f"{name}2": tree}
    (tmp_path / "x").write_bytes(pickle.dumps({"a": 1, "b": tree}))
    refused(tmp_path / "x", r"the names in it have more than 67,108,864 characters together", bytes_=2**28)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        # One long list, copied by three bytes again and again.
        b"\x80\x02ccollections\nOrderedDict\nq\x01](" + b"K\x01N\x86" * 20_000 + b"e\x85q\x02" + b"h\x01h\x02R0" * 9999,
        b"\x80\x04" + b"(" + b"K\x01" * 20_000 + b"tq\x02" + b"Nh\x02}\x920" * 9999,
        b"\x80\x02" + b"N0" * 1_100_000 + b".",
    ],
    ids=["dicts", "arguments", "instructions"],
)  # fmt: skip
def test_too_many_steps_are_refused(content, tmp_path):
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", "takes more than 2,000,000 steps to read", seconds=60)


def test_too_deep_nesting_is_refused(tmp_path):
    value = {"w": ONE}
    for _ in range(budget.DEPTH + 20):
        value = {"a": value, "b": 1}
    (tmp_path / "x").write_bytes(pickle.dumps(value))
    refused(tmp_path / "x", "nested deeper than 100 levels")
    value = {"w": ONE}
    for _ in range(50):
        value = {"a": value, "b": 1}
    (tmp_path / "x").write_bytes(pickle.dumps(value))
    assert [name.count("a.") for name in files.contents(tmp_path / "x").arrays] == [0]


def test_many_arrays_over_the_same_bytes_are_refused(tmp_path):
    """One string of 1 MB is the data of a thousand arrays."""
    data, dtype = b"\0" * 2**20, Stub("numpy", "dtype", ("f4", 0, 1))
    each = [
        Stub("numpy._core.numeric", "_frombuffer", (bytearray(0) or data, dtype, (2**18,), "C")) for _ in range(1000)
    ]
    (tmp_path / "x").write_bytes(dumps(dict(enumerate(each)), zipped=False, protocol=4))
    refused(tmp_path / "x", "unpacks to more than 67,108,864 bytes")


def test_tensors_that_repeat_their_numbers_count_in_full(tmp_path):
    flat = np.arange(4, dtype=np.float32)
    small = {"a": tensor(flat, (100, 4), stride=(0, 1))}  # as `expand` leaves it
    np.testing.assert_array_equal(files.read(torch_zip(tmp_path / "x", small))["a"], np.tile(flat, (100, 1)))
    huge = {"a": tensor(flat, (2**20, 2**20), stride=(0, 0))}
    refused(torch_zip(tmp_path / "x", huge), "unpacks to more than 67,108,864 bytes")


@pytest.mark.parametrize("shape", [("a" * 100, 2**40), ([1], 2**40), (2**40, 2**40), (-1,), 3, (1,) * 40])
def test_bad_shapes_are_refused(shape, tmp_path):
    call = Stub("numpy._core.numeric", "_frombuffer", (b"\0" * 4, Stub("numpy", "dtype", ("f4", 0, 1)), shape, "C"))
    (tmp_path / "x").write_bytes(dumps({"w": call}, zipped=False, protocol=4))
    refused(tmp_path / "x", "impossible shape|do not fit its shape", bytes_=2**22)


def test_headers_with_too_many_entries_are_refused(tmp_path):
    count = 200_000
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"w{place}": entry for place in range(count)}).encode()
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(tmp_path / "x", r"it has 200,000 arrays; more than 20,000 are not read")


@pytest.mark.slow
def test_zip_files_with_too_many_records_are_refused(tmp_path):
    for count, message in ((60_000, "it has 60,000 records"), (180_000, "its list of records has .* bytes")):
        with zipfile.ZipFile(tmp_path / "x", "w") as archive:
            for place in range(count):
                archive.writestr(f"{place:07}.npy", b"")
        refused(tmp_path / "x", message, seconds=60)


def zipped(path, records, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(("name", "data"), [("x.npy", b""), ("archive/data.pkl", b"")])
def test_zip_records_that_unpack_to_gigabytes_are_refused(name, data, tmp_path):
    zipped(tmp_path / "x", {name: data + bytes(2**27)}, zipfile.ZIP_DEFLATED)
    refused(tmp_path / "x", "unpacks to more than 67,108,864 bytes", bytes_=2**26)


def test_zip_records_with_a_false_size_are_refused(tmp_path):
    """The directory states 100 bytes; the record unpacks to 128 MiB."""
    zipped(tmp_path / "x", {"x.npy": bytes(2**27)}, zipfile.ZIP_DEFLATED)
    content = (tmp_path / "x").read_bytes().replace(struct.pack("<I", 2**27), struct.pack("<I", 100))
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", "is damaged or cannot be read", bytes_=2**24)


@pytest.mark.parametrize("kind", ["npz", "torch"])
def test_zip_records_larger_than_their_file_are_refused(kind, tmp_path):
    name = "x.npy" if kind == "npz" else "archive/data.pkl"
    zipped(tmp_path / "x", {name: b"x" * 777})
    content = (tmp_path / "x").read_bytes().replace(struct.pack("<I", 777), struct.pack("<I", 3 * 2**30))
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", "claims 3,221,225,472 bytes of a file that has ")


def test_npz_arrays_that_claim_more_data_than_they_have_are_refused(tmp_path):
    whole = npy(np.ones(10, np.float32))
    zipped(tmp_path / "x", {"a.npy": whole.replace(b"(10,)", b"(1<<9"[:0] + b"(99999999,)"[:5])})
    refused(tmp_path / "x", "damaged")
    header = whole.replace(b"'shape': (10,), }" + b" " * 9, b"'shape': (805306368,), }" + b" " * 2)
    assert header != whole
    zipped(tmp_path / "x", {"a.npy": header})
    refused(tmp_path / "x", r"'a.npy' has 40 bytes, not \(805306368,\) x float32", bytes_=2**22)
    zipped(tmp_path / "x", {"a.npy": npy(np.array([{}], object))})
    refused(tmp_path / "x", "'a.npy' holds Python objects")


def test_zip_records_of_other_methods_are_refused(tmp_path):
    zipped(tmp_path / "x", {"a.npy": npy(ONE)}, zipfile.ZIP_LZMA)
    refused(tmp_path / "x", "'a.npy' is packed by method 14; 0 and 8 are read")


def test_duplicate_array_names_are_refused(tmp_path):
    zipped(tmp_path / "x", {"a.npy": npy(ONE)})
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(tmp_path / "x", "a") as archive:
        archive.writestr("a.npy", npy(2 * ONE))
    refused(tmp_path / "x", "two records are called 'a.npy'")
    for value, name in (({"a": {"b": ONE}, "a.b": ONE}, "a.b"), ({"1": ONE, 1: ONE}, "1")):
        (tmp_path / "x").write_bytes(pickle.dumps(value))
        refused(tmp_path / "x", f"two .* called '{name}'")
    content = safetensors.numpy.save({"a": ONE, "b": ONE}).replace(b'"b"', b'"a"')
    (tmp_path / "x").write_bytes(content)
    refused(tmp_path / "x", "damaged or cannot be read")


def test_large_sound_files_stay_within_the_budget(tmp_path):
    """A checkpoint of 2,000 tensors needs a few percent of the budget."""
    found = budget.Budget(size=0)
    value = {"state_dict": {f"layer{place}.weight": tensor(ONE, (3,)) for place in range(2000)}, "epoch": 1}
    pickles.load(io.BytesIO(dumps(value, zipped=True)), budget=found)
    assert budget.STEPS - found.steps < budget.STEPS / 20
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(2**20, np.float32))  # compresses to a thousandth
    assert files.read(tmp_path / "x.npz")["a"].shape == (2**20,)


h5py = pytest.importorskip("h5py")


def hdf5(path, make):
    with h5py.File(path, "w") as file:
        layer = file.create_group("conv1")
        layer.attrs["weight_names"] = [b"conv1/kernel:0"]
        layer["conv1/kernel:0"] = np.ones((3, 3), np.float32)
        make(file, layer)
    return path


def external(file, layer):
    layer.create_dataset("bias:0", (4,), "u1", external=[("/etc/hostname", 0, 4)])


def virtual(file, layer):
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (4,))
    layer.create_virtual_dataset("bias:0", layout)


def linked(link, at_root):
    def make(file, layer):
        (file if at_root else layer)["other"] = link

    return make


def itself(file, layer):
    layer["again"] = layer


def unwritten(file, layer):
    layer.create_dataset("bias:0", (3 * 2**28,), "f4")


def unwritten_chunks(file, layer):
    layer.create_dataset("bias:0", (3 * 2**18,), "f4", chunks=(1024,))[:10] = 1


def huge_chunk(file, layer):
    layer.create_dataset("bias:0", (10,), "f4", chunks=(2**25,), maxshape=(None,), compression="gzip")[:] = 1


def bomb(file, layer):
    data = layer.create_dataset("bias:0", (256,), "f4", chunks=(256,), compression="gzip")
    data.id.write_direct_chunk((0,), zlib.compress(bytes(2**27), 9))


def packed(file, layer):
    layer.create_dataset("bias:0", data=np.zeros(2**25, np.float32), chunks=(2**20,), compression="gzip")


def lzf(file, layer):
    layer.create_dataset("bias:0", data=np.zeros(64, np.float32), compression="lzf")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external, "keeps its numbers in another file, '/etc/hostname'"),
        (virtual, "is a virtual data set"),
        (linked(h5py.ExternalLink("/etc/a.h5", "/x"), True), r"/other is a link \(ExternalLink\) to '/etc/a.h5:/x'"),
        (linked(h5py.ExternalLink("/etc/other.h5", "/x"), False), r"conv1/other is a link \(ExternalLink\)"),
        (linked(h5py.SoftLink("/conv1/conv1/kernel:0"), True), r"/other is a link \(SoftLink\)"),
        (linked(h5py.SoftLink("/nowhere"), False), r"conv1/other is a link \(SoftLink\)"),
        (itself, "nested deeper than 100 levels"),
        (unwritten, r"bias:0 \(805306368,\) claims 3,221,225,472 bytes and was never written"),
        (unwritten_chunks, "has 1 chunks of 768; the others were never written"),
        (huge_chunk, "unpacks to more than 67,108,864 bytes"),
        (bomb, "unpacks to more than its 1,024 bytes"),
        (packed, "unpacks to more than 67,108,864 bytes"),
        (lzf, r"packed by the filters \[32000\]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("whole_model", [False, True])
def test_hdf5_links_unwritten_data_and_bombs_are_refused(make, message, whole_model, tmp_path):
    path = hdf5(tmp_path / "x.h5", make)
    if whole_model:
        with h5py.File(path, "a") as file:
            group = file.create_group("model_weights")
            for name in list(file):
                if name != "model_weights":
                    file.move(name, f"model_weights/{name}")
            group.attrs["layer_names"] = [b"conv1"]
    refused(path, message, bytes_=2**27)


def test_hdf5_links_at_the_root_of_a_whole_model_are_refused(tmp_path):
    hdf5(tmp_path / "other.h5", lambda file, layer: None)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    refused(tmp_path / "x.h5", r"model_weights is a link \(ExternalLink\)")


@pytest.mark.parametrize(
    "options",
    [{}, {"chunks": (2, 2)}, {"compression": "gzip"}, {"compression": "gzip", "shuffle": True, "fletcher32": True}],
)
def test_hdf5_of_every_sound_kind_is_read(options, tmp_path):
    kernel = np.arange(35, dtype=np.float32).reshape(5, 7)
    make = lambda file, layer: layer.create_dataset("bias:0", data=kernel, **options)  # noqa: E731
    found = files.read(hdf5(tmp_path / "x.h5", make))
    np.testing.assert_array_equal(found["conv1.bias"], kernel)
