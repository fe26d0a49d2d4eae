import numpy as np
import pytest

from jaxiqa.train.pruning import apply_masks, make_masks


def params(seed=0):
    random = np.random.default_rng(seed)
    kernel = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    return {
        "a": {"kernel": kernel(3, 3, 4, 20), "bias": kernel(20)},
        "b": {"kernel": kernel(1, 1, 20, 30) * 5},
        "dense": {"kernel": kernel(30, 8)},
        "block": {"orthogonal": {"kernel": kernel(3, 3, 8, 8)}},
    }


def test_l2_removes_the_weakest_tenth_of_every_layers_filters_and_nothing_else():
    tree = params()
    pruned = apply_masks(tree, make_masks(tree, amount=0.1))
    for name in "ab":
        norms = np.linalg.norm(tree[name]["kernel"].reshape(-1, tree[name]["kernel"].shape[-1]), axis=0)
        removed = np.flatnonzero(np.all(np.asarray(pruned[name]["kernel"]) == 0, axis=(0, 1, 2)))
        assert set(removed) == set(np.argsort(norms)[: round(0.1 * len(norms))])
    np.testing.assert_array_equal(pruned["a"]["bias"], tree["a"]["bias"])
    np.testing.assert_array_equal(pruned["dense"]["kernel"], tree["dense"]["kernel"])
    np.testing.assert_array_equal(pruned["block"]["orthogonal"]["kernel"], tree["block"]["orthogonal"]["kernel"])


def test_l1_has_one_threshold_over_all_layers():
    tree = params()
    masks = make_masks(tree, amount=0.25, criterion="l1")
    weights = np.concatenate([np.abs(tree[name]["kernel"]).ravel() for name in "ab"])
    kept = np.concatenate([np.asarray(masks[name]["kernel"]).ravel() for name in "ab"]).astype(bool)
    assert (~kept).sum() == round(0.25 * weights.size)
    assert weights[~kept].max() <= weights[kept].min()


@pytest.mark.parametrize("options", [{"amount": 1.0}, {"amount": -0.1}, {"amount": 0.1, "criterion": "l3"}])
def test_bad_options_are_named(options):
    with pytest.raises(ValueError, match=r"amount|criterion"):
        make_masks(params(), **options)
