"""A report with several models, seeds, strengths, defenses, checks and attacked images, from made-up rows."""

import numpy as np

from jaxiqa.reports import write_defenses, write_paper, write_report
from jaxiqa.reports.attacks.order import summarise_order
from jaxiqa.reports.attacks.summary import ends_of, summarise
from jaxiqa.reports.defenses.certified import certificates
from jaxiqa.reports.defenses.certified import tidy_lines as certified_lines
from jaxiqa.reports.defenses.summary import summarise_defenses
from jaxiqa.reports.defenses.tables import tidy_lines as defense_lines
from jaxiqa.reports.table import Table
from jaxiqa.results.examples import Example
from jaxiqa.results.rows import (
    CLEAN,
    UNDEFENDED,
    CertificateRow,
    DefenseRow,
    MaskingRow,
    ModelRow,
    PredictionRow,
    RankRow,
    ResultRow,
)

IMAGES = [f"image {number}.png" for number in range(8)]
MODELS = {"baseline": 40.0, "orthogonal block after layer3": 25.0, "adversarially trained with PGD-1 at 8/255": 15.0}
ATTACKS = {
    "PGD-10": (2 / 255, 4 / 255, 16 / 255),
    "one strength": (8 / 255,),
    "stAdv": (None,),
    "SSAH": ("weak", "strong"),
}
DEFENSES = ("jpeg", "median blur", "DiffPure", "flip")


def strength_of(key):
    """Return ε and level of a strength."""
    return (0.1 if key == "weak" else 0.2, key) if isinstance(key, str) else (key, None)


def rows(seeds):
    """Return rows of results, predictions and models."""
    random, results, predictions = np.random.default_rng(0), [], []
    for model, size in MODELS.items():
        for seed in seeds:
            for number, image in enumerate(IMAGES):
                clean = 40.0 + 4 * number + random.normal()
                predictions.append(PredictionRow(image, model, seed, 10.0 * number, clean + 3 * random.normal()))
                for attack, keys in ATTACKS.items():
                    for place, key in enumerate(keys, start=1):
                        epsilon, level = strength_of(key)
                        gain = size * place / len(keys) + number + 2 * random.normal()
                        results.append(
                            ResultRow(
                                image, model, seed, attack, epsilon, clean, clean + gain, clean + 0.9 * gain,
                                epsilon or 0.05, 1.0, 0.95 - 0.01 * place, None, 0.1, level,
                            )
                        )  # fmt: skip
    cards = [
        ModelRow(model, seed, 10**6, 20.0, 90.0, 0.8, 12.5, 0.4, len(IMAGES)) for model in MODELS for seed in seeds
    ]
    return results, predictions, cards


def rank_rows(seeds):
    """Return rows of attacks on the order."""
    random, found = np.random.default_rng(1), []
    for model, size in MODELS.items():
        for seed in seeds:
            for number, image in enumerate(IMAGES):
                for epsilon in (0.0, 1 / 255, 4 / 255):
                    attack = "PGD-10 with steps of ε/5" if epsilon else CLEAN
                    score = 10 * number - 255 * epsilon * size / 20 * number + 5 * random.normal()
                    found.append(RankRow(image, model, seed, attack, epsilon, 10.0 * number, score, 0.5, 0.1))
    return found


def defense_rows(seeds):
    """Return rows of defenses, some of them attacked adaptively."""
    random, found = np.random.default_rng(2), []
    for model, size in MODELS.items():
        for seed in seeds:
            for number, image in enumerate(IMAGES):
                clean = 40.0 + 4 * number
                for label in (UNDEFENDED, *DEFENSES):
                    for mode in ("transfer", "adaptive") if label not in (UNDEFENDED, "flip") else ("transfer",):
                        for epsilon in (4 / 255, 8 / 255) if mode == "transfer" else (8 / 255,):
                            rest = {UNDEFENDED: 1.0, "flip": 0.9}.get(label, 0.4) + 0.3 * (mode == "adaptive")
                            gain = size * rest * 255 * epsilon / 8 + random.normal()
                            purified = clean - 2 + gain + 6 * rest * random.normal()
                            ssim, psnr = 0.95 - 0.1 * rest - 0.05 * random.uniform(), 34 + random.normal()
                            found.append(
                                DefenseRow(
                                    image, model, seed, "PGD-10", epsilon, None, label, mode, clean, clean + size,
                                    clean - 2, purified, ssim, psnr, 0.02,
                                )
                            )  # fmt: skip
    return found


def checks(seeds):
    """Return rows of checks for masked gradients; one found a sign."""
    names = ("gradient is zero", "noise beats pgd", "square beats pgd")
    return [
        MaskingRow(
            model,
            seed,
            name,
            0.1 * (model == "baseline"),
            0.05,
            model == "baseline" and name == "noise beats pgd",
            "use eot",
        )
        for model in MODELS
        for seed in seeds
        for name in names
    ]


def examples():
    """Return two images, each attacked in two ways."""
    random, found = np.random.default_rng(3), []
    across, down = np.meshgrid(np.linspace(0, 1, 160), np.linspace(0, 1, 120))
    for number in range(2):
        clean = np.stack([across, down, 0.5 + 0.3 * np.sin(20 * across * (number + 1))], -1).astype(np.float32)
        for model, epsilon in (("baseline", 8 / 255), ("orthogonal block after layer3", 16 / 255)):
            attacked = np.clip(clean + epsilon * np.sign(random.normal(size=clean.shape)), 0, 1).astype(np.float32)
            found.append(Example(IMAGES[number], model, "PGD-10", epsilon, 45.0, 71.5, clean, attacked))
    return found


def write_sample(folder, seeds=(0, 1, 2)):
    """Write the report to a folder; return its path and the sections' tables for a terminal."""
    results, predictions, cards = rows(seeds)
    ends = ends_of(cards, results, score_range="model")
    mos = {image: 10.0 * number for number, image in enumerate(IMAGES)}
    found = summarise_defenses(defense_rows(seeds), ends, mos=mos)
    proofs = [
        CertificateRow(image, "baseline", 0, None, None, None, "MS", 50.0, 48.0, 53.0, 0.1, False, 100, 0.1, 2.0)
        for image in IMAGES
    ]
    facts = {
        "command": "python evaluate.py --config configs/sample.py",
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "versions": "jaxiqa 0.1.0, Python 3.12.0",
        "seeds": ", ".join(map(str, seeds)),
    }
    options = {"title": "A sample report", "facts": facts}
    defended = write_defenses(folder, found, found, certificates(proofs, ends, mos), **options)
    paper = [Table("Table 1", ["model", "SROCC"], [["baseline", ("0.910", 0.91, "0.940")]], ["In grey: published."])]
    write_paper(folder, paper)
    summary = summarise(results, predictions, cards, score_range="model", masking=checks(seeds))
    left = summarise_order(rank_rows(seeds), list(MODELS), ends)
    page = write_report(
        folder, summary, examples(), **options, config='{"name": "sample"}', defended=defended,
        tidy=[*defense_lines(found), *certified_lines(proofs, ends, mos)],
        paper=paper, left=left,
    )  # fmt: skip
    return page, summary, [table for section in defended for table in section.tables]
