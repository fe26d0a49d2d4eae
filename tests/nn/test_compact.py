"""Compact copies of pruned metrics: equal scores, fewer operations, and every way in which a channel is read."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax import nnx
from quick import every

from jaxiqa import models
from jaxiqa.models.metric import Metric
from jaxiqa.nn.compact import compact
from jaxiqa.nn.conv import conv
from jaxiqa.nn.filters import Picked, Widened
from jaxiqa.nn.kernels.pick import pick, spread
from jaxiqa.nn.stages import Stages
from jaxiqa.train.pruning import apply_masks, make_masks

SIZE = (80, 96)
X = jax.random.uniform(jax.random.key(0), (2, *SIZE, 3))


def pruned(model, amount):
    """Set the weakest filters of every convolution to zero, in place."""
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    nnx.update(model, apply_masks(params, make_masks(params, amount=amount)))
    return model


def cost_and_scores(model, x, call=lambda model, x: model(x)):
    graphdef, state = nnx.split(model)
    compiled = jax.jit(lambda state, x: call(nnx.merge(graphdef, state), x)).lower(state, x).compile()
    return compiled.cost_analysis()["flops"], np.asarray(compiled(state, x))


def check(model, x, *, share=1.0, call=lambda model, x: model(x), size=SIZE):
    small = compact(model, size=size)
    assert type(small) is type(model)
    (before, expected), (after, found) = (cost_and_scores(each, x, call) for each in (model, small))
    scale = max(float(np.abs(expected).max()), 1e-3)
    np.testing.assert_allclose(found, expected, atol=1e-5 * scale)
    assert after < share * before
    return small


LARGE = (
    "inception_resnet_v2",
    "resnet50",
    "resnet101",
    "resnext101_32x8d",
    "vgg16",
    "mobilenet_v2",
    "mobilenet_v2_torch",
)
# backbone -> largest share of the operations that may be left at 10 % and at 50 %; constants are random
SHARES = {
    "alexnet": (0.95, 0.7),
    "efficientnet_lite0": (0.87, 0.45),
    "inception_resnet_v2": (0.9, 0.5),
    "mobilenet_v2": (0.92, 0.6),
    "mobilenet_v2_torch": (0.92, 0.6),
    "resnet18": (0.91, 0.55),
    "resnet50": (0.9, 0.5),
    "resnet101": (0.9, 0.5),
    "resnext101_32x8d": (0.95, 0.75),
    "squeezenet1_1": (0.97, 0.8),
    "vgg16": (0.93, 0.56),
}


def test_every_backbone_has_a_case():
    assert set(SHARES) == set(models.BACKBONES)


CASES = [
    pytest.param(backbone, amount, marks=pytest.mark.slow if backbone in LARGE or amount < 0.2 else ())
    for backbone in SHARES
    for amount in (0.1, 0.5)
]


@pytest.mark.parametrize(("backbone", "amount"), CASES)
def test_every_backbone_scores_the_same_with_fewer_operations(backbone, amount):
    model = pruned(tiny.metric(backbone), amount)
    small = check(model, X, share=SHARES[backbone][amount > 0.2])
    stages = (model.backbone.order[1], model.backbone.order[3])
    before, after = (each.features(X, stages) for each in (model, small))
    for name in stages:  # stages give whole maps
        np.testing.assert_allclose(after[name], before[name], atol=1e-5 * float(jnp.abs(before[name]).max()))


METRICS = {
    "koncept512": ({"width": 8}, (299, 300), 0.5),
    "hyperiqa": ({"width": 8, "crops": 1}, (224, 224), 0.5),
    "tres": ({"width": 4}, (224, 224), 0.8),
    "paq2piq": ({"width": 8}, SIZE, 0.5),
    "spaq_bl": ({"width": 8}, (224, 224), 0.5),
    "metaiqa": ({"width": 8}, SIZE, 0.55),
    "fpr": ({"width": 8}, (64, 128), 0.5),
    "maniqa": ({"width": 24}, (224, 224), 1.0),
}
QUICK = ("fpr", "paq2piq")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in METRICS])
def test_every_metric_scores_the_same_with_fewer_operations(name):
    options, size, share = METRICS[name]
    model = tiny.filled(nnx.eval_shape(lambda: models.MODELS[name].metric(**options, rngs=nnx.Rngs(0))))
    model = pruned(model, 0.5)
    pixels = model.prepare(jax.random.uniform(jax.random.key(1), (1, *size, 3)))[:1]
    check(model, pixels, share=share, call=lambda model, x: model.raw(x), size=size)


# Small networks in which every channel can be followed by hand.


class Net(Metric):
    """One stage; the score is its mean, and ``maps`` gives its output."""

    def __init__(self, stage, *, channels=4):
        self.backbone = Stages({"a": (stage, channels)})

    def __call__(self, x):
        return self.maps(x).mean((1, 2, 3))

    def maps(self, x):
        return self.backbone.run(x)[0]


class Chain(nnx.Module):
    """``second(activation(norm(first(x))))``"""

    def __init__(self, first, norm, activation, second):
        self.first, self.norm, self.activation, self.second = first, norm, activation, second

    def __call__(self, x):
        return self.second(self.activation(self.norm(self.first(x))))


def noise(*layers, seed=0):
    """Fill layers with random numbers, also biases and statistics; return them."""
    random = np.random.default_rng(seed)
    for layer in layers:
        for name in ("kernel", "bias", "scale", "mean", "var"):
            if getattr(layer, name, None) is not None:
                variable = getattr(layer, name)
                value = random.normal(size=variable.shape)
                variable[...] = jnp.asarray(np.abs(value) + 0.5 if name == "var" else value, jnp.float32)
    return layers


def cut(layer, filters):
    layer.kernel[...] = layer.kernel[...].at[..., jnp.array(filters)].set(0)


def norm(channels):
    return nnx.BatchNorm(channels, use_running_average=True, rngs=nnx.Rngs(0))


def make(cin, cout, size=3, **options):
    return conv(cin, cout, size, rngs=nnx.Rngs(0), **options)


Y = jax.random.normal(jax.random.key(2), (2, 7, 9, 3))


def same_maps(model, small, x=Y):
    before, after = model.maps(x), small.maps(x)
    np.testing.assert_allclose(after, before, atol=2e-5 * float(jnp.abs(before).max()))


ACTIVATIONS = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "leaky": lambda x: jax.nn.leaky_relu(x, 0.2),
    "clip": lambda x: jnp.clip(x, 0.0, 6.0),
    "prelu": lambda x: jnp.where(x > 0, x, jnp.full(1, 0.3) * x),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("second", "left"),
    [
        ({"size": 1}, 5),  # every constant goes into the bias
        ({"size": 3, "padding": 0}, 5),
        ({"size": 3}, 6),  # one stands in for the others, which are not constant at the border
        ({"size": 3, "padding": "SAME", "stride": 2}, 6),
        ({"size": (1, 3), "bias": True}, 6),
    ],
)
def test_what_constants_add_is_kept(activation, second, left):
    layers = noise(make(3, 8, bias=True), norm(8), make(8, 4, **second))
    cut(layers[0], [0, 3, 6])
    if activation in ("relu", "clip"):
        layers[1].bias[...] = 10 + layers[1].bias[...]  # so that constants are not cut off to zero
    model = Net(Chain(layers[0], layers[1], ACTIVATIONS[activation], layers[2]))
    if activation == "clip":
        layers[1].bias[...] = layers[1].bias[...] - 8
    small = check(model, Y, size=Y.shape[1:3])
    same_maps(model, small)
    stage = small.backbone.stage["a"]
    assert stage.first.out_features == stage.norm.num_features == stage.second.in_features == left


def test_channels_that_are_zero_need_no_stand_in():
    layers = noise(make(3, 8), norm(8), make(8, 4))
    layers[1].bias[...] = layers[1].mean[...] = jnp.zeros(8)
    cut(layers[0], [0, 3, 6])
    small = compact(Net(Chain(layers[0], layers[1], jax.nn.relu, layers[2])), size=(7, 9))
    assert small.backbone.stage["a"].second.in_features == 5
    assert small.backbone.stage["a"].second.bias is None


class Inverted(nnx.Module):
    """``project(act(depthwise(act(expand(x)))))``"""

    def __init__(self, expand, depthwise, project):
        self.expand, self.depthwise, self.project = expand, depthwise, project

    def __call__(self, x):
        y = x if self.expand is None else jax.nn.relu(self.expand(x))
        return self.project(jax.nn.relu(self.depthwise(y)))


def inverted(*, bias=0.0):
    layers = noise(make(3, 6, 1, bias=True), make(6, 6, 3, groups=6, bias=True), make(6, 4, 1, bias=True))
    layers[0].bias[...] = jnp.full(6, bias)
    return layers


def test_a_depthwise_filter_of_zeros_removes_the_filter_that_feeds_it():
    layers = inverted(bias=2.0)
    cut(layers[1], [1, 4])
    small = check(model := Net(Inverted(*layers)), Y, size=(7, 9))
    same_maps(model, small)
    stage = small.backbone.stage["a"]
    assert [layer.out_features for layer in (stage.expand, stage.depthwise)] == [4, 4]
    assert stage.project.in_features == 4


@pytest.mark.parametrize(("bias", "left"), [(-1.0, 4), (2.0, 6)])
def test_a_filter_before_a_padded_depthwise_filter_goes_only_if_it_gives_zero(bias, left):
    layers = inverted(bias=bias)
    cut(layers[0], [1, 4])
    small = check(model := Net(Inverted(*layers)), Y, size=(7, 9))
    same_maps(model, small)
    stage = small.backbone.stage["a"]
    assert stage.depthwise.out_features == stage.project.in_features == left
    assert isinstance(stage.expand, Widened) == (left == 6)  # computed without the two, which are constants


def test_a_depthwise_convolution_of_a_whole_map_picks_its_channels():
    _, depthwise, project = noise(make(3, 3, 1), make(3, 3, 3, groups=3, bias=True), make(3, 4, 1))
    cut(depthwise, [1])
    small = check(model := Net(Inverted(None, depthwise, project)), Y, size=(7, 9))
    same_maps(model, small)
    stage = small.backbone.stage["a"]
    assert isinstance(stage.depthwise, Picked)
    assert stage.depthwise.kept == (0, 2)
    assert stage.project.in_features == 2


class Residual(nnx.Module):
    """``c(relu(a(x) + b(x)))``"""

    def __init__(self, a, b, c):
        self.a, self.b, self.c = a, b, c

    def __call__(self, x):
        return self.c(jax.nn.relu(self.a(x) + self.b(x)))


def test_of_a_sum_only_what_both_terms_lack_is_removed():
    layers = noise(make(3, 6, bias=True), make(3, 6, bias=True), make(6, 4, 1))
    cut(layers[0], [0, 2, 4])
    cut(layers[1], [2, 3, 4])
    small = check(model := Net(Residual(*layers)), Y, size=(7, 9))
    same_maps(model, small)
    stage = small.backbone.stage["a"]
    assert stage.c.in_features == 4
    assert (stage.a.layer.out_features, stage.b.layer.out_features) == (3, 3)


class Joined(nnx.Module):
    """``c(concatenate(relu(a(x)), b(x), x))``"""

    def __init__(self, a, b, c):
        self.a, self.b, self.c = a, b, c

    def __call__(self, x):
        return self.c(jnp.concatenate([jax.nn.relu(self.a(x)), self.b(x), x], axis=-1))


def test_channels_are_followed_through_concatenations():
    layers = noise(make(3, 4, bias=True), make(3, 5, bias=True), make(12, 4, 3))
    cut(layers[0], [0, 2])
    cut(layers[1], [1, 2])
    small = check(model := Net(Joined(*layers)), Y, size=(7, 9))
    same_maps(model, small)
    assert small.backbone.stage["a"].c.in_features == 12 - 4 + 1


class Twice(nnx.Module):
    """``b(relu(a(b(relu(a(x))))))``: both layers have two places."""

    def __init__(self, a, b, *, by_hand=False):
        self.a, self.b, self.again, self.by_hand = a, b, a, by_hand

    def __call__(self, x):
        if self.by_hand:
            x = x + self.a.kernel[...].sum()
        return self.b(jax.nn.relu(self.again(self.b(jax.nn.relu(self.a(x))))))


def test_layers_in_two_places_are_changed_in_both():
    layers = noise(make(3, 6, bias=True), make(6, 3, 3, bias=True))
    cut(layers[0], [0, 2])
    small = check(model := Net(Twice(*layers), channels=3), Y, size=(7, 9))
    same_maps(model, small)
    stage = small.backbone.stage["a"]
    assert stage.a is stage.again
    assert stage.b.in_features in (4, 5)


def test_a_layer_whose_kernel_is_read_by_hand_stays():
    layers = noise(make(3, 6, bias=True), make(6, 3, 3, bias=True))
    cut(layers[0], [0, 2])
    model = Net(Twice(*layers, by_hand=True), channels=3)
    small = compact(model, size=(7, 9))
    assert small.backbone.stage["a"].a.out_features == 6
    same_maps(model, small)


def test_groups_of_several_channels_stay():
    layers = noise(make(3, 8, bias=True), norm(8), make(8, 8, groups=4))
    cut(layers[0], [0, 2])
    cut(layers[2], [1, 5])
    small = check(model := Net(Chain(layers[0], layers[1], jax.nn.relu, layers[2]), channels=8), Y, size=(7, 9))
    same_maps(model, small)
    stage = small.backbone.stage["a"]
    assert stage.second.out_features == stage.second.in_features == 8
    assert stage.first.out_features == 6  # the batch norm's stand-in puts the constants back
    assert isinstance(stage.norm, Widened)


def test_a_convolution_of_only_zeros_keeps_one_filter():
    layers = noise(make(3, 6, bias=True), norm(6), make(6, 4))
    cut(layers[0], range(6))
    small = check(model := Net(Chain(layers[0], layers[1], jax.nn.silu, layers[2])), Y, size=(7, 9))
    same_maps(model, small)
    assert small.backbone.stage["a"].first.out_features == 1


class Random(nnx.Module):
    """A random program of convolutions, batch norms, activations, pooling, sums and concatenations."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        self.layers, self.plan = nnx.List([]), []
        widths = [3]
        for _ in range(9):
            kind = random.choice(["conv", "conv", "conv", "depthwise", "norm", "sum", "join", "act", "max", "mean"])
            i = int(random.integers(max(0, len(widths) - 3), len(widths)))
            j = int(random.integers(0, len(widths)))
            c, layer = widths[i], None
            if kind == "sum" and widths[i] != widths[j]:
                kind = "join"
            if kind == "conv":
                size, padding = random.choice([1, 3]), random.choice(["SAME", "centred"])
                layer = make(
                    c, int(random.integers(2, 7)), int(size), padding=str(padding), bias=bool(random.random() < 0.7)
                )
            elif kind == "depthwise" and c > 1:
                layer = make(c, c, 3, groups=c, bias=True)
            elif kind == "norm":
                layer = norm(c)
            if layer is not None:
                noise(layer, seed=int(random.integers(2**30)))
                if kind != "norm" and random.random() < 0.8:
                    cut(layer, random.permutation(layer.out_features)[: layer.out_features // 2])
                self.layers.append(layer)
            widths.append(layer.out_features if kind == "conv" else c + widths[j] if kind == "join" else c)
            self.plan.append((kind, i, j, len(self.layers) - 1 if layer is not None else -1, int(random.integers(4))))
        self.plan, self.width = tuple(self.plan), widths[-1]

    def __call__(self, x):
        maps = [x]
        for kind, i, j, place, which in self.plan:
            y = maps[i]
            if place >= 0:
                y = self.layers[place](y)
            elif kind == "sum":
                y = y + maps[j]
            elif kind == "join":
                y = jnp.concatenate([y, maps[j]], axis=-1)
            elif kind == "act":
                y = (jax.nn.relu, jax.nn.silu, jax.nn.elu, jnp.abs)[which](y)
            elif kind == "max":
                y = nnx.max_pool(y, (3, 3), strides=(1, 1), padding="SAME")
            elif kind == "mean":
                y = nnx.avg_pool(y, (3, 3), strides=(1, 1), padding="SAME")
            maps.append(y)
        return maps[-1]


@pytest.mark.parametrize("seed", every(3, range(40)))
def test_random_programs_give_the_same_maps(seed):
    stage = Random(seed)
    model = Net(stage, channels=stage.width)
    try:
        small = compact(model, size=(7, 9))
    except ValueError as error:
        assert "has a filter of zeros" in str(error)  # noqa: PT017
        pytest.skip("nothing is pruned, or it is not read")
    same_maps(model, small)


# What can be done with the copy.


@pytest.fixture(scope="module")
def lite():
    return pruned(tiny.metric("efficientnet_lite0", taps=("block0", "block2")), 0.3)


def relative(found, expected):
    return float(jnp.abs(found - expected).max() / jnp.abs(expected).max())


def test_compact_then_score_fn_and_fold_then_compact_and_both_leave_the_model(lite):
    before = nnx.to_pure_dict(nnx.state(nnx.clone(lite)))
    expected = lite(X)
    small = compact(lite, size=SIZE)
    score = models.score_fn(small)
    norms = [
        sum(isinstance(part, nnx.BatchNorm) for _, part in nnx.iter_modules(folded.module()))
        for folded in (score, models.score_fn(lite))
    ]
    assert norms[0] == norms[1]  # those of blocks that no score reads
    assert relative(score(X), expected) < 1e-5
    folded = compact(models.fold_batch_norm(lite, SIZE), size=SIZE)
    assert relative(folded(X), expected) < 1e-5
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(lite)), before)
    exported = models.export(lambda images: score(images), "2, 80, 96, 3", platforms=("cpu",))
    assert relative(exported.call(X), expected) < 1e-5


