"""One self-contained page: tables, plots, examples, and what the numbers mean."""

import base64
from collections.abc import Mapping, Sequence
from importlib.resources import files

import jinja2

from jaxiqa.reports.table import Table


def page(tables: Sequence[Table], pictures: Mapping[str, bytes], *, title: str, facts: Mapping[str, str]) -> str:
    """The report as HTML that loads nothing from anywhere.

    Args:
        tables: the tables.
        pictures: caption -> PNG.
        title: the experiment's name.
        facts: such as command, device and date.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("jaxiqa.reports").joinpath("report.html.j2").read_text("utf-8")
    )
    return template.render(
        title=title,
        facts=facts,
        tables=tables,
        pictures={caption: base64.b64encode(content).decode() for caption, content in pictures.items()},
    )
