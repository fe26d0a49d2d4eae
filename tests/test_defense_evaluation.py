"""Defenses against the adversarial set and against attacks that know them: what is written, read again and refused."""

import csv
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxiqa.config import Adaptive, Align, Attack, Data, Defense, Evaluation, Network
from jaxiqa.config.command_line import take_defenses
from jaxiqa.data import load
from jaxiqa.evaluation import attacked as attacking_stage
from jaxiqa.evaluation import defended, stored
from jaxiqa.evaluation.attacked import attack_all
from jaxiqa.evaluation.defended import defend_all
from jaxiqa.evaluation.networks import weight_digests
from jaxiqa.evaluation.purifiers import build, source_digest
from jaxiqa.evaluation.strengths import Strength, strengths_of
from jaxiqa.evaluation.subject import Subject
from jaxiqa.types import DefenseRow, ResultRow, StoredRow

MINE = '''
from dataclasses import dataclass

import jax
import jax.numpy as jnp

@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Shift:
    """Every colour channel moved by a random amount."""
    amount: float = 0.1

    def __call__(self, images, key):
        return jnp.clip(images + self.amount * jax.random.normal(key, (3,)), 0, 1)

class Mirror:
    random = False
    def __call__(self, images, key):
        return images[:, :, ::-1]

def taller(images, key):
    return images[:, ::2]

class Wrong:
    random = False
    def __init__(self, kind="range"):
        self.kind = kind
    def __call__(self, images, key):
        if self.kind == "range":
            return 255 * images
        return {"nan": images * jnp.nan, "channels": images[..., :1], "one": images[0]}[self.kind]

class Unhashable:
    __hash__ = None
    def __call__(self, images, key):
        return images

number = 3
'''


VISIBLE = Attack("ifgsm", options={"steps": 2}, aligned=Align("psnr", ladder=(0.002, 0.1), images=2))


def score(images):
    """Brighter on the left than on the right: what a mirror turns round."""
    return 100 * jnp.tanh(images[:, 3:15, :9].mean((1, 2, 3)) - images[:, 3:15, 9:].mean((1, 2, 3)))


@pytest.fixture(scope="module")
def split():
    return load("builtin", size=(20, 28), train=1, val=1, test=5)["test"]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


@pytest.fixture
def evaluation(file):
    return Evaluation(
        data=Data("builtin"),
        attacks={
            "IFGSM": Attack("ifgsm", (2 / 255, 8 / 255), {"steps": 2}),
            "visible": VISIBLE,
        },
        defenses={"shift": Defense(f"{file}:Shift", {"amount": 0.2}), "mirror": Defense(f"{file}:Mirror")},
        adaptive=Adaptive(("IFGSM",), strengths="strongest", draws=2),
    )


def subject(root):
    made = Subject("m", 0, root=root, folder=root / "m", size=(20, 28), batch=2)
    made.__dict__["score_fn"] = score  # in place of a trained model
    return made


def run(root, evaluation, split):
    attack_all(subject(root), evaluation, split, store=True, examples=1)
    defend_all(subject(root), evaluation, split)
    return subject(root).rows(DefenseRow)


def key_of(row):
    return row.mode, row.defense, row.attack, row.level or row.epsilon, row.image


@pytest.fixture(scope="module")
def whole(tmp_path_factory, split):
    root = tmp_path_factory.mktemp("whole")
    (root / "mine.py").write_text(MINE)
    return root, run(root, evaluation.__wrapped__(root / "mine.py"), split)


def test_every_cell_has_its_rows_and_they_say_what_happened(whole, split):
    root, rows = whole
    strengths = {"IFGSM": [2 / 255, 8 / 255], "visible": ["weak", "medium", "strong"]}
    expected = {
        ("transfer", defense, attack, strength, image)
        for defense in ("none", "shift", "mirror")
        for attack, several in strengths.items()
        for strength in several
        for image in split.ids
    }
    expected |= {
        ("adaptive", defense, "IFGSM", 8 / 255, image) for defense in ("shift", "mirror") for image in split.ids
    }
    assert sorted(map(key_of, rows), key=str) == sorted(expected, key=str)
    results = {(row.attack, row.level or row.epsilon, row.image): row for row in subject(root).rows(ResultRow)}
    for row in rows:
        result = results[row.attack, row.level or row.epsilon, row.image]
        assert (row.clean, row.epsilon) == (pytest.approx(result.score, abs=1e-3), result.epsilon)
        if row.mode == "transfer":
            assert row.attacked == result.rounded
        if row.defense == "none":
            assert (row.purified, row.purified_clean) == pytest.approx((result.rounded, result.score), abs=1e-3)
        if row.defense == "mirror":
            assert row.purified_clean == pytest.approx(float(score(pixels(split, row.image)[:, :, ::-1])[0]), abs=1e-3)


