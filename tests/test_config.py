"""Every config is valid, and invalid ones are refused before anything is loaded."""

import ast
import itertools
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jaxiqa import attacks, data
from jaxiqa.cli.options import from_command_line
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
    load_config,
    run_folder,
    trained_variants,
)
from jaxiqa.defenses import smoothing
from jaxiqa.evaluation import build_defense
from jaxiqa.evaluation.fingerprint import FOLDERS
from jaxiqa.models import BACKBONES
from jaxiqa.results.rows import FILES

NAMES = {"clive_heads": "clive_linearity"}
"""Names of experiments that are not their file's: of a config with parameters, the name for their defaults."""
CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.py"))


def test_a_config_is_given_by_path_text_or_shipped_name():
    (smoke,) = (path for path in CONFIGS if path.stem == "smoke")
    assert load_config(smoke) == load_config(str(smoke)) == load_config("smoke")
    with pytest.raises(FileNotFoundError, match=r"smok.*did you mean"):
        load_config("smok")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_well_formed(path):
    experiment = load_config(path)
    check_experiment(experiment)
    assert experiment.name == NAMES.get(path.stem, path.stem)
    assert experiment.data.name in data.DATASETS
    assert experiment.evaluation.data.name in data.DATASETS
    assert experiment.model.backbone in {None, *BACKBONES}
    for attack in experiment.evaluation.attacks.values():
        if attack.name in attacks.FITTED:
            assert attack.fit_on is not None
        else:
            name = attacks.strength_option(attack.name)
            ladder = attack.epsilons or (attack.aligned and (attack.aligned.ladder or (2 / 255,)))
            networks = dict.fromkeys(attack.networks, lambda a, b: 0)
            attacks.make(attack.name, **({name: ladder[0]} | attack.options if ladder else attack.options), **networks)
    for label, defense in experiment.evaluation.defenses.items():
        if not defense.networks:
            build_defense.build(label, defense)
    for certifier in experiment.evaluation.certifiers.values():
        assert certifier.name in smoothing.CERTIFIERS
    for variant in trained_variants(experiment).values():
        if chosen := variant.training.adversarial:
            attacks.make(chosen.attack, epsilon=chosen.epsilon, **chosen.options)
    assert all(describe(experiment, name, 0)["seed"] == 0 for name in experiment.variants)


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
        ({"training": Training(epochs=1, adversarial=Adversarial(0.1, weakest=2.0))}, "adversarial.weakest=2.0"),
        ({"training": Training(epochs=1, norm_penalty=NormPenalty(-1.0))}, "norm_penalty.weight"),
    ],
)
def test_errors_name_the_bad_variant(smoke, change, message):
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
    with pytest.raises((SystemExit, ValueError, FileNotFoundError), match=r"no such file|get_config|usage"):
        from_command_line("", arguments)


def test_the_description_omits_unused_settings(smoke):
    described = describe(smoke, "baseline", 0)["variants"][0]["training"]
    assert not {"adversarial", "norm_penalty", "attacked_mode"} & set(described)
    attacked = Variant(Training(epochs=2, adversarial=Adversarial(0.1), attacked_mode="train"))
    described = describe(replace(smoke, variants={"baseline": attacked}), "baseline", 0)["variants"][0]["training"]
    assert described["adversarial"]["epsilon"] == 0.1
    assert described["attacked_mode"] == "train"


def test_a_changed_parent_changes_the_description(smoke):
    changed = replace(smoke, variants={**smoke.variants, "baseline": Variant(Training(epochs=7))})
    assert describe(smoke, "hardened", 0) != describe(changed, "hardened", 0)


