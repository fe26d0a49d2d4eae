"""Damaged weight files: no hang, no gigabytes of memory, and only documented errors.

python tests/fuzz/test_fuzz_weights.py 2000        the full count, in all formats together
"""

import io
import os
import pickle
import sys
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import mutate
import numpy as np
import pytest
import safetensors.numpy
from torch_writer import Stub, tensor, torch_legacy, torch_zip

from jaxiqa.pretrained import files as weights

COUNT = int(os.environ.get("JAXIQA_FUZZ", "300"))
SEED = 20


def arrays(random):
    return {
        "conv.weight": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "conv.bias": np.zeros(4, np.float32),
        "bn.num_batches_tracked": np.array(7),
        "half": random.standard_normal(5).astype(np.float16),
    }


def seeds() -> dict[str, list[bytes]]:
    """Return small sound files of every format, written by their own tools."""
    random = np.random.default_rng(0)
    found = arrays(random)
    state = OrderedDict((name, tensor(array.reshape(-1).copy(), array.shape)) for name, array in found.items())
    wrapped = {"epoch": 3, "params": state, "params_ema": state, "optimizer": {"lr": [0.1]}, "x": Stub("a.b", "C", ())}
    plain, packed = io.BytesIO(), io.BytesIO()
    np.savez(plain, **found)
    np.savez_compressed(packed, **found)
    sets = {
        "safetensors": [safetensors.numpy.save(found, {"format": "pt"}), safetensors.numpy.save({"a": found["half"]})],
        "npz": [plain.getvalue(), packed.getvalue()],
        "libsvm": [
            b"svm_type nu_svr\nkernel_type rbf\ngamma 0.5\nnr_class 2\ntotal_sv 2\nrho -3\nSV\n1 1:2 3:0.5\n-1 2:1e-3\n"
        ],
        "pickle": [pickle.dumps({"params": found, "note": b"n"}, protocol=protocol) for protocol in (0, 2, 4, 5)],
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        sets["torch zip"] = [torch_zip(path, value).read_bytes() for value in (state, wrapped)]
        sets["torch legacy"] = [torch_legacy(path, value).read_bytes() for value in (state, wrapped)]
        if hdf5 := keras(path, found):
            sets["hdf5"] = hdf5
    if shared := os.environ.get("JAXIQA_SHARED"):
        whole = Path(shared, "data", "weights", "mobilenet_v2_imagenet.safetensors")
        if whole.exists():
            sets["safetensors"].append(head_of(whole))
    return sets


def repacked(formats: dict[str, list[bytes]]) -> dict[str, tuple[list[bytes], Callable[[bytes], bytes]]]:
    """Return content protected by checksums, with functions that pack it again: damage inside passes the checksums."""

    def records(content: bytes) -> dict[str, bytes]:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def packed(around: dict[str, bytes], name: str, content: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for other, data in {**around, name: content}.items():
                archive.writestr(other, data)
        return file.getvalue()

    inside = {}
    for kind, name in (("torch zip", "archive/data.pkl"), ("npz", "conv.bias.npy")):
        around = records(formats[kind][0])
        inside[f"{kind}, inside"] = [around[name]], partial(packed, around, name)
    content = formats["safetensors"][0]
    length = int.from_bytes(content[:8], "little")
    inside["safetensors, inside"] = (
        [content[8 : 8 + length]],
        lambda header: len(header).to_bytes(8, "little") + header + content[8 + length :],
    )
    return inside


def keras(path: Path, found: dict[str, np.ndarray]) -> list[bytes]:
    try:
        import h5py
    except ImportError:
        return []
    contents = []
    for options in ({}, {"chunks": True, "compression": "gzip", "shuffle": True, "fletcher32": True}):
        with h5py.File(path, "w") as file:
            layer = file.create_group("model_weights/conv")
            layer.attrs["weight_names"] = [b"conv/kernel:0"]
            layer.create_dataset("conv/kernel:0", data=found["conv.weight"], **options)
            layer.create_dataset("conv/bias:0", data=found["conv.bias"], **options)
            file.create_group("optimizer_weights")["m"] = found["half"]
        contents.append(path.read_bytes())
    return contents


def head_of(path: Path) -> bytes:
    """Return the real header of a large file, restricted to arrays in the first 100 KB."""
    with safetensors.safe_open(path, framework="np") as file:
        small = {name: file.get_tensor(name) for name in file.keys() if file.get_slice(name).get_shape()[0:1] <= [64]}  # noqa: SIM118
    return safetensors.numpy.save({name: array for name, array in small.items() if array.nbytes < 5000})


def read(content: bytes) -> None:
    """Read a file in the worker, from disk since h5py needs that."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as file:
        file.write(content)
        file.flush()
        weights.contents(file.name)


def fuzz(count: int, formats: dict[str, list[bytes]], seed: int = SEED) -> dict[str, mutate.Outcome]:
    """Read ``count`` damaged files, over all formats."""
    inside = repacked(formats)
    share = -(-count // (len(formats) + len(inside)))
    keep = Path(os.environ["JAXIQA_FUZZ_KEEP"]) if "JAXIQA_FUZZ_KEEP" in os.environ else None
    every = {name: (files, bytes) for name, files in formats.items()} | inside
    return {
        name: mutate.run("test_fuzz_weights:read", map(pack, mutate.mutations(files, share, seed + number)), keep=keep)
        for number, (name, (files, pack)) in enumerate(every.items())
    }


def test_the_sound_files_are_read():
    for files in seeds().values():
        for content in files:
            read(content)


@pytest.mark.slow
def test_damaged_files_are_refused_in_time_and_memory():
    for name, outcome in fuzz(COUNT, seeds()).items():
        assert outcome.findings == [], name
        assert outcome.refused > 0, name


if __name__ == "__main__":
    for name, outcome in fuzz(int(sys.argv[1]), seeds()).items():
        print(f"{name}: {outcome}", *outcome.findings, sep="\n  ")
