import parity
import pytest

from jaxiqa.models import MODELS

TAPS = [
    "conv2d_1a",
    "mixed_5b",
    "block35",
    "mixed_6a",
    "block17",
    "block8.8",
    "conv2d_7b",
    "pooled",
    "hidden",
]


@pytest.mark.slow
def test_agrees_with_the_original_class(shared):
    parity.check(shared, "koncept512", MODELS["koncept512"], TAPS)
