"""Config variants with a controlled tail, and averages: checked, trained, resumed, skipped, evaluated."""

import json
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa import models
from jaxiqa.config import (
    Attack,
    Average,
    Block,
    Data,
    Evaluation,
    Experiment,
    Model,
    Ranks,
    Tail,
    Training,
    Variant,
    check_experiment,
    describe,
    load_config,
    run_folder,
)
from jaxiqa.config.identity import chain, differences
from jaxiqa.evaluation.experiment import evaluate_experiment
from jaxiqa.evaluation.fingerprint import describe as fingerprint
from jaxiqa.evaluation.paper_run import place, protocol
from jaxiqa.measures.correlation import srocc
from jaxiqa.train.experiment import finished_runs, load_data, train_variant
from jaxiqa.train.recipes import with_recipes
from jaxiqa.train.startup import check_training

DATA = Data("builtin", options={"size": (33, 47), "train": 64, "val": 16, "test": 8})
TRAINING = Training(epochs=1, learning_rate=1e-3, batch_size=8, backbone_factor=1.0, flip=True)
VARIANTS = {
    "base": Variant(TRAINING),
    "tail": Variant(
        replace(TRAINING, freeze="layer2"),
        parent="base",
        tail=Tail("layer2", channels=8),
        block=Block("after:layer2", "bottleneck", {"mid": 3}),
    ),
    "both": Average(("base", "tail"), mirror=True),
}


def experiment(workdir="", **changes):
    evaluation = Evaluation(Data("builtin", limit=2, options=DATA.options), {"FGSM": Attack("fgsm", (8 / 255,))})
    evaluation = replace(
        evaluation,
        batch_size=2,
        examples=0,
        score_range="model",
        masking=0,
        ranks=Ranks((1 / 255,), images=2, queries=0),
    )
    model = Model("resnet18", width=8)
    fields = {"variants": VARIANTS, "evaluation": evaluation, "workdir": str(workdir)} | changes
    return Experiment("tiny", DATA, model, **fields)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    chosen = experiment(tmp_path_factory.mktemp("runs"))
    check_training(chosen)
    splits = load_data(chosen, ["base", "tail"])
    rows = {name: train_variant(chosen, name, 0, splits, {}, {}) for name in chosen.variants}
    return chosen, splits, rows


def with_variant(**variants):
    return experiment(variants={**VARIANTS, **variants})


@pytest.mark.parametrize(
    ("average", "message"),
    [
        (Average(()), r"odd\.members is empty"),
        (
            Average(("bsae", "tail")),
            r"odd\.members\[0\]='bsae' is not an earlier variant; did you mean 'base'",
        ),
        (Average(("base", "later")), r"odd\.members\[1\]='later' is not an earlier variant"),
        (Average(("base", "odd")), r"odd\.members\[1\]='odd' is not an earlier variant"),
        (
            Average(("base", "both")),
            r"odd\.members\[1\]='both' is an Average, which is not trained",
        ),
        (Average(("base", "base")), r"odd\.members has 'base' twice"),
        (Average(("base",)), r"odd\.members has one variant and mirror=False"),
        (Variant(TRAINING, parent="both"), r"odd\.parent='both' is an Average"),
        (
            Variant(TRAINING, tail=Tail("layer2", channels=7)),
            r"odd\.tail\.channels=7; expected an even number",
        ),
        (Variant(TRAINING, tail=Tail("layer2", depth=0)), r"odd\.tail\.depth=0; expected at least 1"),
    ],
)
def test_faults_of_a_config_name_the_field(average, message):
    with pytest.raises(ValueError, match=message):
        check_experiment(with_variant(odd=average, later=Variant(TRAINING)))


