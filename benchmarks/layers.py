"""Orthogonal layers: seconds, memory and orthogonality error, side by side, against jax.scipy and PyTorch.

    pip install -e '.[bench]'
    python benchmarks/layers.py                     # every size; rewrites the table in benchmarks/README.md
    python benchmarks/layers.py --sizes 64x32       # one of them; prints only

Both sides use the same number of threads, batch 8, 3×3 kernels at ‖A‖ ≈ 1.7, float32. "build" makes the unitary
matrices of all frequencies; "fwd+bwd" is the gradient by kernel and input; "cached" applies matrices that are built.
σ error is the largest |σ − 1| over all frequencies, by SVD in float64. MiB are XLA's temporary buffers.
"""

import argparse
import os
import platform
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))
from timing import measure

from jaxiqa.layers.fourier import phases, response, through_frequencies
from jaxiqa.layers.linear_algebra import HIGHEST
from jaxiqa.layers.orthogonal_conv import orthogonal_convolve, unitary_spectrum
from jaxiqa.layers.unitary import to_unitary

BATCH = 8
SIZES = [(c, n, n) for c in (32, 64, 128) for n in (16, 32, 64)]
BLOCKS = [(64, 125, 166), (128, 63, 83), (200, 32, 42)]
"""Middle channels and map of the RobustBlock at the positions 2, 4 and 6 of a ResNet-101 at 498×664."""

OURS = {
    "expm": {},
    "cayley": {"unitary": "cayley"},
    "reflection c/4": {"unitary": "reflection"},
    "expm, band 1/2": {"band": 0.5},
    "expm, 4 groups": {"groups": 4},
}


def kernel_for(c: int, columns: int) -> jax.Array:
    return 1.7 / np.sqrt(18 * columns) * jax.random.normal(jax.random.key(0), (3, 3, c, columns))


def columns_of(name: str, c: int) -> int:
    return c // 4 if "c/4" in name or "groups" in name else c


def sigma_error(kernel: jax.Array, size: tuple[int, int], options: dict) -> float:
    u = np.asarray(unitary_spectrum(kernel, size, **options).matrices[::7], np.complex128)
    if options.get("unitary") == "reflection":
        u = np.eye(u.shape[-2]) - 2 * u @ u.conj().swapaxes(-1, -2)
    return float(np.abs(np.linalg.svd(u, compute_uv=False) - 1).max())


def compiled(function, *arguments):
    """A program that waits for its result, and its temporary memory in MiB."""
    program = jax.jit(function).lower(*arguments).compile()
    memory = program.memory_analysis()
    return lambda: jax.block_until_ready(program(*arguments)), memory.temp_size_in_bytes / 2**20


def builds(c: int, h: int, w: int, *, with_scipy: bool) -> list[tuple]:
    kernel, phase = kernel_for(c, c), jnp.asarray(phases((3, 3), (h, w)))

    def skew(kernel):
        a = response(kernel, phase, 1)[:, 0]
        return (a - jnp.conj(a.swapaxes(-1, -2))) / 2

    functions = {method: lambda k, m=method: to_unitary(skew(k), m) for method in ("eigh", "taylor", "cayley")}
    if with_scipy:
        functions["jax.scipy expm"] = lambda k: jax.vmap(jax.scipy.linalg.expm)(skew(k))
    programs, memory = {}, {}
    for name, function in functions.items():
        programs[name], memory[name] = compiled(function, kernel)
    timing = measure(programs, rounds=5)
    return [(f"build {name}", timing.seconds[name], memory[name], None) for name in programs]


