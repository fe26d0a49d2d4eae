"""The smallest complete experiment: it runs every part once, in about a minute. Its numbers have no meaning.

python train.py --config configs/smoke.py && python evaluate.py --config configs/smoke.py
"""

from jaxiqa.config import (
    Adaptive,
    Align,
    Attack,
    Block,
    Certifier,
    Data,
    Defense,
    Evaluation,
    Experiment,
    Model,
    Prune,
    Ranks,
    Training,
    Variant,
)


def get_config() -> Experiment:
    data = Data("builtin", options={"size": (33, 47), "train": 64, "val": 32, "test": 32})
    training = Training(epochs=2, learning_rate=1e-3, flip=True, batch_size=16, backbone_factor=1.0)
    return Experiment(
        name="smoke",
        data=data,
        model=Model("resnet18", width=8),
        variants={
            "baseline": Variant(training),
            "hardened": Variant(
                training, parent="baseline", block=Block("after:layer3", options={"mid": 8}), prune=Prune(0.1)
            ),
        },
        evaluation=Evaluation(
            data=Data("builtin", limit=4, options=data.options),
            attacks={
                "PGD-1": Attack("pgd", (2 / 255, 8 / 255), {"steps": 1}),
                "FGSM": Attack("fgsm", aligned=Align("linf", images=2)),
                "UAP": Attack("uap", (8 / 255,), {"epochs": 1}, fit_on=Data("builtin", limit=8, options=data.options)),
                "stAdv": Attack("stadv", options={"steps": 2}),
            },
            batch_size=4,
            examples=1,
            ranks=Ranks((1 / 255, 4 / 255), images=8, queries=20),
            defenses={
                "flip": Defense("flip"),
                "noise": Defense("random_noise", preset=1),
            },
            adaptive=Adaptive(attacks=("FGSM",), draws=2),
            certifiers={"MS": Certifier("ms", {"n": 40, "alpha": 0.1}, images=2)},
        ),
    )
