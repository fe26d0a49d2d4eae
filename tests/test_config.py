"""Every experiment is well-formed, and what is not is said before anything is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from jaxiqa import attacks, data
from jaxiqa.config import (
    Adaptive,
    Adversarial,
    Align,
    Attack,
    Block,
    Certifier,
    Data,
    Defense,
    Evaluation,
    NormPenalty,
    Training,
    Variant,
    check_experiment,
    describe,
    from_command_line,
    load_config,
)
from jaxiqa.defenses import smoothing
from jaxiqa.evaluation import purifiers
from jaxiqa.models import BACKBONES

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_well_formed(path):
    experiment = load_config(path)
    check_experiment(experiment)
    assert experiment.name == path.stem
    assert experiment.data.name in data.DATASETS
    assert experiment.evaluation.data.name in data.DATASETS
    assert experiment.model.backbone in BACKBONES
    for attack in experiment.evaluation.attacks.values():
        if attack.name in attacks.FITTED:
            assert attack.fit_on is not None
        else:
            name = getattr(attacks.ATTACKS[attack.name], "strength", "epsilon")
            ladder = attack.epsilons or (attack.aligned and (attack.aligned.ladder or (2 / 255,)))
            networks = dict.fromkeys(attack.networks, lambda a, b: 0)
            attacks.make(attack.name, **({name: ladder[0]} | attack.options if ladder else attack.options), **networks)
    for label, defense in experiment.evaluation.defenses.items():
        if not defense.networks:
            purifiers.build(label, defense)
    for certifier in experiment.evaluation.certifiers.values():
        assert certifier.name in smoothing.CERTIFIERS
    for name, variant in experiment.variants.items():
        if chosen := variant.training.adversarial:
            attacks.make(chosen.attack, epsilon=chosen.epsilon, **chosen.options)
        assert describe(experiment, name, 0)["seed"] == 0


@pytest.fixture
def smoke():
    return load_config(CONFIGS[[path.stem for path in CONFIGS].index("smoke")])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"parent": "nobody"}, "not an earlier variant"),
        ({"block": Block("layer3")}, "before:STAGE"),
        ({"training": Training(epochs=0)}, "epochs=0"),
        ({"training": Training(epochs=1, learning_rate=0.0)}, "learning_rate"),
        ({"training": Training(epochs=1, adversarial=Adversarial(0.0))}, "adversarial.epsilon"),
        ({"training": Training(epochs=1, adversarial=Adversarial(0.1, label="lpips"))}, "label='lpips'"),
        ({"training": Training(epochs=1, norm_penalty=NormPenalty(-1.0))}, "norm_penalty.weight"),
    ],
)
def test_a_bad_variant_is_named(smoke, change, message):
    bad = replace(smoke, variants={"odd": replace(Variant(Training(epochs=1)), **change)})
    with pytest.raises(ValueError, match=f"variants.odd.*{message}"):
        check_experiment(bad)


def test_repeated_seeds_and_empty_experiments_are_refused(smoke):
    with pytest.raises(ValueError, match="seeds"):
        check_experiment(replace(smoke, seeds=(0, 0)))
    with pytest.raises(ValueError, match="variants"):
        check_experiment(replace(smoke, variants={}))


def test_the_command_line_overrides_fields_at_any_depth():
    arguments = ["--config", str(CONFIGS[0].parent / "smoke.py"), "--seeds", "0", "3"]
    arguments += ["--variants.hardened.block.options.mid", "5", "--variants.baseline.training.epochs", "9"]
    experiment = from_command_line("", arguments)
    assert experiment.seeds == (0, 3)
    assert experiment.variants["hardened"].block.options["mid"] == 5
    assert experiment.variants["baseline"].training.epochs == 9
    assert experiment.variants["hardened"].training.epochs == 2


@pytest.mark.parametrize("arguments", [["--config", "nowhere.py"], ["--config", __file__], ["--seeds", "1"]])
def test_a_missing_or_wrong_config_ends_with_a_message(arguments):
    with pytest.raises(SystemExit, match=r"no such file|get_config|usage"):
        from_command_line("", arguments)


def test_settings_that_are_not_used_are_not_described(smoke):
    described = describe(smoke, "baseline", 0)["variants"][0]["training"]
    assert not {"adversarial", "norm_penalty", "attacked_mode"} & set(described)
    attacked = Variant(Training(epochs=2, adversarial=Adversarial(0.1), attacked_mode="train"))
    described = describe(replace(smoke, variants={"baseline": attacked}), "baseline", 0)["variants"][0]["training"]
    assert described["adversarial"]["epsilon"] == 0.1
    assert described["attacked_mode"] == "train"


def test_a_change_upstream_changes_the_description(smoke):
    changed = replace(smoke, variants={**smoke.variants, "baseline": Variant(Training(epochs=7))})
    assert describe(smoke, "hardened", 0) != describe(changed, "hardened", 0)


PGD, UAP = Attack("pgd", (0.1,)), Attack("uap", (0.1,), fit_on=Data("builtin"))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"attacks": {"x": replace(PGD, aligned=Align("linf"))}}, r"attacks\.x has both epsilons and aligned"),
        (
            {"attacks": {"x": replace(UAP, epsilons=None, aligned=Align("linf"))}},
            r"attacks\.x is fitted.*align it by its budget",
        ),
        ({"adaptive": Adaptive(("PDG",))}, r"adaptive\.attacks names 'PDG'; there are 'PGD', 'UAP'"),
        ({"adaptive": Adaptive(("UAP",))}, r"adaptive\.attacks names 'UAP', which is fitted"),
        ({"adaptive": Adaptive(draws=0)}, "draws=0"),
        ({"certifiers": {"MS": Certifier("ms", attacks=("pgd",))}}, r"certifiers\.MS\.attacks names 'pgd'"),
        ({"defenses": {"none": Defense("flip")}}, "stands for the metric without a defense"),
    ],
)
def test_labels_of_an_evaluation_refer_to_something(smoke, chosen, message):
    evaluation = Evaluation(**({"data": Data("builtin"), "attacks": {"PGD": PGD, "UAP": UAP}} | chosen))
    with pytest.raises(ValueError, match=message):
        check_experiment(replace(smoke, evaluation=evaluation))
