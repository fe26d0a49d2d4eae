"""Attack the trained variants of an experiment and write its tables, plots and report.

Writes WORKDIR/results.jsonl (one row per image, model, attack and strength), then table.csv, table.md, the plots,
the example sheet and report.html. Kill it whenever you like: the same command goes on and repeats nothing. Rows of
models that were trained anew in the meantime are refused, not mixed.
"""

import itertools
import json
import shlex
import sys
import time
from dataclasses import asdict

from jaxiqa.config import Attack, Experiment, check_experiment, from_command_line, root_folder, run_folder


def main() -> None:
    experiment = from_command_line(__doc__)
    check_experiment(experiment)
    from jaxiqa import data
    from jaxiqa.files import locked
    from jaxiqa.terminal import console, start_jax

    start_jax()
    began = time.perf_counter()
    check_same_evaluation(experiment)
    labelled = load_split(experiment.data, experiment.evaluation.split)
    attacked = load_split(experiment.evaluation.data, "test")
    data.validate(labelled, uniform=experiment.model.input_size is None)
    data.validate(attacked, uniform=True)
    with locked(root_folder(experiment)):
        for seed, name in itertools.product(experiment.seeds, experiment.variants):
            predict(experiment, name, seed, labelled)
            check_gradients(experiment, name, seed, attacked)
            attack(experiment, name, seed, attacked)
        write_reports(experiment, labelled)
    console.print(f"evaluated in {(time.perf_counter() - began) / 60:.1f} minutes")


def load_split(chosen, part: str):
    """One split of a data set, or an error that lists those there are."""
    from jaxiqa import data

    splits = data.load(chosen.name, source=chosen.source, limit=chosen.limit, **chosen.options)
    if part not in splits:
        raise ValueError(f"data set {chosen.name!r} has no split {part!r}, only {', '.join(splits)}")
    return splits[part]


def check_same_evaluation(experiment: Experiment) -> None:
    """Refuse to mix rows: the models, images and attacks of earlier rows must be those of today."""
    from jaxiqa.files import write_text

    root = root_folder(experiment)
    described = {f"attack {label}": asdict(attack) for label, attack in experiment.evaluation.attacks.items()}
    described["attacked images"] = asdict(experiment.evaluation.data)
    described["labelled images"] = [asdict(experiment.data), experiment.evaluation.split]
    for seed in experiment.seeds:
        for name in experiment.variants:
            card = run_folder(experiment, name, seed) / "model.json"
            if not card.exists():
                raise SystemExit(f"{card} does not exist; train first, with train.py and the same arguments")
            described[f"model {name} seed {seed}"] = json.loads(card.read_text())["sha256"]
    described = json.loads(json.dumps(described))
    path = root / "evaluation.json"
    earlier = json.loads(path.read_text()) if path.exists() else {}
    changed = [key for key in described if key in earlier and earlier[key] != described[key]]
    if changed:
        raise SystemExit(
            f"{root}/results.jsonl belongs to another evaluation ({', '.join(changed)} changed); "
            f"delete evaluation.json, {', '.join(FILES.values())}, fitted/, images/ and examples/ there"
        )
    write_text(path, json.dumps(earlier | described, indent=1))


def predict(experiment: Experiment, name: str, seed: int, labelled) -> None:
    """Score the labelled images once: rows of predictions.jsonl, and the model's own row of models.jsonl."""

    from jaxiqa import models
    from jaxiqa.evaluation import score_split
    from jaxiqa.reports.rows import append_rows, read_rows
    from jaxiqa.types import ModelRow, PredictionRow

    root, folder = root_folder(experiment), run_folder(experiment, name, seed)
    if any((row.model, row.seed) == (name, seed) for row in read_rows(root / "models.jsonl", ModelRow)):
        return
    done = {
        row.image
        for row in read_rows(root / "predictions.jsonl", PredictionRow)
        if (row.model, row.seed) == (name, seed)
    }
    model = models.load_run(folder)
    size = experiment.model.input_size
    score_fn = models.score_fn(model, size or labelled[0]["image"].shape[:2])
    scores, seconds = score_split(score_fn, labelled, batch_size=experiment.evaluation.batch_size or 8, size=size)
    pairs = zip(labelled.ids, labelled.mos, scores, strict=True)
    rows = [
        PredictionRow(image, name, seed, float(mos), float(score)) for image, mos, score in pairs if image not in done
    ]
    append_rows(root / "predictions.jsonl", rows)
    training = json.loads((folder / "training.json").read_text())
    low, high = model.score_range
    row = ModelRow(
        model=name,
        seed=seed,
        parameters=training["parameters"],
        score_low=low,
        score_high=high,
        validation_srocc=training["validation_srocc"],
        seconds_per_epoch=training["seconds_per_epoch"],
        seconds_per_test=seconds,
        test_images=len(labelled),
    )
    append_rows(root / "models.jsonl", [row])


