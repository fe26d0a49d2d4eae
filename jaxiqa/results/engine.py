"""Queries of rows in DuckDB, in bounded memory: Python gets sums, counts, or the arrays of one group at a time."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxiqa.core.files import WriteError
from jaxiqa.results.parts import schema
from jaxiqa.results.rows import StrengthKey

MEMORY = "600MB"
"""Memory that DuckDB may use; what needs more goes to files."""

LEVEL, RADIUS = "nullif(level, '')", "CASE WHEN coalesce(level, '') = '' THEN epsilon END"
"""The strength of a row, as `jaxiqa.results.rows.StrengthKey`: its level, or without one its ε."""


def connect(spill: Path | None = None) -> Any:
    """Return a DuckDB connection without a file; ``spill`` is the folder for what exceeds its memory."""
    import duckdb  # not at the top: the import is too slow for --help

    settings: dict[str, Any] = {
        "memory_limit": MEMORY,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    if spill is not None:
        settings["temp_directory"] = str(spill)
    engine = duckdb.connect(":memory:", config=settings)
    engine.execute("SET default_null_order = 'nulls_first'")
    return engine


@contextmanager
def writes(path: Path) -> Iterator[None]:
    """Convert DuckDB's errors about files and memory into a `WriteError` that names ``path``."""
    import duckdb

    try:
        yield
    except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
        raise WriteError(f"cannot write {path}: {error}") from error