def pixels(split, image):
    return split.read(split.ids.index(image))[None] / np.float32(255)


def test_an_attack_that_knows_the_defense_passes_it(whole):
    """What raises a score raises nothing behind the mirror, unless it was made through the mirror."""
    gains = {
        mode: np.mean([r.purified - r.purified_clean for r in whole[1] if (r.mode, *key_of(r)[1:4]) == (mode, *cell)])
        for cell in [("mirror", "IFGSM", 8 / 255)]
        for mode in ("transfer", "adaptive")
    }
    assert gains["transfer"] < 1 < gains["adaptive"]
    for row in whole[1]:
        if row.mode == "adaptive" and row.defense == "mirror":
            assert row.purified > row.purified_clean


def test_clean_and_attacked_image_get_the_same_draw_and_images_get_their_own(whole, split):
    root, _ = whole
    made = defended.Defended(subject(root), "shift", build("shift", Defense(f"{root}/mine.py:Shift")), split)
    images = np.stack([split.read(i) for i in range(3)]) / np.float32(255)
    images = jnp.asarray(np.clip(images, 0.4, 0.6))
    moved = made._purified(0, images) - images
    again = made._purified(0, images + 0.01) - images - 0.01
    np.testing.assert_allclose(moved, again, atol=1e-6)
    assert float(jnp.abs(moved[0] - moved[1]).max()) > 1e-3
    np.testing.assert_allclose(made._purified(2, images[2:]) - images[2:], moved[2:], atol=1e-6)


def test_a_run_that_was_killed_ends_with_the_rows_of_one_that_was_not(whole, tmp_path, evaluation, split, monkeypatch):
    add, calls = Subject.add, []

    def killed(self, rows):
        calls.append(rows)
        if len(calls) % 4 == 0:
            raise KeyboardInterrupt
        add(self, rows)

    monkeypatch.setattr(Subject, "add", killed)
    for _ in range(100):
        try:
            rows = run(tmp_path, evaluation, split)
            break
        except KeyboardInterrupt:
            continue
    assert len(calls) > 10
    expected = {key_of(row): row for row in whole[1]}
    assert len(rows) == len(expected)
    for row in rows:
        assert replace(row, seconds=0.0) == replace(expected[key_of(row)], seconds=0.0)
    assert len(subject(tmp_path).rows(ResultRow)) == 5 * 5


def test_the_adversarial_set_is_written_once_and_read_by_every_defense(whole, evaluation, split, monkeypatch):
    root, rows = whole
    files = {path: path.stat().st_mtime_ns for path in (root / "images").rglob("*.png")}
    assert len(files) == 5 * 5
    monkeypatch.setattr(attacking_stage, "attack_split", lambda *_, **__: pytest.fail("attacked again"))
    more = replace(evaluation, defenses={"late": Defense(f"{root}/mine.py:Mirror")}, adaptive=Adaptive())
    late = [row for row in run(root, more, split) if row.defense == "late"]
    assert {path: path.stat().st_mtime_ns for path in files} == files
    mirror = {key_of(replace(r, defense="late")): r.purified for r in rows if r.defense == "mirror"}
    assert {key_of(row): row.purified for row in late} == {k: v for k, v in mirror.items() if k[0] == "transfer"}
    # What is scored is the file: its pixels, not those the attack had in memory.
    row = next(row for row in late if row.level == "strong")
    path = root / "images" / "m-seed0" / "visible" / "strong" / f"{row.image}.png"
    stored_score = score(np.asarray(Image.open(path))[None, :, ::-1] / np.float32(255))
    assert row.purified == pytest.approx(float(stored_score[0]), abs=1e-3)


