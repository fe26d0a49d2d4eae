"""A metric with a certificate: Lipschitz IQA on CLIVE, taught by human scores and by a trained metric.

    JAXIQA_DATA=/path/to/data python train.py --config certified --teacher jaxiqa-base --workdir runs/certified/0.024
    jaxiqa score lipschitz_iqa photo.jpg --weights runs/certified/0.024 --epsilon 2/255

``--slope`` is the largest change of a score per unit of Euclidean distance, as a share of the labels' range, on images
of 256×256. The fitted calibration, about 1.2, counts too; together 0.0288 is a change of at most a tenth by any
perturbation of 2/255. One run per slope gives the frontier of correlation and certificate. The teacher scores distorted
parts of the training images, never images that decide the epoch; human scores count a tenth as much, as there are few.
``--teacher`` is a metric that comes with jaxiqa, or the folder of a run with the same training images. Without it the
metric learns from human scores only. With ``--target ssim`` the teacher scores the parts before their distortion, and
each is worth that score less 1 − SSIM; ``--loss ranked_mse`` adds a price on pairs in the wrong order.

``--scale accelerator`` has more channels and longer training.
"""

from typing import Any, Literal

from jaxiqa.config import Data, Distil, Evaluation, Experiment, Model, Training, Variant

SIZE = (256, 256)
NETWORKS: dict[str, dict[str, Any]] = {
    "small": {"channels": (12, 48, 192), "depth": (0, 0, 1)},
    "accelerator": {"channels": (24, 96, 384, 768), "depth": (2, 4, 8, 4)},
}
EPOCHS = {"small": 60, "accelerator": 1000}


def get_config(
    scale: Literal["small", "accelerator"] = "small",
    slope: float = 0.024,
    teacher: str = "",
    copies: int = 20,
    target: Literal["teacher", "ssim"] = "teacher",
    loss: Literal["mse", "ranked_mse"] = "mse",
) -> Experiment:
    distil = Distil(weight=10.0, weights=teacher, distorted=copies, target=target) if teacher else None
    training = Training(
        epochs=EPOCHS[scale],
        batch_size=16,
        loss=loss,
        labels="unit",
        select="srocc",
        learning_rate=2e-3,
        schedule="cosine",
        warmup=1.0,
        weight_decay=0.0,
        flip=True,
        crops=0,
        average=0.99,
        distil=distil,
    )
    clive = Data("clive", options={"test_fraction": 0.2})
    model = Model(metric="lipschitz_iqa", input_size=SIZE, options=NETWORKS[scale] | {"slope": slope})
    return Experiment("certified", clive, model, {"base": Variant(training)}, Evaluation(clive, {}))