def attack(experiment: Experiment, name: str, seed: int, attacked) -> None:
    """Every attack at every strength on every image: rows of results.jsonl, and a few pictures to look at."""
    from jaxiqa import models
    from jaxiqa.attacks.memory import fitting_batch
    from jaxiqa.evaluation import attack_runner, attack_split
    from jaxiqa.reports.rows import append_rows, read_rows
    from jaxiqa.terminal import console, progress_bar
    from jaxiqa.types import ResultRow

    root = root_folder(experiment)
    rows = [row for row in read_rows(root / "results.jsonl", ResultRow) if (row.model, row.seed) == (name, seed)]
    score_fn = None
    for label, chosen in experiment.evaluation.attacks.items():
        strengths = chosen.epsilons or (None,)
        done = {(row.image, row.epsilon) for row in rows if row.attack == label}
        if done.issuperset((image, strength) for image in attacked.ids for strength in strengths):
            continue
        if score_fn is None:
            model = models.load_run(run_folder(experiment, name, seed))
            score_fn = models.score_fn(model, attacked[0]["image"].shape[:2])
            batch_size = experiment.evaluation.batch_size
            if batch_size is None:
                batch_size = fitting_batch(score_fn, attacked[0]["image"].shape)
                console.print(f"{name} seed {seed}: {batch_size} pictures at a time fit into memory", highlight=False)
        fitted = fitted_attacks(experiment, name, seed, label, chosen, score_fn, attacked)
        options = chosen.options if fitted else chosen.options | load_networks(chosen)
        runner = attack_runner(chosen.name, options, chosen.epsilons, score_fn, fitted)
        batches = attack_split(
            runner,
            score_fn,
            attacked,
            model=name,
            seed=seed,
            attack=label,
            epsilons=chosen.epsilons,
            batch_size=batch_size,
            done=done,
        )
        with progress_bar(f"{name} seed {seed}: {label}", "images") as bar:
            finished = 0
            for batch in batches:
                keep_examples(experiment, name, seed, label, batch, attacked)  # before the rows that say it is done
                if experiment.evaluation.save_images:
                    keep_images(root / "images" / f"{name}-seed{seed}" / label, strengths, batch)
                append_rows(root / "results.jsonl", batch.rows)
                finished += len(batch.ids)
                bar(finished, len(attacked), "")


