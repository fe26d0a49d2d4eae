"""HDF5 files with links, unwritten data or bombs are refused, with the fault in the error; sound ones are read."""

import zlib

import numpy as np
import pytest
from refused import refused

from jaxiqa.pretrained import files

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
