"""Compact copies of small networks in which every channel can be followed by hand, and of random programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compacting import Chain, Net, Y, check, cut, make, noise, norm, same_maps
from flax import nnx
from quick import every

from jaxiqa.nn.compact import compact
from jaxiqa.nn.filters import Picked, Widened

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "leaky": lambda x: jax.nn.leaky_relu(x, 0.2),
    "clip": lambda x: jnp.clip(x, 0.0, 6.0),
    "prelu": lambda x: jnp.where(x > 0, x, jnp.full(1, 0.3) * x),
}


@pytest.mark.slow
@pytest.mark.parametrize("activation", every(3, ACTIVATIONS))
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("seed", every(6, range(40)))
def test_random_programs_give_the_same_maps(seed):
    stage = Random(seed)
    model = Net(stage, channels=stage.width)
    try:
        small = compact(model, size=(7, 9))
    except ValueError as error:
        assert "has a filter of zeros" in str(error)  # noqa: PT017
        pytest.skip("nothing is pruned, or it is not read")
    same_maps(model, small)
