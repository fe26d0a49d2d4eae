"""The tables of one trained model, from the rows of an evaluation: for its model card."""

import json
from pathlib import Path

from jaxiqa.evaluation.fingerprint import model_digest
from jaxiqa.reports.attacks.summary import ends_of, summarise
from jaxiqa.reports.attacks.tables import tables
from jaxiqa.reports.table import Table
from jaxiqa.results.engine import Rows
from jaxiqa.results.rows import FILES, MaskingRow, ModelRow, PredictionRow, RankRow, ResultRow
from jaxiqa.results.store import Store

RANGE = "model"
"""What divides the gains: the rows hold this range, but not which one the report of the evaluation took."""


def evaluated_as(root: Path, folder: Path) -> tuple[str, int]:
    """Return the name and the seed under which an evaluation knows a trained model, by the digest of its weights.

    Args:
        root: the working directory of the evaluation.
        folder: of the training run, wherever it is now.

    Raises:
        FileNotFoundError: ``root`` holds no evaluation.
        ValueError: the evaluation was made of other models, or evaluation.json is damaged.
    """
    path = root / "evaluation.json"
    if not path.is_file():
        raise FileNotFoundError(f"{root} has no evaluation.json; give the --workdir of `jaxiqa evaluate`")
    try:
        entries = {key: str(value) for key, value in json.loads(path.read_text("utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from error
    known = {key: value for key, value in entries.items() if key.startswith("model ")}
    digest = model_digest(folder / "model.json")
    for key, value in known.items():
        if value == digest:
            name, _, seed = key.removeprefix("model ").rpartition(" seed ")
            return name, int(seed)
    raise ValueError(f"{root} is no evaluation of the metric in {folder}, but of {', '.join(known) or 'none'}")


def model_tables(root: Path, folder: Path) -> list[Table]:
    """Return the tables of one model: correlations, gains and certificate; and what attacks leave of the order, if run.

    Gains are divided by the range of the model's scores on its training images.

    Args:
        root: the working directory of the evaluation.
        folder: of the training run.

    Raises:
        FileNotFoundError, ValueError: as `evaluated_as`; or rows are damaged, or there are none of this model.
    """
    name, seed = evaluated_as(root, folder)

    store = Store(root)

    def mine(kind: type) -> Rows:
        return store.rows(kind).only(model=name, seed=seed)

    rows, results = mine(ModelRow).all(), mine(ResultRow)
    if not rows:
        raise ValueError(f"{root / FILES[ModelRow]} has no row of {name} seed {seed}; was the evaluation finished?")
    summary = summarise(results, mine(PredictionRow), rows, score_range=RANGE, masking=mine(MaskingRow).all())
    found = [tables(summary)[0]]
    if len(ranked := mine(RankRow)):
        from jaxiqa.reports.attacks.order import order_tables, summarise_order  # needs matplotlib

        if order := summarise_order(ranked, [name], ends_of(rows, results, score_range=RANGE)):
            found.append(order_tables(order)[0])
    return found
