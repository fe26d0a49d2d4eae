"""No name in a pickle is imported, and no call in it is run."""

import io
import os
import pickle
import pickletools
import sys
import zipfile

import numpy as np
import pytest

from jaxiqa.pretrained import files, pickles
from jaxiqa.pretrained.pickles import Call, Global


class Reduced:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments, state=None):
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce_ex__(self, protocol):
        return self.function, self.arguments, self.state


class Original:
    """A class like those of original projects, with code that unpickling runs."""

    def __init__(self, command):
        self.command = command

    def __setstate__(self, state):
        os.system(state["command"])


def text(*lines):
    return b"".join(line if isinstance(line, bytes) else f"{line}\n".encode() for line in lines)


def attacks(command):
    """Pickles that run ``command`` or code that makes its file, when Python's unpickler reads them."""
    code = f"__import__('os').system({command!r})"
    pickled = {
        "os.system": pickle.dumps(Reduced(os.system, command)),
        "in a state dict": pickle.dumps({"state_dict": {"a": Reduced(os.system, command)}}),
        "builtins.eval": pickle.dumps(Reduced(eval, code)),
        "builtins.exec": pickle.dumps(Reduced(exec, code)),
        "nested": pickle.dumps(Reduced(map, Reduced(getattr, Reduced(__import__, "os"), "system"), [command])),
        "nested in arguments": pickle.dumps(Reduced(list, Reduced(map, os.system, [command]))),
        "an original class": pickle.dumps(Original(command)),
        "protocol 0": pickle.dumps(Reduced(os.system, command), protocol=0),
        "global": b"\x80\x02" + text("cposix", "system", "(S" + repr(command), b"tR."),
        "stack global": b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + text("(S" + repr(command), b"tR."),
        "inst": b"\x80\x02" + text("(S" + repr(command), "iposix", "system", b"."),
        "obj": b"\x80\x02(" + text("cposix", "system", "S" + repr(command), b"o."),
        "newobj": b"\x80\x02" + text("cposix", "system", "(S" + repr(command), b"t\x81."),
        "newobj_ex": b"\x80\x04" + text("cposix", "system", "(S" + repr(command), b"t}\x92."),
        "build": b"\x80\x02" + text("cos", "_Environ", b")\x81}(U\x07__class__", "cposix", "system", b"ub."),
        "a tensor's arguments": b"\x80\x02"
        + text(
            "ctorch._utils", "_rebuild_tensor_v2", "(cposix", "system", "(S" + repr(command), b"tRK\x00)))N", b"tR."
        ),
        "nested file": b"\x80\x02"
        + text("ctorch.storage", "_load_from_bytes", b"C")
        + (lambda inner: bytes([len(inner)]) + inner)(
            b"\x80\x02" + text("cposix", "system", "(S" + repr(command), b"tR.")
        )
        + b"\x85R.",
    }
    return pickled


NAMES = sorted(attacks("true"))


def as_zip(path, content):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")


def as_legacy(path, content):
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(item, protocol=2) for item in head) + content + pickle.dumps([], protocol=2))


@pytest.mark.parametrize("write", [as_zip, as_legacy, lambda path, content: path.write_bytes(content)])
@pytest.mark.parametrize("name", NAMES)
def test_no_code_in_a_file_is_run(name, write, tmp_path):
    proof = tmp_path / "proof"
    content = attacks(f"touch {proof}")[name]
    write(tmp_path / "x.pth", content)
    with pytest.raises(ValueError, match=r"x\.pth' is damaged or cannot be read"):
        files.read(tmp_path / "x.pth")
    assert not proof.exists()


def test_the_attacks_work_on_pythons_unpickler(tmp_path):
    """Otherwise the test above would prove nothing."""
    for name in ("os.system", "builtins.eval", "an original class", "stack global", "inst", "obj"):
        proof = tmp_path / name.replace(" ", "_")
        pickle.loads(attacks(f"touch {proof}")[name])
        assert proof.exists(), name


def test_calls_beside_the_weights_are_not_run_but_reported(tmp_path):
    proof = tmp_path / "proof"
    value = {
        "state_dict": {"a": np.ones(2, np.float32), "b": Reduced(os.system, f"touch {proof}")},
        "extra": Original(f"touch {proof}"),
    }
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value))
    found = files.contents(tmp_path / "x.pkl")
    assert found.arrays.keys() == {"a"}
    assert found.left_out["b"].startswith("a call of posix.system")
    assert "Original" in found.left_out["extra"]
    assert not proof.exists()


