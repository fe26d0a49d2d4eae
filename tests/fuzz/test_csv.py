"""Damaged tables: a split or an error that names the file, within 10 s and 1 GiB.

python tests/fuzz/test_csv.py 1000
"""

import os
import sys
import tempfile
from functools import cache
from pathlib import Path

import mutate
import pytest

NAMES = ("a.png", "b c.png", "é.png", "sub/d.png")


@cache
def _folder():
    folder = Path(tempfile.mkdtemp())
    (folder / "sub").mkdir()
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(bytes([number]))
    return folder


def read(content):
    """Read a table in the worker."""
    from jaxiqa import data

    (_folder() / "scores.csv").write_bytes(content)
    for split in data.load("folder", source=str(_folder())).values():
        for path in split.read.paths:
            assert path.resolve().is_relative_to(_folder().resolve()), path


def seeds():
    rows = "".join(f"{name},{10 * number}.5,train\n" for number, name in enumerate(NAMES))
    tables = [f"image,mos,split\n{rows}", "\ufeffimage;mos\r\n" + "".join(f'"{name}";1,5\r\n' for name in NAMES)]
    tables += ["image\tmos\n" + "".join(f"{name}\t1\n" for name in NAMES), "image,mos\n../a.png,1\n/dev/zero,2\n"]
    remark = "; ".join(["what a rater wrote about it"] * 20)  # damage here does not affect the table
    tables += ["image,mos,remark\n" + "".join(f'{name},1,"{remark}"\n' for name in NAMES)] * 3
    found = [table.encode() for table in tables]
    if shared := os.environ.get("JAXIQA_SHARED"):
        found += [path.read_bytes()[:4000] for path in sorted(Path(shared, "data").glob("*/*.csv"))]
    return found


def fuzz(count, seed=0, keep=None):
    return mutate.run("test_csv:read", mutate.mutations(seeds(), count, seed), keep=keep)


@pytest.mark.slow
def test_damaged_tables_are_read_or_refused():
    outcome = fuzz(200)
    assert outcome.findings == []
    assert outcome.read > 10
    assert outcome.refused > 10


if __name__ == "__main__":
    print(*(outcome := fuzz(int(sys.argv[1]), seed=1, keep=Path("findings"))).findings, outcome, sep="\n")
