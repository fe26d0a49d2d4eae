"""libsvm's files of regressions are read exactly; damaged ones are refused with the line."""

import numpy as np
import pytest

from jaxiqa.pretrained import files

FILE = """svm_type epsilon_svr
kernel_type rbf
gamma 0.05
nr_class 2
total_sv 3
rho -155.845
probA 6.34795
SV
-1024 1:-0.597198 2:-0.143425 3:-0.250373 
427.0784594459771 1:1e-3 3:2 
1024 2:0.5 
"""  # noqa: W291  as libsvm writes it


def write(folder, content):
    path = folder / "svm.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_every_number_is_read(tmp_path):
    found = files.read(write(tmp_path, FILE))
    assert {name: array.dtype.name for name, array in found.items()} == dict.fromkeys(
        ["SV", "sv_coef", "gamma", "rho"], "float64"
    )
    vectors = [[-0.597198, -0.143425, -0.250373], [0.001, 0, 2], [0, 0.5, 0]]
    np.testing.assert_array_equal(found["SV"], vectors)
    np.testing.assert_array_equal(found["sv_coef"], [-1024, 427.0784594459771, 1024])
    assert (found["gamma"], found["rho"]) == (0.05, -155.845)


def test_windows_line_ends_are_read(tmp_path):
    found = files.read(write(tmp_path, FILE.replace("\n", "\r\n")))
    np.testing.assert_array_equal(found["sv_coef"], [-1024, 427.0784594459771, 1024])


DAMAGED = {
    "ends within a line": (FILE.rstrip(), "the last one has no line break"),
    "ends early": (FILE.rpartition("1024 2")[0], "promises 3 support vectors, but it holds 2"),
    "one line more": (FILE + "1 1:1\n", "promises 3 support vectors, but it holds 4"),
    "no vectors": (FILE.partition("SV")[0], "has no line 'SV'"),
    "another type": (FILE.replace("epsilon_svr", "c_svc"), "it is a c_svc; read are epsilon_svr and nu_svr"),
    "another kernel": (FILE.replace("rbf", "linear"), "its kernel is linear; read is rbf"),
    "no gamma": (FILE.replace("gamma 0.05\n", ""), "its header lacks gamma"),
    "gamma twice": (FILE.replace("gamma 0.05\n", "gamma 0.05\ngamma 0.06\n"), "line 4 gives gamma again"),
    "gamma below 0": (FILE.replace("0.05", "-0.05"), "gamma=-0.05 must be above 0"),
    "two rhos": (FILE.replace("rho -155", "rho -1 -155"), "line 6 is 'rho -1 -155.845'; expected one of svm_type"),
    "unknown field": (FILE.replace("probA", "probC"), "line 7 is 'probC 6.34795'; expected one of"),
    "three classes": (FILE.replace("class 2", "class 3"), "nr_class=3, but a regression has 2"),
    "half a support vector": (FILE.replace("sv 3", "sv 2.5"), "promises 2.5 support vectors, but it holds 3"),
    "rho is no number": (FILE.replace("-155.845", "minus"), "line 6: 'minus' is not a finite number"),
    "coefficient is NaN": (FILE.replace("-1024", "nan"), "line 9: 'nan' is not a finite number"),
    "value is infinite": (FILE.replace("3:2", "3:inf"), "line 10: 'inf' is not a finite number"),
    "value is missing": (FILE.replace("3:2", "3:"), "line 10: '' is not a finite number"),
    "no colon": (FILE.replace("3:2", "3"), "line 10: '3' does not follow entry 1; expected NUMBER:VALUE, ascending"),
    "entry 0": (FILE.replace(" 1:1e-3", " 0:1e-3"), "'0:1e-3' does not follow entry 0"),
    "descending": (FILE.replace("3:2", "1:2"), "'1:2' does not follow entry 1"),
    "negative entry": (FILE.replace("3:2", "-3:2"), "'-3:2' does not follow"),
    "superscript": (FILE.replace("3:2", "³:2"), "cannot be read"),
    "empty line": (FILE + "\n", "line 12 is empty"),
    "too large": (FILE.replace("3:2", "99999999999:2"), "unpacks to more than"),
    "not text": (FILE.encode() + b"\xff\n", "cannot be read"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused(tmp_path, name):
    content, message = DAMAGED[name]
    with pytest.raises(ValueError, match="damaged or cannot be read") as caught:
        files.read(write(tmp_path, content))
    assert message in str(caught.value)
    assert "svm.txt" in str(caught.value)
