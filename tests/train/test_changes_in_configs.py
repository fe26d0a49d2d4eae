"""Changes of a network that a variant names besides its blocks: blurs, poolings, activations, filters."""

from dataclasses import replace
from typing import get_type_hints

import pytest
import tiny
from flax import nnx

from configs.smoke import get_config
from jaxiqa import data
from jaxiqa.config import Block, Training, Variant, describe
from jaxiqa.config.training import Activation, Pooling
from jaxiqa.models.antialiasing import blurred
from jaxiqa.models.hardening import BLOCKS
from jaxiqa.models.pooling import pooling_of
from jaxiqa.nn.activations import ACTIVATIONS
from jaxiqa.nn.global_pooling import POOLINGS
from jaxiqa.train.recipes import with_recipes
from jaxiqa.train.sources import sources
from jaxiqa.train.startup import check_training
from jaxiqa.train.state import split_model
from jaxiqa.train.variant import frozen_stages, insert_blocks, swap_parts


@pytest.fixture(scope="module")
def smoke():
    return get_config()


def with_odd(smoke, **changes):
    training = Training(epochs=1, batch_size=8, freeze=changes.pop("freeze", None))
    odd = Variant(training, parent="baseline", **changes)
    return replace(smoke, variants={"baseline": Variant(replace(training, freeze=None)), "odd": odd})


def test_the_names_in_configs_are_those_of_the_tables():
    assert get_type_hints(Block)["kind"].__args__ == tuple(BLOCKS)
    assert Pooling.__args__ == tuple(POOLINGS)
    assert Activation.__args__ == tuple(ACTIVATIONS)


def test_a_variants_changes_reach_the_metric_and_older_runs_continue(smoke):
    assert not {"blur", "pooling", "tail"} & describe(smoke, "baseline", 0)["variants"][0].keys()
    changed = with_odd(smoke, blur=3, pooling="median")
    check_training(changed)
    described = describe(changed, "odd", 0)["variants"][1]
    assert (described["blur"], described["pooling"]) == (3, "median")
    model = tiny.abstract()
    swap_parts(model, changed.variants["odd"])
    assert (blurred(model), pooling_of(model)) == (3, "median")


def test_a_filter_reaches_the_metric_and_its_children_keep_it(smoke):
    assert "filter" not in describe(smoke, "baseline", 0)["variants"][0]
    changed = with_odd(smoke, filter=4 / 255, block=Block("after:wavelet_shrinkage", "low_pass", {"share": 0.5}))
    child = Variant(changed.variants["odd"].training, parent="odd", block=Block("before:wavelet_shrinkage", "low_pass"))
    check_training(changed)
    assert describe(changed, "odd", 0)["variants"][1]["filter"] == 4 / 255
    there = r"variants\.child\.block\.options: low_pass needs 'share'"  # so the place exists
    with pytest.raises(ValueError, match=there):
        check_training(replace(changed, variants={**changed.variants, "child": child}))
    twice = replace(child, block=None, filter=2 / 255)
    with pytest.raises(ValueError, match=r"variants\.child\.filter=0\.00784.*has a wavelet_shrinkage already"):
        check_training(replace(changed, variants={**changed.variants, "child": twice}))
    with pytest.raises(ValueError, match=r"variants\.odd\.filter=0\.0: threshold=0\.0 is outside"):
        check_training(with_odd(smoke, filter=0.0))
    brisque = replace(smoke.model, metric="brisque", backbone=None, width=None, taps=None)
    with pytest.raises(ValueError, match=r"variants\.odd\.filter=0\.1: model is a BRISQUE; expected a metric with"):
        check_training(replace(with_odd(smoke, filter=0.1), model=brisque))


def test_a_metric_without_strides_is_refused(smoke):
    model = replace(smoke.model, metric="maniqa", backbone=None, width=24, taps=None, input_size=(224, 224))
    odd = Variant(Training(epochs=2, batch_size=8), blur=3)
    with pytest.raises(ValueError, match=r"variants\.odd\.blur=3: the backbone of MANIQA has no convolution"):
        check_training(replace(smoke, model=model, variants={"odd": odd}))


def test_a_frozen_stage_may_hold_a_filter_without_weights(smoke):
    low = Block("before:conv1", "low_pass", {"share": 0.5})
    check_training(with_odd(smoke, block=(low, Block("position:6", "shrinkage", {"threshold": 0.1})), freeze="layer2"))
    buried = Block("after:layer1", "shrinkage", {"threshold": 0.1})
    with pytest.raises(ValueError, match=r"variants\.odd: shrinkage would not train, being before"):
        check_training(with_odd(smoke, block=buried, freeze="layer2"))


@pytest.mark.slow
def test_stored_activations_are_shared_only_by_trunks_that_compute_the_same(smoke):
    """Neither the share of a low_pass nor a blur is seen in the arrays of a trunk."""
    splits = data.load("builtin", size=(33, 47), train=16, val=8, test=2)
    training = replace(smoke.variants["baseline"].training, freeze="maxpool", labels="standardised", batch_size=8)
    variants = {
        "plain": Variant(training),
        "same": Variant(training, block=Block("after:layer1", "shrinkage", {"threshold": 0.1})),
        "half": Variant(training, block=Block("before:conv1", "low_pass", {"share": 0.5})),
        "third": Variant(training, block=Block("before:conv1", "low_pass", {"share": 0.3})),
        "blurred": Variant(training, blur=3),
    }
    experiment, stored = with_recipes(replace(smoke, variants=variants)), {}
    for name, variant in variants.items():
        model, trunks = tiny.metric(), {}
        swap_parts(model, variant)
        insert_blocks(model, variant, rngs=nnx.Rngs(0))
        trunk = frozen_stages(model, "maxpool")
        train, _ = sources(experiment, name, split_model(model, frozen=trunk), trunk, splits, trunks)
        assert train.after == "maxpool"
        stored[name] = next(iter(trunks))
    assert stored["plain"] == stored["same"]
    assert len(set(stored.values())) == 4