def test_a_damaged_picture_is_noticed_and_a_missing_one_is_made_again(tmp_path, evaluation, split):
    less = replace(evaluation, attacks={"IFGSM": Attack("ifgsm", (8 / 255,), {"steps": 1})}, adaptive=Adaptive())
    attack_all(subject(tmp_path), less, split, store=True, examples=0)
    path = stored.place(subject(tmp_path), "IFGSM", Strength(8 / 255), split.ids[1])
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    Image.new("RGB", (28, 20)).save(path)
    with pytest.raises(ValueError, match=r"\.png is not the file that was stored; delete it"):
        defend_all(subject(tmp_path), less, split)
    path.unlink()
    attack_all(subject(tmp_path), less, split, store=True, examples=0)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    defend_all(subject(tmp_path), less, split)
    assert len(subject(tmp_path).rows(ResultRow)) == 5
    assert len(subject(tmp_path).rows(StoredRow)) == 6
    assert len(subject(tmp_path).rows(DefenseRow)) == 15


def test_images_that_were_not_kept_are_made_when_a_defense_needs_them(tmp_path, evaluation, split):
    less = replace(evaluation, attacks={"IFGSM": Attack("ifgsm", (8 / 255,), {"steps": 1})}, defenses={})
    attack_all(subject(tmp_path), less, split, store=False, examples=0)
    rows = subject(tmp_path).rows(ResultRow)
    assert not (tmp_path / "images").exists()
    attack_all(subject(tmp_path), less, split, store=True, examples=0)
    assert subject(tmp_path).rows(ResultRow) == rows
    assert len(list((tmp_path / "images").rglob("*.png"))) == 5


def test_aligned_strengths_are_found_once_and_change_pictures_equally(whole, split):
    root, _ = whole
    path = root / "aligned" / "m-seed0-visible.json"
    before = path.stat().st_mtime_ns
    found = strengths_of(subject(root), "visible", VISIBLE, split)
    assert path.stat().st_mtime_ns == before
    assert [strength.level for strength in found] == ["weak", "medium", "strong"]
    assert found[0].epsilon < found[1].epsilon < found[2].epsilon
    rows = [row for row in subject(root).rows(ResultRow) if row.attack == "visible" and row.image in split.ids[:2]]
    for level, wanted in {"weak": 40, "medium": 35, "strong": 30}.items():
        psnr = [-20 * np.log10(row.l2 / np.sqrt(20 * 28 * 3)) for row in rows if row.level == level]
        assert np.mean(psnr) == pytest.approx(wanted, abs=0.9)  # a tenth of the amplitude


def test_levels_of_a_budget_need_no_run(split, tmp_path):
    found = strengths_of(subject(tmp_path), "x", Attack("square", aligned=Align("budget")), split)
    assert found == (Strength(2 / 255, "weak"), Strength(4 / 255, "medium"), Strength(8 / 255, "strong"))
    assert not list(tmp_path.iterdir())


def test_a_purifier_of_ones_own_is_described_when_it_is_none(file, split, tmp_path):
    for name, options, message in (
        (f"{tmp_path}/nowhere.py:X", {}, "does not exist"),
        (f"{file}:Nothing", {}, "has no Nothing"),
        (f"{file}:number", {}, r"cannot be called; a purifier is purifier\(images, key\) -> images"),
        (f"{file}:Shift", {"amuont": 1}, r"amuont.*a purifier is"),
        (f"{file}:taller", {"amount": 1}, "takes no options"),
        (f"{file}:Unhashable", {}, "cannot be hashed"),
    ):
        with pytest.raises(ValueError, match=f"defense 'own': .*{message}"):
            build("own", Defense(name, options))
    with pytest.raises(ValueError, match="preset=1"):
        build("own", Defense(f"{file}:Shift", preset=1))
    for kind, message in (
        ("range", r"values from \d+\.\d+ to 2\d\d"),
        ("nan", "values from nan"),
        ("channels", r"\(2, 20, 28, 1\) of images"),
        ("one", r"\(20, 28, 3\) of images"),
    ):
        wrong = build("own", Defense(f"{file}:Wrong", {"kind": kind}))
        with pytest.raises(ValueError, match=f"defense 'own' made .*{message}"):
            defended.Defended(subject(tmp_path), "own", wrong, split)


