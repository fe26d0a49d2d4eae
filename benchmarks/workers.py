"""A sweep on Ray's workers: its speed beside one process, what handing out units costs, and killed workers and drivers.

    python benchmarks/workers.py speed FOLDER [ROUNDS IMAGES]  # 2 workers of 1 core each beside 1 process on 2 cores
    python benchmarks/workers.py overhead FOLDER            # time of workers without work, while the driver writes
    python benchmarks/workers.py kills FOLDER [WORKERS DRIVERS]   # 30 and 5 times SIGKILL; rows must be the same

Each prints one line per result. This file is also the sweep's config: `evaluate.py --config benchmarks/workers.py`.
"""

import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SIZES = {"small": (8, (33, 47)), "large": (64, (96, 128))}
"""Scale -> width of the ResNet-18, size of its images."""


def get_config(scale: str = "small", images: int = 8) -> Any:
    """Return the sweep; every kind of unit is in the small one, the large one only attacks."""
    from jaxiqa.config import (
        Adaptive,
        Align,
        Attack,
        Certifier,
        Data,
        Defense,
        Evaluation,
        Experiment,
        Model,
        Ranks,
        Training,
        Variant,
    )

    width, size = SIZES[scale]
    data = Data("builtin", options={"size": size, "train": 8, "val": 4, "test": max(8, images)})
    attacked = Data("builtin", limit=images, options=data.options)
    attacks = {"PGD-4": Attack("pgd", (2 / 255, 8 / 255), {"steps": 4})}
    more: dict[str, Any] = {"ranks": None, "masking": 0, "examples": 0}
    if scale == "small":
        attacks |= {
            "I-FGSM": Attack("ifgsm", options={"steps": 2}, aligned=Align("psnr", ladder=(0.002, 0.1), images=2)),
            "Square": Attack("square", (8 / 255,), {"queries": 20}),
            "UAP": Attack(
                "uap", (4 / 255, 8 / 255), {"epochs": 1}, fit_on=Data("builtin", options={**data.options}, limit=4)
            ),
        }
        more = {
            "ranks": Ranks((2 / 255,), images=6, queries=0),
            "masking": 2,
            "examples": 2,
            "defenses": {"noise": Defense("random_noise", preset=1)},
            "adaptive": Adaptive(("I-FGSM",), draws=2),
            "certifiers": {"MS": Certifier("ms", {"n": 20, "alpha": 0.1}, attacks=("PGD-4",), images=3)},
        }
    evaluation = Evaluation(data=attacked, attacks=attacks, batch_size=2, **more)
    return Experiment("workers", data, Model("resnet18", width=width), {"one": Variant(Training())}, evaluation)


def prepare(root: Path, scale: str = "small") -> None:
    """Write a metric with random weights to where a training would put it."""
    from jaxiqa import models

    folder = root / "one" / "seed0"
    model = models.build("resnet18", width=SIZES[scale][0], seed=0)
    model.calibrate(k=50.0, b=0.0, score_range=(0.0, 100.0))
    models.save(model, folder)
    about = {"parameters": 1, "validation_srocc": 0.5, "seconds_per_epoch": 1.0}
    (folder / "training.json").write_text(json.dumps(about))


def start(
    root: Path,
    *words: str,
    before: tuple[str, ...] = (),
    script: str = "evaluate.py",
    config: Path = Path(__file__),
) -> subprocess.Popen:
    """Start a script on a folder, evaluate.py on a prepared one; its output is appended to log.txt there."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    environment |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "PYTHONPATH": _paths()}
    command = [*before, sys.executable, str(ROOT / script), "--config", str(config), "--workdir", str(root)]
    with (root / "log.txt").open("a") as log:
        return subprocess.Popen([*command, *words], cwd=ROOT, env=environment, stdout=log, stderr=log)


def _paths() -> str:
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])


def finish(root: Path, *words: str, **options: Any) -> None:
    """Run a script to its end, with the options of `start`; raise ``RuntimeError`` with its output if it fails."""
    if status := start(root, *words, **options).wait():
        raise RuntimeError(
            f"{options.get('script', 'evaluate.py')} ended with {status}:\n{(root / 'log.txt').read_text()[-3000:]}"
        )


def rows(root: Path) -> list[str]:
    """Return all rows, sorted, without their times and seals."""
    found = []
    for path in sorted(root.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            row = json.loads(line)
            for name in ("seconds", "seconds_per_epoch", "seconds_per_test", "seal"):
                row.pop(name, None)
            found.append(f"{path.name} {json.dumps(row, sort_keys=True)}")
    return sorted(found)


def children(process: int) -> Iterator[int]:
    """Yield the processes that descend from one, on Linux."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # it has just ended
        if parent == process:
            yield int(path.parent.name)
            yield from children(int(path.parent.name))


def workers_of(driver: int) -> list[int]:
    """Return the processes of Ray's workers of this program that compute now."""
    found = []
    for process in children(driver):
        try:
            title = Path(f"/proc/{process}/cmdline").read_text()
        except OSError:
            continue
        if title.startswith("ray::_Worker"):
            found.append(process)
    return found


def written(root: Path) -> int:
    """Return the bytes of all rows."""
    return sum(path.stat().st_size for path in root.glob("*.jsonl"))


def wait_for(condition: Callable[[], Any], driver: subprocess.Popen) -> bool:
    """Wait until something is true; return False if the driver ends before."""
    while not condition():
        if driver.poll() is not None:
            return False
        time.sleep(0.02)
    return True


