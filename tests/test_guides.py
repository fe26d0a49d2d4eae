"""Examples of the guides: each is installed, registered and used, and passes the contract tests of its kind."""

import re
from dataclasses import replace

import guide
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import test_architecture as rules
from test_random_keys import misuses

import jaxiqa
from jaxiqa import attacks, data, models
from jaxiqa.__main__ import COMMANDS
from jaxiqa.config import Adversarial, Attack, Data, Defense, Evaluation, Training, Variant, load_config
from jaxiqa.defenses import bpda, eot, purify
from jaxiqa.defenses.adaptive import adaptive, purify_each
from jaxiqa.evaluation import attack_runner, attack_split, build_defense
from jaxiqa.evaluation.startup import check_attack
from jaxiqa.train.startup import check_training

KEY = jax.random.key(3)


def score(images):
    return guide.contract("test_attacks").score(images)


@pytest.mark.parametrize("page", guide.PAGES.values(), ids=lambda page: page.stem)
def test_a_page_is_short_and_the_names_on_it_exist(page):
    text = page.read_text()
    assert len(text.splitlines()) <= 80
    assert max(map(len, text.splitlines())) <= 160
    assert not re.search(r"\bpictures?\b", text, re.I)
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", text):
        assert (page.parent / target).exists(), target
    for command in re.findall(r"`jaxiqa (\S+)", text):
        assert command in COMMANDS
    for room, name in re.findall(r"`(attacks|data|models|purify)\.(?!md)(\w+)", text):
        assert hasattr({"attacks": attacks, "data": data, "models": models, "purify": purify}[room], name), name
    for path in re.findall(r"\btests/[\w/]+(?:\.py)?", text):
        assert (guide.ROOT / path).exists(), path


def test_there_are_five_guides_and_both_indexes_link_to_them():
    assert len(guide.PAGES) == 5
    for index in ("README.md", "docs/architecture.md"):
        text = (guide.ROOT / index).read_text()
        assert all(f"guides/{name}.md" in text for name in guide.PAGES), index


@pytest.mark.parametrize("name", [name for name in guide.PAGES if name.startswith(("add", "port"))])
def test_an_example_follows_the_import_and_key_rules(name):
    (source,) = guide.blocks(name)
    own = rules.room(re.match(r"# file: jaxiqa/(\S+)\.py", source)[1].replace("/", "."))
    targets = re.findall(r"^from jaxiqa\.([\w.]+) import", source, re.M)
    assert len(targets) > 2
    assert {rules.room(target) for target in targets} <= rules.ALLOWED[own] | {own}
    if own in rules.EXHIBITS:
        assert {target for target in targets if rules.room(target) == own} <= rules.SHARED
    assert list(misuses(source)) == []
    assert max(map(len, source.splitlines())) <= 120


@pytest.fixture(scope="module")
def simba(tmp_path_factory):
    with (
        guide.installed("add_an_attack", tmp_path_factory.mktemp("attack")) as module,
        pytest.MonkeyPatch.context() as p,
    ):
        p.setitem(guide.contract("test_attacks").FAST, "simba", {"queries": 100})
        yield module


def test_the_attack_is_short():
    (source,) = guide.blocks("add_an_attack")
    assert len(source.splitlines()) < 60


@pytest.mark.slow
def test_the_attack_passes_the_contract_of_attacks(simba):
    tests = guide.contract("test_attacks")
    tests.test_the_contract("simba")
    tests.test_the_metric_is_compiled_once("simba")
    tests.test_lower_equals_raising_the_negative_score("simba")
    tests.test_tiny_images_are_attacked_or_refused_clearly("simba", (1, 1))
    for images in (jnp.zeros((4, 4, 3)), jnp.full((1, 4, 4, 3), 255.0)):
        tests.test_images_of_the_wrong_kind_are_refused("simba", images)
    tests.test_a_score_that_is_not_finite_is_reported_with_its_image("simba", jnp.nan)


@pytest.mark.slow
def test_the_attack_is_simba(simba):
    """Every step equals that of a NumPy loop with the same order of cosines."""
    images = guide.contract("test_attacks").make_images((1, 6, 7, 3))
    attack, calls = simba.SimBA(8 / 255, queries=62), []
    found = attack.run(score, images, KEY[None], lambda done, total: calls.append((done, total)))
    assert found.queries.tolist() == [61]
    assert calls[-1] == (30, 30)
    order = attack.start(images[0], 0.0, jax.random.split(KEY)[0]).order
    assert sorted(order.tolist()) == list(range(6 * 7 * 3))
    clean = image = np.asarray(images[0])
    best = float(score(images)[0])
    for place in np.asarray(order)[:30]:
        spectrum = np.zeros(clean.size)
        spectrum[place] = 0.2
        wave = scipy.fft.idctn(spectrum.reshape(clean.shape), axes=(0, 1), norm="ortho")
        tried = [np.clip(np.clip(image + s * wave, clean - 8 / 255, clean + 8 / 255), 0, 1) for s in (1, -1)]
        values = np.asarray(score(jnp.asarray(tried, jnp.float32)))
        if values.max() > best:
            best, image = values.max(), tried[values.argmax()]
    np.testing.assert_allclose(found.images[0], image, atol=1e-5)
    assert best > float(score(images)[0]) + 1e-3


