import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxiqa.ops.flow import flow_loss, warp

CASES = ["smooth", "random", "large", "integer", "zero"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_warps_and_losses_equal_the_reference(shared, case):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "08_stadv.npz")
    expected = json.loads((folder / "08_stadv.json").read_text())["expected"][case]
    image = jnp.asarray(arrays["image"] / np.float32(255))
    flow = jnp.asarray(np.moveaxis(arrays[f"{case}__flow"], 0, -1))
    np.testing.assert_allclose(warp(image, flow), np.moveaxis(arrays[f"{case}__warped"], 0, -1), atol=2e-6)
    for key, options in {
        "flow_loss_nosqrt_zero_padding (benchmark)": {"root": False, "padding": "zero"},
        "flow_loss_sqrt_symmetric_padding (paper / rakutentech default)": {},
        "flow_loss_sqrt_zero_padding": {"padding": "zero"},
        "flow_loss_nosqrt_symmetric_padding": {"root": False},
    }.items():
        assert float(flow_loss(flow, **options)) == pytest.approx(expected[key], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)  # whole positions and bounds too
def test_the_gradient_by_the_flow_equals_the_reference(shared, case):
    arrays = np.load(shared / "oracles" / "public" / "08_stadv.npz")
    image = jnp.asarray(arrays["image"] / np.float32(255))
    flow, cotangent = (jnp.asarray(np.moveaxis(arrays[f"{case}__{part}"], 0, -1)) for part in ("flow", "cotangent"))
    gradient = jax.grad(lambda f: jnp.sum(warp(image, f) * cotangent))(flow)
    np.testing.assert_allclose(gradient, np.moveaxis(arrays[f"{case}__grad_flow"], 0, -1), atol=1e-5)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="at least 2x2"):
        warp(jnp.zeros((1, 5, 3)), jnp.zeros((1, 5, 2)))