def check_gradients(experiment: Experiment, name: str, seed: int, attacked) -> None:
    """Look for signs of masked gradients on the first few images: rows of masking.jsonl."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxiqa import models
    from jaxiqa.attacks import check_masking
    from jaxiqa.reports.rows import append_rows, read_rows
    from jaxiqa.terminal import console
    from jaxiqa.types import MaskingRow

    path, count = root_folder(experiment) / "masking.jsonl", experiment.evaluation.masking
    if not count or any((row.model, row.seed) == (name, seed) for row in read_rows(path, MaskingRow)):
        return
    model = models.load_run(run_folder(experiment, name, seed))
    score_fn = models.score_fn(model, attacked[0]["image"].shape[:2])
    pictures = [attacked[i]["image"] for i in range(min(count, len(attacked)))]
    images = jnp.asarray(np.stack(pictures), jnp.float32) / 255
    with console.status(f"{name} seed {seed}: checking for masked gradients"):
        checks = check_masking(score_fn, images, jax.random.key(seed), queries=100)
    rows = [MaskingRow(name, seed, c.name, c.value, c.limit, c.flagged, c.remedy if c.flagged else "") for c in checks]
    append_rows(path, rows)


def keep_images(folder, strengths, batch) -> None:
    """Every attacked image as an 8-bit PNG: FOLDER/STRENGTH/IMAGE.png."""
    from urllib.parse import quote

    import numpy as np
    from PIL import Image

    for strength, pictures in zip(strengths, batch.attacked, strict=True):
        place = folder / ("attack" if strength is None else f"{strength:.6f}")
        place.mkdir(parents=True, exist_ok=True)
        for image, pixels in zip(batch.ids, pictures, strict=True):
            Image.fromarray(np.round(pixels * 255).astype(np.uint8)).save(place / f"{quote(image, safe='')}.png")


def fitted_attacks(
    experiment: Experiment, name: str, seed: int, label: str, chosen: Attack, score_fn, attacked
) -> list:
    """For an attack that learns from other images: fit it once per strength, and keep what it learnt."""
    if chosen.fit_on is None:
        return []
    import jax
    import jax.numpy as jnp
    import numpy as np

    from jaxiqa import attacks, data
    from jaxiqa.data.pipeline import scoring_batches
    from jaxiqa.terminal import progress_bar

    others = load_split(chosen.fit_on, chosen.fit_split)
    data.validate(others)
    size = attacked[0]["image"].shape[:2]
    folder = root_folder(experiment) / "fitted" / f"{name}-seed{seed}-{label}"
    images, fitted, networks = None, [], load_networks(chosen)
    kind = attacks.FITTED[chosen.name]
    with progress_bar(f"{name} seed {seed}: fitting {label}", "strengths") as bar:
        for number, epsilon in enumerate(chosen.epsilons):
            path = folder / f"{epsilon:.6f}.safetensors"
            if not path.exists():
                if images is None:
                    batches = scoring_batches(others, experiment.evaluation.batch_size or 8, size=size)
                    images = jnp.asarray(np.concatenate([batch[:valid] for batch, valid, _ in batches]))
                options = {"epsilon": epsilon} | chosen.options | networks
                kind.save(kind.fit(score_fn, images, jax.random.key(seed), **options), path)
            fitted.append(kind.load(path, **networks))
            bar(number + 1, len(chosen.epsilons), "")
    return fitted


def load_networks(chosen: Attack) -> dict:
    """The networks an attack is given, by option."""
    from jaxiqa.models import auxiliary

    found = {}
    for option, network in chosen.networks.items():
        if network.weights is None:
            found[option] = auxiliary.build(network.name)
        else:
            files = {"weights": network.weights, "backbone_weights": network.backbone_weights}
            found[option] = auxiliary.load(network.name, **files)
    return found


def keep_examples(experiment: Experiment, name: str, seed: int, label: str, batch, attacked) -> None:
    """Keep the first few attacked images of the first seed, at the largest strength."""
    from jaxiqa.reports.examples import Example, save

    if seed != experiment.seeds[0]:
        return
    strengths = experiment.evaluation.attacks[label].epsilons or (None,)
    strongest = max(range(len(strengths)), key=lambda i: strengths[i] or 0)
    rows = {row.image: row for row in batch.rows if row.epsilon == strengths[strongest]}
    for position, image in enumerate(batch.ids):
        if image in attacked.ids[: experiment.evaluation.examples] and image in rows:
            example = Example(
                image=image,
                model=name,
                attack=label,
                epsilon=strengths[strongest],
                score=rows[image].score,
                attacked_score=rows[image].attacked,
                clean=batch.clean[position],
                attacked=batch.attacked[strongest, position],
            )
            number = attacked.ids.index(image)
            save(example, root_folder(experiment) / "examples" / f"{name}-{label}-{number}.npz")


def write_reports(experiment: Experiment, labelled) -> None:
    """Tables, plots and report.html from the rows of this experiment's models, seeds and attacks."""
    from jaxiqa.reports import write_report
    from jaxiqa.reports.examples import load
    from jaxiqa.reports.rows import read_rows
    from jaxiqa.reports.summary import summarise
    from jaxiqa.reports.table import notes, render
    from jaxiqa.terminal import console, device_name
    from jaxiqa.types import MaskingRow, ModelRow, PredictionRow, ResultRow

    root, evaluation = root_folder(experiment), experiment.evaluation
    names, seeds = list(experiment.variants), experiment.seeds

    def mine(kind: type) -> list:
        return [
            row for row in read_rows(root / f"{FILES[kind.__name__]}", kind) if row.model in names and row.seed in seeds
        ]

    models = sorted(mine(ModelRow), key=lambda row: (names.index(row.model), row.seed))
    results = [row for row in mine(ResultRow) if row.attack in evaluation.attacks]
    order = list(evaluation.attacks)
    results.sort(key=lambda row: order.index(row.attack))
    summary = summarise(
        results,
        mine(PredictionRow),
        models,
        score_range=evaluation.score_range,
        mos_range=labelled.mos_range,
        masking=mine(MaskingRow),
    )
    paths = [
        root / "examples" / f"{name}-{label}-{number}.npz"
        for number in range(evaluation.examples)
        for label in evaluation.attacks
        for name in (names[0], names[-1])
    ]
    examples = [load(path) for path in dict.fromkeys(paths) if path.exists()]
    facts = {
        "command": shlex.join(["python", *sys.argv]),
        "device": device_name(),
        "date": time.strftime("%Y-%m-%d"),
        "labelled pictures": labelled.name,
        "attacked pictures": evaluation.data.name,
    }
    page = write_report(root, summary, examples, title=experiment.name, facts=facts)
    console.print(render(summary))
    for note in notes(summary):
        console.print(f"[dim]{note}[/]", highlight=False)
    console.print(f"report: {page}")


FILES = {
    "ResultRow": "results.jsonl",
    "PredictionRow": "predictions.jsonl",
    "ModelRow": "models.jsonl",
    "MaskingRow": "masking.jsonl",
}


if __name__ == "__main__":
    from jaxiqa.terminal import explained

    with explained():
        main()
