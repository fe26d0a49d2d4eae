"""Adversarial training on real photographs: several labels of attacked images, several attack strengths.

    JAXIQA_DATA=/path/to/data python train.py --config configs/clive_adversarial.py     # 11 minutes a variant
    JAXIQA_DATA=/path/to/data python evaluate.py --config configs/clive_adversarial.py  # 2 minutes a variant

Every variant starts from the baseline of `clive_mobilenet_v2.py` (``--workdir runs/clive_mobilenet_v2`` uses the one
there) and trains on every image twice, attacked and clean. ``ssim_2``, ``ssim_4`` and ``ssim_8`` are set-ups of the
defense benchmark ("Guardians of Image Quality: Benchmarking Defenses Against Adversarial Attacks on Image Quality
Metrics", arXiv:2408.01541); its other three need LPIPS, see `clive_adversarial_lpips.py`. ``clean`` trains equally long
on clean images only: this control separates the effect of longer training from that of the attacks.

Times are for two CPU cores; training needs 7 GB of memory. Measured for ``ssim_4`` (333 s an epoch): validation SROCC
0.810 (baseline 0.831, clean 0.826), AbsGain AUC against PGD-8 0.258 (0.617, 0.541) and APGD-20 0.317 (0.743, 0.683).
"""

from jaxiqa.config import Adversarial, Attack, Data, Evaluation, Experiment, Model, Training, Variant

EPSILONS = tuple(strength / 255 for strength in (2, 4, 8))


def tune(adversarial: Adversarial | None = None, **changes) -> Variant:
    """Return the baseline with its whole backbone and head trained for two more epochs."""
    training = Training(
        epochs=2,
        batch_size=32,
        flip=True,
        learning_rate=1e-4,
        backbone_factor=1.0,
        decay_every=1,
        adversarial=adversarial,
        **changes,
    )
    return Variant(training, parent="baseline")


def get_config() -> Experiment:
    return Experiment(
        name="clive_adversarial",
        data=Data("clive"),
        model=Model("mobilenet_v2", weights="weights/mobilenet_v2_imagenet.safetensors", input_size=(256, 256)),
        variants={
            "baseline": Variant(
                Training(epochs=10, batch_size=32, learning_rate=1e-3, flip=True, decay_every=5, freeze="block12")
            ),
            "clean": tune(),
            **{f"ssim_{round(255 * epsilon)}": tune(Adversarial(epsilon, label="ssim")) for epsilon in EPSILONS},
            "ms_ssim_4": tune(Adversarial(4 / 255, label="ms_ssim")),
            "unchanged_4": tune(Adversarial(4 / 255, label="unchanged")),
            "minimum_4": tune(Adversarial(4 / 255, label="minimum")),
            "fgsm_4": tune(Adversarial(4 / 255, "fgsm", {})),
            # The default of the benchmark's code: one step of 5/255, from a random start.
            "fgsm_4_random": tune(
                Adversarial(4 / 255, "pgd", {"steps": 1, "step_size": 5 / 255}), attacked_mode="train"
            ),
        },
        evaluation=Evaluation(
            data=Data("nips2017", limit=16),
            split="val",
            attacks={
                "PGD-1": Attack("pgd", EPSILONS, {"steps": 1}),
                "PGD-8": Attack("pgd", EPSILONS, {"steps": 8}),
                "APGD-20": Attack("apgd", EPSILONS, {"steps": 20}),
            },
        ),
    )
