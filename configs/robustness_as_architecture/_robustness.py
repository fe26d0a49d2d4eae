"""What the three configs of this folder share: data, attacks, trainings, blocks and their controls, at two scales.

"paper": the published data, sizes and numbers of epochs, for accelerators. "small": the data and weights that a CPU
machine has: CLIVE, of which a fifth of the training images are test images; 100 images of NIPS 2017, resized;
EfficientNet-Lite0 with ImageNet weights, frozen up to ``block10``, its last stage at stride 16 (as ``layer3`` is in a
ResNet). Hardened variants start from the small base instead of from ImageNet weights.
"""

from dataclasses import replace
from typing import Any, Literal

from jaxiqa.config import Adversarial, Attack, Block, Data, Evaluation, NormPenalty, Prune, Training, Variant

Scale = Literal["paper", "small"]

EPSILONS = tuple(n / 255 for n in (2, 4, 6, 8, 10))
DEVIATION = 0.226
"""Mean deviation of ImageNet's normalisation: a step of h in normalised pixels is h · 0.226 in [0, 1]."""

CLIVE = {"test_fraction": 0.2}
SMALL_BACKBONE, SMALL_WEIGHTS, FROZEN = "efficientnet_lite0", "imagenet", "block10"

LOSSES = {"linearity": "norm_in_norm", "koncept512": "mse", "tres": "mse"}

RECIPES = {"linearity": Training(), "koncept512": Training(), "tres": Training()}
"""The published training of each metric: `Metric.recipe`."""


def small(metric: str, epochs: int, **changes: Any) -> Training:
    """Return a training of the scale "small"."""
    usual = {"loss": LOSSES[metric], "batch_size": 32, "freeze": FROZEN, "flip": True}
    usual |= {"learning_rate": 1e-3, "backbone_factor": 0.1, "decay_every": max(1, epochs // 2), "decay_factor": 0.1}
    usual |= {"labels": "standardised", "select": "srocc", "schedule": "steps", "weight_decay": 0.0, "crops": 0}
    return Training(**(usual | {"epochs": epochs} | changes))


def training_data(scale: Scale) -> Data:
    """Return the labelled data set."""
    return Data("koniq10k") if scale == "paper" else Data("clive", options=CLIVE)


def fine_tuning(metric: str, scale: Scale, **paper: Any) -> Training:
    """Return the training after pruning."""
    if scale == "paper":
        return Training(**({"loss": LOSSES[metric]} | paper))
    return small(metric, 3, learning_rate=1e-4, backbone_factor=1.0)


def hardened(metric: str, scale: Scale, block: Block | tuple[Block, ...], **changes: Any) -> Variant:
    """Return a variant with blocks: trained as the base, or at the scale "small" from the base."""
    if scale == "paper":
        return Variant(replace(RECIPES[metric], **changes), block=block)
    return Variant(small(metric, **({"epochs": 5} | changes)), parent="base", block=block)


def regularised(metric: str, scale: Scale, weight: float, step: float) -> Variant:
    """Return NT: the base's training with a penalty on the gradient norm, not scale-free, as published."""
    penalty = NormPenalty(weight, step, scale_free=False)
    if scale == "paper":
        return Variant(replace(RECIPES[metric], norm_penalty=penalty))
    return Variant(small(metric, 2, learning_rate=1e-4, backbone_factor=1.0, norm_penalty=penalty), parent="base")


def attacked(metric: str, scale: Scale, adversarial: Adversarial, **paper: Any) -> Variant:
    """Return AT: the base, trained on attacked images too."""
    if scale == "paper":
        return Variant(replace(RECIPES[metric], adversarial=adversarial, **paper), parent="base")
    return Variant(small(metric, 2, learning_rate=1e-4, backbone_factor=1.0, adversarial=adversarial), parent="base")


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
        data=Data("nips2017"),
        size=size,
        attacks={
            **{f"PGD-{steps}": Attack("pgd", EPSILONS, {"steps": steps}) for steps in (1, 3, 5, 8)},
            "UAP": Attack("uap", (10 / 255,), uap if scale == "paper" else {"epochs": 10}, fit_on=fit),
            "stAdv": Attack("stadv", options={"variant": "benchmark", "score_scale": 100.0}),
        },
        score_range="baseline",
        paper="robustness_as_architecture",
    )
