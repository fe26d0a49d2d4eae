"""The published metrics by name."""

from jaxiqa.models.fpr import FPR_NR
from jaxiqa.models.koncept import KONCEPT512
from jaxiqa.models.linearity import LINEARITY
from jaxiqa.models.maniqa import MANIQA
from jaxiqa.models.published import Published
from jaxiqa.models.tres import TRES

MODELS: dict[str, Published] = {
    "fpr": FPR_NR,
    "koncept512": KONCEPT512,
    "linearity": LINEARITY,
    "maniqa": MANIQA,
    "tres": TRES,
}