def layers(c: int, h: int, w: int, *, torch_too: bool) -> list[tuple]:
    x = jax.random.normal(jax.random.key(1), (BATCH, h, w, c))
    programs, memory, errors = {}, {}, {}
    for name, options in OURS.items():
        kernel = kernel_for(c, columns_of(name, c))
        spectrum = unitary_spectrum(kernel, (h, w), **options)
        convolve = lambda k, x, options=options: orthogonal_convolve(x, k, **options)  # noqa: E731
        gradient = jax.grad(lambda k, x, f=convolve: jnp.sum(f(k, x) ** 2), argnums=(0, 1))
        for kind, function, arguments in (
            ("fwd", convolve, (kernel, x)),
            ("fwd+bwd", gradient, (kernel, x)),
            ("cached", lambda s, x: s(x), (spectrum, x)),
        ):
            programs[f"{kind} {name}"], memory[f"{kind} {name}"] = compiled(function, *arguments)
        errors[name] = sigma_error(kernel, (h, w), options)
    free = jax.lax.complex(*jax.random.normal(jax.random.key(2), (2, h * (w // 2 + 1), 1, c, c)))
    product = lambda m, z: jnp.einsum("fbgi,fgoi->fbgo", z, m, precision=HIGHEST)  # noqa: E731
    unconstrained = lambda m, x: through_frequencies(x, lambda z: product(m, z))  # noqa: E731
    programs["cached unconstrained"], memory["cached unconstrained"] = compiled(unconstrained, free, x)
    if torch_too:
        programs |= torch_programs(c, h)
    timing = measure(programs, rounds=5)
    return [(name, timing.seconds[name], memory.get(name), errors.get(name.partition(" ")[2])) for name in programs]


def torch_programs(c: int, n: int) -> dict:
    import torch
    from torch_layers import cayley_conv, soc

    torch.set_num_threads(os.cpu_count() or 1)
    kernel = torch.randn(c, c, 3, 3) * (1.7 / (18 * c) ** 0.5)
    x = torch.randn(BATCH, c, n, n)

    def gradient(function):
        k, y = kernel.clone().requires_grad_(), x.clone().requires_grad_()
        function(y, k).square().sum().backward()

    def forward(function):
        with torch.no_grad():
            function(x, kernel)

    found = {}
    for name, function in (("torch Cayley", cayley_conv), ("torch SOC, 12 terms", soc)):
        found[f"fwd {name}"] = lambda f=function: forward(f)
        found[f"fwd+bwd {name}"] = lambda f=function: gradient(f)
    return found


def table(rows: dict[str, list[tuple]]) -> str:
    lines = ["| c, map | program | ms | MiB | σ error |", "|---|---|---:|---:|---:|"]
    for size, found in rows.items():
        for name, seconds, memory, error in found:
            cells = (f"{memory:.0f}" if memory is not None else "", f"{error:.1e}" if error is not None else "")
            lines.append(f"| {size} | {name} | {1000 * seconds:.1f} | {cells[0]} | {cells[1]} |")
    return "\n".join(lines)


def bars(rows: dict[str, list[tuple]]) -> str:
    """The ratios that the project promises, per size."""
    heads = ("c, map", "expm build: times faster than jax.scipy", "its memory, as a share", "fwd+bwd / torch Cayley")
    lines = ["| " + " | ".join((*heads, "cached / unconstrained")) + " |", "|---|---:|---:|---:|---:|"]
    for size, found in rows.items():
        ms, mib = {name: s for name, s, _, _ in found}, {name: m for name, _, m, _ in found}
        builders = [name for name in ("build eigh", "build taylor") if name in ms]
        fastest = min(builders, key=ms.get)
        ours = min(ms[f"fwd+bwd {name}"] for name in OURS)
        cells = [size]
        if "build jax.scipy expm" in ms:
            cells += [f"{ms['build jax.scipy expm'] / ms[fastest]:.1f}×"]
            cells += [f"{mib[fastest] / mib['build jax.scipy expm']:.2f}"]
        else:
            cells += ["", ""]
        cells += [f"{ours / ms['fwd+bwd torch Cayley']:.2f}" if "fwd+bwd torch Cayley" in ms else ""]
        cells += [f"{ms['cached expm'] / ms['cached unconstrained']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def device() -> str:
    chip = jax.devices()[0]
    name = chip.device_kind if chip.platform != "cpu" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return f"{name}, jax {jax.__version__}, batch {BATCH}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", help="channels x side, such as 64x32; everything by default")
    chosen = parser.parse_args().sizes
    sizes = [(int(c), int(n), int(n)) for c, n in (size.split("x") for size in chosen)] if chosen else SIZES + BLOCKS
    try:
        import torch  # noqa: F401

        torch_too = True
    except ImportError:
        print("torch is not installed: pip install -e '.[bench]' to measure against it", file=sys.stderr)
        torch_too = False
    rows: dict[str, list[tuple]] = {}
    for c, h, w in sizes:
        small = c * c * h * (w // 2 + 1) <= 64 * 64 * 64 * 33  # beyond that jax.scipy needs gigabytes
        found = builds(c, h, w, with_scipy=small) + layers(c, h, w, torch_too=torch_too and h == w)
        rows[f"{c}, {h}x{w}"] = found
        print(table({f"{c}, {h}x{w}": found}), flush=True)
    text = f"{device()}\n\n{bars(rows)}\n\n{table(rows)}\n"
    print(bars(rows))
    if not chosen:
        page = Path(__file__).parent / "README.md"
        start, end = "<!-- layers -->", "<!-- /layers -->"
        old = page.read_text()
        new = re.sub(f"{start}.*?{end}", lambda _: f"{start}\n{text}{end}", old, flags=re.S)
        page.write_text(new)


if __name__ == "__main__":
    main()
