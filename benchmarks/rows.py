"""Ten million rows: 10 models x 17 attacks x 5 strengths x IMAGES rows; and a hundred thousand images.

    python benchmarks/rows.py report FOLDER 10000     # write the report of 8.5 million rows, as evaluate.py does
    python benchmarks/rows.py resume FOLDER 10000     # find that nothing is missing; then what one more image needs
    python benchmarks/rows.py stored FOLDER 100000    # find out which stored images are there and undamaged
    python benchmarks/rows.py start FOLDER 100000     # load and check a data set of files

Each makes what it needs in FOLDER once (3.2 GB for 10,000 images). The first `report` or `resume` also compacts the
lines, which an evaluation does while it runs; the first `stored` and `start` read every file. It prints wall-clock and
CPU seconds since the start of the program, imports included, and the largest resident memory.
"""

import hashlib
import json
import resource
import shutil
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ATTACKS, MODELS, STRENGTHS, SEAL = 17, 10, 5, b', "seal": "'
EPSILONS = tuple(2**k / 255 for k in range(STRENGTHS))
BATCH = 100
SIZE = (16, 16)
began, used = time.perf_counter(), time.process_time()


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
    restart()
    return root


def experiment_of(root: Path) -> Any:
    """Return the experiment that these rows are of."""
    from jaxiqa.config import Attack, Data, Evaluation, Experiment, Model, Training, Variant

    attacks = {f"attack{number}": Attack("ifgsm", EPSILONS) for number in range(ATTACKS)}
    evaluation = Evaluation(Data("builtin"), attacks, score_range="baseline", ranks=None, examples=0, batch_size=BATCH)
    variants = {f"model{number}": Variant(Training()) for number in range(MODELS)}
    return Experiment("rows", Data("builtin"), Model(), variants, evaluation, workdir=str(root))


def split_of(images: int) -> Any:
    """Return a split with the names of the images; nothing reads them."""
    from jaxiqa.data.split import Split

    ids = tuple(f"{number:06}.png" for number in range(images))
    mos = np.arange(images, dtype=np.float32)
    return Split("rows", ids, mos, (0.0, float(images)), lambda index: np.zeros((8, 8, 3), np.uint8))


def report(folder: Path, images: int) -> None:
    """Write the report, as the last stage of evaluate.py."""
    from jaxiqa.evaluation.write import write_reports
    from jaxiqa.results.rows import ResultRow
    from jaxiqa.results.store import Store

    root, split = make_rows(folder, images), split_of(images)
    store = Store(root)
    tell(f"{len(store.rows(ResultRow))} rows opened")
    write_reports(experiment_of(root), split, split, store)
    tell("report written")


def resume(folder: Path, images: int) -> None:
    """Run the stages of evaluate.py that find out what is missing; attacks themselves are replaced by nothing."""
    from jaxiqa.evaluation import attack_stage
    from jaxiqa.evaluation.evaluated_model import EvaluatedModel
    from jaxiqa.results.rows import PredictionRow
    from jaxiqa.results.store import Store

    root, asked = make_rows(folder, images), []

    def nothing(work: Any, block: attack_stage.Block) -> attack_stage.Attacked:
        asked.append(len(block.rows))
        return attack_stage.Attacked(block, [], [], [])

    attack_stage.attack_block = nothing
    for what, split_of_all in (("complete", split_of(images)), ("one more image", split_of(images + 1))):
        store = Store(root)
        for number in range(MODELS):
            evaluated = EvaluatedModel(f"model{number}", 0, root, root / f"model{number}", (8, 8), BATCH, store)
            evaluated.__dict__["score_fn"] = lambda images: images.mean((1, 2, 3))
            done = {image for (image,) in evaluated.query(PredictionRow).select("image")}
            assert len(done) == images
            evaluation = experiment_of(root).evaluation
            attack_stage.run_attacks(evaluated, evaluation, split_of_all, store=False, examples=0)
        tell(f"{what}: {sum(asked)} missing rows")
        restart()


def stored(folder: Path, images: int) -> None:
    """Find the stored images of one attack at one strength, as a resumed evaluation does."""
    from jaxiqa.evaluation import adversarial_set
    from jaxiqa.evaluation.evaluated_model import EvaluatedModel
    from jaxiqa.results.rows import Strength

    root = folder / f"stored{images}"
    evaluated = EvaluatedModel("model0", 0, root, root / "model0", SIZE, BATCH)
    if not (root / "done").exists():
        shutil.rmtree(root, ignore_errors=True)
        strength = Strength(EPSILONS[0])
        for first in range(0, images, 1000):
            numbers = range(first, min(first + 1000, images))
            write = partial(adversarial_set.write, evaluated, "attack0", strength)
            evaluated.add([write(f"{number:06}.png", adversarial_set.encoded(noise(number))) for number in numbers])
        (root / "done").touch()
        restart()
    folders = Counter(path.parent for path in (root / "images").rglob("*.png"))
    print(f"{sum(folders.values())} files in {len(folders)} folders, at most {max(folders.values())} in one")
    evaluated = EvaluatedModel("model0", 0, root, root / "model0", SIZE, BATCH)
    tell(f"{len(adversarial_set.digests(evaluated, verify=True))} images are undamaged")


def start(folder: Path, images: int) -> None:
    """Load and check a data set of files."""
    from jaxiqa import data
    from jaxiqa.evaluation.images import checked

    root = folder / f"files{images}"
    if not (root / "scores.csv").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        for number in range(images):
            Image.fromarray(noise(number)).save(root / f"{number:06}.png")
        (root / "scores.csv").write_text("image,mos\n" + "".join(f"{n:06}.png,{n}\n" for n in range(images)))
        restart()
    splits = data.load("folder", source=str(root))
    tell(f"{sum(map(len, splits.values()))} images listed")
    for split in splits.values():
        checked(split, uniform=True)
    tell("checked")


def noise(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 255, (*SIZE, 3), np.uint8)


def restart() -> None:
    """Count from here: what was made before is not part of the measurement."""
    global began, used
    began, used = time.perf_counter(), time.process_time()


def tell(what: str) -> None:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(
        f"{what}: {time.perf_counter() - began:.1f} s, {time.process_time() - used:.1f} CPU s, {memory} MiB", flush=True
    )


if __name__ == "__main__":
    commands = {command.__name__: command for command in (report, resume, stored, start)}
    commands[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