def test_a_function_will_do_and_may_change_the_size(file, split, tmp_path):
    made = defended.Defended(subject(tmp_path), "own", build("own", Defense(f"{file}:taller")), split)
    images = np.stack([split.read(0)]) / np.float32(255)
    scores, ssim, psnr = made._judge(0, images, jnp.asarray(images))
    np.testing.assert_allclose(scores, score(images[:, ::2]), atol=1e-3)  # of a scale of 100
    assert 0 < ssim[0] < 1
    assert 5 < psnr[0] < 60


def test_the_file_belongs_to_what_rows_are_told_apart_by(file):
    before = source_digest(Defense(f"{file}:Shift"))
    file.write_text(MINE + "\n# changed\n")
    assert source_digest(Defense(f"{file}:Shift")) != before
    assert source_digest(Defense("jpeg")) is None


def test_the_weights_belong_to_it_too(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXIQA_DATA", str(tmp_path))
    assert weight_digests({"network": Network("facpa_unet")}) == {}
    (tmp_path / "a.safetensors").write_bytes(b"old")
    networks = {"network": Network("fcn", weights="a.safetensors")}
    before = weight_digests(networks)
    (tmp_path / "a.safetensors").write_bytes(b"new")
    assert before == {"a.safetensors": hashlib.sha256(b"old").hexdigest()} != weight_digests(networks)


def test_defenses_on_the_command_line():
    rest, found = take_defenses(
        [
            "--workdir",
            "x",
            "--defense",
            "a.py:B",
            "--defense=mild=jpeg,quality=90",
            "--defense",
            "resize,scale=0.5,preset=2",
        ]
    )
    assert rest == ["--workdir", "x"]
    assert found == {
        "B": Defense("a.py:B"),
        "mild": Defense("jpeg", {"quality": 90}),
        "resize scale=0.5 preset=2": Defense("resize", {"scale": 0.5}, preset=2),
    }
    _, found = take_defenses(["--defense", "x,size=(3, 4),variant=benchmark"])
    assert next(iter(found.values())).options == {"size": (3, 4), "variant": "benchmark"}
    for arguments, message in (
        (["--defense"], r"write --defense \[LABEL=\]NAME"),
        (["--defense", "a.py:B", "--defense", "b.py:B"], "'B' is given twice"),
        (["--defense", "jpeg,quality"], "write KEY=VALUE"),
    ):
        with pytest.raises(ValueError, match=message):
            take_defenses(arguments)


@pytest.mark.slow
def test_a_new_defense_enters_the_leaderboard_by_one_file(file, tmp_path):
    def run(script, *arguments):
        command = [
            sys.executable,
            script,
            "--config",
            "configs/smoke.py",
            "--workdir",
            str(tmp_path / "run"),
            *arguments,
        ]
        return subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)

    def board():
        with open(tmp_path / "run" / "leaderboard.csv") as table:
            return {line["defense"]: line for line in csv.DictReader(table)}

    assert run("train.py").returncode == 0
    done = run("evaluate.py")
    assert done.returncode == 0, done.stderr
    before = board()
    assert set(before) == {"none", "flip", "noise"}
    done = run("evaluate.py", "--defense", f"{file}:Shift,amount=0.05", "--defense", f"plain={file}:Mirror")
    assert done.returncode == 0, done.stderr
    after = board()
    assert set(after) == {*before, "Shift amount=0.05", "plain"}
    for label, line in before.items():
        assert {**line, "rank": ""} == {**after[label], "rank": ""}
    assert after["plain"]["cells, adaptive"] == after["flip"]["cells, adaptive"]
    assert "Shift amount=0.05" in (tmp_path / "run" / "leaderboard.html").read_text()
    assert set(after) == (run("evaluate.py").returncode == 0 and set(board()))  # others' rows stay
    file.write_text(MINE + "# changed")
    refused = run("evaluate.py", "--defense", f"plain={file}:Mirror")
    assert "rows of another defense plain; give it another label" in refused.stderr
    wrong = run("evaluate.py", "--defense", f"{file}:Shift,amuont=1")
    assert "error: defense 'Shift amuont=1'" in wrong.stderr
