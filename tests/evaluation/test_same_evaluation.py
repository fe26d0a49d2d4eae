"""Rows of one evaluation are never mixed with those of another."""

import json
from dataclasses import replace

import pytest

from configs.smoke import get_config
from jaxiqa.config import Align, root_folder, run_folder
from jaxiqa.core.files import locked
from jaxiqa.evaluation.experiment import evaluate_experiment
from jaxiqa.evaluation.fingerprint import check_same_evaluation
from jaxiqa.results.jsonl import append_rows
from jaxiqa.results.rows import ResultRow

DIGESTS = {"labelled images": "1", "attacked images": "2", "images of attack UAP": "3"}


@pytest.fixture
def experiment(tmp_path):
    found = replace(get_config(), workdir=str(tmp_path / "run"))
    for name in found.variants:
        folder = run_folder(found, name, found.seeds[0])
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps({"sha256": name}))
    check_same_evaluation(found, DIGESTS)
    return found


def with_attacks(experiment, **changed):
    attacks = {**experiment.evaluation.attacks, **changed}
    return replace(experiment, evaluation=replace(experiment.evaluation, attacks=attacks))


def write_row(experiment, attack):
    numbers = {"epsilon": 0.1, "score": 1.0, "attacked": 2.0, "rounded": 2.0, "linf": 0.1, "l2": 1.0, "ssim": 0.9}
    row = ResultRow(
        image="a", model="baseline", seed=0, attack=attack, queries=None, seconds=1.0, level=None, **numbers
    )
    append_rows(root_folder(experiment) / "results.jsonl", [row])


def pgd(experiment, steps):
    return replace(experiment.evaluation.attacks["PGD-1"], options={"steps": steps})


def test_the_same_evaluation_and_one_with_more_attacks_continue(experiment):
    check_same_evaluation(experiment, DIGESTS)
    more = with_attacks(experiment, **{"PGD-3": pgd(experiment, 3)})
    check_same_evaluation(more, DIGESTS)
    check_same_evaluation(experiment, DIGESTS)  # fewer attacks than before: rows of the others stay
    write_row(experiment, "PGD-3")
    with pytest.raises(ValueError, match=r"attack PGD-3 changed"):
        check_same_evaluation(with_attacks(experiment, **{"PGD-3": pgd(experiment, 4)}), DIGESTS)


def test_an_attack_without_rows_may_change(experiment):
    write_row(experiment, "PGD-10")
    changed = with_attacks(experiment, **{"PGD-1": pgd(experiment, 2)})
    check_same_evaluation(changed, DIGESTS)
    write_row(experiment, "PGD-1")
    with pytest.raises(ValueError, match="attack PGD-1 changed"):
        check_same_evaluation(experiment, DIGESTS)


@pytest.mark.parametrize("learnt", ["aligned/baseline-seed0/FGSM.json", "fitted/baseline-seed0/FGSM"])
def test_fitted_files_of_another_attack_are_not_reused(experiment, learnt):
    path = root_folder(experiment) / learnt
    path.parent.mkdir(parents=True)
    path.touch()
    other = replace(experiment.evaluation.attacks["FGSM"], name="ifgsm")
    with pytest.raises(ValueError, match="attack FGSM changed"):
        check_same_evaluation(with_attacks(experiment, FGSM=other), DIGESTS)


def test_the_error_for_a_changed_attack_suggests_a_new_label(experiment):
    write_row(experiment, "PGD-1")
    with pytest.raises(
        ValueError,
        match=r"options\.steps: 1 -> 2\nuse a new label, then only this attack is run",
    ):
        check_same_evaluation(with_attacks(experiment, **{"PGD-1": pgd(experiment, 2)}), DIGESTS)


def test_a_retrained_model_is_refused_and_no_label_is_suggested(experiment):
    card = run_folder(experiment, "baseline", experiment.seeds[0]) / "model.json"
    write_row(experiment, "PGD-1")
    card.write_text(json.dumps({"sha256": "another"}))
    with pytest.raises(
        ValueError,
        match=r"model baseline seed 0: 'baseline' -> 'another'\nchoose .*delete evaluation\.json",
    ):
        check_same_evaluation(experiment, DIGESTS)


