"""Compacted rows: the same rows as the lines, whatever is killed, damaged or changed."""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from jaxiqa.results import parts, store
from jaxiqa.results.engine import Rows
from jaxiqa.results.jsonl import append_rows, canonical_lines, read_rows
from jaxiqa.results.rows import FILES, CertificateRow, DefenseRow, MaskingRow, ModelRow, RankRow, ResultRow, StoredRow
from jaxiqa.results.store import Store


def rows(count, seed=0):
    random = np.random.default_rng(seed)
    return [
        ResultRow(
            f'{number:04} "é\\".png',
            "base",
            int(number % 3),
            "PGD",
            None if number % 5 == 0 else float(random.random()),
            *random.normal(50, 1e3, 3).tolist(),
            float(10 ** random.uniform(-300, 300)),
            -0.0,
            1e-5,
            None if number % 2 else number,
            float(random.random()),
            "weak" if number % 7 == 0 else None,
        )
        for number in range(count)
    ]


@pytest.fixture
def block(monkeypatch):
    for module in (parts, store):
        monkeypatch.setattr(module, "BLOCK", 4000)
    return 4000


def files(root):
    return sorted(path.name for path in (root / "parquet").rglob("*.parquet"))


def test_lines_are_compacted_by_whole_blocks_and_nothing_changes(tmp_path, block):
    written, lines = rows(200), tmp_path / "results.jsonl"
    kept = Store(tmp_path)
    for first in range(0, 200, 9):
        kept.append(written[first : first + 9])
        assert kept.rows(ResultRow).all() == written[: first + 9]
    assert read_rows(lines, ResultRow) == written
    made = files(tmp_path)
    assert len(made) >= lines.stat().st_size // (block + 500)
    assert Store(tmp_path).rows(ResultRow).all() == written
    assert files(tmp_path) == made
    ranges = [tuple(map(int, name.split("-")[:3])) for name in made]
    assert [start for start, _, _ in ranges] == [0, *(stop for _, stop, _ in ranges[:-1])]
    content = lines.read_bytes()
    for start, stop, count in ranges:
        assert content[start:stop].count(b"\n") == count
        assert content[start:stop].endswith(b"\n")


def test_rows_that_were_asked_for_before_a_compaction_lack_none_of_them(tmp_path, block):
    written = rows(200)
    kept = Store(tmp_path)
    kept.append(written[:8])
    before = kept.rows(ResultRow)
    narrowed = before.only(seed=1)
    for first in range(8, 200, 8):
        kept.append(written[first : first + 8])
        assert before.all()[:8] == written[:8]
    assert len(files(tmp_path)) > 3
    assert before.all() == written[: len(before)]
    assert narrowed.all()[:2] == [row for row in written if row.seed == 1][:2]


def test_numbers_are_bit_equal(tmp_path, block):
    written = rows(300, seed=1)
    append_rows(tmp_path / "results.jsonl", written)
    found = Store(tmp_path).rows(ResultRow).all()
    for name in ("score", "attacked", "rounded", "linf", "l2", "seconds"):
        expected, got = (np.array([getattr(row, name) for row in some]) for some in (written, found))
        np.testing.assert_array_equal(expected.view(np.int64), got.view(np.int64), err_msg=name)


def test_every_kind_of_row_comes_back(tmp_path):
    one = {
        MaskingRow: MaskingRow("m", 0, "check", 0.5, 1.0, True, "do", 3, 2),
        ModelRow: ModelRow("m", 0, 5, 0.0, 1.0, 0.5, 1.0, 2.0, 7),
        RankRow: RankRow("i", "m", 0, "PGD", 0.1, 1.0, 2.0, 0.0, 0.1),
        StoredRow: StoredRow("i", "m", 0, "PGD", None, "weak", "ab"),
        DefenseRow: DefenseRow("i", "m", 0, "P", 0.1, None, "d", "transfer", 1.0, 2.0, 3.0, 4.0, 0.9, None, 0.1),
        CertificateRow: CertificateRow("i", "m", 0, None, None, None, "MS", 0.5, 0.2, None, 0.1, False, 40, 0.1, 1.0),
    }
    kept = Store(tmp_path)
    for kind, row in one.items():
        kept.append([row])
        assert kept.rows(kind).all() == [row]
        assert Rows.of([row], kind).all() == [row]
        assert (
            canonical_lines((tmp_path / FILES[kind]).read_bytes(), kind, tmp_path)
            == (tmp_path / FILES[kind]).read_bytes()
        )


def test_a_torn_last_line_is_left_out_and_replaced(tmp_path, block):
    written, lines = rows(100), tmp_path / "results.jsonl"
    append_rows(lines, written[:60])
    lines.write_bytes(lines.read_bytes()[:-20])
    kept = Store(tmp_path)
    assert kept.rows(ResultRow).all() == written[:59]
    kept.append(written[59:])
    assert kept.rows(ResultRow).all() == written
    assert Store(tmp_path).rows(ResultRow).all() == written


