"""Harden a MobileNetV2 metric on real photographs with human scores, and attack it on other photographs.

    JAXIQA_DATA=/path/to/data python train.py --config configs/clive_mobilenet_v2.py       # 12.6 minutes
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/clive_mobilenet_v2.py    # 28.7 minutes

Times are for two CPU cores. Expect a validation SROCC of 0.831 (baseline) and 0.799 (both others), and AbsGain AUCs
against PGD-8 of 0.66, 0.41 and 0.53. All results are in docs/results_clive.md. Needs, below JAXIQA_DATA: ``clive/``,
``nips2017/`` and ``weights/mobilenet_v2_imagenet.safetensors``.
"""

from jaxiqa.config import Attack, Block, Data, Evaluation, Experiment, Model, Prune, Training, Variant

EPSILONS = tuple(strength / 255 for strength in (2, 4, 8))
BLOCK = Block("after:block12", options={"mid": 40})


def get_config() -> Experiment:
    training = Training(epochs=10, batch_size=32, learning_rate=1e-3, flip=True, decay_every=5, freeze="block12")
    block = Training(epochs=8, batch_size=32, learning_rate=1e-3, flip=True, decay_every=5, freeze="block12")
    tuning = Training(
        epochs=3, batch_size=32, flip=True, learning_rate=1e-4, backbone_factor=1.0, decay_every=2, freeze="block12"
    )
    clive = Data("clive")
    return Experiment(
        name="clive_mobilenet_v2",
        data=clive,
        model=Model("mobilenet_v2", weights="weights/mobilenet_v2_imagenet.safetensors", input_size=(256, 256)),
        variants={
            "baseline": Variant(training),
            "robust_block": Variant(block, parent="baseline", block=BLOCK),
            "robust_block+prune": Variant(tuning, parent="robust_block", prune=Prune(0.1)),
        },
        evaluation=Evaluation(
            data=Data("nips2017"),
            split="val",
            attacks={
                "PGD-1": Attack("pgd", EPSILONS, {"steps": 1}),
                "PGD-8": Attack("pgd", EPSILONS, {"steps": 8}),
                "UAP": Attack("uap", EPSILONS, {"epochs": 4}, fit_on=Data("clive", limit=48)),
                "stAdv": Attack("stadv", options={"steps": 10}),
            },
        ),
    )
