"""Run every attack at every strength on every image; write result rows, the adversarial set and example images."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from jaxiqa.config import Evaluation
from jaxiqa.core.files import safe_name
from jaxiqa.core.progress import Update, progress_bar
from jaxiqa.data.split import Split
from jaxiqa.evaluation import adversarial_set
from jaxiqa.evaluation.attack_loop import Batch, attack_split
from jaxiqa.evaluation.attack_plan import plan_attack, strongest, values
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.results.examples import Example, load, save
from jaxiqa.results.rows import ResultRow, Strength


def run_attacks(evaluated: EvaluatedModel, evaluation: Evaluation, split: Split, *, store: bool, examples: int) -> None:
    """Append the missing result rows; finished strengths are not run again.

    Args:
        evaluated: the model.
        evaluation: the attacks to run.
        split: the images.
        store: store every attacked image as a PNG file; missing files are made again.
        examples: number of images, the first ones, that are stored for the example sheet at the largest strength;
            examples that are missing, or of another strength, are made again.
    """
    results = evaluated.query(ResultRow)
    finished = results.finished(split.ids)
    kept = adversarial_set.digests(evaluated, verify=True) if store else {}
    for label, chosen in evaluation.attacks.items():
        plan = plan_attack(evaluated, label, chosen, split)
        strengths = plan.strengths
        largest = strengths[strongest(strengths)]
        without_example = {
            (image, largest.key)
            for number, image in enumerate(split.ids[:examples])
            if not _has_example(evaluated, label, largest, number, image)
        }
        if not store and not without_example and all((label, strength.key) in finished for strength in strengths):
            continue
        rows = results.only(attack=label).keys()
        written = {(image, key) for attack, image, key in kept if attack == label}
        done = (rows & written if store else rows) - without_example
        strengths = tuple(
            strength
            for strength in strengths
            if (label, strength.key) not in finished
            or not done.issuperset((image, strength.key) for image in split.ids)
        )
        if not strengths:
            continue
        runner = plan.runner(strengths)
        with progress_bar(f"{evaluated.title}: {label}", "images") as bar:
            batches = attack_split(
                runner,
                evaluated.score_fn,
                split,
                model=evaluated.name,
                seed=evaluated.seed,
                attack=label,
                epsilons=values(strengths),
                levels=tuple(strength.level for strength in strengths if strength.level) if chosen.aligned else None,
                batch_size=evaluated.batch_size,
                done=done,
                progress=partial(_tell, bar),
            )
            for batch in _named(f"{evaluated.title}: {label}", batches):
                # Files are written before the rows that mark them as done.
                if largest in strengths:
                    _keep_examples(evaluated, label, strengths.index(largest), largest, batch, split.ids[:examples])
                if store:
                    _store(evaluated, label, strengths, batch, written)
                evaluated.add([row for row in batch.rows if (row.image, row.strength) not in rows])


def _tell(bar: Update, images: float | int, total: float | int) -> None:
    bar(round(images, 1), total)


def _named(what: str, batches: Iterator[Batch]) -> Iterator[Batch]:
    """Yield the batches; put the name of model and attack before the message of an error."""
    try:
        yield from batches
    except ValueError as error:
        raise ValueError(f"{what}: {error}; the finished batches are kept") from error


def _store(evaluated: EvaluatedModel, label: str, strengths: tuple[Strength, ...], batch: Batch, written: set) -> None:
    rows = [
        adversarial_set.write(evaluated, label, strength, image, pixels)
        for strength, images in zip(strengths, batch.stored, strict=True)
        for image, pixels in zip(batch.ids, images, strict=True)
        if (image, strength.key) not in written
    ]
    evaluated.add(rows)


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


def _keep_examples(
    evaluated: EvaluatedModel, label: str, which: int, strength: Strength, batch: Batch, wanted: tuple[str, ...]
) -> None:
    """Save the wanted images of this batch as examples, at the strength with index ``which``."""
    rows = {row.image: row for row in batch.rows if row.strength == strength.key}
    for position, image in enumerate(batch.ids):
        if image in wanted and image in rows:
            attack, epsilon = _titled(label, strength)
            example = Example(
                image=image,
                model=evaluated.name,
                attack=attack,
                epsilon=epsilon,
                score=rows[image].score,
                attacked_score=rows[image].attacked,
                clean=batch.clean[position],
                attacked=batch.attacked[which, position],
            )
            save(example, example_path(evaluated.root, evaluated.name, label, wanted.index(image)))
