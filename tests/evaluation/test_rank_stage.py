"""Attacks on the order of the labelled images: rows, an interrupted stage, other models as sources, the report."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.config import Data, Evaluation, Experiment, Model, Ranks, Training, Variant
from jaxiqa.core.halves import low_half
from jaxiqa.data import load
from jaxiqa.evaluation import rank_stage
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.rank_stage import RankPlan, attack_order
from jaxiqa.evaluation.startup import check_evaluation_start
from jaxiqa.measures.correlation import srocc
from jaxiqa.reports.attacks.order import summarise_order
from jaxiqa.results.rows import CLEAN, RankRow

SIZE = (20, 28)
RANKS = Ranks(epsilons=(0.5 / 255, 4 / 255), images=6, queries=20, query_epsilons=(4 / 255,))


@pytest.fixture(scope="module")
def labelled():
    return load("builtin", size=SIZE, train=1, val=1, test=9)["test"]


def metric(weight, images):
    return weight * jnp.tanh(images[:, 5:15].mean((1, 2, 3)) - images[:, :, 5:9].mean((1, 2, 3)))


def evaluated(root, name, weight=100.0, batch=4):
    made = EvaluatedModel(name, 0, root=root, folder=root / name, size=SIZE, batch=batch)
    made.__dict__["score_fn"] = jax.tree_util.Partial(metric, jnp.float32(weight))  # replaces a trained one
    return made


def numbers(root, name="m"):
    rows = evaluated(root, name).rows(RankRow)
    return {(row.attack, row.epsilon, row.image): (row.attacked, row.slope) for row in rows}


@pytest.fixture(scope="module")
def whole(labelled, tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    attack_order(evaluated(root, "m"), [evaluated(root, "other", 7.0)], RankPlan(labelled, None, RANKS))
    return root


@pytest.mark.slow
def test_every_attack_moves_each_image_against_the_order(whole, labelled):
    plan = RankPlan(labelled, None, RANKS)
    rows = evaluated(whole, "m").rows(RankRow)
    images = labelled.select(plan.places)
    labels = {epsilon: plan.labels(["other"], epsilon) for epsilon in RANKS.epsilons}
    assert all("transfer from other" in found for found in labels.values())
    assert [epsilon for epsilon, found in labels.items() if "Square-20" in found] == [4 / 255]
    expected = {(label, e, i) for e, found in labels.items() for label in found for i in images.ids}
    assert {(row.attack, row.epsilon, row.image) for row in rows} == expected | {(CLEAN, 0.0, i) for i in images.ids}
    clean = {row.image: row.attacked for row in rows if row.attack == CLEAN}
    np.testing.assert_allclose([clean[i] for i in images.ids], metric(100.0, images.images()), rtol=1e-4)
    low = {i for i, mos in zip(labelled.ids, labelled.mos, strict=True) if mos <= np.median(labelled.mos)}
    for row in rows:
        if row.epsilon == 4 / 255:
            moved = (row.attacked - clean[row.image]) * (1 if row.image in low else -1)
            assert moved > 0 or (row.attack == "Square-20" and moved == 0), row
        assert row.mos == labelled.mos[labelled.ids.index(row.image)]


@pytest.mark.slow
def test_the_slope_is_the_gradients_l1_norm_per_255th(whole, labelled):
    for row in evaluated(whole, "m").rows(RankRow):
        image = labelled.images([labelled.ids.index(row.image)])
        slope = float(jnp.abs(jax.grad(lambda x: metric(100.0, x).sum())(image)).sum()) / 255
        assert row.slope == pytest.approx(slope if row.attack == CLEAN else 0.0, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [4, 2])
def test_an_interrupted_stage_ends_with_the_same_rows(whole, labelled, tmp_path, monkeypatch, batch):
    """Also with another batch size: keys and directions are those of the image."""
    plan, others = RankPlan(labelled, None, RANKS), [evaluated(tmp_path, "other", 7.0)]
    score, count = rank_stage.score, iter(range(100))

    def killed(*arguments):
        if next(count) == 7:
            raise MemoryError("killed")
        return score(*arguments)

    monkeypatch.setattr(rank_stage, "score", killed)
    with pytest.raises(MemoryError):
        attack_order(evaluated(tmp_path, "m"), others, plan)
    before = numbers(tmp_path)
    monkeypatch.setattr(rank_stage, "score", score)
    attack_order(evaluated(tmp_path, "m", batch=batch), others, plan)
    found, expected = numbers(tmp_path), numbers(whole)
    assert 0 < len(before) < len(found)
    assert len(evaluated(tmp_path, "m").rows(RankRow)) == len(found)
    assert found.keys() == expected.keys()
    for key, pair in expected.items():
        np.testing.assert_allclose(found[key], pair, rtol=1e-4, atol=1e-4, err_msg=str(key))
    monkeypatch.setattr(rank_stage, "attack_block", lambda *_: pytest.fail("nothing is missing"))
    attack_order(evaluated(tmp_path, "m"), others, plan)


@pytest.mark.slow
def test_more_images_keep_the_rows_of_fewer(whole, labelled, tmp_path):
    """The halves of some images are those of all, so directions do not depend on the number."""
    every = RankPlan(labelled, None, replace(RANKS, images=None))
    attack_order(evaluated(tmp_path, "m"), [evaluated(tmp_path, "other", 7.0)], every)
    found = numbers(tmp_path)
    assert len(found) > len(numbers(whole))
    for key, pair in numbers(whole).items():
        np.testing.assert_allclose(found[key], pair, rtol=1e-4, atol=1e-4, err_msg=str(key))


@pytest.mark.slow
def test_only_rows_of_the_present_plan_are_reported(whole, labelled):
    rows = evaluated(whole, "m").query(RankRow)
    plan = RankPlan(labelled, None, RANKS)
    assert plan.present(rows, ["m", "other"]).all() == rows.all()
    assert {row.attack for row in plan.present(rows, ["m"]).all()} == set(plan.labels([], 4 / 255)) | {CLEAN}
    one = RankPlan(labelled, None, replace(RANKS, epsilons=(4 / 255,), images=2))
    kept = one.present(rows, ["m", "other"]).all()
    assert {row.epsilon for row in kept} == {0.0, 4 / 255}
    assert len({row.image for row in kept}) == 2
    assert plan.present(rows, ["another"]).all() == []


def test_images_are_spread_over_the_order(labelled):
    chosen = labelled.mos[RankPlan(labelled, None, replace(RANKS, images=3)).places]
    assert sorted(chosen.tolist()) == sorted(labelled.mos.tolist())[::4]


def test_the_halves_of_some_images_are_those_of_all(labelled):
    """The attack and the report both divide the attacked images, so both would call the middle one of five low."""
    for number in range(2, 60):
        mos = np.random.default_rng(number).permutation(number).astype(float)
        for count in range(2, number + 1):
            plan = RankPlan(replace(labelled.take(1), mos=mos), None, replace(RANKS, images=count))
            assert len(set(plan.places)) == count
            np.testing.assert_array_equal(low_half(mos[plan.places]), low_half(mos)[plan.places], f"{number}, {count}")
            near = np.linspace(0, number - 1, count)
            assert np.abs(np.sort(mos[plan.places]) - near).max() <= 0.5 + 1e-9


@pytest.mark.slow
def test_the_report_divides_tied_labels_as_the_attack_does(labelled, tmp_path):
    """Six of nine images have the highest label, so the median is no border."""
    tied = replace(labelled, mos=np.where(np.argsort(np.argsort(labelled.mos)) < 3, 20.0, 80.0))
    plan = RankPlan(tied, None, replace(RANKS, epsilons=(4 / 255,), images=5, queries=0))
    attack_order(evaluated(tmp_path, "m"), [], plan)
    rows = evaluated(tmp_path, "m").rows(RankRow)
    clean = {row.image: row.attacked for row in rows if row.attack == CLEAN}
    for row in rows:
        if row.attack != CLEAN:
            assert (row.attacked > clean[row.image]) == (row.mos == 20.0)
    left = summarise_order(rows, ["m"], {("m", 0): (0.0, 100.0)}).left["m", 4 / 255]
    moved = [max(abs(r.attacked - clean[r.image]) for r in rows if r.image == image) for image in clean]
    assert left.gain[0] == pytest.approx(np.mean(moved) / np.std(list(clean.values()), ddof=1), rel=1e-5)


def test_a_score_that_is_not_finite_is_named(labelled, tmp_path):
    broken = evaluated(tmp_path, "m", jnp.nan)
    with pytest.raises(ValueError, match="m seed 0: none: the metric gave a score or slope that is not finite"):
        attack_order(broken, [], RankPlan(labelled, None, RANKS))


@pytest.mark.parametrize(
    ("ranks", "message"),
    [
        (Ranks(epsilons=(2.0,)), r"evaluation\.ranks\.epsilons: 2\.0 is outside \(0, 1\]"),
        (Ranks(epsilons=(0.0,)), r"evaluation\.ranks\.epsilons: 0\.0 is outside"),
        (Ranks(images=1), r"evaluation\.ranks\.images=1; expected at least 2"),
        (Ranks(queries=-1), r"evaluation\.ranks\.queries=-1; expected at least 0"),
        (Ranks(queries=1), r"evaluation\.ranks\.queries=1; expected at least 2, or 0"),
        (Ranks(epsilons=()), r"evaluation\.ranks\.epsilons is empty"),
        (Ranks(epsilons=(0.1, 0.1)), r"evaluation\.ranks\.epsilons has 0\.1 twice"),
        (Ranks(query_epsilons=(0.1,)), r"ranks\.query_epsilons: 0\.1 is not among ranks\.epsilons"),
    ],
)
def test_bad_options_are_found_at_the_start(ranks, message, tmp_path):
    data = Data("builtin", options={"size": SIZE, "train": 4, "val": 4, "test": 6})
    variants = {"base": Variant(Training(epochs=1))}
    evaluation = Evaluation(data, {}, ranks=ranks)
    experiment = Experiment("x", data, Model("resnet18", width=8), variants, evaluation, workdir=str(tmp_path))
    with pytest.raises(ValueError, match=message):
        check_evaluation_start(experiment)


def test_the_attacked_order_agrees_less(whole):
    rows = [row for row in evaluated(whole, "m").rows(RankRow) if row.attack == "APGD-20" and row.epsilon == 4 / 255]
    clean = [row for row in evaluated(whole, "m").rows(RankRow) if row.attack == CLEAN]
    order = {row.image: row.mos for row in clean}
    before, after = (
        srocc(np.array([row.attacked for row in found]), np.array([order[row.image] for row in found]))
        for found in (clean, rows)
    )
    assert after < before
