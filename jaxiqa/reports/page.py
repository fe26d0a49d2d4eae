"""A self-contained HTML page: tables, plots, examples, and the definitions of the numbers."""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files

import jinja2

from jaxiqa.reports.table import Table


def page(tables: Sequence[Table], figures: Mapping[str, bytes], *, title: str, facts: Mapping[str, str]) -> str:
    """Return the report as HTML that loads no other files.

    Args:
        tables: the tables.
        figures: caption -> PNG.
        title: the experiment's name.
        facts: for example command, device and date.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("jaxiqa.reports").joinpath("report.html.j2").read_text("utf-8")
    )
    return template.render(
        title=title,
        facts=facts,
        tables=tables,
        figures={caption: base64.b64encode(content).decode() for caption, content in figures.items()},
    )
