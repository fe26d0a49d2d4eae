"""Put a trained metric into the package: ``jaxiqa/zoo/NAME`` with its weights, its description and its card.

    JAXIQA_DATA=/path/to/data python benchmarks/ship.py jaxiqa-base --run runs/linearity/base/seed0 --kernels int8 \\
        --evaluation runs/linearity --data-licence "CLIVE: for research"

Scores the test images of the run's data with the metric as it was trained and as it is stored, and writes both
correlations and the largest change of a score into the card, beside the tables of an evaluation and, for a metric that
has one, its certificate. A new name also needs a line in `jaxiqa.models.zoo.SHIPPED`.
"""

import argparse
import gzip
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))
import jax
import numpy as np

from jaxiqa import data, models
from jaxiqa.cli.push import first_weights
from jaxiqa.config import Data
from jaxiqa.core.files import write_bytes, write_text
from jaxiqa.data.pipeline import scoring_batches
from jaxiqa.evaluation.model_tables import model_tables
from jaxiqa.measures.correlation import plcc, srocc
from jaxiqa.models.zoo import SHIPPED
from jaxiqa.reports.model_card import model_card
from jaxiqa.reports.table import Table

ZOO = Path(__file__).parent.parent / "jaxiqa" / "zoo"
CERTIFIED = {"Linf 1/255": ("linf", 1 / 255), "Linf 2/255": ("linf", 2 / 255), "Linf 4/255": ("linf", 4 / 255)}
CERTIFIED |= {"L2 0.05": ("l2", 0.05), "L2 0.5": ("l2", 0.5), "L2 2": ("l2", 2.0)}


def scores(model: Any, split: data.Split) -> np.ndarray:
    """Return the scores of all images."""
    score = jax.jit(lambda score, images: score(images))
    given = models.score_fn(model, model.input_size)
    found = [score(given, images)[:n] for images, n, _ in scoring_batches(split, 8, size=model.input_size)]
    return np.concatenate([np.asarray(part) for part in found])


def storage(trained: Any, stored: Any, split: data.Split, size: int) -> Table:
    """Return the table that compares the metric as trained and as stored."""
    assert split.mos is not None
    before, after = scores(trained, split), scores(stored, split)
    change = f"{np.abs(after - before).max():.2g}"
    rows = [
        [name, f"{srocc(found, split.mos):.4f}", f"{plcc(found, split.mos):.4f}", moved]
        for name, found, moved in (("as trained", before, "–"), ("as shipped", after, change))
    ]
    notes = [
        f"On {len(split.mos)} images that neither trained the metric nor chose its epoch; labels from "
        f"{split.mos.min():.1f} to {split.mos.max():.1f}. The shipped file has {size / 1e6:.2f} MB."
    ]
    return Table("Agreement with people", ["", "SROCC", "PLCC", "largest change of a score"], rows, notes=notes)


def pack(folder: Path) -> int:
    """Compress the weights of a saved metric; return the number of bytes."""
    file = folder / "model.safetensors"
    packed = gzip.compress(file.read_bytes(), mtime=0)  # the same weights give the same file
    write_bytes(folder / "model.safetensors.gz", packed)
    file.unlink()
    return len(packed)


def certificate(model: Any, split: data.Split) -> Table:
    """Return the table of certified changes of the score."""
    assert split.mos is not None
    span = float(split.mos.max() - split.mos.min())
    rows = []
    for name, (norm, radius) in CERTIFIED.items():
        change = model.certificate(radius, model.input_size, norm=norm)
        rows.append([name, f"{change:.3g}", f"{change / span:.2g}"])
    height, width = model.input_size
    notes = [f"No image of {width}×{height} pixels within this distance has a score further away, by one pass."]
    return Table("Certified change of a score", ["distance", "points", "share of the labels' range"], rows, notes=notes)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=SHIPPED)
    parser.add_argument("--run", required=True, type=Path, help="folder of the training run")
    parser.add_argument("--kernels", choices=("float32", "int8"), default="float32")
    parser.add_argument("--evaluation", type=Path, help="working directory of an evaluation of it")
    parser.add_argument("--data-licence", help="licence of the training data, for the card")
    parser.add_argument("--command", help="command that trained it, if the run is too old to know")
    arguments = parser.parse_args()
    described, training, config = (
        json.loads((arguments.run / f"{name}.json").read_text()) for name in ("model", "training", "config")
    )
    if arguments.command:
        training["command"] = arguments.command
    chosen = Data(**config["data"])
    split = data.load(chosen.name, **chosen.arguments)["test"]
    evaluated = model_tables(arguments.evaluation, arguments.run) if arguments.evaluation else []
    trained, folder = models.load_run(arguments.run), ZOO / arguments.name
    models.save(trained, folder, kernels=arguments.kernels)
    size = pack(folder)
    stored = models.load_run(folder)
    tables = [storage(trained, stored, split, size)]
    if hasattr(stored, "certificate"):
        tables.append(certificate(stored, split))
    licences = {"data": arguments.data_licence} if arguments.data_licence else {}
    card = model_card(
        described | {"sha256": json.loads((folder / "model.json").read_text())["sha256"]},
        address=arguments.name,
        training=training,
        config=config,
        about=SHIPPED[arguments.name],
        licence="apache-2.0",
        licences=licences | first_weights(config["model"]),
        tables=tables + evaluated,
    )
    write_text(folder / "README.md", card)
    print(card)


if __name__ == "__main__":
    main()
