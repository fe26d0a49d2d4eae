import parity

from jaxiqa.models import MODELS

NAMES = [
    "patch_embed",
    *(f"block{i}" for i in (0, 6, 9)),
    *("tablock1.1", "swin1", "tablock2.1", "swin2", "fc_score", "fc_weight"),
]


def test_agrees_with_the_original_class(shared):
    layout = {i: lambda maps: maps[0].reshape(784, 1) for i in (8, 9)}
    parity.check(shared, "maniqa", MODELS["maniqa"], NAMES, layout=layout)
