"""Rows of one evaluation are never mixed with those of another."""

import json
from dataclasses import replace

import pytest

from configs.smoke import get_config
from evaluate import check_same_evaluation
from jaxiqa.config import run_folder


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


def pgd(experiment, steps):
    return replace(experiment.evaluation.attacks["PGD-1"], options={"steps": steps})


def test_the_same_evaluation_and_one_with_more_attacks_go_on(experiment):
    check_same_evaluation(experiment)
    more = with_attacks(experiment, **{"PGD-3": pgd(experiment, 3)})
    check_same_evaluation(more)
    check_same_evaluation(experiment)  # fewer than before: rows of the others stay
    with pytest.raises(SystemExit, match=r"attack PGD-3 changed"):
        check_same_evaluation(with_attacks(experiment, **{"PGD-3": pgd(experiment, 4)}))


def test_a_changed_attack_may_take_another_label(experiment):
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
