"""The published metrics by name."""

from jaxiqa.models.linearity import LINEARITY
from jaxiqa.models.published import Published

MODELS: dict[str, Published] = {"linearity": LINEARITY}
