"""The three set-ups of the defense benchmark that lower labels by LPIPS; the others: `clive_adversarial.py`.

    JAXIQA_DATA=/path/to/data python train.py --config configs/clive_adversarial_lpips.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/clive_adversarial_lpips.py

The benchmark is arXiv:2408.01541. ``--workdir runs/clive_adversarial`` uses the baseline there and writes one table.

Needs, below JAXIQA_DATA: ``weights/lpips_vgg.pth`` (LPIPS' ``lpips/weights/v0.1/vgg.pth``, 7 KB, from
github.com/richzhang/PerceptualSimilarity) and ``weights/vgg16.pth`` (torchvision's VGG-16 for ImageNet).
"""

from dataclasses import replace

from clive_adversarial import EPSILONS, tune
from clive_adversarial import get_config as labels

from jaxiqa.config import Adversarial, Experiment, Network

LPIPS = Network("lpips_vgg", weights="weights/lpips_vgg.pth", backbone_weights="weights/vgg16.pth")


def get_config() -> Experiment:
    experiment = labels()
    lpips = {
        f"lpips_{round(255 * epsilon)}": tune(Adversarial(epsilon, label="lpips", distance=LPIPS))
        for epsilon in EPSILONS
    }
    baseline = {"baseline": experiment.variants["baseline"]}
    return replace(experiment, name="clive_adversarial_lpips", variants=baseline | lpips)