def test_nothing_is_imported(tmp_path):
    (tmp_path / "tripwire.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        for content in (b"\x80\x02ctripwire\nboom\n.", b"\x80\x04\x8c\x08tripwire\x8c\x04boom\x93."):
            assert pickles.load(io.BytesIO(content)) == Global("tripwire", "boom")
    finally:
        sys.path.remove(str(tmp_path))
    assert "tripwire" not in sys.modules


def test_the_extension_registry_is_not_used():
    import copyreg

    copyreg.add_extension("posix", "system", 77)
    try:
        assert pickles.load(io.BytesIO(b"\x80\x02\x82\x4d)R.")).function == Global("copyreg.extension", "77")
        assert pickles.load(io.BytesIO(b"\x80\x02\x83\x4d\x00)R.")).function == Global("copyreg.extension", "77")
        assert pickles.load(io.BytesIO(b"\x80\x02\x84\x4d\x00\x00\x00)R.")).function.name == "77"
    finally:
        copyreg.remove_extension("posix", "system", 77)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_equal_those_of_python(protocol):
    shared = [1, 2]
    value = {
        "numbers": [0, -1, 255, 65536, -(2**31), 2**80, 1.5, True, False, None],
        "texts": ["", "é", "a\nb", "x" * 300, b"bytes" if protocol else "", b"b" * 300 if protocol > 2 else ""],
        "shared": (shared, shared, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
        "nested": [{"a": {}}, []],
    }
    if protocol < 3:  # there, bytes are a call
        value["texts"] = value["texts"][:4]
    found = pickles.load(io.BytesIO(pickle.dumps(value, protocol)))
    assert found == value
    assert found["shared"][0] is found["shared"][1]


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_every_pickle_instruction_is_supported(protocol):
    value = [{1, 2}, frozenset([3]), bytearray(b"x"), Reduced(dict, [("a", 1)]), Reduced(Original, "c", state={"d": 1})]
    found = pickles.load(io.BytesIO(pickle.dumps(value, protocol)))
    assert found[3] == {"a": 1}
    assert isinstance(found[4], Call)
    assert (list(found[4].arguments), found[4].state) == (["c"], {"d": 1})
    unused = {"NEXT_BUFFER"}  # buffers outside the file: refused
    source = (files.Path(pickles.__file__)).read_text()
    assert {opcode.name for opcode in pickletools.opcodes if f'"{opcode.name}"' not in source} == unused


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b".",
        b"\x80\x02K",
        b"\x80\x02}K\x01s.",  # an entry without a value
        b"\x80\x02h\x05.",  # a memo entry that was never written
        b"\x80\x02t.",  # a tuple without a mark
        b"\x80\x02K\x01K\x02a.",  # appends to a number
        b"\x80\x05\x97.",
        b"\xff\xfe.",
        b"\x80\x02" + b"X\xff\xff\xff\x7fabc.",
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    ],
)
def test_broken_pickles_are_an_error(content):
    with pytest.raises(ValueError, match="not a whole pickle"):
        pickles.load(io.BytesIO(content))


@pytest.mark.slow
def test_cyclic_values_are_refused(tmp_path):
    tree: dict = {"a": np.ones(1)}
    for _ in range(60):
        tree = {"x": tree, "y": tree}
    lists: list = []
    lists.append(lists)
    itself: dict = {"w": np.ones(1), "l": lists}
    itself["again"] = itself
    (tmp_path / "wide").write_bytes(pickle.dumps(tree))
    with pytest.raises(ValueError, match="more than 200000 entries"):
        files.read(tmp_path / "wide")
    (tmp_path / "itself").write_bytes(pickle.dumps(itself))
    assert files.contents(tmp_path / "itself").left_out == {"again": "a part of itself", "l": "a list of 1"}
    nested = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    (tmp_path / "deep").write_bytes(nested)
    with pytest.raises(ValueError, match="nested deeper than 100 levels"):
        files.read(tmp_path / "deep")
    keys = b"\x80\x02}" + b")" + b"\x85" * 1_000_000 + b"K\x01s."
    (tmp_path / "key").write_bytes(keys)
    with pytest.raises(ValueError, match="holds no arrays"):
        files.read(tmp_path / "key")
