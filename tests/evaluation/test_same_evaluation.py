"""Rows of one evaluation are never mixed with those of another."""

import json
from dataclasses import replace

import pytest

from configs.smoke import get_config
from evaluate import check_same_evaluation
from jaxiqa.config import root_folder, run_folder
from jaxiqa.reports.rows import append_rows
from jaxiqa.types import ResultRow


@pytest.fixture
def experiment(tmp_path):
    found = replace(get_config(), workdir=str(tmp_path / "run"))
    for name in found.variants:
        folder = run_folder(found, name, found.seeds[0])
        folder.mkdir(parents=True)
        (folder / "model.json").write_text(json.dumps({"sha256": name}))
    check_same_evaluation(found)
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


def test_the_same_evaluation_and_one_with_more_attacks_go_on(experiment):
    check_same_evaluation(experiment)
    more = with_attacks(experiment, **{"PGD-3": pgd(experiment, 3)})
    check_same_evaluation(more)
    check_same_evaluation(experiment)  # fewer than before: rows of the others stay
    write_row(experiment, "PGD-3")
    with pytest.raises(SystemExit, match=r"attack PGD-3 changed"):
        check_same_evaluation(with_attacks(experiment, **{"PGD-3": pgd(experiment, 4)}))


def test_what_has_left_nothing_may_change(experiment):
    write_row(experiment, "PGD-10")
    changed = with_attacks(experiment, **{"PGD-1": pgd(experiment, 2)})
    check_same_evaluation(changed)
    write_row(experiment, "PGD-1")
    with pytest.raises(SystemExit, match="attack PGD-1 changed"):
        check_same_evaluation(experiment)


@pytest.mark.parametrize("learnt", ["aligned/baseline-seed0-FGSM.json", "fitted/baseline-seed0-FGSM"])
def test_what_was_learnt_for_another_attack_is_not_taken_over(experiment, learnt):
    path = root_folder(experiment) / learnt
    path.parent.mkdir()
    path.touch()
    other = replace(experiment.evaluation.attacks["FGSM"], name="ifgsm")
    with pytest.raises(SystemExit, match="attack FGSM changed"):
        check_same_evaluation(with_attacks(experiment, FGSM=other))


def test_a_changed_attack_may_take_another_label(experiment):
    write_row(experiment, "PGD-1")
    with pytest.raises(
        SystemExit, match=r"attack PGD-1 changed\); give what changed another label, and only that is run"
    ):
        check_same_evaluation(with_attacks(experiment, **{"PGD-1": pgd(experiment, 2)}))


def test_a_model_trained_anew_is_refused_and_no_label_helps(experiment):
    card = run_folder(experiment, "baseline", experiment.seeds[0]) / "model.json"
    card.write_text(json.dumps({"sha256": "another"}))
    with pytest.raises(SystemExit, match=r"model baseline seed 0 changed\); delete evaluation\.json"):
        check_same_evaluation(experiment)


def test_a_model_that_is_not_there_asks_for_training(experiment):
    (run_folder(experiment, "hardened", experiment.seeds[0]) / "model.json").unlink()
    with pytest.raises(SystemExit, match=r"model\.json does not exist; train first"):
        check_same_evaluation(experiment)
