"""One trained model of an experiment: its names, the files of its rows, and its score function."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from jaxiqa import models
from jaxiqa.core.devices import fitting_batch
from jaxiqa.core.files import safe_name
from jaxiqa.core.types import ScoreFn
from jaxiqa.core.workers import Compute
from jaxiqa.models.score_model import ScoreModel
from jaxiqa.results.engine import Rows
from jaxiqa.results.store import Store


@dataclass(frozen=True)
class EvaluatedModel:
    """One trained model.

    Attributes:
        name, seed: name and seed of the model.
        root: folder of the experiment.
        folder: folder of the model.
        size: height and width of the images under attack.
        batch: batch size; None: as many images as fit into memory.
        shared: rows of the folder, if several models share them.
    """

    name: str
    seed: int
    root: Path
    folder: Path
    size: tuple[int, int]
    batch: int | None
    shared: Store | None = None

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Pickle the description only: another process loads the model itself, and keeps it while it is used."""
        return _kept, (self.name, self.seed, self.root, self.folder, self.size, self.batch)

    @property
    def title(self) -> str:
        return f"{self.name} seed {self.seed}"

    @property
    def file_prefix(self) -> str:
        """Return the prefix of the names of this model's files."""
        return f"{safe_name(self.name)}-seed{self.seed}"

    @cached_property
    def model(self) -> Any:
        return models.load_run(self.folder)

    @cached_property
    def score_fn(self) -> ScoreFn:
        return models.score_fn(self.model, self.size)

    @cached_property
    def _at_other_sizes(self) -> dict[tuple[int, int], ScoreFn]:
        return {}

    def score_at(self, size: tuple[int, int]) -> ScoreFn:
        """Return the metric for images of this size, such as the output of a defense.

        Orthogonal maps are built for one size.
        """
        if tuple(size) == tuple(self.size) or not isinstance(self.score_fn, ScoreModel):
            return self.score_fn
        if size not in self._at_other_sizes:
            self._at_other_sizes[size] = models.score_fn(self.model, size)
        return self._at_other_sizes[size]

    @cached_property
    def batch_size(self) -> int:
        return self.batch or fitting_batch(self.score_fn, (*self.size, 3))

    @cached_property
    def store(self) -> Store:
        return self.shared or Store(self.root)

    def query(self, kind: type) -> Rows:
        """Return the rows of this kind for this model, for queries."""
        return self.store.rows(kind).only(model=self.name, seed=self.seed)

    def rows(self, kind: type) -> list[Any]:
        """Read the rows of this kind for this model; for kinds that have few."""
        return self.query(kind).all()

    def add(self, rows: Sequence[Any]) -> None:
        """Append rows of one kind to their file."""
        self.store.append(rows)


@lru_cache(maxsize=1)
def _kept(*fields: Any) -> EvaluatedModel:
    return EvaluatedModel(*fields)


def batch_size(evaluated: EvaluatedModel, compute: Compute) -> int:
    """Return the batch size; if the config does not set it, what fits into the memory of one that computes."""
    if evaluated.batch:
        return evaluated.batch
    (size,) = compute(_measured, evaluated, [None])
    return size


def _measured(evaluated: EvaluatedModel, unit: None) -> int:
    return evaluated.batch_size