def test_the_error_for_a_missing_model_says_train_first(experiment):
    (run_folder(experiment, "hardened", experiment.seeds[0]) / "model.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.json does not exist; train first"):
        check_same_evaluation(experiment, DIGESTS)


def with_field(experiment, attack, **changed):
    return with_attacks(experiment, **{attack: replace(experiment.evaluation.attacks[attack], **changed)})


def test_strengths_may_change_and_alignment_may_not(experiment):
    write_row(experiment, "PGD-1")
    write_row(experiment, "FGSM")
    check_same_evaluation(with_field(experiment, "PGD-1", epsilons=(0.5,)), DIGESTS)
    # Removing the alignment is allowed: the rows state their strength.
    check_same_evaluation(with_field(experiment, "FGSM", aligned=None, epsilons=(0.1,)), DIGESTS)
    with pytest.raises(ValueError, match=r"attack FGSM\.aligned\.measure: 'linf' -> 'psnr'"):
        check_same_evaluation(with_field(experiment, "FGSM", aligned=Align("psnr")), DIGESTS)


@pytest.mark.parametrize("what", DIGESTS)
def test_other_images_under_the_same_names_are_detected(experiment, what):
    check_same_evaluation(experiment, DIGESTS | {what: "9"})  # there are no rows yet
    write_row(experiment, "UAP")
    with pytest.raises(ValueError, match=f"digest of {what} changed"):
        check_same_evaluation(experiment, DIGESTS)


def test_another_package_version_is_refused_and_an_old_file_without_one_accepted(experiment):
    path = root_folder(experiment) / "evaluation.json"
    held = json.loads(path.read_text())
    write_row(experiment, "PGD-1")
    path.write_text(json.dumps(held | {"version of jaxiqa": "0.0.9"}))
    with pytest.raises(ValueError, match=r"version of jaxiqa: '0\.0\.9' -> '"):
        check_same_evaluation(experiment, DIGESTS)
    old = {key: value for key, value in held.items() if not key.startswith(("version", "digest"))}
    old["attack PGD-1"]["epsilons"] = [0.5]  # the format of old files
    path.write_text(json.dumps(old))
    check_same_evaluation(experiment, DIGESTS)
    assert json.loads(path.read_text())["digest of attacked images"] == "2"


@pytest.mark.parametrize("content", [None, "", "[]", "null", '{"a": 1'])
def test_rows_without_their_description_are_refused(experiment, content):
    path = root_folder(experiment) / "evaluation.json"
    write_row(experiment, "PGD-1")
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=r"evaluation\.json is (missing|damaged).*put it back"):
        check_same_evaluation(experiment, DIGESTS)


@pytest.mark.slow
def test_a_folder_in_use_by_another_process_is_refused(experiment):
    root = root_folder(experiment)
    before = {path: path.read_bytes() for path in root.rglob("*.json")}
    write_row(experiment, "PGD-1")
    for folder in (root, run_folder(experiment, "hardened", experiment.seeds[0])):
        with locked(folder), pytest.raises(BlockingIOError, match=f"another process uses {folder};"):
            evaluate_experiment(with_attacks(experiment, **{"PGD-1": pgd(experiment, 2)}))
    assert {path: path.read_bytes() for path in root.rglob("*.json")} == before


@pytest.mark.slow
def test_leftovers_of_a_killed_run_are_removed(experiment):
    root = root_folder(experiment)
    left = root / "images" / "baseline-seed0" / "PGD-1" / ".a.png.123.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    (run_folder(experiment, "hardened", experiment.seeds[0]) / "model.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.json does not exist; train first"):
        evaluate_experiment(experiment)
    assert not left.exists()


def test_a_missing_folder_is_an_error_and_is_not_created(experiment, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"seed0 does not exist; train first"):
        evaluate_experiment(replace(experiment, workdir=str(tmp_path / "typo")))
    assert not (tmp_path / "typo").exists()
