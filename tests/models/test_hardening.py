import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from quick import every, only

from jaxiqa.models import BACKBONES, POSITIONS, Linearity, harden, load_run, resolve_position, save
from jaxiqa.pretrained import key_map

X = jax.ShapeDtypeStruct((2, 144, 176, 3), jnp.float32)
RESNET = ("before:conv1", "before:layer1", "before:layer2.1", "after:layer3")
PLACES = {
    "alexnet": ("before:relu1", "before:relu3", "before:relu4", "after:relu4"),
    "efficientnet_lite0": ("before:stem", "before:block0", "before:block5", "after:block10"),
    "inception_resnet_v2": ("before:conv2d_1a", "before:block35", "before:block17.7", "after:block17"),
    "mobilenet_v2": ("before:stem", "before:block0", "before:block5", "after:block12"),
    "mobilenet_v2_torch": ("before:stem", "before:block0", "before:block5", "after:block12"),
    "squeezenet1_1": ("before:relu1", "before:fire2", "before:fire4", "after:fire5"),
    "vgg16": ("before:relu1_1", "before:relu2_1", "before:relu3_2", "after:relu4_3"),
}


def output_shapes(model: Linearity) -> dict[str, tuple[int, ...]]:
    graphdef, state = nnx.split(model)
    outputs = jax.eval_shape(lambda state, x: nnx.merge(graphdef, state).outputs(x), state, X)
    return {name: output.shape for name, output in outputs.items()}


def test_positions_are_those_of_the_paper():
    """Compare the channels at each position of the paper's table, in the full-width network."""
    model = nnx.eval_shape(lambda: Linearity("resnet101", rngs=nnx.Rngs(0)))
    channels = {position: model.backbone.place(where)[1] for position, (where, _) in POSITIONS.items()}
    assert channels == {1: 3, 2: 64, 3: 256, 4: 512, 5: 512, 6: 1024}
    assert [mid for _, mid in POSITIONS.values()] == [3, 64, 256, 128, 200, 200]
    assert model.backbone.order[model.backbone.place("before:layer2.2")[0] - 1] == "layer2.1"  # so it is the third


@pytest.mark.parametrize("backbone", every(3, ["resnet50", "resnet101", "resnext101_32x8d"]))
def test_positions_resolve_to_the_papers_places_and_widths(backbone):
    stages = nnx.eval_shape(lambda: BACKBONES[backbone].build(width=64, rngs=nnx.Rngs(0)))
    assert {n: resolve_position(f"position:{n}", stages) for n in POSITIONS} == POSITIONS
    narrow = nnx.eval_shape(lambda: BACKBONES[backbone].build(width=16, rngs=nnx.Rngs(0)))
    assert [resolve_position(f"position:{n}", narrow)[1] for n in POSITIONS] == [3, 16, 64, 32, 50, 50]


@pytest.mark.slow
def test_a_block_at_a_position_is_the_block_at_its_place():
    model, named = (tiny.metric("resnet50") for _ in range(2))
    harden(model, "position:6", rngs=nnx.Rngs(1), unitary="cayley")
    harden(named, "after:layer3", rngs=nnx.Rngs(1), unitary="cayley", mid=25)
    assert model.insertions == named.insertions
    assert model.insertions[0].where == "after:layer3"
    harden(model, "position:2", "bottleneck", mid=3, rngs=nnx.Rngs(1))
    harden(model, "position:1", "square_pool", rngs=nnx.Rngs(1))
    assert [dict(block.options) for block in model.insertions[1:]] == [{"mid": 3}, {}]


@pytest.mark.parametrize(
    ("backbone", "where", "message"),
    [
        ("resnet18", "position:4", r"'before:layer2\.2', and this ResNet has no such stage.*positions 1, 2, 3, 5, 6$"),
        ("resnet18", "position:7", r"position='7' is not allowed; choose from '1', '2'"),
        ("resnet18", "position:", r"position='' is not allowed"),
        ("efficientnet_lite0", "position:6", r"places in a ResNet; write.*of the stages stem, block0, .*, head$"),
    ],
)
def test_a_position_that_does_not_exist_is_refused_with_what_does(backbone, where, message):
    model = tiny.abstract(backbone)
    with pytest.raises(ValueError, match=message):
        harden(model, where, rngs=nnx.Rngs(1))
    assert model.insertions == ()


@pytest.mark.parametrize("backbone", only(("alexnet", "resnet18", "squeezenet1_1"), sorted(BACKBONES)))
def test_every_backbone_accepts_blocks_at_every_position(backbone):
    places = PLACES.get(backbone, RESNET)

    def hardened() -> Linearity:
        model, rngs = Linearity(backbone, width=8, rngs=nnx.Rngs(0)), nnx.Rngs(1)
        for i, where in enumerate(places[:3]):
            harden(model, where, name=f"block_{i}", mid=3, rngs=rngs)
        harden(model, places[3], mid=3, pool="square", padding="VALID", unitary="cayley", rngs=rngs)
        return model

    model = nnx.eval_shape(hardened)
    assert len(model.insertions) == 4
    assert output_shapes(model) == {"q6": (2,), "q7": (2,), "score": (2,)}


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "stage"), [("resnet18", "layer3"), ("mobilenet_v2", "block12")])
def test_the_gradient_reaches_the_block_and_nothing_else_changed(backbone, stage):
    model = tiny.metric(backbone)
    before = {name: np.asarray(v[...]) for name, v in key_map.parameters(model).items()}
    harden(model, f"after:{stage}", mid=4, rngs=nnx.Rngs(1))
    after = key_map.parameters(model)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name][...], array)
    new = after.keys() - before.keys()
    assert new
    assert all(name.startswith("backbone.stage.robust_block.") for name in new)

    x = jax.random.normal(jax.random.key(0), (2, 4, 5, model.backbone.channels(stage)))
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    last = jax.jit(jax.grad(lambda params: nnx.merge(graphdef, params, rest).outputs_from(x, stage)["score"].sum()))
    for path, leaf in nnx.to_flat_state(last(params)["backbone"]["stage"]["robust_block"]):
        assert float(jnp.abs(leaf[...]).max()) > 0, path


