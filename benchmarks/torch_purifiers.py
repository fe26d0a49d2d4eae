"""The classical purifiers as calls of PyTorch and torchvision, images ``b c h w``.

Most are the calls of torchvision or of the benchmark's scripts. A median filter and a differentiable JPEG are in
neither: they are written here in the same style.
"""

import numpy as np
import torch
import torch.nn.functional as F
import torchvision.io as io
import torchvision.transforms.functional as TF

from jaxiqa.ops.jpeg import CHROMA, DCT, LUMA, RGB_OF_YCC, YCC_OF_RGB

Images = torch.Tensor


def jpeg(x: Images, quality: int) -> Images:
    images = (255 * x).round().to(torch.uint8)
    return torch.stack([io.decode_jpeg(io.encode_jpeg(image, quality)) for image in images]) / 255


def diffjpeg(x: Images, quality: int) -> Images:
    h, w = x.shape[2:]
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    luma, chroma = (torch.tensor(np.clip((table * scale + 50) // 100, 1, 255)).float() for table in (LUMA, CHROMA))
    x = F.pad(255 * x, (0, -w % 16, 0, -h % 16), mode="replicate")
    planes = torch.einsum("ij,bjhw->bihw", torch.tensor(YCC_OF_RGB).float(), x)
    y = _quantized(planes[:, :1] - 128, luma) + 128
    cbcr = F.interpolate(_quantized(F.avg_pool2d(planes[:, 1:], 2), chroma), scale_factor=2, mode="bilinear")
    rgb = torch.einsum("ij,bjhw->bihw", torch.tensor(RGB_OF_YCC).float(), torch.cat([y, cbcr], 1))
    return rgb[..., :h, :w].clamp(0, 255) / 255


def _quantized(planes, table):
    b, c, h, w = planes.shape
    blocks = planes.reshape(b, c, h // 8, 8, w // 8, 8).permute(0, 1, 2, 4, 3, 5)
    dct, steps = torch.tensor(DCT).float(), table.reshape(64)
    kept = torch.round(blocks.reshape(-1, 64) @ dct.T / steps) * steps
    return (kept @ dct).reshape(blocks.shape).permute(0, 1, 2, 4, 3, 5).reshape(b, c, h, w)


def color_quantization(x: Images, levels: int) -> Images:
    return torch.round(x * (levels - 1)) / (levels - 1)


def resize(x: Images, scale: float) -> Images:
    """Resize down and back up."""
    h, w = x.shape[2:]
    return TF.resize(TF.resize(x, [int(h * scale), int(w * scale)], antialias=True), [h, w], antialias=True)


def rotate(x: Images, limit: float) -> Images:
    return TF.rotate(x, limit * (2 * torch.rand(()).item() - 1))


def crop(x: Images, size: int) -> Images:
    h, w = x.shape[2:]
    top, left = (int(torch.randint(0, side - size + 1, ())) for side in (h, w))
    return TF.resized_crop(x, top, left, size, size, [h, w], antialias=True)


def flip(x: Images) -> Images:
    return torch.flip(x, (2, 3))


def gaussian_blur(x: Images, kernel_size: int) -> Images:
    return TF.gaussian_blur(x, [kernel_size, kernel_size])


def median_blur(x: Images, kernel_size: int) -> Images:
    """Filter one image at a time: the windows of a whole batch do not fit in memory."""
    b, c, h, w = x.shape
    padded = F.pad(x, [kernel_size // 2] * 4, mode="reflect").reshape(b, c, 1, h + kernel_size - 1, w + kernel_size - 1)
    return torch.stack([F.unfold(image, kernel_size).median(1).values.reshape(c, h, w) for image in padded])


def unsharp(x: Images, kernel_size: int) -> Images:
    return (x + (x - TF.gaussian_blur(x, [kernel_size, kernel_size], [1.0, 1.0]))).clamp(0, 1)


def random_noise(x: Images, sigma: float) -> Images:
    return (x + sigma * torch.randn_like(x)).clamp(0, 1)
