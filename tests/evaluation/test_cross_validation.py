"""Cross-validation of a whole config: every fold has its own folder, images and rows, and one table is over all."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from jaxiqa import data
from jaxiqa.cli import evaluate, train
from jaxiqa.config import (
    Attack,
    Average,
    Data,
    Distil,
    Evaluation,
    Experiment,
    Model,
    Saved,
    SoftLabels,
    Training,
    Variant,
    check_experiment,
    folded,
)

ROOT = Path(__file__).parent.parent.parent


def whole(**changes):
    labelled, other = Data("builtin", options={"size": (16, 16), "train": 12, "val": 4, "test": 4}), Data("nips2017")
    attacks = {
        "own": Attack("uap", (0.1,), fit_on=replace(labelled, limit=3)),
        "other": Attack("uap", (0.1,), fit_on=other),
        "none": Attack("fgsm", (0.1,)),
    }
    variants = {
        "base": Variant(Training()),
        "taught": Variant(Training(distil=Distil(data=labelled)), parent="base"),
        "elsewhere": Variant(Training(distil=Distil(data=other)), parent="base"),
    }
    experiment = Experiment("x", labelled, Model("resnet18"), variants, Evaluation(labelled, attacks), folds=5)
    return replace(experiment, **changes)


def test_every_use_of_the_labelled_images_is_divided():
    parts = folded(whole())
    assert [part.workdir for part in parts] == [f"runs/x/fold{i}" for i in range(5)]
    for number, part in enumerate(parts):
        found = part.evaluation.attacks
        divided = [part.data, part.evaluation.data, found["own"].fit_on, part.variants["taught"].training.distil.data]
        assert {(chosen.folds, chosen.fold) for chosen in divided} == {(5, number)}
        whole_sets = [found["other"].fit_on, part.variants["elsewhere"].training.distil.data]
        assert {chosen.folds for chosen in whole_sets} == {None}
        assert found["own"].fit_on.limit == 3
        assert part.folds is None
        check_experiment(part)
    tests = [set(data.load("builtin", **part.data.arguments)["test"].ids) for part in parts]
    assert len(set.union(*tests)) == sum(map(len, tests)) == 20


def test_weights_of_each_fold_are_its_own():
    learned = "runs/y/fold{fold}/base/seed0"
    variants = {
        "saved": Saved(learned),
        "taught": Variant(Training(distil=Distil(weights=learned))),
        "mixed": Variant(Training(soft_labels=SoftLabels(0.5, weights=learned))),
        "whole": Saved("jaxiqa-base"),
        "mean": Average(("saved", "whole")),
    }
    for number, part in enumerate(folded(whole(variants=variants, model=Model("resnet18", weights=learned)))):
        own, found = f"runs/y/fold{number}/base/seed0", part.variants
        taught, mixed = found["taught"].training.distil, found["mixed"].training.soft_labels
        assert {part.model.weights, found["saved"].weights, taught.weights, mixed.weights} == {own}
        assert (found["whole"], found["mean"]) == (variants["whole"], variants["mean"])


def test_without_folds_an_experiment_is_itself():
    assert folded(whole(folds=None)) == [whole(folds=None)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"folds": 1}, r"folds=1; expected at least 2"), ({"data": Data("clive", folds=5)}, r"folds=5 and data\.folds=5")],
)
def test_faults_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_experiment(whole(**changes))


ONE_ATTACK = f"""
import runpy
from dataclasses import replace
from jaxiqa.config import Evaluation

def get_config():
    smoke = runpy.run_path({str(ROOT / "configs" / "smoke.py")!r})["get_config"]()
    attacks = {{"PGD-1": smoke.evaluation.attacks["PGD-1"]}}
    whole = smoke.evaluation
    return replace(smoke, evaluation=Evaluation(whole.data, attacks, ranks=whole.ranks, examples=1))
"""


@pytest.mark.slow
def test_a_config_is_trained_and_evaluated_by_two_folds(tmp_path, capsys):
    config = tmp_path / "one_attack.py"
    config.write_text(ONE_ATTACK)
    arguments = ["--config", str(config), "--folds", "2", "--workdir", str(tmp_path)]
    arguments += ["--evaluation.ranks.queries", "0", "--evaluation.masking", "0"]
    train.main(arguments)
    evaluate.main(arguments)
    with (tmp_path / "folds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["fold"] for row in rows} == {"0", "1"}
    assert {row["model"] for row in rows} == {"baseline", "hardened"}
    assert {"SROCC", "worst SROCC @ 1/255", "slope", "AbsGain AUC PGD-1"} <= {row["measure"] for row in rows}
    assert all(row["value"] for row in rows)
    for number in range(2):
        assert (tmp_path / f"fold{number}" / "report.html").exists()
    assert f"all folds: {tmp_path / 'folds.md'}" in capsys.readouterr().out
    again = (tmp_path / "fold0" / "results.jsonl").read_bytes()
    evaluate.main(arguments)  # nothing is repeated
    assert (tmp_path / "fold0" / "results.jsonl").read_bytes() == again