def kill_at_random(root: Path, workers: int, drivers: int, seed: int = 0, limit: float = 3.0) -> tuple[int, int]:
    """Run a sweep on 2 workers to its end; kill up to so many of its workers and drivers with SIGKILL.

    Each kill comes up to ``limit`` seconds after something was written since the last one, at a random time.

    Returns:
        The numbers of killed workers and drivers.
    """
    draw, killed = random.Random(seed), {"worker": 0, "driver": 0}
    driver = start(root, "--workers", "2")
    while True:
        before = written(root)
        left = ["worker"] * (workers - killed["worker"]) + ["driver"] * (drivers - killed["driver"])
        if not left or not wait_for(lambda before=before: written(root) > before, driver):
            break
        time.sleep(draw.uniform(0, limit))
        kind = draw.choice(left)
        if kind == "driver" and driver.poll() is None:
            driver.kill()
            driver.wait()
            driver = start(root, "--workers", "2")
            killed[kind] += 1
        elif alive := workers_of(driver.pid):
            os.kill(draw.choice(alive), signal.SIGKILL)
            killed[kind] += 1
    if status := driver.wait():
        raise RuntimeError(f"evaluate.py ended with {status}:\n{(root / 'log.txt').read_text()[-3000:]}")
    return killed["worker"], killed["driver"]


def fresh(folder: Path, scale: str = "small") -> Path:
    """Return an empty folder with a metric."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    prepare(folder, scale)
    return folder


def kills(folder: Path, workers: int = 30, drivers: int = 5) -> None:
    """Kill workers and drivers in as many sweeps as that takes; compare the rows of each with those of one process."""
    whole = fresh(folder / "whole")
    finish(whole)
    expected, done, number = rows(whole), [0, 0], 0
    while done[0] < workers or done[1] < drivers:
        root = fresh(folder / "killed")
        found = kill_at_random(root, workers - done[0], drivers - done[1], seed=number)
        done, number = [a + b for a, b in zip(done, found, strict=True)], number + 1
        same = rows(root) == expected
        print(
            f"sweep {number}: {found[0]} workers and {found[1]} drivers killed, {len(expected)} rows equal: {same}",
            flush=True,
        )
        if not same:
            raise SystemExit(f"{root} and {whole} differ")
    print(f"{done[0]} workers and {done[1]} drivers killed in {number} sweeps; no row lost, doubled or changed")


def throughput(root: Path, images: int, *words: str, before: tuple[str, ...] = ()) -> float:
    """Return the rows per second of a sweep, from a quarter of its rows on: so without start and compilation."""
    driver = start(root, *words, "--scale", "large", "--images", str(images), before=before)
    path = root / "results.jsonl"
    lines = lambda: path.read_bytes().count(b"\n") if path.exists() else 0  # noqa: E731
    total = 2 * images
    wait_for(lambda: lines() >= total // 4, driver)
    began, first = time.perf_counter(), lines()
    wait_for(lambda: lines() >= total, driver)
    speed = (total - first) / (time.perf_counter() - began)
    if status := driver.wait():
        raise RuntimeError(f"evaluate.py ended with {status}:\n{(root / 'log.txt').read_text()[-3000:]}")
    return speed


def speed(folder: Path, rounds: int = 3, images: int = 256) -> None:
    """Compare two workers with one core each and one process on the same two cores, one after the other.

    So many images that a quarter of them takes longer than the start of the second worker.
    """
    found: dict[str, list[float]] = {"one process": [], "2 workers": []}
    for _ in range(rounds):
        for name, words in (("one process", ()), ("2 workers", ("--workers", "2"))):
            root = fresh(folder / name.replace(" ", "_"), "large")
            found[name].append(throughput(root, images, *words, before=("taskset", "-c", "0,1")))
            print(f"{name}: {found[name][-1]:.2f} rows per second", flush=True)
    one, two = (statistics.median(values) for values in found.values())
    print(f"median of {rounds}: one process {one:.2f}, 2 workers {two:.2f} rows per second; ratio {two / one:.3f}")


FILES, BYTES = 16, 40_000
"""Stored images of a unit, and the size of one."""


def pretended(job: float, unit: int) -> tuple[float, list[bytes]]:
    """Do nothing for ``job`` seconds; return them as measured, and files for the driver."""
    began = time.perf_counter()
    time.sleep(job)
    content = os.urandom(BYTES)
    return time.perf_counter() - began, [content] * FILES


def overhead(folder: Path, units: int = 60, seconds: float = 1.0) -> None:
    """Measure how long workers wait for the driver: units that only sleep, whose files the driver writes."""
    from jaxiqa.cli.workers import Pool, computing
    from jaxiqa.core.files import write_bytes

    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with computing(Pool(2)) as compute:
        list(compute(pretended, 0.0, range(4)))
        started = time.perf_counter() - began
        began, busy = time.perf_counter(), 0.0
        for took, files in compute(pretended, seconds, range(units)):
            busy += took
            for number, content in enumerate(files):
                write_bytes(folder / f"{number}.bin", content)
        wall = time.perf_counter() - began
    waited = 2 * wall - busy
    print(f"start of Ray and 2 workers: {started:.1f} s, once")
    print(
        f"{units} units of {seconds:g} s: workers waited {1000 * waited / units:.1f} ms per unit, {waited / busy:.2%}"
    )


if __name__ == "__main__":
    command, folder, *numbers = sys.argv[1:] if len(sys.argv) > 2 else sys.exit(__doc__)
    {"speed": speed, "overhead": overhead, "kills": kills}[command](Path(folder).resolve(), *map(int, numbers))
