"""Small files that would take hours or gigabytes are refused in seconds, with an error that names the limit."""

import io
import json
import pickle
import struct

import numpy as np
import pytest
from refused import ONE, refused
from torch_writer import Stub, dumps, tensor, torch_zip

from jaxiqa.pretrained import budget, files, pickles


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


def test_large_sound_files_stay_within_the_budget(tmp_path):
    """A checkpoint of 2,000 tensors needs a few percent of the budget."""
    found = budget.Budget(size=0)
    value = {"state_dict": {f"layer{place}.weight": tensor(ONE, (3,)) for place in range(2000)}, "epoch": 1}
    pickles.load(io.BytesIO(dumps(value, zipped=True)), budget=found)
    assert budget.STEPS - found.steps < budget.STEPS / 20
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(2**20, np.float32))  # compresses to a thousandth
    assert files.read(tmp_path / "x.npz")["a"].shape == (2**20,)
