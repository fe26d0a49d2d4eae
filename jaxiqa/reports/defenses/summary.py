"""Compute the benchmark's numbers from defense rows: per cell, and pooled as a table requires."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from jaxiqa.measures.correlation import srocc
from jaxiqa.measures.defense import PSNR_CAP, d_score, q_score
from jaxiqa.measures.robustness import abs_gain, energy, interval95, r_score, rel_gain, wasserstein
from jaxiqa.reports.cells import divided
from jaxiqa.results.engine import LEVEL, RADIUS, Rows
from jaxiqa.results.rows import UNDEFENDED, DefenseRow, StrengthKey

TRANSFER, ADAPTIVE, MATCHED = "transfer", "adaptive", "matched"
"""Views of a defense: against the adversarial set; against attacks that know it; and against the part of the
adversarial set from the attacks and strengths of the adaptive ones, so that the two are comparable."""

DEFENSE_MEASURES = {
    "D": "mean of 100 · |f(P(x′)) − f(x)| / r, lower is better: the joint effect of attack and defense on a score",
    "D(D)": "mean of 100 · |f(P(x′)) − f(P(x))| / r, lower is better: the effect of the attack behind the defense",
    "Q": "mean of SSIM + PSNR / 40 of P(x′) against x, higher is better (7×7 windows of equal weights)",
    "SROCC clear": "of f(P(x)) with human scores, higher is better",
    "SROCC adv": "of f(P(x′)) with human scores, mean over attacks and strengths, higher is better",
    "AbsGain": "mean of s̃(P(x′)) − s̃(P(x)), lower is more robust",
    "RelGain": "mean of (s̃(P(x′)) − s̃(P(x))) / (s̃(P(x)) + 1)",
    "R-score": "mean of log₁₀( max(1 − s̃, s̃) / (|s̃(P(x′)) − s̃| + 1e-6) ), s̃ = s̃(P(x)), higher is more robust",
    "Wasserstein": "signed Wasserstein-1 distance between the scores s̃ of P(x) and of P(x′)",
    "energy": "signed energy distance between them",
}
"""Name -> definition, of every measure of a defense."""


COLUMNS = ("clean", "purified_clean", "purified", "ssim", "coalesce(psnr, 'inf'::DOUBLE)", "seconds")
"""What is read of a row, in SQL; equal images have no finite PSNR."""


class Number(NamedTuple):
    """A value and, for means over images, its 95 % Student-t interval."""

    mean: float
    interval: tuple[float, float] | None = None


class Key(NamedTuple):
    """The identity of a cell."""

    model: str
    seed: int
    attack: str
    strength: StrengthKey
    defense: str
    mode: str


@dataclass(frozen=True)
class Cell:
    """One defense of one model against one attack at one strength: values per image, in the order of the images, and
    values of all images together."""

    key: Key
    per_image: dict[str, np.ndarray]
    joint: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class Defenses:
    """The numbers for tables and plots of defenses."""

    labels: tuple[str, ...]
    """In the order of the tables, the metric without a defense first."""
    images: int
    cells: tuple[Cell, ...]
    capped: int
    """Defended images whose PSNR was above the cap."""
    psnr_cap: float | int
    missing: tuple[str, ...]
    """What could not be computed, and why."""

    def view(self, label: str, view: str, **only: object) -> dict[str, Number]:
        """Return a defense's numbers, pooled over models, seeds, attacks and strengths, or over some of them.

        Args:
            label: of the defense.
            view: `TRANSFER`, `ADAPTIVE` or `MATCHED`.
            **only: fields of `Key` and their required values.
        """
        return pool(self.chosen(label, view, **only))

    def chosen(self, label: str, view: str, **only: object) -> list[Cell]:
        """Return the cells that `view` pools."""
        # Without a defense, an adaptive attack is the attack itself.
        mode = ADAPTIVE if view == ADAPTIVE and label != UNDEFENDED else TRANSFER
        adaptive = {cell.key[:4] for cell in self.cells if cell.key.mode == ADAPTIVE}
        return [
            cell
            for cell in self.cells
            if (cell.key.defense, cell.key.mode) == (label, mode)
            and (view == TRANSFER or cell.key[:4] in adaptive)
            and all(getattr(cell.key, field) == value for field, value in only.items())
        ]


def summarise_defenses(
    rows: Sequence[DefenseRow] | Rows,
    ends: Mapping[tuple[str, int], tuple[float, float]],
    *,
    mos: Mapping[str, float] | None = None,
    psnr_cap: float | int = PSNR_CAP,
) -> Defenses:
    """Compute every cell that has all images.

    Args:
        rows: of the models, seeds and attacks to compare.
        ends: (model, seed) -> the score range that divides its gains.
        mos: image -> human score, for the correlations; without it they are left out.
        psnr_cap: see `jaxiqa.measures.defense.q_score`.

    Raises:
        ValueError: a duplicate row.
    """
    rows = Rows.of(rows, DefenseRow)
    images = [image for (image,) in rows.select("DISTINCT image", "ORDER BY image")]
    first: dict[Key, int] = {}
    groups: dict[tuple[str, int, str], dict[Key, int]] = defaultdict(dict)
    for model, seed, attack, level, radius, defense, mode, count, place in rows.select(
        f"model, seed, attack, {LEVEL} AS level, {RADIUS} AS radius, defense, mode, count(*), min(place)",
        "GROUP BY ALL ORDER BY model, seed, attack, level, radius, defense, mode",
    ):
        key = Key(model, seed, attack, level or radius, defense, mode)
        groups[model, seed, attack][key], first[key] = count, place
    order = sorted(first, key=lambda key: first[key])
    labels = tuple(dict.fromkeys([UNDEFENDED, *(key.defense for key in order)])) if order else ()
    human = None if mos is None else np.array([mos[image] for image in images])
    cells: dict[Key, Cell] = {}
    faults: dict[Key, list[str]] = {}
    for (model, seed, attack), counts in groups.items():
        group = rows.only(model=model, seed=seed, attack=attack)
        found = divided(group, counts, f"{LEVEL}, {RADIUS}, defense, mode", COLUMNS, "defense rows")
        for key, of in found.items():
            faults[key] = []
            if (model, seed) not in ends:
                faults[key].append(f"{model} seed {seed}: {key.defense}: no score range")
            elif counts[key] < len(images):
                where = f"{model} seed {seed}: {attack}, {key.defense}, {key.mode}"
                faults[key].append(f"{where}: {counts[key]} of {len(images)} images")
            else:
                cells[key] = _cell(key, of, ends[model, seed], human, psnr_cap, faults[key])
    missing = tuple(dict.fromkeys(fault for key in order for fault in faults[key]))
    ((capped,),) = rows.select("count(*)", "WHERE psnr IS NULL OR psnr > ?", float(psnr_cap))
    return Defenses(labels, len(images), tuple(cells[key] for key in order if key in cells), capped, psnr_cap, missing)


def pool(cells: Iterable[Cell]) -> dict[str, Number]:
    """Return the numbers of several cells together; each image is averaged over the cells first; empty for no cells."""
    cells = list(cells)
    if not cells:
        return {}
    numbers = {}
    for name in DEFENSE_MEASURES:
        arrays = [cell.per_image[name] for cell in cells if name in cell.per_image]
        joint = [cell.joint[name] for cell in cells if name in cell.joint]
        if len(arrays) == len(cells):
            values = np.mean(arrays, axis=0)
            finite = len(values) > 1 and np.isfinite(values).all()
            numbers[name] = Number(float(values.mean()), interval95(values) if finite else None)
        elif len(joint) == len(cells):
            numbers[name] = Number(float(np.mean(joint)))
    return numbers


def _cell(
    key: Key,
    columns: np.ndarray,
    ends: tuple[float, float],
    human: np.ndarray | None,
    psnr_cap: float | int,
    missing: list[str],
) -> Cell:
    clean, before, after, ssim, psnr, seconds = columns
    per_image = {
        "D": d_score(clean, after, *ends),
        "D(D)": d_score(before, after, *ends),
        "Q": q_score(ssim, psnr, psnr_cap=psnr_cap),
        "AbsGain": abs_gain(before, after, *ends),
        "R-score": r_score(before, after, *ends),
    }
    joint = {"Wasserstein": wasserstein(before, after, *ends), "energy": energy(before, after, *ends)}

    def attempt(into: dict, name: str, compute: Callable[[], object]) -> None:
        try:
            into[name] = compute()
        except ValueError as error:
            missing.append(f"{key.model} seed {key.seed}: {key.defense}: {name}: {error}")

    attempt(per_image, "RelGain", lambda: rel_gain(before, after, *ends))
    if human is not None:
        attempt(joint, "SROCC clear", lambda: srocc(before, human))
        attempt(joint, "SROCC adv", lambda: srocc(after, human))
    return Cell(key, per_image, joint, float(np.mean(seconds)))