def test_one_member_and_its_mirror_image_is_an_average():
    check_experiment(with_variant(mirrored=Average(("base",), mirror=True)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "message"),
    [
        (Variant(TRAINING, tail=Tail("layer9")), r"odd\.tail\.after='layer9': no such stage; .*'layer2'"),
        (Variant(TRAINING, parent="tail", tail=Tail("layer3")), r"odd\.tail\.after='layer3': no such stage"),
        (Variant(TRAINING, tail=Tail("layer1"), block=Block("after:layer2", options={"mid": 2})), r"odd\.block\.where"),
        (Variant(replace(TRAINING, freeze="layer3"), tail=Tail("layer2")), r"odd\.training\.freeze='layer3': no such"),
        (Variant(TRAINING, tail=Tail("layer2"), head_activation="silu"), r"odd\.head_activation='silu': the head of"),
    ],
)
def test_faults_of_a_tail_are_found_before_training(variant, message):
    with pytest.raises(ValueError, match=message):
        check_training(with_variant(odd=variant))


@pytest.mark.slow
def test_a_tail_needs_a_backbone_of_the_list_and_members_one_protocol():
    own = replace(experiment(), model=Model(metric="fpr", width=8))
    with pytest.raises(ValueError, match=r"variants\.tail\.tail.*FPR with a network of its own"):
        check_training(replace(own, variants={**VARIANTS, "tail": replace(VARIANTS["tail"], tail=Tail("sfl3"))}))
    cropped = replace(experiment(), model=Model("resnet18", width=4, metric="tres"))
    variants = {**VARIANTS, "tail": replace(VARIANTS["tail"], block=None)}
    training = replace(TRAINING, crops=0)
    variants = {n: v if isinstance(v, Average) else replace(v, training=training) for n, v in variants.items()}
    with pytest.raises(ValueError, match=r"variants\.both: members\[0\] \(TReS .* prepare images differently"):
        check_training(replace(cropped, variants={**variants, "tail": replace(variants["tail"], parent=None)}))


def test_a_tail_takes_what_is_open_from_its_own_recipe():
    open_ended = {name: replace(VARIANTS[name], training=Training()) for name in ("base", "tail")}
    child = Variant(Training(), parent="tail")
    found = with_recipes(experiment(variants={**open_ended, "child": child})).variants
    expected = [models.Linearity.recipe, *[models.NormControlled.recipe] * 2]
    assert [found[name].training.loss for name in ("base", "tail", "child")] == [recipe.loss for recipe in expected]


def test_the_description_of_an_average_has_all_of_its_members():
    before = describe(experiment(), "both", 0)
    assert before["variants"] == [
        {"members": [describe(experiment(), name, 0)["variants"] for name in ("base", "tail")], "mirror": True}
    ]
    longer = replace(VARIANTS["base"], training=replace(TRAINING, epochs=2))
    changed = with_variant(base=longer)
    lines = differences(before, describe(changed, "both", 0), chain(changed, "both"))
    assert lines == [f"variants.both.members[{i}][0].training.epochs: 1 -> 2" for i in (0, 1)]
    plain = with_variant(both=Average(("base", "tail")))
    assert differences(before, describe(plain, "both", 0), ["both"]) == ["variants.both.mirror: True -> False"]


def test_a_variant_without_a_tail_is_described_as_before():
    assert "tail" not in describe(experiment(), "base", 0)["variants"][0]
    assert describe(experiment(), "tail", 0)["variants"][1]["tail"] == {"after": "layer2", "channels": 8, "depth": 2}


@pytest.mark.slow
def test_a_tail_is_trained_on_the_frozen_trunk_of_its_parent(trained):
    chosen, splits, _ = trained
    base, tail = (models.load_run(run_folder(chosen, name, 0)) for name in ("base", "tail"))
    assert tail.backbone.order[-1] == "bottleneck"
    images = jnp.asarray(splits["val"].images())
    np.testing.assert_array_equal(tail.trunk(images, "layer2"), base.trunk(images, "layer2"))
    assert float(tail.tail.slope) != 1.0


