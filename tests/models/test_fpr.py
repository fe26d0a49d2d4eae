from dataclasses import replace
from functools import partial

import parity

from jaxiqa.models import MODELS

TAPS = ["sfl1", "sfl21", "sfl22", "sfl23", "sfl3", "scl1", "scl2", "opinions", "gru", "weights"]


def test_agrees_with_the_original_class(shared):
    published = MODELS["fpr"]
    raw = replace(published, build=partial(published.build, larger_is_worse=False))
    parity.check(shared, "fpr", raw, TAPS)
