"""The published files of MPRNet: rules for their arrays, and the sizes read from them."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxiqa.pretrained import key_map

SLOPE = "shallow_feat1.1.body.1.weight"


def _block(source: str, target: str) -> tuple[key_map.Rule, ...]:
    """Return rules for an attention block, without its slope."""
    return (
        *key_map.conv(rf"{source}\.body\.0", f"{target}.conv.0"),
        *key_map.conv(rf"{source}\.body\.2", f"{target}.conv.1"),
        *key_map.conv(rf"{source}\.CA\.conv_du\.0", f"{target}.squeeze"),
        *key_map.conv(rf"{source}\.CA\.conv_du\.2", f"{target}.excite"),
    )


def rules() -> tuple[key_map.Rule, ...]:
    """Return rules for every array."""
    rules: list[key_map.Rule] = [(SLOPE.replace(".", r"\."), "slope", key_map.same)]
    # The same slope again; `options` has compared all copies.
    rules += [(r".*(?:\.\d+|\.skip_attn\d)\.body\.1\.weight", None, key_map.same)]
    for i in range(3):
        rules += key_map.conv(rf"shallow_feat{i + 1}\.0", f"shallow.{i}.conv")
        rules += _block(rf"shallow_feat{i + 1}\.1", f"shallow.{i}.block")
    for stage in range(2):
        source = f"stage{stage + 1}_"
        for level in range(3):
            for part in ("encoder", "decoder"):
                block = rf"{source}{part}\.{part}_level{level + 1}\.(\d+)"
                rules += _block(block, rf"{part}.{stage}.level.{level}.block.\1")
        for level, (down, up) in enumerate((("down12", "up21"), ("down23", "up32"))):
            rules += key_map.conv(rf"{source}encoder\.{down}\.down\.1", f"encoder.{stage}.down.{level}")
            rules += key_map.conv(rf"{source}decoder\.{up}\.up\.1", f"decoder.{stage}.up.{level}")
            rules += _block(rf"{source}decoder\.skip_attn{level + 1}", f"decoder.{stage}.skip.{level}")
        sam = f"sam{stage + 1}{stage + 2}"
        for i, part in enumerate(("features", "restored", "mask")):
            rules += key_map.conv(rf"{sam}\.conv{i + 1}", f"supervised.{stage}.{part}")
        rules += key_map.conv(f"concat{stage + 1}{stage + 2}", f"join.{stage}")
    for short, part in (("enc", "of_encoder"), ("dec", "of_decoder")):
        for level in range(3):
            rules += key_map.conv(rf"stage2_encoder\.csff_{short}{level + 1}", f"encoder.1.{part}.{level}")
            rules += key_map.conv(rf"stage3_orsnet\.conv_{short}{level + 1}", f"original.{part}.{level}")
        rules += key_map.conv(rf"stage3_orsnet\.up_{short}1\.up\.1", f"original.up_{part}.0.0")
        rules += key_map.conv(rf"stage3_orsnet\.up_{short}2\.(\d)\.up\.1", rf"original.up_{part}.1.\1")
    for i in range(3):
        rules += _block(rf"stage3_orsnet\.orb{i + 1}\.body\.(\d+)", rf"original.chain.{i}.block.\1")
        rules += key_map.conv(rf"stage3_orsnet\.orb{i + 1}\.body\.\d+", f"original.conv.{i}")
    return (*rules, *key_map.conv("tail", "tail"))


def options(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the sizes; check that all copies of the one slope are equal."""
    slopes = {key: array for key, array in arrays.items() if array.shape == (1,)}
    for key, slope in slopes.items():
        if SLOPE in slopes and slope != slopes[SLOPE]:
            raise ValueError(f"{key} is {slope[0]}, {SLOPE} is {slopes[SLOPE][0]}; this network has one slope")
    shapes = {
        "width": arrays.get("shallow_feat1.0.weight"),
        "second": arrays.get("stage1_encoder.down12.down.1.weight"),
        "last": arrays.get("concat23.weight"),
        "squeezed": arrays.get("shallow_feat1.1.CA.conv_du.0.weight"),
    }
    sides = {name: len(array) for name, array in shapes.items() if array is not None}
    if len(sides) < len(shapes):
        return {}  # the error of `fill` then lists what is missing
    width = sides["width"]
    return {
        "width": width,
        "growth": sides["second"] - width,
        "extra": sides["last"] - width,
        "depth": sum(key.startswith("stage3_orsnet.orb1.body.") and key.endswith(".body.0.weight") for key in arrays),
        "reduction": width // sides["squeezed"],
    }
