"""Kernels in few bytes: the rounding error is at most half a step, and nothing else changes."""

import numpy as np
import pytest

from jaxiqa.pretrained.quantised import LEAST, quantise, restore

GENERATOR = np.random.default_rng(0)


def test_the_error_is_at_most_half_a_step_of_each_channel():
    kernel = GENERATOR.normal(size=(3, 3, 50, 61)).astype(np.float32) * np.geomspace(1e-4, 1e3, 61, dtype=np.float32)
    stored = quantise({"kernel": kernel, "bias": kernel[0, 0, 0]}, ["kernel"])
    found = restore(stored)
    step = np.abs(kernel).max((0, 1, 2)) / 127
    assert found.keys() == {"kernel", "bias"}
    assert (np.abs(found["kernel"] - kernel) <= 0.5001 * step).all()
    np.testing.assert_array_equal(found["bias"], kernel[0, 0, 0])
    assert stored["kernel"].nbytes * 4 == kernel.nbytes


def test_storing_again_changes_nothing():
    kernel = GENERATOR.normal(size=(400, 70)).astype(np.float32)
    once = restore(quantise({"kernel": kernel}, ["kernel"]))
    twice = restore(quantise(once, ["kernel"]))
    np.testing.assert_allclose(twice["kernel"], once["kernel"], rtol=1e-6)


def test_a_channel_of_zeros_stays_zero():
    kernel = np.zeros((LEAST, 2), np.float32)
    kernel[3, 1] = 5.0
    np.testing.assert_allclose(restore(quantise({"kernel": kernel}, ["kernel"]))["kernel"], kernel, rtol=1e-6)


def test_small_kernels_are_float16_and_come_back_as_float32():
    kernel = GENERATOR.normal(size=(3, 3, 1, 64)).astype(np.float32)
    stored = quantise({"kernel": kernel}, ["kernel"])
    assert stored["kernel"].dtype == np.float16
    np.testing.assert_array_equal(restore(stored)["kernel"], kernel.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4])
def test_values_that_cannot_be_stored_are_errors(value):
    with pytest.raises(ValueError, match="kernel has values that are not finite, or too large"):
        quantise({"kernel": np.full((3, 3), value, np.float32)}, ["kernel"])


@pytest.mark.parametrize(
    "stored",
    [
        {"kernel:scale": np.ones(3, np.float32)},
        {"kernel": np.ones((4, 3), np.float32), "kernel:scale": np.ones(3, np.float32)},
        {"kernel": np.ones((4, 3), np.int8), "kernel:scale": np.ones(4, np.float32)},
    ],
)
def test_a_scale_without_its_kernel_is_an_error(stored):
    with pytest.raises(ValueError, match="kernel:scale"):
        restore(stored)
