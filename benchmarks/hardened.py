"""Measure the cost of hardening at inference: a materialized RobustBlock against a plain block of the same shapes.

    python benchmarks/hardened.py          # a few minutes; rewrites the table in benchmarks/README.md

"score" is a forward pass. "gradient" is the gradient of the scores by the images, the cost of one attack step.
"""

import argparse
import os
import platform
import sys
from pathlib import Path

from timing import measure

sys.path.insert(0, str(Path(__file__).parent.parent))
import jax
import jax.numpy as jnp
from flax import nnx

from jaxiqa.models import POSITIONS, build, harden, score_fn

CASES = {
    "MobileNetV2, 256x256, batch 4, after:block12, mid 48": ("mobilenet_v2", "after:block12", 48, (256, 256), 4),
    "ResNet-101, 498x664, batch 1, position 4": ("resnet101", *POSITIONS[4], (498, 664), 1),
    "ResNet-101, 498x664, batch 1, position 6": ("resnet101", *POSITIONS[6], (498, 664), 1),
}


def programs(backbone: str, where: str, mid: int, size: tuple[int, int], batch: int) -> dict:
    x = jax.random.uniform(jax.random.key(0), (batch, *size, 3))
    found = {}
    for kind in ("robust_block", "bottleneck"):
        model = build(backbone)
        harden(model, where, kind, mid=mid, rngs=nnx.Rngs(1))
        score = score_fn(model, size)
        for what, function in (
            ("score", lambda f, x: f(x)),
            ("gradient", lambda f, x: jax.grad(lambda x: jnp.sum(f(x)))(x)),
        ):
            program = jax.jit(function).lower(score, x).compile()
            found[f"{what} {kind}"] = lambda p=program, s=score: jax.block_until_ready(p(s, x))
    return found


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lines = ["| model | program | RobustBlock, ms | plain, ms | ratio |", "|---|---|---:|---:|---:|"]
    for name, case in CASES.items():
        seconds = measure(programs(*case)).seconds
        for what in ("score", "gradient"):
            ours, plain = (seconds[f"{what} {kind}"] for kind in ("robust_block", "bottleneck"))
            lines.append(f"| {name} | {what} | {1000 * ours:.0f} | {1000 * plain:.0f} | {ours / plain:.2f} |")
            print(lines[-1], flush=True)
    chip = jax.devices()[0]
    chip = chip.device_kind if chip.platform != "cpu" else f"{os.cpu_count()} CPU cores ({platform.machine()})"
    page = Path(__file__).parent / "README.md"
    before, start, rest = page.read_text().partition("<!-- hardened -->\n")
    end = "<!-- /hardened -->"
    page.write_text(
        f"{before}{start}{chip}, jax {jax.__version__}\n\n" + "\n".join(lines) + f"\n{end}" + rest.partition(end)[2]
    )


if __name__ == "__main__":
    main()
