"""Zip and npz files that would take gigabytes are refused, with an error that names the limit."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from refused import ONE, refused


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
