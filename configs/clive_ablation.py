"""Ablation of the hardening on real photographs: each part alone, with three seeds.

    JAXIQA_DATA=/path/to/data python train.py --config configs/clive_ablation.py
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/clive_ablation.py

The images are resized to 192x256, about the aspect ratio of the paper's 498x664, so that pooling to a square has an
effect. All variants start from the baseline of their seed and train equally long.
"""

from jaxiqa.config import Attack, Block, Data, Evaluation, Experiment, Model, Prune, Training, Variant

EPSILONS = tuple(strength / 255 for strength in (2, 4, 8))


def insert(kind: str = "robust_block", *, trainable: bool = True, **options) -> Variant:
    """Return the baseline with a block after its frozen part, trained for five epochs."""
    training = Training(epochs=5, learning_rate=1e-3, flip=True, batch_size=32, decay_every=3, freeze="block12")
    return Variant(
        training, parent="baseline", block=Block("after:block12", kind, options=options, trainable=trainable)
    )


def get_config() -> Experiment:
    training = Training(epochs=8, learning_rate=1e-3, flip=True, batch_size=32, decay_every=4, freeze="block12")
    tuning = Training(
        epochs=3, flip=True, batch_size=32, learning_rate=1e-4, backbone_factor=1.0, decay_every=2, freeze="block12"
    )

    return Experiment(
        name="clive_ablation",
        data=Data("clive"),
        model=Model("mobilenet_v2", weights="weights/mobilenet_v2_imagenet.safetensors", input_size=(192, 256)),
        variants={
            "baseline": Variant(training),
            "robust_block": insert(mid=40),
            "frozen_block": insert(mid=40, trainable=False),
            "bottleneck": insert("bottleneck", mid=40),
            "square_pool": insert("square_pool"),
            "prune": Variant(tuning, parent="baseline", prune=Prune(0.1)),
        },
        seeds=(0, 1, 2),
        evaluation=Evaluation(
            data=Data("nips2017", limit=16),
            split="val",
            attacks={
                "PGD-1": Attack("pgd", EPSILONS, {"steps": 1}),
                "PGD-8": Attack("pgd", EPSILONS, {"steps": 8}),
            },
        ),
    )
