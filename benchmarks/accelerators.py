"""Compile jaxiqa's programs for an H100 and for a TPU v5e on any machine, and read what XLA made of them.

    pip install 'jax[cuda12]' 'jax[tpu]'                       # the compilers: 5 GB; no accelerator is needed
    python benchmarks/accelerators.py                          # all programs on both devices: hours on two cores
    python benchmarks/accelerators.py --devices h100 --programs 'score *' 'pgd *'   # only these; patterns as of a shell
    python benchmarks/accelerators.py --list

Each row is stored in benchmarks/accelerators.json as soon as its program is compiled, and shown in
benchmarks/README.md. A program that is stored is compiled again only if the code or JAX has changed. Nothing is run:
seconds are those of the compiler here, and the roofline is a bound from below (benchmarks/roofline.py).
"""

import argparse
import ast
import fnmatch
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}
os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "JAX_ENABLE_COMPILATION_CACHE": "false"}
os.environ |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}  # several compilers may run at once, since none uses a TPU
sys.path.insert(0, str(Path(__file__).parent.parent))
import history
import hlo
import jax
import jax.numpy as jnp
import numpy as np
from accelerator_programs import PROGRAMS, Job
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding
from roofline import Peaks, cost

from jaxiqa.train.parallel import AXIS, parallel_program

FOLDER = Path(__file__).parent
H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000
l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84942979072
shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
registers_per_block_limit: 65536 } platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3" """
DEVICES = {
    "h100": Peaks({"f32": 494.7e12, "highest": 66.9e12, "bf16": 989.4e12}, 3.352e12, 84942979072),
    "v5e": Peaks({"f32": 197e12, "highest": 197e12 / 6, "bf16": 197e12}, 819e9, 16 * 2**30),
}
"""Vendors' numbers without sparsity. By default float32 products are TF32 on an H100, and bfloat16 on a TPU."""
BACKENDS = {"h100": "gpu", "v5e": "tpu"}

Row = dict[str, Any]


def chips(device: str, count: int) -> list[Any]:
    """Return ``count`` devices that exist only for the compiler.

    Raises:
        RuntimeError: this device's compiler is not installed.
    """
    try:
        if device == "h100":
            options = {"topology_name": "h100", "topology": f"1x1x{count}", "target_config": H100}
            return list(topologies.get_topology_desc(platform="cuda", **options).devices)
        name = "v5e:2x2" if count <= 4 else "v5e:2x4"
        return list(topologies.get_topology_desc(platform="tpu", topology_name=name).devices)[:count]
    except Exception as error:  # each plugin has errors of its own
        package = {"h100": "jax[cuda12]", "v5e": "jax[tpu]"}[device]
        raise RuntimeError(f"no compiler for {device}; pip install '{package}' ({error})") from error


def shapes(tree: Any, sharding: Any) -> Any:
    """Return the shapes of a tree's arrays, placed by ``sharding``."""

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        dtype = x.dtype if hasattr(x, "dtype") else jnp.result_type(x)
        return jax.ShapeDtypeStruct(np.shape(x), dtype, sharding=sharding)

    return jax.tree.map(shape, tree)


def lower(job: Job, device: str) -> Any:
    """Trace a job for a device."""
    devices = chips(device, job.devices)
    if job.parallel is None:
        placed = SingleDeviceSharding(devices[0])
        return jax.jit(job.function).lower(*shapes(job.arguments, placed))
    program, mesh = parallel_program(job.function, backend=job.parallel, devices=devices)
    everywhere, shared = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    *same, batch = job.arguments
    if job.parallel == "pmap":
        batch = jax.tree.map(lambda x: np.reshape(x, (job.devices, -1, *x.shape[1:])), batch)
    return program.lower(*shapes(tuple(same), everywhere), shapes(batch, shared))