PGD, UAP = Attack("pgd", (0.1,)), Attack("uap", (0.1,), fit_on=Data("builtin"))


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"attacks": {"x": replace(PGD, aligned=Align("linf"))}}, r"attacks\.x has both epsilons and aligned"),
        ({"attacks": {"a": PGD, "AUC a": PGD}}, r"attacks: 'AUC a' is also the name of a column of 'a'; rename one"),
        ({"attacks": {"mean [x]": PGD, "[x]": PGD}}, r"attacks: 'mean \[x\]' is also the name of a column of '\[x\]'"),
        ({"attacks": {"a": PGD, "a @ weak": PGD}}, r"attacks: 'a @ weak' is also the name of a column of 'a'"),
        (
            {"attacks": {"x": replace(UAP, epsilons=None, aligned=Align("linf"))}},
            r"attacks\.x\.aligned\.measure='linf' is not allowed.*fitted.*use 'budget'",
        ),
        ({"adaptive": Adaptive(("PDG",))}, r"adaptive\.attacks: 'PDG' is not an attack; there are 'PGD', 'UAP'"),
        ({"adaptive": Adaptive(("UAP",))}, r"adaptive\.attacks: 'UAP' is fitted"),
        ({"adaptive": Adaptive(draws=0)}, "draws=0"),
        ({"certifiers": {"MS": Certifier("ms", attacks=("pgd",))}}, r"certifiers\.MS\.attacks: 'pgd' is not an attack"),
        ({"defenses": {"none": Defense("flip")}}, "'none' is reserved for the metric without a defense"),
    ],
)
def test_labels_in_an_evaluation_must_exist(smoke, chosen, message):
    evaluation = Evaluation(**({"data": Data("builtin"), "attacks": {"PGD": PGD, "UAP": UAP}} | chosen))
    with pytest.raises(ValueError, match=message):
        check_experiment(replace(smoke, evaluation=evaluation))


BROKEN = {
    "Training(epoch=3)": r"line 4: Training has no field 'epoch'; did you mean 'epochs'",
    "Variant()": r"line 4: Variant needs training; its fields are training, parent",
    "1 / 0": r"line 4: ZeroDivisionError: division by zero",
    "Training(": r"line 4: '\(' was never closed",
    "Training(epochs=3).epohcs": r"line 4: AttributeError: .*'epohcs'",
    "{'name': 'x'}": r"get_config\(\) returned dict; expected a jaxiqa\.config\.Experiment",
    "experiment(Training(epochs='20'))": r"variants\.a\.training\.epochs='20'; expected a whole number; write 20",
    "experiment(Training(2, loss='msee'))": r"variants\.a\.training\.loss='msee'; did you mean 'mse'",
    "experiment(Training(2, adversarial=Adversarial('8/255')))": r"epsilon='8/255'; expected a number; write 8/255",
    "experiment(Training(2), seeds=0)": r"seeds=0; expected a tuple, such as \(0,\)",
    "experiment(Training(2), workdir=Path())": r"NameError: name 'Path' is not defined",
    "experiment(Training(True))": r"variants\.a\.training\.epochs=True; expected a whole number",
    "experiment(Training(2, adversarial=Adversarial(0.1, options={'steps': {2}})))": r"options\.steps=\{2\} of typ",
}


