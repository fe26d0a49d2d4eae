"""The two PyTorch layers that benchmarks/layers.py measures, written from their formulas."""

import torch


def cayley_conv(x: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Cayley convolution, arXiv:2104.07167: ``b c n n`` by a ``c c k k`` kernel, one solve per frequency."""
    n, c = x.shape[-1], x.shape[1]
    spectrum = torch.fft.rfft2(kernel, (n, n)).permute(2, 3, 0, 1).reshape(-1, c, c)
    skew = (spectrum - spectrum.mH) / 2
    identity = torch.eye(c, dtype=skew.dtype)
    q = torch.linalg.solve(identity + skew, identity - skew)
    z = torch.fft.rfft2(x).permute(2, 3, 1, 0).reshape(-1, c, x.shape[0])
    y = (q @ z).reshape(n, n // 2 + 1, c, -1).permute(3, 2, 0, 1)
    return torch.fft.irfft2(y, s=(n, n))


def soc(x: torch.Tensor, kernel: torch.Tensor, terms: int = 12) -> torch.Tensor:
    """Skew orthogonal convolution, arXiv:2105.11417: the exponential's series, ``terms`` convolutions."""
    skew = kernel - kernel.transpose(0, 1).flip((2, 3))
    total = term = x
    for i in range(1, terms + 1):
        term = torch.nn.functional.conv2d(term, skew, padding=kernel.shape[-1] // 2) / i
        total = total + term
    return total
