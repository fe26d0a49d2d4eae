"""Read libsvm's text files of support vector regression with a Gaussian kernel."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxiqa.pretrained.budget import Budget

START = b"svm_type "
"""The first bytes of every libsvm model."""

TYPES = ("epsilon_svr", "nu_svr")
FIELDS = ("svm_type", "kernel_type", "gamma", "nr_class", "total_sv", "rho")
OPTIONAL = ("probA",)
"""Fields that no prediction depends on: ``probA`` is the scale of the training errors."""


def read_libsvm(path: Path, budget: Budget) -> dict[str, np.ndarray]:
    """Return the numbers of a regression ``f(x) = Σ_i sv_coef_i · exp(−gamma · ‖x − SV_i‖²) − rho``.

    The file is text: a header with one field per line, the line ``SV``, and one line per support vector, its
    coefficient and the entries that are not zero: ``-1024 1:0.5 3:-0.25``. Entries are numbered from 1.

    Args:
        path: the file.
        budget: limits on the cost; a single large number of an entry could ask for any amount of memory.

    Returns:
        ``SV`` (``n d``), ``sv_coef`` (``n``), ``gamma`` and ``rho`` (one number each), float64. d is the largest
        number of an entry.

    Raises:
        ValueError: the file is no such regression, or is damaged: it ends within a line; a header's field is missing,
            unknown or given twice; the number of support vectors differs from the header; a number is not finite; or
            the entries of a vector are not in ascending order. The message names the line.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "svm.txt"
    >>> header = "svm_type epsilon_svr\\nkernel_type rbf\\ngamma 0.5\\nnr_class 2\\ntotal_sv 2\\nrho -3\\n"
    >>> _ = path.write_text(header + "SV\\n1 1:0.5 2:1\\n-1 2:0.25\\n")
    >>> read_libsvm(path, Budget(size=90))["SV"].tolist()
    [[0.5, 1.0], [0.0, 0.25]]
    """
    content = path.read_bytes()
    budget.spend(steps=content.count(b":"), letters=len(content))
    if not content.endswith(b"\n"):
        raise ValueError("it ends within a line: the last one has no line break")
    lines = [line.split() for line in content.decode("ascii").splitlines()]
    start = next((number for number, words in enumerate(lines) if words == ["SV"]), None)
    if start is None:
        raise ValueError("it has no line 'SV', after which the support vectors begin")
    header = _header(lines[:start])
    rows = [_row(words, number) for number, words in enumerate(lines[start + 1 :], start + 2)]
    if len(rows) != header["total_sv"]:
        raise ValueError(f"its header promises {header['total_sv']:g} support vectors, but it holds {len(rows)}")
    width = max((max(entries, default=0) for _, entries in rows), default=0)
    budget.spend(unpacked=8 * len(rows) * width)
    vectors = np.zeros((len(rows), width))
    for row, (_, entries) in zip(vectors, rows, strict=True):
        row[np.array(list(entries), int) - 1] = list(entries.values())
    arrays = {"SV": vectors, "sv_coef": np.array([coefficient for coefficient, _ in rows], float)}
    return arrays | {name: np.array([header[name]]) for name in ("gamma", "rho")}


def _header(lines: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return the numbers of the header; raise ValueError unless it describes a regression with a Gaussian kernel."""
    found: dict[str, str] = {}
    for number, words in enumerate(lines, 1):
        if len(words) != 2 or words[0] not in (*FIELDS, *OPTIONAL):
            raise ValueError(
                f"line {number} is {' '.join(words)[:40]!r}; expected one of {', '.join(FIELDS)} and its value"
            )
        if words[0] in found:
            raise ValueError(f"line {number} gives {words[0]} again")
        found[words[0]] = words[1]
        if words[0] == "svm_type" and words[1] not in TYPES:
            raise ValueError(f"it is a {words[1]}; read are {' and '.join(TYPES)}")
        if words[0] == "kernel_type" and words[1] != "rbf":
            raise ValueError(f"its kernel is {words[1]}; read is rbf")
    if missing := [name for name in FIELDS if name not in found]:
        raise ValueError(f"its header lacks {', '.join(missing)}")
    lines_of = {words[0]: number for number, words in enumerate(lines, 1)}
    values = {name: _number(text, lines_of[name]) for name, text in found.items() if not name.endswith("_type")}
    if values["gamma"] <= 0:
        raise ValueError(f"gamma={values['gamma']:g} must be above 0")
    if values["nr_class"] != 2:  # what libsvm writes for a regression
        raise ValueError(f"nr_class={values['nr_class']:g}, but a regression has 2")
    return values


def _row(words: Sequence[str], line: int) -> tuple[float, dict[int, float]]:
    """Return the coefficient of one support vector, and its entries by their numbers."""
    entries: dict[int, float] = {}
    last = 0
    for word in words[1:]:
        index, colon, value = word.partition(":")
        if not colon or not index.isdecimal() or int(index) <= last:
            raise ValueError(
                f"line {line}: {word[:40]!r} does not follow entry {last}; expected NUMBER:VALUE, ascending"
            )
        last = int(index)
        entries[last] = _number(value, line)
    if not words:
        raise ValueError(f"line {line} is empty")
    return _number(words[0], line), entries


def _number(text: str, line: int) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"line {line}: {text[:40]!r} is not a finite number")
    return value
