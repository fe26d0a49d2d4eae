"""What the three configs of this folder share: data, attacks, trainings, blocks and their controls, at two scales.

"paper": the published data, sizes and numbers of epochs, for accelerators. "small": the data and weights that a CPU
machine has: CLIVE, of which a fifth of the training images are test images; 32 images of NIPS 2017; all resized to
256×256, and crops of 224×224 for training; EfficientNet-Lite0 with ImageNet weights. Hardened variants start from the
small base instead of from ImageNet weights, and keep its stages before the block: up to ``block10``, its last stage at
stride 16 (as ``layer3`` is in a ResNet).
"""

from dataclasses import replace
from typing import Any, Literal

from jaxiqa.config import Adversarial, Attack, Block, Data, Evaluation, Model, NormPenalty, Prune, Training, Variant

Scale = Literal["paper", "small"]

EPSILONS = tuple(n / 255 for n in (2, 4, 6, 8, 10))
DEVIATION = 0.226
"""Mean deviation of ImageNet's normalisation: a step of h in normalised pixels is h · 0.226 in [0, 1]."""

CLIVE = {"test_fraction": 0.2}
FROZEN = "block10"
SMALL_SIZE, CROP = (256, 256), (224, 224)
IMAGES = 32
"""Number of attacked images at the scale "small"."""

LOSSES = {"linearity": "norm_in_norm", "koncept512": "mse", "tres": "mse"}
PUBLISHED = Training()
"""The published training of each metric: `Metric.recipe`."""


def small_model(metric: str, **options: Any) -> Model:
    """Return the head over EfficientNet-Lite0."""
    return Model("efficientnet_lite0", weights="imagenet", input_size=SMALL_SIZE, metric=metric, options=options)


def small(epochs: int, **changes: Any) -> Training:
    """Return a training of the scale "small", of all stages.

    The loss is norm-in-norm: with the squared error, KonCept's deep head reaches a validation SROCC of .61 after 12
    epochs on 657 images. TReS has a loss of its own (`configs/robustness_as_architecture/tres.py`).
    """
    usual = {"loss": "norm_in_norm", "batch_size": 16, "flip": True, "crops": 1, "crop": CROP, "patches": 1}
    usual |= {"learning_rate": 1e-3, "backbone_factor": 0.2, "schedule": "cosine", "warmup": 1.0}
    usual |= {"labels": "standardised", "select": "srocc", "weight_decay": 0.0}
    return Training(**(usual | {"epochs": epochs} | changes))


def base(scale: Scale, **tuned: Any) -> Variant:
    """Return the metric that the others are compared with; ``tuned`` changes its training at the scale "small"."""
    return Variant(PUBLISHED if scale == "paper" else small(12, average=0.99, **tuned))


def gentle(epochs: int, **changes: Any) -> Training:
    """Return a training of the scale "small" that goes on from a trained metric."""
    return small(epochs, **({"learning_rate": 1e-4, "backbone_factor": 1.0} | changes))


def training_data(scale: Scale) -> Data:
    """Return the labelled data set."""
    return Data("koniq10k") if scale == "paper" else Data("clive", options=CLIVE)


def fine_tuning(metric: str, scale: Scale, **paper: Any) -> Training:
    """Return the training after pruning."""
    if scale == "paper":
        return Training(**({"loss": LOSSES[metric]} | paper))
    return gentle(2, freeze=FROZEN)


def hardened(
    scale: Scale, block: Block | tuple[Block, ...], *, tuned: dict[str, Any] | None = None, **changes: Any
) -> Variant:
    """Return a variant with blocks: trained as the base, or at the scale "small", with ``tuned``, from the base."""
    if scale == "paper":
        return Variant(replace(PUBLISHED, **changes), block=block)
    usual = {"epochs": 3, "freeze": FROZEN}
    return Variant(small(**(usual | changes | (tuned or {}))), parent="base", block=block)


def regularised(scale: Scale, weight: float, step: float, **tuned: Any) -> Variant:
    """Return NT: the base's training with a penalty on the gradient norm, not scale-free, as published."""
    penalty = NormPenalty(weight, step, scale_free=False)
    if scale == "paper":
        return Variant(replace(PUBLISHED, norm_penalty=penalty))
    return Variant(gentle(2, norm_penalty=penalty, **tuned), parent="base")


def attacked(scale: Scale, adversarial: Adversarial, *, tuned: dict[str, Any] | None = None, **paper: Any) -> Variant:
    """Return AT: the base, trained on attacked images too; ``tuned`` is for the scale "small"."""
    if scale == "paper":
        return Variant(replace(PUBLISHED, adversarial=adversarial, **paper), parent="base")
    return Variant(gentle(2, adversarial=adversarial, **(tuned or {})), parent="base")


def one_step(epsilon: float, step: float, label: str, target: str) -> Adversarial:
    """Return the attack of AT: one step from a random start; arguments in 255ths."""
    return Adversarial(epsilon / 255, "pgd", {"steps": 1, "step_size": step / 255}, label=label, target=target)


def pruned(parent: str, training: Training, criterion: str = "l2") -> Variant:
    """Return a variant of which a tenth is pruned and the rest fine-tuned."""
    return Variant(training, parent=parent, prune=Prune(0.1, criterion))


def robust(where: str, **options: Any) -> Block:
    """Return the paper's block."""
    return Block(where, options={"pool": "square", "padding": "VALID", "unitary": "cayley"} | options)


def control(block: Block) -> Block:
    """Return the bottleneck with the block's place, channels and sizes, without orthogonality."""
    options = {name: value for name, value in block.options.items() if name != "unitary"}
    return replace(block, kind="bottleneck", options=options)


def evaluation(scale: Scale, size: tuple[int, int] | None, uap: dict[str, Any]) -> Evaluation:
    """Return the attacks of the paper.

    Args:
        scale: "paper" or "small".
        size: of the attacked images; None: 299×299, their own.
        uap: options of the universal perturbation at the scale "paper".
    """
    fit = training_data(scale)
    fit = replace(fit, limit=1000 if scale == "paper" else 48)
    return Evaluation(
        data=Data("nips2017", limit=None if scale == "paper" else IMAGES),
        size=size,
        attacks={
            **{f"PGD-{steps}": Attack("pgd", EPSILONS, {"steps": steps}) for steps in (1, 3, 5, 8)},
            "UAP": Attack("uap", (10 / 255,), uap if scale == "paper" else {"epochs": 10}, fit_on=fit),
            "stAdv": Attack("stadv", options={"variant": "benchmark", "score_scale": 100.0}),
        },
        score_range="baseline",
        paper="robustness_as_architecture",
    )
