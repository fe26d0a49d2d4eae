"""Measure orthogonal layers against jax.scipy and PyTorch: seconds, memory and orthogonality error.

    pip install -e '.[bench]'
    python benchmarks/layers.py                     # every size, an hour on two cores
    python benchmarks/layers.py --sizes 64x32x32    # channels x height x width: only these
    python benchmarks/layers.py --steps             # only the training steps; other rows stay as they are

Each size is stored in benchmarks/layers.json as soon as it is measured. benchmarks/README.md shows all stored sizes.

Both sides use the same number of threads, batch 8, 3×3 kernels with ‖A‖ ≈ 1.7, and float32. Peers are measured on
square maps only: PyTorch's usual Cayley convolution takes no others. "build" computes the unitary matrices from the
skew-Hermitian matrices of all frequencies. "fwd+bwd" is the gradient by kernel and input. "cached" applies matrices
that are already built. "step" is a training step with Adam (benchmarks/training_steps.py). σ error is the largest
|σ − 1| over every seventh frequency, by SVD in float64. MiB are XLA's temporary buffers.
"""

import argparse
import importlib.util
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from timing import chip, measure
from training_steps import TURNS, steps

sys.path.insert(0, str(Path(__file__).parent.parent))
import history
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxiqa.layers import AOL, SOC
from jaxiqa.layers.fourier import phases, response, through_frequencies
from jaxiqa.layers.linear_algebra import HIGHEST, adjoint, product
from jaxiqa.layers.spectrum import orthogonal_convolve, unitary_spectrum
from jaxiqa.layers.unitary import METHODS

FOLDER = Path(__file__).parent
BATCH = 8
SIZES = [(c, n, n) for c in (32, 64, 128) for n in (16, 32, 64)]
BLOCKS = [(64, 125, 166), (128, 63, 83), (200, 32, 42)]
"""Middle channels and map size of the RobustBlock at positions 2, 4 and 6 of a ResNet-101 at 498×664."""

OURS = {
    "expm": {},
    "cayley": {"unitary": "cayley"},
    "reflection c/4": {"unitary": "reflection"},
    "expm, band 1/2": {"band": 0.5},
    "expm, 4 groups": {"groups": 4},
}


LARGE = 64**3 * 64 * 33
"""Above this c³·F, measure fewer rounds, and of our builds only taylor and cayley."""


class Row(NamedTuple):
    """One line of the table: seconds, MiB of temporary buffers, largest |σ − 1|."""

    name: str
    seconds: float
    memory: float | None
    error: float | None = None


class Result(NamedTuple):
    """Result of one size: GEMM peak in operations per second, operations of the Taylor build, and the rows."""

    device: str
    size: str
    peak: float
    operations: float
    rows: list[Row]


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
    """Return a compiled program that waits for its result, and its temporary memory in MiB."""
    program = jax.jit(function).lower(*arguments).compile()
    memory = program.memory_analysis()
    return lambda: jax.block_until_ready(program(*arguments)), memory.temp_size_in_bytes / 2**20


def skew_response(kernel: jax.Array, size: tuple[int, int]) -> jax.Array:
    a = response(kernel, jnp.asarray(phases((3, 3), size)), 1)[:, 0]
    return (a - adjoint(a)) / 2


