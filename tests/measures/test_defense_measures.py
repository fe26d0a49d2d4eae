import json

import numpy as np
import pytest

from jaxiqa.measures.correlation import srocc
from jaxiqa.measures.defense import abstention, cert_r, cert_rd, d_score, q_score


@pytest.mark.parametrize("attack", ["cadv", "fgsm"])
def test_scores_equal_those_of_the_benchmarks_demo_rows(shared, attack):
    folder = shared / "oracles" / "public"
    arrays = np.load(folder / "02_correlation.npz")
    expected = json.loads((folder / "02_correlation.json").read_text())["expected"][attack]
    of = lambda name: arrays[f"{attack}__{name}"]  # noqa: E731
    ends = 26.40314292907715, 66.86933898925781
    close = lambda value: pytest.approx(value, rel=0, abs=1e-9)  # noqa: E731
    assert d_score(of("clear"), of("defended_attacked"), *ends).mean() == close(expected["D_percent"])
    defended = d_score(of("defended_clear"), of("defended_attacked"), *ends)
    assert defended.mean() == close(expected["D_both_defended_percent"])
    for cap in (60.0, np.inf):  # no image comes near the cap
        quality = q_score(of("ssim_clear_defended_attacked"), of("psnr_clear_defended_attacked"), psnr_cap=cap)
        assert quality.mean() == close(expected["Q"])
    assert srocc(of("defended_clear"), of("mos")) == close(expected["SROCC_clear"])
    assert srocc(of("defended_attacked"), of("mos")) == close(expected["SROCC_adv_defended"])


def test_equal_images_give_the_cap_and_in_the_benchmark_variant_infinity():
    ssim, psnr = np.array([1.0, 0.5, 1.0]), np.array([np.inf, 20.0, 61.0])
    np.testing.assert_allclose(q_score(ssim, psnr), [2.5, 1.0, 2.5])
    np.testing.assert_allclose(q_score(ssim, psnr, psnr_cap=80), [3.0, 1.0, 1 + 61 / 40])
    assert q_score(ssim, psnr, psnr_cap=np.inf).tolist()[0] == np.inf
    with pytest.raises(ValueError, match="psnr_cap=0"):
        q_score(ssim, psnr, psnr_cap=0)


def test_the_cap_is_just_above_the_psnr_of_rounding_to_8_bits():
    values = np.random.default_rng(0).uniform(size=100_000)
    psnr = -10 * np.log10(np.mean((np.round(values * 255) / 255 - values) ** 2))
    assert psnr == pytest.approx(58.92, abs=0.05)


def test_certificates_by_hand():
    assert cert_r(np.array([0.3, np.nan]), np.array([False, True])).tolist() == [0.3, 0.0]
    assert abstention(np.array([False, True, True])).tolist() == [0.0, 100.0, 100.0]
    bounds = np.array([10.0, 20.0]), np.array([12.0, 26.0]), np.array([18.0, 28.0])
    np.testing.assert_allclose(cert_rd(*bounds, 0, 40), [0.2, 0.2])
    np.testing.assert_allclose(cert_rd(*bounds, 0, 40, side="one"), [0.15, 0.15])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: d_score(np.array([1.0]), np.array([1.0, 2.0]), 0, 1), "same length"),
        (lambda: d_score(np.array([1.0]), np.array([1.0]), 1, 1), "low < high"),
        (lambda: q_score(np.array([np.nan]), np.array([20.0])), "ssim must be finite"),
        (lambda: q_score(np.array([1.0]), np.array([np.nan])), "psnr must not be NaN"),
        (lambda: q_score(np.array([]), np.array([])), "at least 1"),
        (lambda: cert_r(np.array([np.nan]), np.array([False])), "finite"),
        (lambda: cert_r(np.array([-0.1]), np.array([False])), "at least 0"),
        (lambda: cert_rd(np.array([3.0]), np.array([2.0]), np.array([4.0]), 0, 1), "lower <= score"),
        (lambda: cert_rd(np.array([1.0]), np.array([2.0]), np.array([4.0]), 0, 1, side="both"), "side='both'"),
        (lambda: cert_rd(np.array([1.0]), np.array([2.0]), np.array([4.0]), 1, 1), "low < high"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
