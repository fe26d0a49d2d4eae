"""Cases of parametrised tests of which only some are quick; the others are marked slow."""

import pytest


def only(quick, values):
    """Return all values; those that are not in ``quick`` are slow."""
    return [value if value in quick else pytest.param(value, marks=pytest.mark.slow) for value in values]


def every(n, values):
    """Return all values; of n that follow each other, only the first is quick."""
    return [pytest.param(value, marks=pytest.mark.slow) if i % n else value for i, value in enumerate(values)]
