"""Ten million rows: write 10 models x 17 attacks x 5 strengths x IMAGES rows, and time the reading of a report.

    python benchmarks/rows.py FOLDER 10000     # 8.5 million rows; a second run finds them compacted

It prints wall-clock and CPU seconds since the start, and the largest resident memory, after opening and summarising.
"""

import hashlib
import json
import resource
import shutil
import sys
import time
from pathlib import Path

import numpy as np

ATTACKS, MODELS, STRENGTHS, SEAL = 17, 10, 5, b', "seal": "'
EPSILONS = tuple(2**k / 255 for k in range(STRENGTHS))
BATCH = 100


def make_rows(folder: Path, images: int) -> Path:
    """Write results.jsonl, predictions.jsonl and models.jsonl of random scores, as `append_rows` writes them."""
    root = folder / f"rows{images}"
    if (root / "done").exists():
        return root
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    random = np.random.default_rng(0)
    names = [f"{number:06}.png" for number in range(images)]

    def sealed(content: str) -> bytes:
        line = content.encode()
        return line + SEAL + hashlib.sha256(line + b"}").hexdigest()[:16].encode() + b'"}\n'

    with open(root / "results.jsonl", "wb") as file:
        for model in range(MODELS):
            clean = random.normal(50, 15, images).astype(np.float32).astype(np.float64)
            scores = [repr(value) for value in clean.tolist()]
            for attack in range(ATTACKS):
                shape = (STRENGTHS, images)
                moved = clean + random.normal(5 + model, 3, shape) * (1 + np.arange(STRENGTHS))[:, None]
                columns = {
                    "attacked": moved,
                    "rounded": moved - 0.1 * random.random(shape),
                    "linf": np.array(EPSILONS)[:, None] * np.ones(shape),
                    "l2": random.random(shape),
                    "ssim": 1 - 0.2 * random.random(shape),
                }
                told = {
                    name: [list(map(repr, row)) for row in values.astype(np.float32).astype(np.float64).tolist()]
                    for name, values in columns.items()
                }
                for first in range(0, images, BATCH):
                    lines = []
                    for which, epsilon in enumerate(EPSILONS):
                        a, r, i, s, l2 = (told[name][which] for name in ("attacked", "rounded", "linf", "ssim", "l2"))
                        for k in range(first, min(first + BATCH, images)):
                            lines.append(
                                sealed(
                                    f'{{"image": "{names[k]}", "model": "model{model}", "seed": 0, "attack": '
                                    f'"attack{attack}", "epsilon": {epsilon!r}, "score": {scores[k]}, "attacked": '
                                    f'{a[k]}, "rounded": {r[k]}, "linf": {i[k]}, "l2": {l2[k]}, "ssim": {s[k]}, '
                                    '"queries": null, "seconds": 0.0123, "level": null'
                                )
                            )
                    file.write(b"".join(lines))
    with open(root / "predictions.jsonl", "wb") as file:
        for model in range(MODELS):
            for name, value in zip(names, random.normal(50, 15, images).tolist(), strict=True):
                file.write(
                    sealed(
                        f'{{"image": "{name}", "model": "model{model}", "seed": 0, "mos": {value / 2}, "score": {value}'
                    )
                )
    with open(root / "models.jsonl", "wb") as file:
        for model in range(MODELS):
            card = {"model": f"model{model}", "seed": 0, "parameters": 1, "score_low": 0.0, "score_high": 100.0}
            card |= {"validation_srocc": 0.8, "seconds_per_epoch": 1.0, "seconds_per_test": 1.0}
            file.write(sealed(json.dumps(card | {"test_images": images, "certificate": None})[:-1]))
    (root / "done").touch()
    return root


if __name__ == "__main__":
    root = make_rows(Path(sys.argv[1]), int(sys.argv[2]))
    from jaxiqa.reports.attacks.summary import summarise
    from jaxiqa.results.rows import ModelRow, PredictionRow, ResultRow
    from jaxiqa.results.store import Store

    began, used = time.perf_counter(), time.process_time()

    def tell(what: str) -> None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(f"{what}: {time.perf_counter() - began:.1f} s, {time.process_time() - used:.1f} CPU s, {memory} MiB")

    store = Store(root)
    results = store.rows(ResultRow)
    tell(f"open {len(results)} rows")
    summarise(results, store.rows(PredictionRow), store.rows(ModelRow).all(), score_range="baseline")
    tell("summarise")
