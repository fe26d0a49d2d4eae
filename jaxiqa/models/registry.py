"""The published metrics by name."""

from jaxiqa.models.fpr import FPR_NR
from jaxiqa.models.hyperiqa import HYPERIQA
from jaxiqa.models.koncept import KONCEPT512
from jaxiqa.models.linearity import LINEARITY
from jaxiqa.models.maniqa import MANIQA
from jaxiqa.models.metaiqa import METAIQA
from jaxiqa.models.paq2piq import PAQ2PIQ
from jaxiqa.models.spaq import SPAQ_BL
from jaxiqa.models.spec import Published
from jaxiqa.models.tres import TRES

MODELS: dict[str, Published] = {
    "fpr": FPR_NR,
    "hyperiqa": HYPERIQA,
    "koncept512": KONCEPT512,
    "linearity": LINEARITY,
    "maniqa": MANIQA,
    "metaiqa": METAIQA,
    "paq2piq": PAQ2PIQ,
    "spaq_bl": SPAQ_BL,
    "tres": TRES,
}
