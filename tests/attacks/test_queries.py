"""The driver of black-box attacks: stopping per image, counting, packing, and metrics outside JAX."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.attacks import PGD, sweep
from jaxiqa.attacks.engine.host_metric import from_callable
from jaxiqa.attacks.engine.objective import Maximize, Target
from jaxiqa.attacks.engine.queries import run_queries
from jaxiqa.attacks.nes import NES
from jaxiqa.attacks.one_pixel import OnePixel
from jaxiqa.attacks.parsimonious import Parsimonious
from jaxiqa.attacks.patch_rs import PatchRS
from jaxiqa.attacks.square import Square
from jaxiqa.core.keys import image_keys

pytestmark = pytest.mark.slow  # the contract of all attacks is in test_attacks.py

KEY = jax.random.key(5)
IMAGES = jax.random.uniform(jax.random.key(0), (5, 6, 7, 3))
WEIGHT = jax.random.normal(jax.random.key(1), (6, 7, 3))
SQUARE = Square(0.1, queries=60)
NES_ = NES(0.1, steps=20, pairs=3)
ALL = [SQUARE, NES_, Parsimonious(0.1, queries=60, block=4), OnePixel(2, population=7, generations=6), PatchRS(4)]
ALL[-1] = replace(ALL[-1], queries=60)


def score(images):
    return jnp.sin(3 * images + WEIGHT).mean((1, 2, 3))


# Two images stop early, one at once, two never.
THRESHOLD = score(IMAGES) + jnp.array([0.01, 9.0, -1.0, 0.02, 9.0])


def same(first, second):
    np.testing.assert_allclose(first.images, second.images, atol=1e-6)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-6)
    np.testing.assert_array_equal(first.queries, second.queries)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: type(attack).__name__)
def test_each_image_stops_on_its_own_and_packing_changes_nothing(attack):
    budget = 1 + attack.candidates * attack.iterations + attack.estimates_gradient
    attack = replace(attack, objective=Maximize(1.0, THRESHOLD), batch_size=50)
    packed, together = (
        run_queries(attack, score, IMAGES, KEY, chunk=2),
        run_queries(attack, score, IMAGES, KEY, chunk=99),
    )
    same(packed, together)
    reached = np.asarray(score(packed.images) > THRESHOLD)
    assert reached[2]
    assert not reached[1]
    np.testing.assert_array_equal(packed.images[2], IMAGES[2])
    assert packed.queries[2] == 1 + attack.estimates_gradient
    assert (packed.queries[np.array([1, 4])] == budget).all()
    stopped = packed.queries < budget
    assert reached[stopped].all()
    assert stopped.sum() >= 2


def test_a_stopped_image_equals_a_run_of_as_many_steps():
    keys = image_keys(KEY, 5)
    stopped = replace(NES_, objective=Maximize(1.0, THRESHOLD)).run(score, IMAGES, KEY)
    for i in (0, 3):
        steps = int(stopped.queries[i] - 2) // NES_.candidates
        assert steps < NES_.steps
        alone = replace(NES_, steps=steps)(score, IMAGES[i : i + 1], keys[i : i + 1])
        np.testing.assert_allclose(alone[0], stopped.images[i], atol=1e-5)


def test_few_sizes_are_compiled_and_groups_do_not_matter():
    sizes = []

    def watched(images):
        sizes.append(len(images))
        return score(images)

    attack = replace(SQUARE, objective=Maximize(1.0, THRESHOLD))
    whole = run_queries(attack, watched, IMAGES, KEY, chunk=3)
    assert set(sizes) <= {5, 4, 2, 1}
    assert len(sizes) == len(set(sizes))
    same(whole, replace(attack, batch_size=2).run(score, IMAGES, KEY))
    sizes.clear()
    many = replace(NES_, batch_size=4)  # six candidates in two parts, image by image
    same(many.run(watched, IMAGES[:2], KEY), NES_.run(score, IMAGES[:2], KEY))
    assert set(sizes) == {3}


@pytest.mark.parametrize("attack", [SQUARE, replace(NES_, batch_size=4), ALL[2]], ids=lambda a: type(a).__name__)
def test_a_compiled_search_equals_an_uncompiled_one(attack, monkeypatch):
    attack, images = replace(attack, objective=Maximize(1.0, THRESHOLD[:3])), IMAGES[:3]
    eager = attack.run(score, images, KEY)
    same(jax.jit(lambda x, w: attack.run(lambda y: w * score(y), x, KEY))(images, 1.0), eager)
    inside = jax.jit(lambda w: attack(lambda x: score(x) * w, images, image_keys(KEY, 3)))(1.0)
    np.testing.assert_allclose(inside, eager.images, atol=1e-6)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    same(run_queries(attack, score, images, KEY, chunk=7), eager)


def test_a_search_can_be_vmapped_over_its_strength():
    epsilons, images = jnp.array([0.02, 0.1]), IMAGES[:2]
    attack = replace(SQUARE, queries=20)
    together = jax.vmap(lambda epsilon: replace(attack, epsilon=epsilon)(score, images, KEY))(epsilons)
    np.testing.assert_allclose(together, sweep(attack, score, images, KEY, epsilons), atol=1e-6)
    scaled = jax.vmap(lambda w: attack(lambda x: w * score(x), images, KEY))(jnp.array([1.0, -1.0]))
    lowered = replace(attack, objective="lower")(score, images, KEY)
    np.testing.assert_allclose(scaled[1], lowered, atol=1e-6)


@pytest.mark.parametrize("attack", ALL, ids=lambda attack: type(attack).__name__)
def test_a_python_metric_gives_the_same_images_and_every_call_is_counted(attack):
    asked = []

    def python(pixels):
        assert isinstance(pixels, np.ndarray)
        asked.append(len(pixels))
        return np.asarray(score(jnp.asarray(pixels)))

    attack = replace(attack, objective=Maximize(1.0, THRESHOLD))
    result = attack.run(from_callable(python), IMAGES, KEY)
    same(result, attack.run(score, IMAGES, KEY))
    assert sum(asked) == int(result.queries.sum())


def test_a_python_metric_gets_its_type_and_layout():
    seen = []

    def python(pixels):
        seen.append(pixels)
        return float(pixels.mean())

    metric = from_callable(python, batched=False, as_uint8=True, lower_better=True)
    images = jnp.array([0.0, 0.498, 1.0]).reshape(3, 1, 1, 1) * jnp.ones((1, 2, 3, 3))
    assert metric(images).tolist() == [0, -127, -255]
    assert seen[0].shape == (2, 3, 3)
    assert seen[0].dtype == np.uint8
    result = SQUARE.run(metric, images, KEY)
    assert (result.scores >= metric(images)).all()
    assert float(result.images[1].mean()) < 0.498


def test_a_pytorch_metric_is_attacked():
    torch = pytest.importorskip("torch")
    weight = torch.tensor(np.asarray(WEIGHT), requires_grad=True)

    def model(pixels):
        return torch.sin(3 * torch.from_numpy(pixels.copy()) + weight).mean((1, 2, 3), keepdim=False)[:, None]

    same(SQUARE.run(from_callable(model), IMAGES, KEY), SQUARE.run(score, IMAGES, KEY))


def test_errors_name_a_bad_python_metric():
    def wrong(pixels):
        return pixels.mean()

    with pytest.raises(ValueError, match=r"wrong returned shape \(\) for 5 images"):
        SQUARE(from_callable(wrong), IMAGES, KEY)
    with pytest.raises(ValueError, match=r"tool returned shape \(6, 7\) for one image"):
        SQUARE(from_callable(lambda x: x.mean(-1), batched=False, name="tool"), IMAGES, KEY)
    with pytest.raises(ValueError, match="tool returned a score that is not finite: nan"):
        SQUARE(from_callable(lambda x: x.mean((1, 2, 3)) + np.nan, name="tool"), IMAGES, KEY)
    metric = from_callable(lambda x: x.mean((1, 2, 3)), name="tool")
    with pytest.raises(TypeError, match=r"tool is a Python callable.*Square"):
        PGD(0.1)(metric, IMAGES, KEY)
    with pytest.raises(TypeError, match="outside jit"):
        jax.jit(lambda x: SQUARE(metric, x, KEY))(IMAGES)
    with pytest.raises(ZeroDivisionError):
        SQUARE(from_callable(lambda x: 1 / 0), IMAGES, KEY)


@pytest.mark.parametrize("attack", [SQUARE, NES_], ids=lambda attack: type(attack).__name__)
def test_scores_that_become_infinite_during_the_attack_are_reported_with_their_image(attack):
    def broken(images):  # once the first image, the only one with a black corner, has changed
        black = images[:, :2, :2].sum((1, 2, 3)) < 2
        moved = images[:, :2, :2].sum((1, 2, 3)) > 0
        return jnp.where(black & moved, jnp.inf, score(images))

    images = IMAGES.at[:, :2, :2].set(0.9).at[3, :2, :2].set(0)
    with pytest.raises(ValueError, match="non-finite scores or gradients during the attack on images 3 of 5"):
        attack(broken, images, KEY)


def test_other_objectives_and_progress():
    target = score(IMAGES) - 0.01
    result = replace(SQUARE, queries=400, objective=Target(target, tolerance=0.001)).run(score, IMAGES, KEY)
    assert (jnp.abs(result.scores - target) < 0.001).all()
    assert (result.queries < 400).all()
    calls = []
    replace(SQUARE, batch_size=2).run(score, IMAGES, KEY, progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1] == (5 * 59, 5 * 59)
    assert len(calls) > 3