@dataclass(frozen=True)
class Rows:
    """Rows of one kind, in the order of their lines. A method that narrows or sorts them runs no query.

    Attributes:
        kind: a dataclass of `jaxiqa.results.rows`.
        engine: a DuckDB connection.
        source: what follows FROM: it has the fields of ``kind``, and ``place``, which sorts the rows.
        values: of the parameters in ``source``.
    """

    kind: type
    engine: Any
    source: str
    values: tuple[Any, ...] = ()

    @classmethod
    def of(cls, rows: "Sequence[Any] | Rows", kind: type) -> "Rows":
        """Return rows in memory as a table.

        >>> from jaxiqa.results.rows import PredictionRow
        >>> rows = Rows.of([PredictionRow("a", "m", 0, 1.0, 2.0), PredictionRow("b", "n", 0, 3.0, 4.0)], PredictionRow)
        >>> rows.only(model="n").select("image, score"), len(rows)
        ([('b', 4.0)], 2)
        """
        if isinstance(rows, Rows):
            return rows
        engine = connect()
        columns = ", ".join(f'"{name}" {sql}' for name, sql in schema(kind).items())
        engine.execute(f"CREATE TEMP TABLE given (place BIGINT, {columns})")
        if rows:
            parts = list(zip(*(astuple(row) for row in rows), strict=True))
            given = {"place": np.arange(len(rows))}
            given |= {name: np.array(values, object) for name, values in zip(schema(kind), parts, strict=True)}
            engine.register("incoming", given)
            engine.execute("INSERT INTO given SELECT * FROM incoming")
            engine.unregister("incoming")
        return cls(kind, engine, "given")

    def where(self, condition: str, *values: Any) -> "Rows":
        """Return the rows that meet a condition in SQL with parameters."""
        return Rows(self.kind, self.engine, f"(SELECT * FROM {self.source} WHERE {condition})", (*self.values, *values))

    def only(self, **fields: Any) -> "Rows":
        """Return the rows whose fields have these values."""
        condition = " AND ".join(f'"{name}" IS NOT DISTINCT FROM ?' for name in fields)
        return self.where(condition, *fields.values()) if fields else self

    def among(self, field: str, values: Collection[Any]) -> "Rows":
        """Return the rows whose field has one of these values."""
        return self.where(f'list_contains(?, "{field}")', list(values)) if values else self.where("false")

    def at(self, strength: StrengthKey) -> "Rows":
        """Return the rows of a strength: a level, an ε, or None."""
        return self.where(*_at(strength))

    def present(self, strengths: Mapping[str, Iterable[StrengthKey]]) -> "Rows":
        """Return the rows of these attacks at these strengths."""
        alike: dict[frozenset[StrengthKey], list[str]] = {}
        for attack, keys in strengths.items():
            alike.setdefault(frozenset(keys), []).append(attack)
        conditions, values = ["false"], []
        for keys, attacks in alike.items():  # a condition per attack and strength would take longer than the reading
            levels = [key for key in keys if isinstance(key, str)]
            radii = [float(key) for key in keys if key is not None and not isinstance(key, str)]
            conditions.append(
                f"(list_contains(?, attack) AND CASE WHEN {LEVEL} IS NOT NULL THEN list_contains(?::VARCHAR[], level) "
                "WHEN epsilon IS NULL THEN ? ELSE list_contains(?::DOUBLE[], epsilon) END)"
            )
            values += [attacks, levels, None in keys, radii]
        return self.where(" OR ".join(conditions), *values)

    def sorted_by(self, field: str, order: Sequence[str]) -> "Rows":
        """Return the rows sorted by a field whose values are in ``order``, and then as before."""
        place = f'(list_position(?, "{field}")::BIGINT << 48) + place'
        return Rows(
            self.kind,
            self.engine,
            f"(SELECT * REPLACE ({place} AS place) FROM {self.source})",
            (list(order), *self.values),
        )

    def finished(self, images: Sequence[str]) -> set[tuple[str, StrengthKey]]:
        """Return (attack, strength) of those that have a row of every one of these images."""
        names, cell = list(set(images)), f"attack, {LEVEL} AS level, {RADIUS} AS radius"
        large = self.select(cell, "GROUP BY ALL HAVING count(*) >= ?", len(names))  # to count the images takes longer
        found = self.among("attack", {attack for attack, _, _ in large}).select(
            f"{cell}, count(DISTINCT image)", "WHERE image IN (SELECT unnest(?::VARCHAR[])) GROUP BY ALL", names
        )
        return {(attack, level or radius) for attack, level, radius, count in found if count == len(names)}

    def keys(self, *fields: str) -> set[tuple[Any, ...]]:
        """Return (values of these fields ..., image, strength) of all rows."""
        names = (f'"{name}"' for name in (*fields, "image"))
        found = self._run(", ".join([*names, "coalesce(level, '')", "coalesce(epsilon, 'nan'::DOUBLE)"]), "", ())
        *values, levels, radii = (column.tolist() for column in found.fetchnumpy().values())  # faster than tuples
        strengths = [level or (None if math.isnan(e) else e) for level, e in zip(levels, radii, strict=True)]
        return set(zip(*values, strengths, strict=True))

    def select(self, columns: str, rest: str = "", *values: Any) -> list[tuple[Any, ...]]:
        """Return the result of a query; ``rest`` is what follows FROM, such as GROUP BY, ``values`` its parameters."""
        return self._run(columns, rest, values).fetchall()

    def arrays(self, columns: str, rest: str = "", *values: Any) -> list[np.ndarray]:
        """Return the result of a query as one array per column; no value may be NULL, except in columns of text."""
        found = self._run(columns, rest, values).fetchnumpy()
        return [np.ma.getdata(column) for column in found.values()]

    def all(self) -> list[Any]:
        """Return the rows as objects."""
        columns = ", ".join(f'"{name}"' for name in schema(self.kind))
        return [self.kind(*values) for values in self.select(columns, "ORDER BY place")]

    def __len__(self) -> int:
        return self.select("count(*)")[0][0]

    def _run(self, columns: str, rest: str, values: tuple[Any, ...]) -> Any:
        return self.engine.execute(f"SELECT {columns} FROM {self.source} {rest}", [*self.values, *values])


def _at(strength: StrengthKey) -> tuple[str, StrengthKey]:
    """Return the condition of a strength, and the value of its parameter."""
    if isinstance(strength, str):
        return "level = ?", strength
    return "coalesce(level, '') = '' AND epsilon IS NOT DISTINCT FROM ?::DOUBLE", strength
