"""Run every attack at every strength on every image; write result rows, the adversarial set and example images."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from jaxiqa.config import Evaluation
from jaxiqa.core.files import safe_name
from jaxiqa.core.progress import progress_bar
from jaxiqa.core.workers import Compute, alone
from jaxiqa.data.split import Split
from jaxiqa.evaluation import adversarial_set
from jaxiqa.evaluation.attack_loop import Batch, attack_batch
from jaxiqa.evaluation.attack_plan import strongest, values
from jaxiqa.evaluation.evaluated_model import EvaluatedModel, batch_size
from jaxiqa.evaluation.fitted_attacks import fitted_attacks
from jaxiqa.evaluation.strengths import strengths_of
from jaxiqa.evaluation.work import Work
from jaxiqa.results.engine import Rows
from jaxiqa.results.examples import Example, load, save
from jaxiqa.results.rows import ResultRow, Strength, StrengthKey

Pairs = frozenset[tuple[str, StrengthKey]]
"""(image, strength) of rows or files."""


@dataclass(frozen=True)
class Block:
    """Images that are attacked together, by one attack at several strengths, and what is missing of the result."""

    attack: str
    strengths: tuple[Strength, ...]
    first: int  # place of the first image
    size: int  # batch size
    rows: Pairs
    files: Pairs
    examples: Pairs


@dataclass(frozen=True)
class Attacked:
    """What is to be written of a block."""

    block: Block
    rows: list[ResultRow]
    files: list[tuple[Strength, str, bytes]]  # strength, image, content of the PNG file
    examples: list[Example]


def run_attacks(
    evaluated: EvaluatedModel,
    evaluation: Evaluation,
    split: Split,
    *,
    store: bool,
    examples: int,
    compute: Compute = alone,
) -> None:
    """Append the missing result rows; finished strengths are not run again.

    Args:
        evaluated: the model.
        evaluation: the attacks to run.
        split: the images.
        store: store every attacked image as a PNG file; missing files are made again.
        examples: number of images, the first ones, that are stored for the example sheet at the largest strength;
            examples that are missing, or of another strength, are made again.
        compute: computes aligned strengths, fitted attacks and blocks of images.
    """
    work, attacks = Work(evaluated, evaluation, split), evaluation.attacks
    for _ in compute(_align, work, [label for label, chosen in attacks.items() if chosen.aligned]):
        pass  # they are stored
    results = evaluated.query(ResultRow)
    finished = results.finished(split.ids)
    kept = adversarial_set.digests(evaluated, verify=True) if store else {}
    written = frozenset(kept) if store else None
    size = batch_size(evaluated, compute) if attacks else 1

    def missing(label: str) -> Iterator[Block]:
        return _blocks(work, label, size, results, finished, written, split.ids[:examples])

    fits = [(label, one) for label, chosen in attacks.items() if chosen.fit_on for one in _epsilons(missing(label))]
    for _ in compute(_fit, work, fits):
        pass  # they are stored
    order = list(attacks)
    with progress_bar(f"{evaluated.title}: attacks", "images") as bar:

        def tell(attack: str, images: float | int, total: float | int) -> None:
            bar(round(order.index(attack) * total + images, 1), len(order) * total, attack)

        blocks = (block for label in order for block in missing(label))
        for made in compute(attack_block, replace(work, progress=tell), blocks):
            _write(evaluated, made, split)
            tell(made.block.attack, min(made.block.first + size, len(split)), len(split))


def _align(work: Work, label: str) -> None:
    strengths_of(work.evaluated, label, work.evaluation.attacks[label], work.split)


def _fit(work: Work, unit: tuple[str, float]) -> None:
    label, epsilon = unit
    fitted_attacks(work.evaluated, label, work.evaluation.attacks[label], [epsilon])


def _epsilons(blocks: Iterator[Block]) -> list[float]:
    """Return the strengths of blocks, each once."""
    return list(dict.fromkeys(epsilon for block in blocks for epsilon in values(block.strengths) or ()))


def _blocks(
    work: Work,
    label: str,
    size: int,
    results: Rows,
    finished: set[tuple[str, StrengthKey]],
    kept: frozenset[tuple[str, str, StrengthKey]] | None,
    wanted: tuple[str, ...],
) -> Iterator[Block]:
    """Yield the blocks of one attack of which something is missing.

    Args:
        work: model, attacks and images.
        label: label of the attack.
        size: batch size.
        results: rows of the model.
        finished: (attack, strength) with the rows of all images.
        kept: (attack, image, strength) of the stored images; None: they are not stored.
        wanted: images with an example.
    """
    evaluated, split = work.evaluated, work.split
    strengths = strengths_of(evaluated, label, work.evaluation.attacks[label], split)
    largest = strengths[strongest(strengths)]
    without_example = {
        (image, largest.key)
        for number, image in enumerate(wanted)
        if not _has_example(evaluated, label, largest, number, image)
    }
    if kept is None and not without_example and all((label, strength.key) in finished for strength in strengths):
        return
    rows = results.only(attack=label).keys()
    written = rows if kept is None else {(image, key) for attack, image, key in kept if attack == label}
    done = (rows & written) - without_example
    strengths = tuple(
        strength
        for strength in strengths
        if (label, strength.key) not in finished or not done.issuperset((image, strength.key) for image in split.ids)
    )
    for first in range(0, len(split), min(size, len(split))) if strengths else ():
        pairs = frozenset((image, strength.key) for image in split.ids[first : first + size] for strength in strengths)
        if not pairs <= done:
            files = frozenset() if kept is None else pairs - written
            yield Block(label, strengths, first, size, pairs - rows, files, pairs & without_example)


def attack_block(work: Work, block: Block) -> Attacked:
    """Attack the images of a block.

    Raises:
        ValueError: as of `jaxiqa.evaluation.attack_split`; the message names model and attack.
    """
    evaluated, label, strengths = work.evaluated, block.attack, block.strengths
    runner = work.runner(label, strengths)
    try:
        batch = attack_batch(
            runner,
            evaluated.score_fn,
            work.split,
            block.first,
            model=evaluated.name,
            seed=evaluated.seed,
            attack=label,
            epsilons=values(strengths),
            levels=tuple(strength.level for strength in strengths if strength.level) or None,
            batch_size=block.size,
            missing=block.rows | block.examples,
            progress=partial(work.progress, label),
        )
    except ValueError as error:
        raise ValueError(f"{evaluated.title}: {label}: {error}; the finished batches are kept") from error
    files = [
        (strength, image, adversarial_set.encoded(pixels))
        for strength, images in zip(strengths, batch.stored, strict=True)
        for image, pixels in zip(batch.ids, images, strict=True)
        if (image, strength.key) in block.files
    ]
    rows = [row for row in batch.rows if (row.image, row.strength) in block.rows]
    return Attacked(block, rows, files, _examples(label, strengths, batch, block.examples))


def _write(evaluated: EvaluatedModel, made: Attacked, split: Split) -> None:
    """Write the files of a block, then the rows that mark them as done."""
    label = made.block.attack
    for example in made.examples:
        save(example, example_path(evaluated.root, evaluated.name, label, split.ids.index(example.image)))
    evaluated.add([adversarial_set.write(evaluated, label, *file) for file in made.files])
    evaluated.add(made.rows)


def example_path(root: Path, model: str, label: str, number: int) -> Path:
    """Return the path of the example of the image at this place in the split."""
    return root / "examples" / safe_name(model) / safe_name(label) / f"{number}.npz"


def _has_example(evaluated: EvaluatedModel, label: str, largest: Strength, number: int, image: str) -> bool:
    try:
        found = load(example_path(evaluated.root, evaluated.name, label, number))
    except (FileNotFoundError, ValueError):
        return False
    return (found.image, found.attack, found.epsilon) == (image, *_titled(label, largest))


def _titled(label: str, strength: Strength) -> tuple[str, float | None]:
    """Return the name of an attack on the example sheet, and its ε; None for levels, whose units differ."""
    return (f"{label} {strength.level}", None) if strength.level else (label, strength.epsilon)


def _examples(label: str, strengths: tuple[Strength, ...], batch: Batch, wanted: Pairs) -> list[Example]:
    """Return the wanted images of a batch as examples."""
    rows = {(row.image, row.strength): row for row in batch.rows}
    found = []
    for which, strength in enumerate(strengths):
        attack, epsilon = _titled(label, strength)
        for position, image in enumerate(batch.ids):
            if (image, strength.key) in wanted:
                row = rows[image, strength.key]
                example = Example(
                    image=image,
                    model=row.model,
                    attack=attack,
                    epsilon=epsilon,
                    score=row.score,
                    attacked_score=row.attacked,
                    clean=batch.clean[position],
                    attacked=batch.attacked[which, position],
                )
                found.append(example)
    return found
