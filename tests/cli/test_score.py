"""Scoring from the shell: scores equal those of the model, and every skipped file is reported."""

import csv
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from photo_files import make_image

from jaxiqa import models
from jaxiqa.cli import score as scoring
from jaxiqa.cli.score_table import scores_csv
from jaxiqa.data import read_image
from jaxiqa.data.search import find
from jaxiqa.models.zoo import DEFAULT


def read(path):
    with open(path, newline="") as file:
        return {row["image"]: float(row["score"]) for row in csv.DictReader(file)}


@pytest.mark.slow
@pytest.mark.parametrize("run", ["native", "resized"])
def test_scores_are_those_of_the_model_and_faults_are_listed(run, folder, runs, tmp_path, capsys):
    out = tmp_path / "out" / "scores.csv"
    status = scoring.main(
        ["linearity", "--weights", str(runs / run), str(folder), "--csv", str(out), "--batch-size", "3"]
    )
    output = capsys.readouterr()
    printed = output.err
    assert status == 1
    assert output.out == f"10 scores in {out}\n"
    scores, model = read(out), models.load_run(runs / run)
    names = ["alpha.png", "deep.png", "grey.png", "inner/turned.jpg", "other.jpg", *(f"same{i}.png" for i in range(5))]
    assert list(scores) == [str(folder / name) for name in names]
    for path, score in scores.items():
        pixels = jnp.asarray(read_image(Path(path)), jnp.float32)[None] / 255
        assert score == pytest.approx(float(model(pixels)[0]), abs=1e-4), path  # scores have a range of 20
    assert "2 of 12 images could not be scored:" in printed
    assert f"{folder / 'broken.png'}: cannot be decoded" in printed
    assert f"{folder / 'text.jpg'}: cannot be decoded" in printed
    assert "skipped 1 non-image file: " in printed
    assert "notes.txt" in printed


