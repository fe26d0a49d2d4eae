"""Every defense that needs no download, against eight transferred attacks of equal visibility and an adaptive one.

    JAXIQA_DATA=/path/to/data python train.py --config configs/defense_benchmark.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/defense_benchmark.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/defense_benchmark.py --defense my_file.py:MyPurifier

The metrics are those of `clive_mobilenet_v2.py`: if they are already trained, copy ``baseline/`` and ``robust_block/``
from runs/clive_mobilenet_v2 to runs/defense_benchmark. The attacks use 50 of CLIVE's validation photographs at 256×256:
five from each of ten clusters of content, if the cluster has as many. Scores of purified images are compared to their
human scores. Weak, medium and strong are an ε of 2, 4 and 8 / 255, or a PSNR of 40, 35 and 30 dB if an attack has no ε.
The adaptive attack is I-FGSM at medium strength; ``--evaluation.adaptive.attacks I-FGSM APGD`` adds another. It took 80
minutes on two busy CPU cores. Results are in docs/results_defenses.md.

FCN and DnCNN run only if `jaxiqa train-filter` has written ``weights/fcn.safetensors`` and
``weights/dncnn.safetensors`` below JAXIQA_DATA.
"""

import os
from dataclasses import replace
from pathlib import Path

from clive_mobilenet_v2 import get_config as hardened

from jaxiqa.config import (
    Adaptive,
    Align,
    Attack,
    Certifier,
    Data,
    Defense,
    Evaluation,
    Experiment,
    Network,
    Subset,
)

BOUNDED = Align("budget")


def sized(low: float, high: float) -> Align:
    """Align an attack that has a step size and no ε by PSNR; search between the two steps."""
    return Align("psnr", ladder=(low, high))


ATTACKS = {
    "FGSM": Attack("fgsm", aligned=BOUNDED),
    "I-FGSM": Attack("ifgsm", options={"steps": 5}, aligned=BOUNDED),
    "APGD": Attack("apgd", options={"steps": 5}, aligned=BOUNDED),
    "MADC": Attack("madc", options={"steps": 5}, aligned=sized(0.004, 0.016)),
    "Korhonen": Attack("korhonen", options={"steps": 5}, aligned=sized(0.015, 0.15)),
    "SSAH": Attack("ssah", options={"steps": 5}, aligned=sized(0.005, 0.05)),
    "UAP": Attack("uap", options={"epochs": 2}, fit_on=Data("clive", limit=48), aligned=BOUNDED),
    "Square": Attack("square", options={"queries": 60}, aligned=BOUNDED),
}

DEFENSES = {
    "JPEG q50": Defense("jpeg", {"quality": 50}),
    "DiffJPEG q50": Defense("diffjpeg", {"quality": 50}),
    "quantise 16": Defense("color_quantization", {"levels": 16}),
    "resize 0.5": Defense("resize", {"scale": 0.5}),
    "upscale 0.5": Defense("upscale", {"scale": 0.5}),
    "rotate ±15°": Defense("rotate", {"limit": 15.0}),
    "crop 128": Defense("crop", {"size": 128}),
    "flip": Defense("flip"),
    "blur 3": Defense("gaussian_blur", {"kernel_size": 3}),
    "median 3": Defense("median_blur", {"kernel_size": 3}),
    "unsharp 3": Defense("unsharp", {"kernel_size": 3}),
    "noise 0.025": Defense("random_noise", {"sigma": 0.025}),
}


def trained() -> dict[str, Defense]:
    """Return the filters whose trained weights are available."""
    weights = Path(os.environ.get("JAXIQA_DATA") or "data") / "weights"
    files = {"FCN": weights / "fcn.safetensors", "DnCNN": weights / "dncnn.safetensors"}
    return {
        label: Defense(label.lower(), networks={"network": Network(label.lower(), weights=str(path))})
        for label, path in files.items()
        if path.exists()
    }


def get_config() -> Experiment:
    experiment = hardened()
    variants = {name: experiment.variants[name] for name in ("baseline", "robust_block")}
    smoothing = {"attacks": ("I-FGSM",), "images": 10}
    return replace(
        experiment,
        name="defense_benchmark",
        variants=variants,
        evaluation=Evaluation(
            data=Data("clive"),
            attacked_split="val",
            subset=Subset(50),
            size=(256, 256),
            split="val",
            attacks=ATTACKS,
            batch_size=10,
            masking=0,
            examples=1,
            defenses=DEFENSES | trained(),
            adaptive=Adaptive(("I-FGSM",), strengths="middle", draws=2),
            certifiers={
                "RS": Certifier("rs", {"n": 200, "n0": 50}, **smoothing),
                "MS": Certifier("ms", {"n": 200}, **smoothing),
            },
        ),
    )