@pytest.mark.slow
def test_an_average_is_mapped_to_the_labels_and_saved(trained):
    chosen, splits, rows = trained
    base, tail, both = (models.load_run(run_folder(chosen, name, 0)) for name in VARIANTS)

    def mean(part):
        images = jnp.asarray(splits[part].images())
        views = [images, images[:, :, ::-1]]
        return np.mean([np.asarray(model(view), np.float64) for model in (base, tail) for view in views], axis=0)

    slope, intercept = np.polyfit(mean("train"), splits["train"].mos, 1)
    images = jnp.asarray(splits["val"].images())
    np.testing.assert_allclose(both(images), slope * mean("val") + intercept, rtol=1e-3, atol=1e-3)
    assert rows["both"]["validation_srocc"] == pytest.approx(srocc(mean("val"), splits["val"].mos))
    assert both.shares[1] == (0, base.backbone.order.index("layer2.1") + 1)
    assert both.score_range[0] < both.score_range[1]
    folder = run_folder(chosen, "both", 0)
    assert {path.name for path in folder.iterdir()} >= {
        "config.json",
        "model.json",
        "model.safetensors",
        "training.json",
    }
    assert json.loads((folder / "config.json").read_text()) == describe(with_recipes(chosen), "both", 0)


@pytest.mark.slow
def test_a_finished_average_is_skipped_and_a_lost_one_is_built_again(trained, tmp_path):
    chosen, splits, rows = trained
    again = replace(chosen, workdir=str(tmp_path / "copy"))
    shutil.copytree(chosen.workdir, again.workdir)
    assert finished_runs(again)[0, "both"] == rows["both"]
    folder = run_folder(again, "both", 0)
    before = folder.joinpath("model.safetensors").read_bytes()
    (folder / "training.json").unlink()
    assert (0, "both") not in finished_runs(again)
    assert train_variant(again, "both", 0, splits, {}, {}) == rows["both"]
    assert (folder / "model.safetensors").read_bytes() == before
    longer = replace(again, variants={**VARIANTS, "both": Average(("base", "tail"))})
    with pytest.raises(ValueError, match=r"another training \(variants\.both\.mirror: True -> False\)"):
        finished_runs(longer)


@pytest.mark.slow
def test_an_average_is_evaluated_like_any_other_model(trained, tmp_path):
    chosen, *_ = trained
    again = replace(chosen, workdir=str(tmp_path / "copy"))
    shutil.copytree(chosen.workdir, again.workdir)
    evaluate_experiment(again)
    rows = [json.loads(line) for line in (tmp_path / "copy" / "results.jsonl").read_text().splitlines()]
    assert {row["model"] for row in rows} == set(VARIANTS)
    assert "both" in (tmp_path / "copy" / "table.md").read_text()
    before = fingerprint(again, {})["model both seed 0"]
    card = json.loads((run_folder(again, "both", 0) / "model.json").read_text())
    card["options"]["mirror"] = False
    (run_folder(again, "both", 0) / "model.json").write_text(json.dumps(card))
    assert fingerprint(again, {})["model both seed 0"] != before


def test_papers_describe_tails_and_averages():
    found = protocol(with_recipes(experiment()), 8, 2, (33, 47))
    assert found["tail: freeze"] == "layer2"
    assert not [name for name in found if name.startswith("both")]
    assert place(VARIANTS["tail"]) == "controlled tail after layer2, bottleneck after:layer2 mid=3"
    assert place(VARIANTS["both"]) == "average of base, tail, mirrored too"


def test_a_config_file_and_the_command_line_have_them(tmp_path):
    from jaxiqa.cli.options import from_command_line

    path = tmp_path / "mine.py"
    path.write_text(
        "from jaxiqa.config import *\n"
        "def get_config():\n"
        "    t, d = Training(epochs=1), Data('builtin')\n"
        "    v = {'a': Variant(t, tail=Tail('layer2')), 'm': Average(('a',), mirror=True)}\n"
        "    return Experiment('x', d, Model('resnet18'), v, Evaluation(d, {}))\n"
    )
    assert load_config(path).variants["m"] == Average(("a",), mirror=True)
    found = from_command_line(
        "", ["--config", str(path), "--variants.a.tail.channels", "16", "--variants.a.training.epochs", "3"]
    )
    assert found.variants["a"].tail == Tail("layer2", channels=16)
    assert found.variants["a"].training.epochs == 3
    assert found.variants["m"].mirror
    other = from_command_line("", ["--config", str(path), "--variants.m.no-mirror"])
    assert not other.variants["m"].mirror