def rounds(c: int, h: int, w: int) -> dict[str, int]:
    """Return the number of rounds; programs that take seconds need fewer."""
    return {"keep": 5, "most": 15} if c**3 * h * (w // 2 + 1) <= LARGE else {"keep": 2, "most": 4}


def exponentials(c: int, h: int, w: int) -> list[Row]:
    a = skew_response(kernel_for(c, c), (h, w))
    methods = ("taylor", "eigh", "cayley") if c**3 * len(a) <= LARGE else ("taylor", "cayley")
    functions = {method: METHODS[method] for method in methods}
    functions["jax.scipy expm"] = jax.vmap(jax.scipy.linalg.expm)
    programs, memory = {}, {}
    for name, function in functions.items():
        programs[name], memory[name] = compiled(function, a)
    seconds = measure(programs, **rounds(c, h, w)).seconds
    return [Row(f"build {name}", seconds[name], memory[name]) for name in programs]


def taylor_operations(c: int, h: int, w: int) -> float:
    """Return the real operations of the Taylor build: 6 + s complex products, each of three real products."""
    a = skew_response(kernel_for(c, c), (h, w))
    bound = float(jnp.sqrt(jnp.max(jnp.linalg.norm(product(a, a), axis=(-2, -1)))))
    squarings = max(0, int(np.ceil(np.log2(bound / 1.46))))
    return (6 + squarings) * 6 * c**3 * h * (w // 2 + 1)


def peak() -> float:
    """Return the operations per second of a large real product at full precision."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    x = jnp.ones((n, n))
    program, _ = compiled(lambda x: jnp.matmul(x, x, precision=HIGHEST), x)
    return 2 * n**3 / measure({"peak": program}).seconds["peak"]


def layers(c: int, h: int, w: int, *, peers: bool) -> list[Row]:
    x = jax.random.normal(jax.random.key(1), (BATCH, h, w, c))
    programs, memory, errors = {}, {}, {}

    def add(name, function, *arguments):
        programs[name], memory[name] = compiled(function, *arguments)

    for name, options in OURS.items():
        kernel = kernel_for(c, columns_of(name, c))
        convolve = lambda k, x, options=options: orthogonal_convolve(x, k, **options)  # noqa: E731
        add(f"fwd {name}", convolve, kernel, x)
        add(f"fwd+bwd {name}", gradient(convolve), kernel, x)
        add(f"cached {name}", lambda s, x: s(x), unitary_spectrum(kernel, (h, w), **options), x)
        errors[name] = sigma_error(kernel, (h, w), options)
    free = jax.lax.complex(*jax.random.normal(jax.random.key(2), (2, h * (w // 2 + 1), 1, c, c)))
    multiply = lambda m, z: jnp.einsum("fbgi,fgoi->fbgo", z, m, precision=HIGHEST)  # noqa: E731
    add("cached unconstrained", lambda m, x: through_frequencies(x, lambda z: multiply(m, z)), free, x)
    if peers:
        for name, layer in (("SOC", SOC(c, c, rngs=nnx.Rngs(0))), ("AOL", AOL(c, c, rngs=nnx.Rngs(0)))):
            graphdef, state = nnx.split(layer)
            call = lambda state, x, graphdef=graphdef: nnx.merge(graphdef, state)(x)  # noqa: E731
            add(f"fwd {name}", call, state, x)
            add(f"fwd+bwd {name}", gradient(call), state, x)
        programs |= torch_programs(c, h)
    seconds = measure(programs, **rounds(c, h, w)).seconds
    return [Row(name, seconds[name], memory.get(name), errors.get(name.partition(" ")[2])) for name in programs]


def gradient(function):
    return jax.grad(lambda k, x: jnp.sum(function(k, x) ** 2), argnums=(0, 1))


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


def table(results: list[Result]) -> str:
    lines = ["| c, map | program | ms | MiB | σ error |", "|---|---|---:|---:|---:|"]
    for result in results:
        for row in result.rows:
            memory = "" if row.memory is None else f"{row.memory:.1f}"
            error = "" if row.error is None else f"{row.error:.1e}"
            lines.append(f"| {result.size} | {row.name} | {1000 * row.seconds:.1f} | {memory} | {error} |")
    return "\n".join(lines)


HEADS = ("c, map", "jax.scipy expm / build taylor, time", "build taylor / jax.scipy expm, memory", "share of GEMM peak")
HEADS += ("fwd+bwd: fastest exact layer / torch Cayley", "fwd+bwd: expm / torch Cayley", "cached / unconstrained")
HEADS += ("step: manifold / unconstrained", "step: expm / manifold")


def bars(results: list[Result]) -> str:
    """Return a Markdown table of the ratios per size; a cell is empty if the other side was not run."""
    lines = ["| " + " | ".join(HEADS) + " |", "|---|" + "---:|" * (len(HEADS) - 1)]
    for result in results:
        row = {row.name: row for row in result.rows}
        taylor, other, torch = (row.get(n) for n in ("build taylor", "build jax.scipy expm", "fwd+bwd torch Cayley"))
        ours = min(row[f"fwd+bwd {name}"].seconds for name in OURS)
        cells = [
            f"{other.seconds / taylor.seconds:.1f}" if other else "",
            f"{taylor.memory / other.memory:.2f}" if other else "",
            f"{result.operations / taylor.seconds / result.peak:.0%}",
            f"{ours / torch.seconds:.2f}" if torch else "",
            f"{row['fwd+bwd expm'].seconds / torch.seconds:.2f}" if torch else "",
            f"{row['cached expm'].seconds / row['cached unconstrained'].seconds:.2f}",
            *step_ratios(row),
        ]
        lines.append("| " + " | ".join((result.size, *cells)) + " |")
    return "\n".join(lines)


def step_ratios(row: dict[str, Row]) -> tuple[str, str]:
    """Return the ratios of training steps, of the variant with turns; the free convolution is the faster one."""
    ours, expm = row.get(f"step on the manifold, {TURNS} turns"), row.get("step expm")
    if ours is None or expm is None:
        return "", ""
    free = min(row[f"step unconstrained, {kind}"].seconds for kind in ("kernel", "spectrum"))
    return f"{ours.seconds / free:.2f}", f"{expm.seconds / ours.seconds:.1f}"


def device() -> str:
    return f"{chip()}, jax {jax.__version__}, batch {BATCH}"


def show(results: list[Result]) -> str:
    """Return Markdown tables per device."""
    parts = []
    for name in dict.fromkeys(result.device for result in results):
        found = [result for result in results if result.device == name]
        best = max(result.peak for result in found)
        parts.append(f"### {name}\n\nGEMM peak {best / 1e9:.0f} GFLOP/s.\n\n{bars(found)}\n\n{table(found)}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="*", help="such as 64x32x32; all by default")
    parser.add_argument("--steps", action="store_true", help="measure only the training steps of stored sizes")
    arguments = parser.parse_args()
    chosen = arguments.sizes
    sizes = [tuple(map(int, size.split("x"))) for size in chosen] if chosen else SIZES + BLOCKS
    if not arguments.steps and importlib.util.find_spec("torch") is None:
        raise SystemExit("error: torch is not installed: pip install -e '.[bench]'")
    for c, h, w in sizes:
        trained = [Row(*row) for row in steps(c, h, w, batch=BATCH, **rounds(c, h, w))]
        if arguments.steps:
            old = next((old for old in stored() if (old.device, old.size) == (device(), f"{c}, {h}x{w}")), None)
            if old is None:
                raise SystemExit(f"error: {c}, {h}x{w} is not measured on this device yet; leave out --steps")
            keep(old._replace(rows=[row for row in old.rows if not row.name.startswith("step ")] + trained))
            print(table([old._replace(rows=trained)]), flush=True)
            continue
        rows = exponentials(c, h, w) + layers(c, h, w, peers=h == w) + trained
        new = Result(device(), f"{c}, {h}x{w}", peak(), taylor_operations(c, h, w), rows)
        print(bars([new]), table([new]), sep="\n\n", flush=True)
        keep(new)


def stored(folder: Path = FOLDER) -> list[Result]:
    """Return the results in the JSON file."""
    store = folder / "layers.json"
    read = json.loads(store.read_text()) if store.exists() else []
    return [Result(*old[:-1], [Row(*row) for row in old[-1]]) for old in read]


def keep(new: Result, *, folder: Path = FOLDER, measured: Mapping[str, Any] | None = None) -> None:
    """Add one result to the JSON file and write all results to the README; ``measured`` as for `history.append`."""
    store, page = folder / "layers.json", folder / "README.md"
    results = [old for old in stored(folder) if (old.device, old.size) != (new.device, new.size)] + [new]
    results.sort(key=lambda result: (result.device, [int(n) for n in re.findall(r"\d+", result.size)]))
    store.write_text(json.dumps(results, indent=1) + "\n")
    numbers = {row.name: row.seconds for row in new.rows}
    history.append("layers", new.device, new.size, numbers, folder=folder / "history", measured=measured)
    before, _, rest = page.read_text().partition("<!-- layers -->\n")
    page.write_text(f"{before}<!-- layers -->\n{show(results)}<!-- /layers -->{rest.partition('<!-- /layers -->')[2]}")


if __name__ == "__main__":
    main()
