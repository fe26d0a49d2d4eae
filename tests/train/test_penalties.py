"""Penalties of a training: norms of layers, the slope of a stage, and a teacher."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx

from jaxiqa import models
from jaxiqa.config import (
    Data,
    Distil,
    Evaluation,
    Experiment,
    Jacobian,
    Model,
    NormPenalty,
    Spectral,
    Training,
    Variant,
    check_experiment,
    describe,
    run_folder,
)
from jaxiqa.config.identity import chain, differences
from jaxiqa.lipschitz.spectral import circular_singular_values
from jaxiqa.nn.fold import fold_batch_norm
from jaxiqa.train.experiment import load_data, train_variant
from jaxiqa.train.penalties import backbone_layers, layer_norms, make_penalty
from jaxiqa.train.startup import check_training
from jaxiqa.train.state import merge_model, raw_score_fn, split_model

BATCH = {"image": jax.random.uniform(jax.random.key(0), (4, 33, 40, 3))}
KEYS = jax.random.split(jax.random.key(1), 4)
ALL = Training(
    norm_penalty=NormPenalty(0.1),
    jacobian=Jacobian("block2", 0.01),
    spectral=Spectral(0.1, limit=0.5),
    distil=Distil(2.0),
    loss="mse",
)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def gather(x):
    return x


@pytest.fixture(scope="module")
def parts():
    return split_model(tiny.metric("efficientnet_lite0"))


def price(parts, training, params=None, batch=BATCH, **options):
    score_fn = raw_score_fn(parts, params or parts.params, parts.batch_stats)
    return make_penalty(training, **options)(score_fn, batch, KEYS, gather=gather)


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "freeze"), [("resnet18", "layer2"), ("efficientnet_lite0", None)])
def test_norms_of_layers_are_those_of_the_folded_network(backbone, freeze):
    """Batch norms are folded by other code, and the singular values are exact ones."""
    model = tiny.metric(backbone)
    layers = backbone_layers(model, freeze)
    found = dict(zip([path for path, _ in layers], np.asarray(layer_norms(model, layers)), strict=True))
    folded = {path: module for path, module in nnx.iter_modules(fold_batch_norm(model)) if path in found}
    assert len(found) == len(folded) > 8
    assert all(norm is not None for _, norm in layers)
    for path, layer in folded.items():
        kernel, groups = np.asarray(layer.kernel[...], np.float64), layer.feature_group_count
        size = (1, 1) if kernel.shape[:2] == (1, 1) else (8, 8)
        exact = circular_singular_values(kernel, size, groups=groups).max()
        assert 0.9 * exact < found[path] < exact * (1 + 1e-4), path
    if freeze:
        assert {path[2].partition(".")[0] for path in found} == {"layer3", "layer4"}


@pytest.mark.slow
def test_a_batch_norm_without_a_scale_has_its_deviation_only():
    model = nnx.Dict(a=nnx.Linear(3, 4, rngs=nnx.Rngs(0)), b=nnx.BatchNorm(4, use_scale=False, rngs=nnx.Rngs(0)))
    model.b.var[...] = jnp.array([4.0, 1.0, 0.25, 9.0])
    scaled = np.asarray(model.a.kernel[...]) / np.sqrt(np.asarray(model.b.var[...]) + model.b.epsilon)
    found = float(layer_norms(model, ((("a",), ("b",)),))[0])
    assert found == pytest.approx(np.linalg.norm(scaled, 2), rel=1e-2)


@pytest.mark.slow
def test_the_sum_of_all_penalties(parts):
    batch = BATCH | {"unlabelled": jax.random.uniform(jax.random.key(5), (4, 33, 40, 3))}
    teacher = raw_score_fn(split_model(tiny.metric("efficientnet_lite0", seed=1)), *_arrays(1))
    options = {"layers": backbone_layers(tiny.metric("efficientnet_lite0")), "teacher": teacher}
    whole = price(parts, ALL, batch=batch, **options)
    names = ("norm_penalty", "jacobian", "spectral", "distil")
    alone = [price(parts, Training(loss="mse", **{name: getattr(ALL, name)}), batch=batch, **options) for name in names]
    assert all(float(one) > 0 for one in alone)
    assert float(whole) == pytest.approx(sum(map(float, alone)), rel=1e-5)
    student = raw_score_fn(parts, parts.params, parts.batch_stats)
    expected = 2 * np.mean((np.asarray(student(batch["unlabelled"])) - np.asarray(teacher(batch["unlabelled"]))) ** 2)
    assert float(alone[3]) == pytest.approx(expected, rel=1e-4)
    assert make_penalty(Training()) is None


def _arrays(seed):
    parts = split_model(tiny.metric("efficientnet_lite0", seed=seed))
    return parts.params, parts.batch_stats


@pytest.mark.slow
@pytest.mark.parametrize(
    ("training", "last"),
    [(Training(jacobian=Jacobian("block2", 1.0)), ()), slow(Training(spectral=Spectral(1.0, 0.3)), ("head",))],
)
def test_descent_lowers_what_is_penalised(parts, training, last):
    layers = backbone_layers(merge_model(parts, parts.params, parts.batch_stats))
    value = jax.jit(jax.value_and_grad(lambda params: price(parts, training, params, layers=layers)))
    before, slope = value(parts.params)
    size = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(slope))
    rate = 0.05 * float(before) / size  # to first order, 5 % less
    after, _ = value(jax.tree.map(lambda p, g: p - rate * g, parts.params, slope))
    assert 0.9 * before < after < 0.99 * before
    flat = jax.tree_util.tree_leaves_with_path(slope["backbone"]["stage"])
    touched = {path[0].key for path, leaf in flat if bool(jnp.any(leaf != 0))}
    assert touched == {"stem", *(f"block{i}" for i in range(3 if training.jacobian else 16)), *last}


def experiment(workdir="", **variants):
    data = Data("builtin", options={"size": (64, 72), "train": 16, "val": 4, "test": 4})
    plain = Training(epochs=1, batch_size=4, learning_rate=1e-3, flip=True)
    chosen = {"base": Variant(plain)} | {
        name: Variant(replace(plain, **changes), parent="base") for name, changes in variants.items()
    }
    model = Model("efficientnet_lite0", width=8)
    return Experiment("penalties", data, model, chosen, Evaluation(data, {}), workdir=str(workdir))


@pytest.mark.slow
def test_a_config_with_all_of_them_trains_and_reads_other_images(tmp_path):
    others = Data("builtin", options={"size": (96, 80), "train": 2, "val": 2, "test": 6})
    changes = {"norm_penalty": ALL.norm_penalty, "jacobian": Jacobian("layer2", 0.01), "spectral": ALL.spectral}
    crops = {"crops": 1, "crop": (48, 56), "patches": 1}
    distil = Distil(1.0, data=others, split="test")
    chosen = replace(
        experiment(tmp_path, flat={**changes, **crops, "distil": distil}), model=Model("resnet18", width=8)
    )
    check_training(chosen)
    splits = load_data(chosen, list(chosen.variants))
    rows = {name: train_variant(chosen, name, 0, splits, {}, {}) for name in chosen.variants}
    row = json.loads((run_folder(chosen, "flat", 0) / "metrics.jsonl").read_text())
    assert row["step"] == 4
    assert np.isfinite(row["loss"])
    assert rows["flat"]["best_epoch"] == 1
    models.load_run(run_folder(chosen, "flat", 0))


def test_the_description_contains_the_teacher():
    chosen = experiment(one={"distil": Distil()}, other={"spectral": Spectral(1.0)})
    third = Variant(replace(chosen.variants["base"].training, distil=Distil(teacher="other")), parent="base")
    again = replace(chosen, variants={**chosen.variants, "third": third})
    described = describe(again, "third", 0)
    assert described["variants"][-1]["teacher"] == describe(again, "other", 0)["variants"]
    assert describe(again, "one", 0)["variants"][-1]["teacher"] == describe(again, "base", 0)["variants"]
    assert "teacher" not in describe(again, "other", 0)["variants"][-1]
    assert not {"jacobian", "spectral", "distil"} & set(describe(again, "base", 0)["variants"][0]["training"])


def test_the_description_of_a_child_contains_its_parents_teacher():
    """Also a teacher's own teacher: each decides the weights."""
    chosen = experiment(other={"spectral": Spectral(1.0)}, changed={"spectral": Spectral(2.0)})
    plain = chosen.variants["base"].training

    def child(teacher):
        taught = Variant(replace(plain, distil=Distil(teacher=teacher)), parent="base")
        again = Variant(replace(plain, distil=Distil(teacher="taught")), parent="base")
        variants = {**chosen.variants, "taught": taught, "child": Variant(plain, parent="taught"), "again": again}
        variants["other"] = chosen.variants[teacher]
        return replace(chosen, variants=variants)

    one, two = child("other"), child("changed")
    two.variants["taught"] = one.variants["taught"]  # the same name, another training of the teacher
    for name in ("child", "again"):
        before, today = describe(one, name, 0), describe(two, name, 0)
        assert before != today
        assert any("spectral.weight: 1.0 -> 2.0" in line for line in differences(before, today, chain(two, name)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jacobian": Jacobian("block99", 1.0)}, r"jacobian\.stage='block99': no such stage"),
        ({"jacobian": Jacobian("block2", 1.0), "freeze": "block2"}, r"jacobian\.stage='block2' does not train"),
        ({"jacobian": Jacobian("block2", -1.0)}, r"jacobian\.weight=-1"),
        ({"jacobian": Jacobian("block2", 1.0, step=0.0)}, r"jacobian\.step=0"),
        ({"spectral": Spectral(1.0, limit=0.0)}, r"spectral\.limit=0"),
        ({"spectral": Spectral(1.0), "freeze": "head"}, r"training: spectral: the trained stages have no"),
        ({"distil": Distil(0.0)}, r"distil\.weight=0"),
        ({"distil": Distil(teacher="bsae")}, r"distil\.teacher='bsae' is not an earlier variant; did you mean 'base'"),
        ({"distil": Distil(teacher="odd")}, r"distil\.teacher='odd' is not an earlier variant"),
        ({"distil": Distil(data=Data("builtn"))}, r"distil\.data\.name='builtn'; did you mean 'builtin'"),
        ({"distil": Distil(), "batch_size": 1, "loss": "mse"}, r"batch_size=1.*distil"),
    ],
)
def test_faults_are_named_before_the_start(changes, message):
    with pytest.raises(ValueError, match=message):
        check_training(experiment(odd=changes))


def test_a_teacher_is_needed():
    chosen = experiment()
    alone = {"first": replace(chosen.variants["base"], training=replace(ALL, epochs=1, batch_size=4))}
    with pytest.raises(ValueError, match=r"variants\.first\.training\.distil\.teacher=None.*no parent"):
        check_experiment(replace(chosen, variants=alone))


def test_a_split_that_does_not_exist_is_named():
    small = Data("builtin", options={"size": (16, 16), "train": 2, "val": 2, "test": 2})
    with pytest.raises(ValueError, match=r"variants\.odd\.training\.distil\.split='tset'; did you mean 'test'"):
        load_data(experiment(odd={"distil": Distil(data=small, split="tset")}), ["odd"])