@pytest.mark.slow
def test_named_files_keep_their_order_and_a_table_is_printed(folder, runs, capsys):
    named = [str(folder / name) for name in ("same1.png", "same0.png", "same1.png")]
    assert scoring.main(["linearity", *named, "--weights", str(runs / "native")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == named[:2]
    assert all(np.isfinite(float(line.split()[1])) for line in lines)


@pytest.mark.slow
def test_the_best_come_first_and_unusual_sizes_are_named(folder, runs, capsys):
    make_image(40, 400).save(folder.parent / "wide.png")
    named = [str(folder / "same1.png"), str(folder / "same0.png"), str(folder.parent / "wide.png")]
    assert scoring.main(["linearity", *named, "--weights", str(runs / "resized"), "--sort"]) == 0
    output = capsys.readouterr()
    scores = [float(line.split()[1]) for line in output.out.splitlines()]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert "1 of 3 images are far from the size of the training, 56x40 pixels" in output.err
    assert output.err.count("wide.png") == 1


def test_the_first_word_may_name_a_metric(folder, tmp_path, monkeypatch):
    image = str(folder / "same0.png")
    assert scoring.named([image, "musiq"]) == (DEFAULT, [Path(image), Path("musiq")])
    assert scoring.named(["jaxiqa-certified", image]) == ("jaxiqa-certified", [Path(image)])
    assert scoring.named(["gone.png", image]) == (DEFAULT, [Path("gone.png"), Path(image)])
    monkeypatch.chdir(tmp_path)
    Path("linearity").mkdir()
    assert scoring.named(["linearity", image]) == (DEFAULT, [Path("linearity"), Path(image)])
    with pytest.raises(ValueError, match="no images are given"):
        scoring.named(["tres"])
    with pytest.raises(ValueError, match=r"linearty is neither .* did you mean 'linearity'"):
        scoring.named(["linearty", image])


@pytest.mark.slow
def test_the_default_metric_tells_its_scale(folder, capsys):
    image = folder / "same1.png"
    assert scoring.main([str(image)]) == 0
    output = capsys.readouterr()
    score = float(models.load(DEFAULT)(jnp.asarray(read_image(image), jnp.float32)[None] / 255)[0])
    assert float(output.out.split()[1]) == pytest.approx(score, abs=0.01)
    assert f"{DEFAULT}: 0 to 100, the scale of the human scores" in output.err


@pytest.mark.slow
def test_a_missing_file_is_listed_as_a_fault(folder, runs, capsys):
    named = [str(folder / "same1.png"), str(folder / "gone.png"), str(folder / "notes.txt")]
    assert scoring.main(["linearity", "--weights", str(runs / "native"), *named]) == 1
    output = capsys.readouterr()
    printed = output.err
    assert [line.split()[0] for line in output.out.splitlines()] == named[:1]
    assert f"{folder / 'gone.png'}: no such file" in printed
    assert f"{folder / 'notes.txt'}: cannot be decoded" in printed


@pytest.mark.slow
def test_bad_arguments_end_with_the_message(folder, runs, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (["musiq", str(folder), "--weights", "x"], "error: musiq is neither a file"),
        (["linearity", str(folder), "--weights", "gone"], "error: weights='gone' is neither a file"),
        (["linearity", str(tmp_path / "empty"), "--weights", str(runs / "native")], "error: there are no images in"),
        (["linearity", str(folder), "--weights", "x", "--batch-size", "0"], "error: batch_size=0 is outside"),
    ):
        with pytest.raises(SystemExit, match=message):
            scoring.main(arguments)


def test_links_to_folders_are_followed_once_and_broken_links_are_faults(folder, tmp_path):
    inner = tmp_path / "in"
    inner.mkdir()
    make_image(8, 8).save(inner / "a.png")
    (inner / "linked").symlink_to(folder / "inner")
    (inner / "self").symlink_to(inner)
    (inner / "dead.png").symlink_to("gone.png")
    (inner / "round.png").symlink_to("round.png")
    os.mkfifo(inner / "pipe.png")
    found = find([inner])
    assert found.paths == [inner / "a.png", inner / "linked" / "turned.jpg"]
    assert set(found.faults) == {inner / name for name in ("dead.png", "round.png", "pipe.png")}
    assert "is a broken link (to gone.png)" in found.faults[inner / "dead.png"]
    assert "is a FIFO" in found.faults[inner / "pipe.png"]
    assert [remark.split(":")[0] for remark in found.remarks] == [f"skipped {inner / 'self'}"]


@pytest.mark.parametrize("kind", ["folder", "below a file", "image"])
def test_an_unwritable_csv_is_an_error_before_scoring(folder, tmp_path, monkeypatch, kind):
    image = folder / "same0.png"
    out = {"folder": tmp_path, "below a file": image / "x.csv", "image": image}[kind]
    monkeypatch.setattr(scoring, "score_files", None)
    with pytest.raises(SystemExit, match=r"error: .*(is a folder|file is where a folder|one of the images)"):
        scoring.main(["linearity", str(image), "--weights", "x", "--csv", str(out)])


@pytest.mark.slow
@pytest.mark.parametrize("to_file", [False, True])
def test_scores_before_ctrl_c_are_kept(folder, runs, tmp_path, monkeypatch, capsys, to_file):
    named = [folder / "same0.png", folder / "same1.png"]

    def interrupted(model, paths, faults, **options):
        yield {paths[0]: 1.5}
        raise KeyboardInterrupt

    monkeypatch.setattr(scoring, "score_files", interrupted)
    out = tmp_path / "scores[v2].csv"
    options = ["--csv", str(out)] if to_file else []
    assert scoring.main(["linearity", *map(str, named), "--weights", str(runs / "native"), *options]) == 130
    output = capsys.readouterr()
    assert "stopped: 1 of 2 images are scored" in output.err
    assert read(out) == {str(named[0]): 1.5} if to_file else output.out == f"{named[0]}  1.5000\n"
    assert not to_file or str(out) in output.out


def test_a_csv_that_is_a_pipe_is_refused_under_the_given_name():
    reading, writing = os.pipe()
    try:
        with pytest.raises(ValueError, match=rf"^csv: /dev/fd/{writing} is a device"):
            scoring.check_output(Path(f"/dev/fd/{writing}"), [])
    finally:
        os.close(reading)
        os.close(writing)


def test_no_cell_of_the_csv_is_a_formula_and_names_stay_valid_paths():
    assert scores_csv([("=1+1.png", 1.0), ("@a.png", 2.0), ("a=.png", 3.0), (" b.png", 4.0)]) == (
        "image,score\n./=1+1.png,1.0\n./@a.png,2.0\na=.png,3.0\n./ b.png,4.0\n"
    )