@pytest.mark.slow
def test_input_gradients_are_the_same_in_both_modes(lite):
    small = compact(lite, size=SIZE)
    x, direction = X[:1], jax.random.normal(jax.random.key(3), X[:1].shape)
    expected, found = (jax.grad(lambda x, model=model: model(x).sum())(x) for model in (lite, small))
    assert float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)) < 1e-4
    along = jax.jvp(small, (x,), (direction,))[1]
    np.testing.assert_allclose(along[0], jnp.vdot(expected, direction), rtol=1e-3)


def test_picking_and_spreading_are_transposes_of_every_order():
    x, kept = jnp.arange(5.0), (1, 4)
    np.testing.assert_array_equal(jax.jacrev(lambda x: pick(x, kept))(x), jnp.eye(5)[jnp.array(kept)])
    np.testing.assert_array_equal(jax.jacfwd(lambda y: spread(y, kept, 5))(x[:2]), jnp.eye(5)[:, jnp.array(kept)])
    cubes = lambda x: (pick(x, kept) ** 3).sum()  # noqa: E731
    np.testing.assert_array_equal(jnp.diag(jax.hessian(cubes)(x)), [0, 6, 0, 0, 24])
    np.testing.assert_array_equal(jax.vmap(lambda x: spread(pick(x, kept), kept, 5))(x[None])[0], [0, 1, 0, 0, 4])


