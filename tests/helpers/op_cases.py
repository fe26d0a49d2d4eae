"""Every public function of `jaxiqa.ops` that takes arrays, with test arrays of odd, non-square sizes."""

from functools import partial

import jax
import numpy as np

from jaxiqa.ops import (
    clustering,
    color,
    contrast,
    cubic,
    edges,
    filters,
    flow,
    generalised_gaussian,
    geometry,
    jpeg,
    resize,
    spline,
    ssim,
    wavelet,
)

RANDOM = np.random.default_rng(0)


def make_images(*shape):
    return RANDOM.uniform(0.1, 0.9, shape)


IMAGES = make_images(2, 11, 8, 3)
PAIR = [make_images(2, 13, 17, 3), make_images(2, 13, 17, 3)]
OPS = {
    "kmeans": (lambda x: clustering.kmeans(x, jax.random.key(0), 3, steps=4), [RANDOM.normal(size=(9, 2))]),
    "rgb_to_lab": (color.rgb_to_lab, [IMAGES]),
    "lab_to_rgb": (color.lab_to_rgb, [np.array([60.0, 5.0, -9.0]) + RANDOM.normal(size=(4, 3))]),
    "resize_cubic": (partial(cubic.resize_cubic, size=(7, 13)), [IMAGES]),
    "luma": (edges.luma, [IMAGES[0]]),
    "sobel": (partial(edges.sobel, axis=1), [IMAGES[0, ..., 0]]),
    "dilate": (edges.dilate, [IMAGES[0, ..., 0]]),
    "gaussian_blur": (lambda x: filters.gaussian_blur(x, 5, 0.9), [IMAGES]),
    "separable_filter": (lambda x: filters.separable_filter(x, [0.25, 0.7, 0.1], divisor=1.1), [IMAGES]),
    "median_blur": (lambda x: filters.median_blur(x, 3), [IMAGES]),
    "warp": (flow.warp, [IMAGES[0], RANDOM.normal(size=(11, 8, 2))]),
    "flow_loss": (flow.flow_loss, [RANDOM.normal(size=(5, 4, 2))]),
    "rotate": (lambda x: geometry.rotate(x, 33.0), [IMAGES]),
    "tile": (lambda x: geometry.tile(x, 19, 5), [IMAGES]),
    "jpeg": (lambda x: jpeg.jpeg(x, 37.3), [make_images(1, 19, 21, 3)]),
    "quantization_tables": (jpeg.quantization_tables, [np.array(37.25)]),
    "resize_bilinear": (partial(resize.resize_bilinear, size=(5, 19)), [IMAGES]),
    "ssim": (ssim.ssim, PAIR),
    "psnr": (ssim.psnr, PAIR),
    "uniform_ssim": (ssim.uniform_ssim, PAIR),
    "ms_ssim": (ssim.ms_ssim, [make_images(1, 161, 164, 1), make_images(1, 161, 164, 1)]),
    "haar_low": (wavelet.haar_low, [IMAGES]),
    "haar_low_pass": (wavelet.haar_low_pass, [IMAGES]),
    "local_contrast": (contrast.local_contrast, [IMAGES]),
    "resize_spline": (partial(spline.resize_spline, size=(5, 4)), [IMAGES]),
    "moment_ratio": (generalised_gaussian.moment_ratio, [RANDOM.uniform(0.3, 4.0, 6)]),
    "shape_of_ratio": (generalised_gaussian.shape_of_ratio, [RANDOM.uniform(0.2, 0.65, 6)]),
    "signed_moments": (generalised_gaussian.signed_moments, [RANDOM.normal(size=(2, 30))]),
    "fit_asymmetric": (generalised_gaussian.fit_asymmetric, [np.array([[0.8, 1.1, 0.9, 1.3], [0.3, 0.3, 0.35, 0.2]])]),
}
NO_ARRAYS = {"check_window", "cubic_weights", "gaussian_weights", "spline_weights"}
"""Functions that take sizes only; their weights are float64, rounded to the type of the images at the end."""
