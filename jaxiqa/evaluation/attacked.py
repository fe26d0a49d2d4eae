"""Every attack at every strength on every image: result rows, the adversarial set, a few pictures to look at."""

from jaxiqa.config import Attack, Evaluation
from jaxiqa.data.split import Split
from jaxiqa.evaluation import stored
from jaxiqa.evaluation.attacking import Batch, Runner, attack_runner, attack_split
from jaxiqa.evaluation.fitted import fitted_attacks
from jaxiqa.evaluation.networks import load_networks
from jaxiqa.evaluation.strengths import Strength, strength_field, strengths_of, values
from jaxiqa.evaluation.subject import Subject
from jaxiqa.reports.examples import Example, save
from jaxiqa.terminal import progress_bar
from jaxiqa.types import ResultRow


def attack_all(subject: Subject, evaluation: Evaluation, split: Split, *, store: bool, examples: int) -> None:
    """Append the result rows that are missing.

    Args:
        subject: the model.
        evaluation: its attacks are run.
        split: the images.
        store: keep every attacked image as a PNG file; those that are missing are made again.
        examples: so many of the first images are kept for the example sheet, at the largest strength.
    """
    done_rows: dict[str, set] = {label: set() for label in evaluation.attacks}
    for row in subject.rows(ResultRow):
        done_rows.setdefault(row.attack, set()).add((row.image, row.level or row.epsilon))
    kept = stored.digests(subject) if store else {}
    for label, chosen in evaluation.attacks.items():
        strengths = strengths_of(subject, label, chosen, split)
        written = {(image, key) for attack, image, key in kept if attack == label}
        done = done_rows[label] & written if store else done_rows[label]
        if done.issuperset((image, strength.key) for image in split.ids for strength in strengths):
            continue
        runner = make_runner(subject, label, chosen, strengths)
        with progress_bar(f"{subject.title}: {label}", "images") as bar:
            batches = attack_split(
                runner,
                subject.score_fn,
                split,
                model=subject.name,
                seed=subject.seed,
                attack=label,
                epsilons=values(strengths),
                levels=tuple(strength.level for strength in strengths) if chosen.aligned else None,
                batch_size=subject.batch_size,
                done=done,
                progress=lambda images, total, bar=bar: bar(round(images, 1), total),
            )
            for batch in batches:
                # What belongs to a row is on the disk before the row that says it is done.
                _keep_examples(subject, label, strengths, batch, split.ids[:examples])
                if store:
                    _store(subject, label, strengths, batch, written)
                subject.add(
                    [row for row in batch.rows if (row.image, row.level or row.epsilon) not in done_rows[label]]
                )


def make_runner(subject: Subject, label: str, chosen: Attack, strengths: tuple[Strength, ...], score_fn=None) -> Runner:
    """One attack at these strengths, on the subject's own metric or on another, such as its defended one."""
    fitted = fitted_attacks(subject, label, chosen, values(strengths))
    options = chosen.options if fitted else chosen.options | load_networks(chosen.networks)
    if chosen.aligned:
        options = {name: value for name, value in options.items() if name != strength_field(chosen.name)}
    return attack_runner(chosen.name, options, values(strengths), score_fn or subject.score_fn, fitted)


def _store(subject: Subject, label: str, strengths: tuple[Strength, ...], batch: Batch, written: set) -> None:
    rows = [
        stored.write(subject, label, strength, image, pixels)
        for strength, pictures in zip(strengths, batch.attacked, strict=True)
        for image, pixels in zip(batch.ids, pictures, strict=True)
        if (image, strength.key) not in written
    ]
    subject.add(rows)


def _keep_examples(
    subject: Subject, label: str, strengths: tuple[Strength, ...], batch: Batch, wanted: tuple[str, ...]
) -> None:
    """The first few attacked images, at the largest strength."""
    which = strongest(strengths)
    rows = {row.image: row for row in batch.rows if (row.level or row.epsilon) == strengths[which].key}
    for position, image in enumerate(batch.ids):
        if image in wanted and image in rows:
            example = Example(
                image=image,
                model=subject.name,
                # a level has no unit that all attacks share
                attack=f"{label} {rows[image].level}" if rows[image].level else label,
                epsilon=None if rows[image].level else rows[image].epsilon,
                score=rows[image].score,
                attacked_score=rows[image].attacked,
                clean=batch.clean[position],
                attacked=batch.attacked[which, position],
            )
            save(example, subject.root / "examples" / f"{subject.name}-{label}-{wanted.index(image)}.npz")


def strongest(strengths: tuple[Strength, ...]) -> int:
    """The place of the largest strength; of aligned ones the last, whatever their unit."""
    return (
        len(strengths) - 1
        if strengths[0].level
        else max(range(len(strengths)), key=lambda i: strengths[i].epsilon or 0)
    )
