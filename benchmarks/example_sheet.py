"""Draw docs/_static/example.png: a damaged photograph before and after attacks on the three metrics of the package.

    python benchmarks/example_sheet.py

The photograph is the portrait of Grace Hopper that comes with matplotlib, a work of the United States Navy in the
public domain. It is damaged by JPEG; each metric is attacked through its own gradient, PGD of 20 steps, 8-bit images.
"""

import argparse
from pathlib import Path

import jax
import matplotlib.cbook
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

import jaxiqa
from jaxiqa import attacks, models
from jaxiqa.defenses import purify

METRICS = ("jaxiqa-base", "jaxiqa-robust", "jaxiqa-certified")
EPSILON = 2 / 255


def photograph(side: int) -> jax.Array:
    """Return the portrait's upper square, resized, ``1 side side 3`` in [0, 1]."""
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=True) as file:
        whole = Image.open(file).convert("RGB")
    square = whole.crop((0, 0, whole.width, whole.width)).resize((side, side), Image.Resampling.LANCZOS)
    return jax.numpy.asarray(np.asarray(square, np.float32)[None] / 255)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quality", type=int, default=8, help="of the JPEG file")
    parser.add_argument("--output", type=Path, default=Path("docs/_static/example.png"))
    arguments = parser.parse_args()
    clean = photograph(256)
    low = purify.make("jpeg", quality=arguments.quality)(clean)
    attack = attacks.make("pgd", epsilon=EPSILON, steps=20)
    shown, texts = [clean, low], [["original"], [f"JPEG, quality {arguments.quality}"]]
    for name in METRICS:
        score, short = models.score_fn(jaxiqa.load(name)), name.removeprefix("jaxiqa-")
        attacked = jax.numpy.round(255 * attack(score, low, jax.random.key(0))) / 255
        before, after, found = (float(score(image)[0]) for image in (clean, low, attacked))
        texts[0].append(f"{short} {before:.0f}")
        texts[1].append(f"{short} {after:.0f}")
        change = 255 * float(abs(attacked - low).max())
        texts.append([f"attack on {name}", f"{after:.0f} → {found:.0f}", f"largest change {change:.0f}/255"])
        shown.append(attacked)
        print(f"{name}: original {before:.1f}, damaged {after:.1f}, attacked {found:.1f}")
    figure = Figure(figsize=(11.5, 3.1), layout="constrained")
    for panel, image, text in zip(figure.subplots(1, len(shown)), shown, texts, strict=True):
        panel.imshow(np.asarray(image[0]), interpolation="nearest")
        panel.set_axis_off()
        panel.set_title("\n".join([*text, *[""] * (4 - len(text))]), fontsize=9)
    figure.savefig(arguments.output, dpi=110, bbox_inches="tight", pad_inches=0.05)
    print(arguments.output)


if __name__ == "__main__":
    main()