def test_lines_without_seals_and_of_older_versions_are_compacted(tmp_path, block):
    written, lines = rows(100), tmp_path / "results.jsonl"
    old = [{name: value for name, value in asdict(row).items() if name != "level"} for row in written[:50]]
    lines.write_text("".join(json.dumps(dict(reversed(line.items()))) + "\n" for line in old))
    append_rows(lines, written[50:])
    expected = [replace(row, level=None) for row in written[:50]] + written[50:]
    assert Store(tmp_path).rows(ResultRow).all() == expected
    assert len(files(tmp_path)) > 3
    with open(lines, "a") as file:
        file.write(json.dumps(old[0]) + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl line 101 has no seal"):
        Store(tmp_path).rows(ResultRow)


@pytest.mark.parametrize("place", [0, 40, 99])
def test_a_changed_line_is_named(tmp_path, block, place):
    lines, kept = tmp_path / "results.jsonl", Store(tmp_path)
    kept.append(rows(100))
    kept.rows(ResultRow)
    changed = lines.read_bytes().split(b"\n")
    changed[place] = changed[place].replace(b'"seconds": 0.', b'"seconds": 1.')
    lines.write_bytes(b"\n".join(changed))
    for reader in (kept, Store(tmp_path)):
        with pytest.raises(ValueError, match=rf"results\.jsonl line {place + 1} does not fit its seal"):
            reader.rows(ResultRow)


def test_a_deleted_line_is_gone_and_later_parts_are_made_again(tmp_path, block, caplog):
    lines, kept, written = tmp_path / "results.jsonl", Store(tmp_path), rows(100)
    kept.append(written)
    kept.rows(ResultRow)
    before = files(tmp_path)
    changed = lines.read_bytes().split(b"\n")
    del changed[50]
    lines.write_bytes(b"\n".join(changed))
    expected = written[:50] + written[51:]
    with caplog.at_level(logging.WARNING):
        assert kept.rows(ResultRow).all() == expected
    assert "parquet is damaged or of other lines" in caplog.text
    assert files(tmp_path) != before
    assert Store(tmp_path).rows(ResultRow).all() == expected


@pytest.mark.parametrize("how", ["flip", "cut", "empty"])
def test_a_damaged_part_is_named_and_made_again(tmp_path, block, caplog, how):
    written = rows(100)
    append_rows(tmp_path / "results.jsonl", written)
    Store(tmp_path).rows(ResultRow)
    made = files(tmp_path)
    path = next((tmp_path / "parquet").rglob(made[1]))
    content = bytearray(path.read_bytes())
    if how == "flip":
        content[len(content) // 3] ^= 1
    path.write_bytes(content[: {"flip": len(content), "cut": 100, "empty": 0}[how]])
    with caplog.at_level(logging.WARNING):
        assert Store(tmp_path).rows(ResultRow).all() == written
    assert made[1] in caplog.text
    found = next((tmp_path / "parquet").rglob(f"{made[1][:32]}*"))
    assert hashlib.sha256(found.read_bytes()).hexdigest()[:16] == found.stem.split("-")[-1]


def test_deleted_lines_leave_no_rows(tmp_path, block):
    append_rows(tmp_path / "results.jsonl", rows(100))
    Store(tmp_path).rows(ResultRow)
    (tmp_path / "results.jsonl").unlink()
    assert Store(tmp_path).rows(ResultRow).all() == []
    append_rows(tmp_path / "results.jsonl", rows(100, seed=3))
    assert Store(tmp_path).rows(ResultRow).all() == rows(100, seed=3)


WORKER = """
import sys
from pathlib import Path
from jaxiqa.results import parts, store
parts.BLOCK = store.BLOCK = 200_000
from jaxiqa.results.rows import ResultRow
print("ready", flush=True)
print(len(store.Store(Path(sys.argv[1])).rows(ResultRow)), flush=True)
"""


@pytest.mark.slow
def test_a_compaction_that_is_killed_loses_and_doubles_nothing(tmp_path, monkeypatch):
    written = rows(8000)
    append_rows(tmp_path / "results.jsonl", written)
    random = np.random.default_rng(0)
    seen, finished = set(), False
    for _ in range(12):
        worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        time.sleep(float(random.uniform(0, 1.5)))
        os.kill(worker.pid, signal.SIGKILL)
        finished |= worker.stdout.read() == "8000\n"
        worker.wait()
        seen.add(len(files(tmp_path)))
    assert len(seen) > 1 or finished, "no kill came in the middle"
    for module in (parts, store):
        monkeypatch.setattr(module, "BLOCK", 200_000)
    assert Store(tmp_path).rows(ResultRow).all() == written
