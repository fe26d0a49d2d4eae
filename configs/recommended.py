"""The recommended hardening of a trained metric: its scores and their order survive perturbations that nobody can see.

    JAXIQA_DATA=/path/to/data python train.py --config configs/recommended.py     # of jaxiqa-base
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/recommended.py
    JAXIQA_DATA=/path/to/data python train.py --config configs/recommended.py --weights RUN_FOLDER --backbone resnet50

Small details of images are removed, the activations become smooth (`jaxiqa.models.harden_recommended` does both in
Python), and the metric learns from attacked images: `jaxiqa.config.recommended_training` says how. ``--weights`` names
any metric that was trained on the same images of CLIVE: one that comes with the package, or the folder of a run
(relative paths are below $JAXIQA_DATA). Give its ``--metric``, ``--backbone`` and ``--model.input-size``. On images of
your own: docs/own_data.md.

Needs ``clive/``. An epoch takes two minutes on one CPU core.
"""

from jaxiqa.config import (
    Attack,
    Data,
    Evaluation,
    Experiment,
    Model,
    Ranks,
    Saved,
    Variant,
    recommended_training,
)

EPSILONS = tuple(n / 255 for n in (0.5, 1, 2, 4))


def get_config(
    weights: str = "jaxiqa-base", metric: str = "linearity", backbone: str = "efficientnet_lite0", epochs: int = 16
) -> Experiment:
    clive = Data("clive", options={"test_fraction": 0.2})
    return Experiment(
        name="recommended",
        data=clive,
        model=Model(backbone, weights=weights, input_size=(256, 256), metric=metric),
        variants={
            "base": Saved(weights),
            "robust": Variant(
                recommended_training("base", epochs=epochs),
                filter=4 / 255,
                activation="smooth",
                head_activation="smooth",
            ),
        },
        evaluation=Evaluation(
            data=Data("clive", limit=24, options=clive.options),
            attacks={"PGD-8": Attack("pgd", EPSILONS, {"steps": 8})},
            size=(256, 256),
            ranks=Ranks(epsilons=EPSILONS[:2], images=24, queries=0),
        ),
    )
