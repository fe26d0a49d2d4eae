"""The recommended hardening of a trained metric: its scores and their order survive perturbations that nobody can see.

    JAXIQA_DATA=/path/to/data python train.py --config configs/recommended.py                  # of jaxiqa-base
    JAXIQA_DATA=/path/to/data python train.py --config configs/recommended.py --weights RUN_FOLDER --data.options ...
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/recommended.py

The activations become smooth. Then the metric learns from attacked images alone: one step of PGD from a random start
raises the score of a random half of the images and lowers the others; the label is mostly the score that the metric
itself gave to the clean image. The last epoch is kept, of a moving average of the weights. For a metric over another
backbone, name it by ``--model.backbone`` and ``--model.metric``, its size by ``--model.input-size``, and choose a
smooth form of its activations by ``--variants.robust.activation``.

Needs ``clive/``.
"""

from jaxiqa.config import (
    Adversarial,
    Attack,
    Data,
    Distil,
    Evaluation,
    Experiment,
    Model,
    Ranks,
    Saved,
    Training,
    Variant,
)

RADIUS = 2 / 255
EPSILONS = tuple(n / 255 for n in (0.5, 1, 2, 4))


def hardening(epochs: int) -> Training:
    """Return the training of the robust variant."""
    return Training(
        epochs=epochs,
        batch_size=16,
        loss="norm_in_norm",
        labels="standardised",
        learning_rate=2e-4,
        backbone_factor=1.0,
        schedule="cosine",
        warmup=0.5,
        weight_decay=0.0,
        batch_norm="frozen",
        flip=True,
        crops=1,
        crop=(192, 192),
        patches=1,
        average=0.995,
        select="last",
        adversarial=Adversarial(
            RADIUS,
            "pgd",
            {"steps": 1, "step_size": 1.25 * RADIUS},
            label="unchanged",
            target="either",
            clean=False,
            weakest=0.25,
        ),
        distil=Distil(0.75, teacher="base", labelled=True),
    )


def get_config(weights: str = "jaxiqa-base", epochs: int = 12) -> Experiment:
    clive = Data("clive", options={"test_fraction": 0.2})
    return Experiment(
        name="recommended",
        data=clive,
        model=Model("efficientnet_lite0", weights=weights, input_size=(256, 256)),
        variants={
            "base": Saved(weights),
            "robust": Variant(hardening(epochs), activation="smooth_relu6", head_activation="softplus"),
        },
        evaluation=Evaluation(
            data=Data("clive", limit=24, options=clive.options),
            attacks={"PGD-8": Attack("pgd", EPSILONS, {"steps": 8})},
            size=(256, 256),
            ranks=Ranks(epsilons=EPSILONS, images=32, queries=0),
        ),
    )