@pytest.mark.slow
def test_a_hardened_metric_is_compacted_and_its_orthogonal_maps_are_computed_once():
    model = tiny.metric("resnet18")
    models.harden(model, "after:layer2", mid=4, rngs=nnx.Rngs(1))
    models.harden(model, "after:layer3", "bottleneck", mid=6, rngs=nnx.Rngs(2))
    pruned(model, 0.5)
    small = check(model, X)
    assert small.backbone.order == model.backbone.order
    assert relative(models.score_fn(small, SIZE)(X), model(X)) < 1e-5
    assert small.backbone.stage["bottleneck"].expand.layer.in_features < 6
    models.harden(small, "after:layer1", "bottleneck", mid=4, rngs=nnx.Rngs(3))
    assert small(X).shape == (2,)


def test_bfloat16_scores_of_the_copy_are_close(lite):
    exact = lite(X)
    found = models.score_fn(compact(lite, size=SIZE), compute_dtype="bfloat16")(X)
    assert relative(found, exact) < 0.1


def test_a_metric_with_smooth_activations_is_compacted():
    model = pruned(tiny.metric("resnet18"), 0.5)
    models.swap_activation(model, "silu")
    small = check(model, X, share=0.6)
    assert small.backbone.stage["layer1.0"].activation == "silu"


def test_what_cannot_be_compacted_is_refused_with_what_to_do(tmp_path):
    model = tiny.metric("resnet18", taps=("layer1", "layer2"))
    with pytest.raises(ValueError, match=r"no convolution of this Linearity has a filter of zeros.*whole filters"):
        compact(model, size=SIZE)
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    nnx.update(model, apply_masks(params, make_masks(params, amount=0.1, criterion="l1")))
    with pytest.raises(ValueError, match="l1 removes single weights"):
        compact(model, size=SIZE)
    with pytest.raises(TypeError, match=r"model is a ScoreModel; expected a metric: call compact first, then score_fn"):
        inspect.unwrap(compact)(models.score_fn(model), size=SIZE)  # without the tests' own check of types
    model = pruned(model, 0.5)
    model.calibrate(k=1.0, b=0.0, score_range=(0.0, 1.0))
    with pytest.raises(ValueError, match="could not be loaded again; save it before it is folded, compacted or"):
        models.save(compact(model, size=SIZE), tmp_path)
    models.save(model, tmp_path)
    assert relative(compact(models.load_run(tmp_path), size=SIZE)(X), model(X)) < 1e-5
