"""The recommended hardening of a trained metric, as a training: what ``configs/recommended.py`` runs."""

from jaxiqa.config.additions import Adversarial, SoftLabels
from jaxiqa.config.training import Training

RADIUS = 1.5 / 255
"""Largest radius of the attacks in training, in [0, 1] pixel units."""


def recommended_training(
    teacher: str, *, epochs: int = 16, radius: float = RADIUS, crop: tuple[int, int] = (192, 192)
) -> Training:
    """Return the training of a variant that starts from a trained metric with smooth activations.

    The metric sees attacked images alone. One step of PGD from a random start raises the score of a random half of the
    images and lowers the others, so that the direction of a change tells nothing about the label; each change is then
    multiplied by a random number from 1/4 to 1. The label is 3/4 the score that the teacher gives to the clean crop and
    1/4 the human one. The last epoch is kept, of a moving average of the weights.

    Args:
        teacher: an earlier variant: the metric before it was hardened.
        epochs: passes over the training images.
        radius: of the attacks, in [0, 1] pixel units, in the Linf norm.
        crop: (height, width) of the crops that are trained on, at most the size of the images.

    Reference: adversarial training of "Towards Deep Learning Models Resistant to Adversarial Attacks",
    arXiv:1706.06083, with the single random step of "Fast is better than free", arXiv:2001.03994, and the clean teacher
    of "Adversarially Robust Distillation", arXiv:1905.09747.

    >>> recommended_training("base", epochs=3).adversarial.target
    'either'
    """
    attack = Adversarial(
        radius,
        "pgd",
        {"steps": 1, "step_size": 1.25 * radius},
        label="unchanged",
        target="either",
        clean=False,
        weakest=0.25,
    )
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
        crop=crop,
        patches=1,
        average=0.995,
        select="last",
        adversarial=attack,
        soft_labels=SoftLabels(0.75, teacher),
    )