@pytest.mark.parametrize(("value", "message"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_fault_in_a_config_file_is_one_message_with_its_line(tmp_path, value, message):
    path = tmp_path / "mine.py"
    build = "experiment = lambda t, **k: Experiment('x', Data('builtin'), Model('resnet18'), {'a': Variant(t)}, "
    build += "Evaluation(Data('builtin'), {}), **k)"
    path.write_text(f"from jaxiqa.config import *\n{build}\ndef get_config():\n    return {value}\n")
    command = [sys.executable, "train.py", "--config", str(path)]
    ended = subprocess.run(command, cwd=CONFIGS[0].parent.parent, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert re.match(rf"error: --config {path}(, |: )[^\n]*{message}", ended.stderr), ended.stderr


def test_strengths_are_read_and_shown_as_fractions_on_the_command_line(tmp_path, capsys):
    path = tmp_path / "mine.py"
    attack = "Adversarial(8 / 255, 'pgd', {'steps': 1, 'step_size': 5 / 255})"
    evaluation = "Evaluation(Data('builtin'), {'P': Attack('pgd', (2 / 255, 0.1)), 'Q': Attack('pgd')})"
    variants = f"{{'a': Variant(Training(1, adversarial={attack}), block=Block('after:layer3'))}}"
    path.write_text(
        "from jaxiqa.config import *\ndef get_config():\n"
        f"    return Experiment('x', Data('builtin'), Model('resnet18'), {variants}, {evaluation})\n"
    )
    given = ["--config", str(path), "--variants.a.training.adversarial.epsilon", "4/255"]
    given += ["--variants.a.training.adversarial.options.step-size", "3 / 255", "--evaluation.attacks.P.epsilons"]
    given += ["1/255", "0.5", "--evaluation.attacks.Q.options", "step_size", "2/255", "steps", "3"]
    found = from_command_line("", given)
    assert found.variants["a"].training.adversarial.epsilon == 4 / 255
    assert found.variants["a"].training.adversarial.options == {"steps": 1, "step_size": 3 / 255}
    assert found.evaluation.attacks["P"].epsilons == (1 / 255, 0.5)
    assert found.evaluation.attacks["Q"].options == {"step_size": 2 / 255, "steps": 3}
    with pytest.raises(SystemExit):
        from_command_line("", ["--config", str(path), "--help"])
    shown = capsys.readouterr().out
    assert "(default: 8/255)" in shown
    assert "(default: 5/255)" in shown
    assert "(default: 2/255 0.1)" in shown
    with pytest.raises(SystemExit):
        from_command_line("", [*given[:2], "--variants.a.training.adversarial.epsilon", "4/0"])
    assert "'4/0' is not a number; write a number such as 0.03 or 8/255" in " ".join(
        capsys.readouterr().err.replace("│", "").split()
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "A"], "differ only in case"),
        (["é", "e\u0301"], "differ only in case or in how Unicode spells them"),
        (["画質", "x", "Ａ", "a"], "differ only in case or in how Unicode spells them"),
        (["STRASSE", "straße"], "differ only in case"),
        ([" "], "not a label"),
        (["a\nb"], "not a label"),
        *(
            ([spelling(name)], "jaxiqa writes")
            for name in (
                *FILES.values(),
                *FOLDERS,
                "evaluation.json",
                "report.html",
                "leaderboard.csv",
                "order.md",
                "order.png",
                "table.md",
            )
            for spelling in (str, str.upper, str.title, lambda name: chr(ord(name[0]) + 0xFEE0) + name[1:])
        ),
    ],
)
def test_every_variant_has_its_own_folder(smoke, names, message):
    with pytest.raises(ValueError, match=f"variants: .*{message}"):
        check_experiment(replace(smoke, variants={name: Variant(Training(epochs=1)) for name in names}))


def test_unusual_labels_become_folders_inside_the_working_directory(smoke):
    names = ["[/]", "../../x", "画質" * 80, "b" * 400]
    odd = replace(smoke, variants={name: Variant(Training(epochs=1)) for name in names}, workdir="w")
    check_experiment(odd)
    folders = [run_folder(odd, name, 0) for name in names]
    assert len(set(folders)) == 4
    assert all(len(folder.parts) == 3 and folder.parts[0] == "w" and ".." not in folder.parts for folder in folders)
    assert run_folder(smoke, "baseline", 1).parts[-2:] == ("baseline", "seed1")


@pytest.mark.parametrize("path", sorted(Path("jaxiqa/config").glob("*.py")), ids=lambda path: path.stem)
def test_every_field_has_a_line_of_help(path):
    """``--help`` shows the text after a field."""
    classes = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.ClassDef)]
    for described in classes:
        if described.name == "Parameter":  # of a config's function, described by its docstring
            continue
        for field, after in itertools.pairwise([*described.body, ast.Pass()]):
            if isinstance(field, ast.AnnAssign):
                text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert text, f"{described.name}.{ast.unparse(field.target)}"


def test_help_imports_nothing_heavy():
    """It takes a quarter of a second on an idle machine. Times are not asserted: they depend on other processes."""
    program = "import sys, runpy; sys.argv = ['train.py', '--config', 'configs/smoke.py', '--help']\n"
    program += "try: runpy.run_path('train.py', run_name='__main__')\n"
    program += "finally: print({'jax', 'numpy', 'flax', 'optax', 'filelock'} & set(sys.modules), file=sys.stderr)"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, cwd=CONFIGS[0].parent.parent, capture_output=True, text=True)
    assert ended.stderr == "set()\n"
    assert "--variants.hardened.prune.amount" in ended.stdout
