"""Evaluate an experiment: each trained variant through all stages, then the reports."""

if __name__ == "__main__":  # before the slow imports below, during which Ctrl-C may come
    from jaxiqa.core.interrupts import quiet

    quiet()

import itertools
from contextlib import ExitStack

from jaxiqa.config import Experiment, root_folder, run_folder
from jaxiqa.core.devices import device_name
from jaxiqa.core.files import check_folder, locked, remove_leftovers
from jaxiqa.core.workers import Compute, alone
from jaxiqa.evaluation.attack_stage import run_attacks
from jaxiqa.evaluation.build_defense import check_size
from jaxiqa.evaluation.certify_stage import certify_all
from jaxiqa.evaluation.clean_stage import check_gradients, predict
from jaxiqa.evaluation.defense_stage import defend_all
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.evaluation.fingerprint import FOLDERS, check_same_evaluation
from jaxiqa.evaluation.images import checked, fitted_on, load_attacked, load_split
from jaxiqa.evaluation.rank_stage import RankPlan, attack_order
from jaxiqa.evaluation.startup import check_evaluation_start
from jaxiqa.evaluation.work import Work
from jaxiqa.evaluation.write import write_reports
from jaxiqa.reports.attacks.folds import Numbers
from jaxiqa.results.store import Store
from jaxiqa.train.startup import check_training


def evaluate_experiment(experiment: Experiment, compute: Compute = alone) -> Numbers:
    """Check everything, attack and defend every variant, write rows and reports, and return the numbers of the tables.

    Args:
        experiment: the experiment.
        compute: computes what needs a model; this process then reads images, decides what is missing and writes.

    Raises:
        FileNotFoundError: a variant is not trained yet.
        ValueError: the config has faults, or the folder holds rows of another evaluation.
    """
    evaluation = experiment.evaluation
    check_training(experiment)
    check_evaluation_start(experiment)
    root, runs = root_folder(experiment), list(itertools.product(experiment.seeds, experiment.variants))
    for seed, name in runs:
        if not run_folder(experiment, name, seed).is_dir():
            folder = run_folder(experiment, name, seed)
            raise FileNotFoundError(f"{folder} does not exist; train first, with train.py and the same arguments")
    check_folder(root)
    split = load_split(experiment.data, evaluation.split)
    labelled_images = checked(split, uniform=experiment.model.input_size is None)
    attacked_images = load_attacked(evaluation)
    digests = {"labelled images": labelled_images.sha256, "attacked images": attacked_images.sha256}
    for label, attack in evaluation.attacks.items():
        if attack.fit_on:
            digests[f"images of attack {label}"] = fitted_on(label, attack, attacked_images)
    labelled, attacked = labelled_images.split, attacked_images.split
    defending = bool(evaluation.defenses or evaluation.certifiers)
    with ExitStack() as locks:
        # Read nothing from the folders before they are locked; a model may still be in training.
        for folder in (root, *(run_folder(experiment, name, seed) for seed, name in runs)):
            locks.enter_context(locked(folder))
        for name in FOLDERS:
            remove_leftovers(root / name)
        check_same_evaluation(experiment, digests)
        size, store = attacked.read(0).shape[:2], Store(root)
        models = [
            EvaluatedModel(name, seed, root, run_folder(experiment, name, seed), size, evaluation.batch_size, store)
            for seed, name in runs
        ]
        for evaluated in models:
            for _ in compute(_check_size, Work(evaluated, evaluation, attacked), evaluation.defenses):
                pass  # it would be an error
            predict(evaluated, labelled, experiment.model.input_size, compute)
            check_gradients(evaluated, attacked, evaluation.masking, compute)
            if evaluation.ranked:
                others = [other for other in models if other.seed == evaluated.seed and other is not evaluated]
                plan = RankPlan(labelled, experiment.model.input_size, evaluation.ranked)
                attack_order(evaluated, others, plan, compute)
            run_attacks(
                evaluated,
                evaluation,
                attacked,
                store=defending or evaluation.save_images,
                examples=evaluation.examples if evaluated.seed == experiment.seeds[0] else 0,
                compute=compute,
            )
            if evaluation.defenses:
                defend_all(evaluated, evaluation, attacked, compute)
            certify_all(evaluated, evaluation, attacked, compute)
        (device,) = compute(_device, None, [None])
        return write_reports(experiment, labelled, attacked, store, device=device)


def _check_size(work: Work, label: str) -> None:
    check_size(work.evaluated, label, work.purifier(label))


def _device(job: None, unit: None) -> str:
    return device_name()
