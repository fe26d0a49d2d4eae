"""The metrics that come with the package, side by side: gains, the order of images under attack, examples.

    JAXIQA_DATA=/path/to/data python train.py --config configs/shipped.py     # reads them; nothing is trained
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/shipped.py

The test images are those that trained none of them. For your own metrics, name the folders of their runs in `Saved`.
Needs ``clive/``.
"""

from jaxiqa.config import Attack, Data, Evaluation, Experiment, Model, Ranks, Saved

EPSILONS = tuple(n / 255 for n in (0.5, 1, 2, 4))


def get_config() -> Experiment:
    clive = Data("clive", options={"test_fraction": 0.2})
    return Experiment(
        name="shipped",
        data=clive,
        model=Model(input_size=(256, 256)),
        variants={name: Saved(f"jaxiqa-{name}") for name in ("base", "robust", "certified")},
        evaluation=Evaluation(
            data=Data("clive", limit=24, options=clive.options),
            attacks={"PGD-8": Attack("pgd", EPSILONS, {"steps": 8})},
            size=(256, 256),
            score_range="mos",
            ranks=Ranks(epsilons=EPSILONS, images=32, queries=0),
        ),
    )