@pytest.mark.slow
def test_the_head_reads_a_block_after_its_stage_but_not_one_before_the_next():
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 16))
    plain, read, passed = (tiny.metric() for _ in range(3))
    harden(read, "after:layer3", "bottleneck", mid=4, rngs=nnx.Rngs(1))
    harden(passed, "before:layer4", "bottleneck", mid=4, rngs=nnx.Rngs(1))
    outputs = [np.stack(list(model.outputs_from(x, "layer2").values()), 1) for model in (plain, read, passed)]
    changed = [(np.abs(other - outputs[0]).max(0) > 1e-6).tolist() for other in outputs[1:]]
    assert changed == [[True, True, True], [False, True, True]]  # q6, q7, q


def test_two_blocks_are_at_their_positions():
    model = tiny.abstract("resnet18")
    harden(model, "after:layer3", "square_pool", rngs=nnx.Rngs(0))
    harden(model, "before:layer4", "bottleneck", mid=2, rngs=nnx.Rngs(1))
    harden(model, "after:square_pool", "bottleneck", name="third", mid=2, rngs=nnx.Rngs(2))
    assert model.backbone.order[-6:] == ("layer3.1", "square_pool", "third", "bottleneck", "layer4.0", "layer4.1")
    assert [block.name for block in model.insertions] == ["square_pool", "bottleneck", "third"]
    assert model.backbone.order[model.backbone.tapped("layer3")] == "third"


def test_blocks_of_one_kind_are_numbered():
    model = tiny.abstract("resnet18")
    for where in ("before:layer2", "after:layer3", "before:layer4"):
        harden(model, where, "bottleneck", mid=2, rngs=nnx.Rngs(0))
    harden(model, "after:layer1", mid=2, rngs=nnx.Rngs(0))
    harden(model, "after:layer1", mid=2, name="bottleneck_5", rngs=nnx.Rngs(0))
    harden(model, "after:bottleneck_5", "bottleneck", mid=2, rngs=nnx.Rngs(0))
    names = ["bottleneck", "bottleneck_2", "bottleneck_3", "robust_block", "bottleneck_5", "bottleneck_4"]
    assert [block.name for block in model.insertions] == names
    assert set(names) < set(model.backbone.order)


@pytest.mark.slow
def test_two_blocks_of_one_kind_are_saved_and_loaded(tmp_path):
    model = tiny.metric()
    for where in ("before:layer2", "after:layer3"):
        harden(model, where, mid=2, rngs=nnx.Rngs(1))
    model.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0))
    save(model, tmp_path)
    again = load_run(tmp_path)
    assert [block.name for block in again.insertions] == ["robust_block", "robust_block_2"]
    x = jax.random.uniform(jax.random.key(0), (1, 64, 64, 3))
    np.testing.assert_array_equal(again(x), model(x))


@pytest.mark.parametrize(
    ("model", "rngs", "message"),
    [
        ("metric", 0, r"rngs=0 is not allowed; expected flax.nnx.Rngs, such as nnx.Rngs\(0\)"),
        ("metric", jax.random.key(0), "(?s)rngs=.* is not allowed"),
        ("linear", nnx.Rngs(0), "model is a Linear; expected a metric .*backbone"),
    ],
)
def test_a_wrong_metric_or_generator_is_refused(model, rngs, message):
    model = tiny.abstract("resnet18") if model == "metric" else nnx.Linear(3, 3, rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=message):
        inspect.unwrap(harden)(model, "after:layer3", mid=4, rngs=rngs)  # without the type checker of the tests


@pytest.mark.parametrize(
    ("where", "kind", "options", "message"),
    [
        ("after:layer3", "bottleneck", {"mid": 0}, "mid=0 is outside"),
        ("after:layer3", "robust_block", {"mid": 2400}, "mid=2400 is outside"),
        ("after:layer3", "robust_block", {"mid": 2.5}, "mid=2.5 is not allowed; expected a number of channels"),
        ("after:layer3", "robust_block", {"mid": "4"}, "mid='4' is not allowed; expected a number of channels"),
        ("after:layer3", "robust_block", {"middle": 4}, "there is no 'middle'; choose from 'mid', 'pool'"),
        ("after:layer9", "bottleneck", {"mid": 4}, "stage 'layer9' does not exist; the stages are conv1, maxpool"),
        ("layer3", "bottleneck", {"mid": 4}, "where='layer3' is not allowed; write 'before:STAGE' or 'after:STAGE'"),
        ("after:layer3", "bottle", {"mid": 4}, "kind='bottle' is not allowed; choose from 'robust_block'"),
        ("after:layer3", "bottleneck", {}, "do not fit a bottleneck: .*'mid'"),
        ("after:layer3", "bottleneck", {"mid": 4, "band": 0.5}, "do not fit a bottleneck: .*'band'"),
        ("after:layer3", "bottleneck", {"mid": 4, "name": "layer4"}, "name='layer4' must be an identifier that no"),
    ],
)
def test_bad_insertions_are_refused_and_change_nothing(where, kind, options, message):
    model = tiny.abstract("resnet18")
    order = model.backbone.order
    with pytest.raises(ValueError, match=message):
        harden(model, where, kind, rngs=nnx.Rngs(0), **options)
    assert model.backbone.order == order
    assert model.insertions == ()