@pytest.mark.slow
def test_the_attack_is_used_by_make_configs_and_evaluation(simba):
    images = guide.contract("test_attacks").make_images()
    made = attacks.make("simba", epsilon=8 / 255, queries=21, objective=attacks.engine.objective.Target(0.0))
    curve = attacks.sweep(made, score, images, KEY, [2 / 255, 8 / 255])
    assert curve.shape == (2, *images.shape)
    assert float(jnp.abs(curve[0] - images).max()) <= 2 / 255 + 1e-6
    assert jaxiqa.citation("simba").endswith("arXiv:1905.07121.")
    chosen = Attack("simba", (2 / 255, 8 / 255), {"queries": 21})
    evaluation = Evaluation(Data("builtin"), {"SimBA": chosen})
    check_attack("evaluation.attacks.SimBA", chosen, evaluation)
    for bad, message in (
        ({"query": 9}, "no option 'query'"),
        ({"step_size": 0.0}, "step_size"),
        ({"queries": 1}, "queries"),
    ):
        with pytest.raises(ValueError, match=message):
            check_attack("evaluation.attacks.SimBA", replace(chosen, options=bad), evaluation)
    split = data.load("builtin", size=(20, 28), train=1, val=1, test=2)["test"]
    runner = attack_runner("simba", chosen.options, chosen.epsilons, score)
    batches = attack_split(
        runner, score, split, model="m", seed=0, attack="SimBA", epsilons=chosen.epsilons, batch_size=2
    )
    rows = [row for batch in batches for row in batch.rows]
    assert len(rows) == 4
    assert all(row.queries == 21 and row.attacked > row.score and row.linf <= row.epsilon + 1e-6 for row in rows)
    smoke = load_config(guide.ROOT / "configs" / "smoke.py")
    training = Training(epochs=1, adversarial=Adversarial(0.1, attack="simba", options={}))
    with pytest.raises(ValueError, match="choose a white-box attack"):
        check_training(replace(smoke, variants={"baseline": Variant(training)}))


@pytest.fixture(scope="module")
def total_variation(tmp_path_factory):
    with guide.installed("add_a_defense", tmp_path_factory.mktemp("defense")) as module:
        yield module


@pytest.mark.slow
def test_the_defense_passes_the_contract_of_purifiers(total_variation):
    tests, name = guide.contract("test_purifiers_contract"), "total_variation"
    precision = guide.contract("test_defense_precision")
    tests.test_the_contract(name)
    tests.test_only_random_purifiers_depend_on_the_key(name)
    tests.test_the_gradient_is_finite_or_refused_and_then_a_surrogate_has_one(name)
    tests.test_the_output_of_flat_black_and_white_is_in_range_with_a_finite_gradient(name)
    tests.test_tiny_images_are_purified_or_refused_clearly(name, (1, 1))
    tests.test_a_purifier_is_a_pytree_whose_strength_may_be_traced(name)
    for kind in ("0-255", "nan", "grey", "one"):
        tests.test_images_of_the_wrong_kind_are_refused(name, kind)
    precision.test_a_purifier_of_half_precision_images_computes_in_float32_and_rounds_once(name, "float16")
    precision.test_a_purifier_keeps_double_precision(name)


def test_the_defense_minimises_its_energy(total_variation):
    images, weight = guide.contract("test_purifiers_contract").make_images((12, 16), count=1), 0.05
    mask = jax.random.bernoulli(KEY, 0.5, (12, 16, 1))

    def energy(z):
        slopes = [np.diff(z, axis=axis, append=np.take(z, [-1], axis)) for axis in (1, 2)]
        return np.sum(mask * (z - images) ** 2) / 2 + weight * np.sqrt(slopes[0] ** 2 + slopes[1] ** 2).sum()

    found, better = (energy(purify.make("total_variation", weight=weight, steps=n)(images, KEY)) for n in (50, 2000))
    assert better <= found < 1.01 * better
    assert found < 0.6 * min(energy(images), energy(np.full_like(images, images.mean())))
    whole = purify.make("total_variation", weight=0.0, keep=1.0)(images, KEY)
    np.testing.assert_allclose(whole, images, atol=1e-6)


@pytest.mark.slow
def test_the_defense_is_used_by_adaptive_attacks_and_configs(total_variation):
    images, keys = guide.contract("test_purifiers_contract").make_images((9, 14), count=2), jax.random.split(KEY, 2)
    made = build_defense.build("TV", Defense("total_variation", {"weight": 0.05}))
    each = purify_each(made, images, keys)
    np.testing.assert_allclose(each[1], made(images[1:], keys[1])[0], atol=1e-5)
    seen = adaptive(score, made, keys)  # BPDA with the surrogate, averaged by EOT
    np.testing.assert_allclose(seen(images), eot(score, made, keys)(images), atol=1e-6)
    expected = jnp.mean(jnp.stack([score(made(images, key)) for key in keys]), 0)
    np.testing.assert_allclose(seen(images), expected, atol=1e-5)
    gradient = jax.grad(lambda x: seen(x).sum())(images)
    through = [jax.grad(lambda x: score(x).sum())(made(images, key)) for key in keys]  # straight-through gradient
    np.testing.assert_allclose(gradient, sum(through) / 2, atol=1e-5)
    assert bpda(made, made.surrogate).random
    attacked = attacks.make("ifgsm", epsilon=8 / 255, steps=2)(seen, images, KEY)
    assert (seen(attacked) > seen(images)).all()
    own = build_defense.build("mine", Defense(f"{total_variation.__file__}:TotalVariation", {"weight": 0.05}))
    np.testing.assert_array_equal(own(images, KEY), made(images, KEY))
    for bad, message in (({"wieght": 0.1}, "'weight'"), ({"keep": 0.0}, "keep"), ({"steps": 0}, "steps")):
        with pytest.raises(ValueError, match=f"defense 'TV'.*{message}"):
            build_defense.build("TV", Defense("total_variation", bad))
