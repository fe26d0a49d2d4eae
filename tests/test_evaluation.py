import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.attacks import UAP, make
from jaxiqa.data import load
from jaxiqa.evaluation import attack_runner, attack_split, score_split, shard_batch

EPSILONS = (2 / 255, 8 / 255)


@pytest.fixture(scope="module")
def split():
    return load("builtin", size=(20, 28), train=4, val=4, test=7)["test"]


def score(images):
    return 100 * jnp.tanh(images[:, 5:15].mean((1, 2, 3)) - images[:, :, 5:9].mean((1, 2, 3)))


def rows_of(split, done=(), epsilons=EPSILONS, runner=None, batch_size=3):
    runner = runner or attack_runner("pgd", {"steps": 2}, epsilons, score, [])
    batches = attack_split(
        runner, score, split, model="m", seed=0, attack="PGD-2", epsilons=epsilons, batch_size=batch_size, done=done
    )
    return [row for batch in batches for row in batch.rows]


@pytest.mark.slow
def test_one_row_per_image_and_strength_with_correct_numbers(split):
    rows = rows_of(split)
    assert {(row.image, row.epsilon) for row in rows} == {(image, e) for image in split.ids for e in EPSILONS}
    clean, _ = score_split(score, split, batch_size=3)
    for row in rows:
        assert row.score == pytest.approx(clean[split.ids.index(row.image)], abs=1e-4)
        assert row.attacked > row.score
        assert row.linf <= row.epsilon + 1e-6
        assert 0 < row.ssim < 1
        assert row.l2 > 0


@pytest.mark.slow
def test_an_interrupted_run_gives_the_same_rows(split):
    whole = rows_of(split)
    done = {(row.image, row.epsilon) for row in whole[:5]}
    rest = rows_of(split, done)
    assert len(rest) == len(whole) - 5
    expected = [row for row in whole if (row.image, row.epsilon) not in done]
    for a, b in zip(rest, expected, strict=True):
        assert (a.image, a.epsilon, a.attacked, a.linf) == (b.image, b.epsilon, b.attacked, b.linf)
    assert rows_of(split, {(row.image, row.epsilon) for row in whole}) == []


def test_rows_do_not_depend_on_the_batch_size(split):
    """Of an attack with a random start: each image has its own key, wherever a batch begins."""
    start = attack_runner("pgd", {"steps": 1, "step_size": 1e-6}, (8 / 255,), score)
    three, five = (rows_of(split, epsilons=(8 / 255,), runner=start, batch_size=size) for size in (3, 5))
    assert [row.image for row in three] == [row.image for row in five] == list(split.ids)
    np.testing.assert_allclose([row.l2 for row in three], [row.l2 for row in five], rtol=1e-5)
    np.testing.assert_allclose([row.attacked for row in three], [row.attacked for row in five], rtol=1e-4, atol=1e-4)
    assert len({round(row.l2, 6) for row in three}) == len(three)


@pytest.mark.slow
def test_black_box_attacks_count_their_queries(split):
    square = attack_runner("square", {"queries": 20}, EPSILONS, score)
    rows = rows_of(split, runner=square)
    assert {row.queries for row in rows} == {20}
    assert all(row.attacked >= row.score for row in rows)
    assert {row.queries for row in rows_of(split)} == {None}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("square", {"queries": 40}), ("ifgsm", {"steps": 2})])
def test_progress_is_called_within_a_batch_and_ends_with_the_last_image(split, name, options):
    calls = []
    runner = attack_runner(name, options, EPSILONS, score)
    batches = attack_split(
        *(runner, score, split),
        **{"model": "m", "seed": 0, "attack": name, "epsilons": EPSILONS, "batch_size": 4},
        progress=lambda *numbers: calls.append(numbers),
    )
    assert len(list(batches)) == 2
    done = [images for images, total in calls]
    assert {total for _, total in calls} == {7}
    assert done == sorted(done)
    assert done[-1] == 7
    if name == "square":
        assert any(0 < images < 4 for images in done)  # after every 32 queries and every strength


def test_the_score_of_the_stored_image_is_reported(split):
    """The attack is below half a grey level, so rounding removes it."""
    half = attack_runner("ifgsm", {"steps": 1}, (0.4 / 255,), score)
    for row in rows_of(split, epsilons=(0.4 / 255,), runner=half):
        assert row.attacked > row.score
        assert row.rounded == pytest.approx(row.score, abs=1e-4)  # the clean images have 8 bits


def test_a_batch_is_sharded_over_devices_and_gives_the_same_rows(split):
    images = np.stack([split.read(i) for i in range(4)]) / np.float32(255)
    assert len(shard_batch(images).sharding.device_set) == jax.device_count() == 2
    assert len(shard_batch(images[:3]).sharding.device_set) == 1
    attack = make("ifgsm", epsilon=8 / 255, steps=3)
    together, alone = (attack(score, x, jax.random.key(0)) for x in (shard_batch(images), jnp.asarray(images)))
    assert len(together.sharding.device_set) == 2
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.slow
def test_attacks_without_strength_and_fitted_ones(split):
    stadv = attack_runner("stadv", {"steps": 2}, None, score)
    assert {row.epsilon for row in rows_of(split, epsilons=None, runner=stadv)} == {None}
    fitted = [UAP(jnp.full((20, 28, 3), epsilon)) for epsilon in EPSILONS]
    rows = rows_of(split, runner=attack_runner("uap", {}, EPSILONS, score, fitted))
    assert max(row.linf for row in rows) == pytest.approx(8 / 255, abs=1e-6)


def test_padding_of_the_last_batch_is_not_counted(split):
    scores, seconds = score_split(score, split, batch_size=4)
    assert scores.shape == (7,)
    assert seconds > 0
    images = jnp.asarray(np.stack([split.read(i) for i in range(7)]) / np.float32(255))
    expected = jnp.concatenate([jax.jit(score)(images[:4]), jax.jit(score)(images[3:])[1:]])  # rounded alike
    np.testing.assert_allclose(scores, expected, atol=1e-4)
