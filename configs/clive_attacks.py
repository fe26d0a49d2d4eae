"""Every attack on one metric at equal visibility: a PSNR of 40, 35 and 30 dB.

    JAXIQA_DATA=/path/to/data python train.py --config configs/clive_attacks.py     # 1.6 minutes
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/clive_attacks.py  # two hours on a busy machine

Three attacks use an ε of 2, 4 and 8 / 255 instead: UAP and FACPA are fitted to ε, and Square returns the clean image,
whose PSNR is infinite, if it finds no better one. cAdv runs at one strength. Steps and queries are few. The times are
for two CPU cores. Results are in docs/results_attacks.md.

The metric is the baseline of `clive_mobilenet_v2.py`: if it is already trained, copy ``baseline/`` from
runs/clive_mobilenet_v2 to runs/clive_attacks. Zhang and cAdv run only if the published weights of their networks are in
``weights/`` below JAXIQA_DATA: ``squeeze.pth`` and ``squeezenet1_1.pth`` (LPIPS), ``siggraph17.pth``.
"""

import os
from dataclasses import replace
from pathlib import Path

from clive_mobilenet_v2 import get_config as hardened

from jaxiqa.config import Align, Attack, Data, Evaluation, Experiment, Network

FIT, BUDGET = Data("clive", limit=48), Align("budget")


def sized(low: float, high: float) -> Align:
    """Align by PSNR; search between the two strengths."""
    return Align("psnr", ladder=(low, high), images=2)


STEPS, QUERIES = {"steps": 10}, {"queries": 300}
EPSILON, STEP = sized(0.004, 0.5), sized(0.0004, 0.1)
ATTACKS = {
    "FGSM": Attack("fgsm", aligned=EPSILON),
    "I-FGSM": Attack("ifgsm", options=STEPS, aligned=EPSILON),
    "PGD": Attack("pgd", options=STEPS, aligned=EPSILON),
    "APGD": Attack("apgd", options=STEPS, aligned=EPSILON),
    "UAP": Attack("uap", options={"epochs": 20}, fit_on=FIT, aligned=BUDGET),
    "FACPA": Attack(
        "facpa",
        options={"epochs": 8, "batch_size": 4},
        networks={"network": Network("facpa_unet")},
        fit_on=FIT,
        aligned=BUDGET,
    ),
    "Korhonen": Attack("korhonen", options=STEPS, aligned=sized(0.002, 1.0)),
    "MADC": Attack("madc", options={"max_rmse": 0.1, **STEPS}, aligned=STEP),
    "SSAH": Attack("ssah", options=STEPS, aligned=sized(0.001, 0.3)),
    "stAdv": Attack("stadv", options=STEPS, aligned=sized(0.005, 5.0)),
    # A gradient in 3,072 dimensions (one 32x32 tile) needs many queries: with 300, NES gained nothing.
    "NES": Attack(
        "nes",
        options={"steps": 100, "pairs": 20, "variant": "benchmark", "step_size": 2.0},
        aligned=sized(0.008, 0.08),
    ),
    "Square": Attack("square", options={"queries": 1000}, aligned=BUDGET),
    "Parsimonious": Attack("parsimonious", options=QUERIES, aligned=EPSILON),
    "One Pixel": Attack("one_pixel", options={"population": 20, "generations": 14}, aligned=sized(2, 500)),
    "Patch-RS": Attack("patch_rs", options=QUERIES, aligned=sized(9, 1500)),
}


def with_networks() -> dict[str, Attack]:
    """Return the attacks whose published weights are available."""
    weights = Path(os.environ.get("JAXIQA_DATA") or "data") / "weights"
    files = {name: weights / f"{name}.pth" for name in ("squeeze", "squeezenet1_1", "siggraph17")}
    found = {}
    if files["squeeze"].exists() and files["squeezenet1_1"].exists():
        lpips = Network("lpips_squeeze", str(files["squeeze"]), str(files["squeezenet1_1"]))
        found["Zhang"] = Attack("zhang", options=STEPS, networks={"distance": lpips}, aligned=STEP)
    if files["siggraph17"].exists():
        colorize = Network("siggraph17", str(files["siggraph17"]))
        found["cAdv"] = Attack("cadv", options={"steps": 20}, networks={"colorize": colorize})
    return found


def get_config() -> Experiment:
    experiment = hardened()
    return replace(
        experiment,
        name="clive_attacks",
        variants={"baseline": experiment.variants["baseline"]},
        evaluation=Evaluation(
            data=Data("nips2017", limit=8),
            size=(256, 256),
            split="val",
            attacks=ATTACKS | with_networks(),
            batch_size=8,
            masking=0,
            examples=1,
        ),
    )
