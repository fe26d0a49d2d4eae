"""Importance of convolution filters for the labels: VIP scores of a partial least squares regression (PLS, disPLS).

Used by the prunings ``"pls"`` and ``"displs"`` of "Robustness as Architecture", arXiv:2506.04951.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from jaxiqa.train.recorded import Path

Scores = dict[Path, Float[np.ndarray, " filters"]]


def vip(
    features: Float[np.ndarray, "n p"], labels: Float[np.ndarray, " n"], *, components: int = 2
) -> Float[np.ndarray, " p"]:
    """Return the variable importance in projection of every feature; the mean of their squares is 1.

        VIP_j = √( p · Σ_h s_h (w_jh / ‖w_h‖)² / Σ_h s_h ),   s_h = (t_hᵀ t_h)(q_hᵀ q_h)

    with weights w, scores t and label loadings q of a PLS regression (NIPALS, features and labels standardised; done
    by scikit-learn). A feature that does not vary has importance 0.

    Args:
        features: one row per image.
        labels: one per image.
        components: of the regression, at most n − 1 and p.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: fewer than three images, or labels that are all equal.

    >>> random = np.random.default_rng(0)
    >>> x = random.normal(size=(50, 3))
    >>> importance = vip(x, 2 * x[:, 1] + 0.1 * random.normal(size=50))
    >>> int(importance.argmax()), round(float((importance**2).mean()), 6)
    (1, 1.0)

    Reference: Wold, Sjöström and Eriksson, "PLS-regression: a basic tool of chemometrics", 2001.
    """
    from sklearn.cross_decomposition import PLSRegression

    features, labels = np.asarray(features, np.float64), np.asarray(labels, np.float64)
    n, p = features.shape
    if n < 3 or not np.ptp(labels) > 0:
        raise ValueError(f"labels of {n} images with spread {np.ptp(labels) if n else 0:g}; expected 3 that differ")
    spread = features.std(0)
    varies = spread > 1e-9 * max(float(np.abs(features).max()), 1e-30)
    found = np.zeros(p)
    if not varies.any():
        return found
    count = int(varies.sum())
    model = PLSRegression(n_components=min(components, n - 1, count)).fit(features[:, varies], labels)
    t, w, q = model.x_scores_, model.x_weights_, model.y_loadings_
    s = (t**2).sum(0) * (q**2).sum(0)
    share = (w / np.linalg.norm(w, axis=0)) ** 2
    found[varies] = np.sqrt(count * (share @ s) / s.sum())
    return found


def filter_vip(
    features: Mapping[Path, Float[np.ndarray, "n _"]], labels: Float[np.ndarray, " n"], filters: Mapping[Path, int]
) -> Scores:
    """Return the mean VIP of the features of every filter; all layers are in one regression.

    Args:
        features: layer -> the cell means of its output (`jaxiqa.train.recorded.record`); the filter is the last axis.
        labels: one per image.
        filters: layer -> its number of filters.
    """
    importance = vip(np.concatenate(list(features.values()), axis=1), labels)
    ends = np.cumsum([x.shape[1] for x in features.values()])[:-1]
    parts = np.split(importance, ends)
    return {path: part.reshape(-1, filters[path]).mean(0) for path, part in zip(features, parts, strict=True)}


def discriminative(scores: Scores) -> Scores:
    """Return the scores of disPLS: a layer is pruned only if its scores are spread wider than the layer's after it.

    From the last layer to the first: d = mean / standard deviation of the scores of a layer. If d is not below that of
    the layer visited before, all scores of the layer become 1 (the mean of squared VIPs), which protects its filters.
    The last layer has none before it and keeps its scores.

    Args:
        scores: layer -> one score per filter, in running order.

    >>> flat, wide = np.array([1.0, 1.1]), np.array([0.2, 1.8])
    >>> discriminative({("first",): flat, ("last",): wide})["first",].tolist()
    [1.0, 1.0]
    """
    found, before = {}, np.inf
    for path, values in reversed(scores.items()):
        d = float(values.mean() / max(values.std(), 1e-12))
        found[path] = values if d < before else np.ones_like(values)
        before = d
    return {path: found[path] for path in scores}