def measure(name: str, device: str, folder: Path | None = None) -> Row:
    """Compile one program and return its row; what fails is the row's ``error``. The text is written to ``folder``."""
    row: Row = {"source": SOURCE, "jax": jax.__version__}
    began = time.perf_counter()
    try:
        lowered = lower(PROGRAMS[name](), device)
        row["tracing"] = round(time.perf_counter() - began, 1)
        began = time.perf_counter()
        compiled = lowered.compile()
    except Exception as error:
        return row | {"error": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"}
    row["compiling"] = round(time.perf_counter() - began, 1)
    memory = compiled.memory_analysis()
    row |= {"arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes}
    text = compiled.as_text()
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{device} {name}.txt").write_text(text)
    return row | read(text, DEVICES[device])


def read(text: str, peaks: Peaks) -> Row:
    """Return the part of a row that the text of a program gives."""
    program = hlo.parse(text)
    return {
        **hlo.counts(program),
        "unknown loops": hlo.runs(program)[1],
        "collectives": hlo.collectives(program),
        "host": hlo.transfers(program),
        **{f"cost {key}": value for key, value in asdict(cost(program, peaks)).items()},
    }


def source(root: Path = FOLDER.parent) -> str:
    """Return a digest of the code that makes the programs and reads them, without its comments and docstrings."""
    paths = sorted((root / "jaxiqa").rglob("*.py"))
    paths += [root / "benchmarks" / f"{name}.py" for name in ("accelerator_programs", "hlo", "roofline")]
    digest = hashlib.sha256()
    for path in paths:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            for body in (getattr(node, "body", None), getattr(node, "orelse", None)):
                if isinstance(body, list):
                    body[:] = [part for part in body if not _is_text(part)]
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:12]


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


SOURCE = source()  # of the code that this process has read, whatever is written while it runs


def stored(folder: Path = FOLDER) -> dict[str, dict[str, Row]]:
    """Return device -> program -> row."""
    store = folder / "accelerators.json"
    return json.loads(store.read_text()) if store.exists() else {}


def keep(device: str, name: str, row: Row, *, folder: Path = FOLDER) -> None:
    """Add a row to the JSON file and write all rows to the README, if the folder has one."""
    rows = stored(folder)
    rows.setdefault(device, {})[name] = row
    (folder / "accelerators.json").write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")
    if "error" not in row:
        numbers = {"compiling": row["compiling"], "roofline": row["cost seconds"]}
        history.append("accelerators", f"compiled for {device}", name, numbers, folder=folder / "history")
    page, start, end = folder / "README.md", "<!-- accelerators -->\n", "<!-- /accelerators -->"
    if not page.exists():
        return
    before, _, rest = page.read_text().partition(start)
    page.write_text(f"{before}{start}{show(rows)}{end}{rest.partition(end)[2]}")


HEADS = ("program", "tracing + compiling, s", "arguments, MiB", "temporaries, MiB", "of memory", "convolutions")
HEADS += (
    "products",
    "FFTs",
    "fusions",
    "loops",
    "transposes (at convolutions)",
    "1/√",
    "collectives (numbers)",
    "to host",
)
HEADS += ("GFLOP", "MB moved", "roofline, ms", "of it products")


def show(rows: dict[str, dict[str, Row]]) -> str:
    """Return a Markdown table per device."""
    parts = []
    for device, found in sorted(rows.items()):
        versions = ", ".join(sorted({row["jax"] for row in found.values()}))
        parts += [f"### {device}, jax {versions}\n", "| " + " | ".join(HEADS) + " |"]
        parts.append("|---|" + "---:|" * (len(HEADS) - 1))
        parts += [line(name, row, DEVICES[device].memory) for name, row in sorted(found.items())]
        parts.append("")
    return "\n".join(parts)


def line(name: str, row: Row, memory: int) -> str:
    if "error" in row:
        return f"| {name} | {row['error'].replace('|', '/')} |" + " |" * (len(HEADS) - 2)
    exchanged = ", ".join(f"{len(ns)} {kind} (≤ {max(ns):,})" for kind, ns in sorted(row["collectives"].items()))
    unknown = "" if not row["unknown loops"] else f" ({row['unknown loops']} of unknown length)"
    cells = (
        f"{row['tracing']:.0f} + {row['compiling']:.0f}",
        f"{row['arguments'] / 2**20:.0f}",
        f"{row['temporaries'] / 2**20:.0f}",
        f"{(row['arguments'] + row['temporaries']) / memory:.1%}",
        *(str(row[key]) for key in ("convolutions", "products", "transforms", "fusions")),
        f"{row['loops']}{unknown}",
        f"{row['transposes']} ({row['around']})",
        str(row["roots"]),
        exchanged or "0",
        str(row["transfers"]),
        f"{row['cost operations'] / 1e9:.1f}",
        f"{row['cost bytes'] / 1e6:.0f}",
        f"{1000 * row['cost seconds']:.2f}",
        f"{row['cost bound']:.0%}",
    )
    return f"| {name} | " + " | ".join(cells) + " |"


def pretend(device: str) -> None:
    """Let jaxiqa choose its algorithms for this device: they ask `jax.default_backend`, which is the CPU here."""
    jax.default_backend = lambda: BACKENDS[device]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="*", default=list(DEVICES), choices=DEVICES)
    parser.add_argument("--programs", nargs="*", default=["*"], metavar="PATTERN", help="all by default")
    parser.add_argument("--list", action="store_true", help="print the names of the programs")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder of accelerators.json; benchmarks/ by default")
    parser.add_argument("--text", type=Path, help="folder for the text of the compiled programs")
    arguments = parser.parse_args()
    names = [name for name in PROGRAMS if any(fnmatch.fnmatch(name, pattern) for pattern in arguments.programs)]
    if not names:
        parser.error(f"no program matches {' '.join(arguments.programs)}; --list prints their names")
    if arguments.list:
        print("\n".join(names))
        return
    if len(arguments.devices) > 1:  # a process traces for one device
        for device in arguments.devices:
            command = [sys.executable, __file__, "--devices", device, "--programs", *arguments.programs]
            command += ["--out", arguments.out, *(["--text", arguments.text] if arguments.text else [])]
            subprocess.run(command, check=True)
        return
    (device,) = arguments.devices
    chips(device, 1)
    pretend(device)
    for name in names:
        old = stored(arguments.out).get(device, {}).get(name, {})
        if (old.get("source"), old.get("jax")) == (SOURCE, jax.__version__):
            print(f"{device} {name}: stored", flush=True)
            continue
        row = measure(name, device, arguments.text)
        keep(device, name, row, folder=arguments.out)
        print(f"{device} {line(name, row, DEVICES[device].memory)}", flush=True)
        jax.clear_caches()


if __name__ == "__main__":
    main()
