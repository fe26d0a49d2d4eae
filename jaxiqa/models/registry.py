"""The metrics by name."""

from jaxiqa.models.brisque import BRISQUE_SPEC
from jaxiqa.models.fpr import FPR_SPEC
from jaxiqa.models.hyperiqa import HYPERIQA_SPEC
from jaxiqa.models.koncept import KONCEPT_SPEC
from jaxiqa.models.linearity import LINEARITY_SPEC
from jaxiqa.models.lipschitz_iqa import LIPSCHITZ_IQA_SPEC
from jaxiqa.models.maniqa import MANIQA_SPEC
from jaxiqa.models.metaiqa import METAIQA_SPEC
from jaxiqa.models.norm_controlled import NORM_CONTROLLED_SPEC
from jaxiqa.models.paq2piq import PAQ2PIQ_SPEC
from jaxiqa.models.spaq import SPAQ_SPEC
from jaxiqa.models.spec import ModelSpec
from jaxiqa.models.tres import TRES_SPEC

MODELS: dict[str, ModelSpec] = {
    "brisque": BRISQUE_SPEC,
    "fpr": FPR_SPEC,
    "hyperiqa": HYPERIQA_SPEC,
    "koncept512": KONCEPT_SPEC,
    "linearity": LINEARITY_SPEC,
    "lipschitz_iqa": LIPSCHITZ_IQA_SPEC,
    "maniqa": MANIQA_SPEC,
    "metaiqa": METAIQA_SPEC,
    "norm_controlled": NORM_CONTROLLED_SPEC,
    "paq2piq": PAQ2PIQ_SPEC,
    "spaq_bl": SPAQ_SPEC,
    "tres": TRES_SPEC,
}
