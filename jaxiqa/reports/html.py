"""One self-contained page: table, plots, examples, and what the numbers mean."""

import base64
from importlib.resources import files

import jinja2

from jaxiqa.reports.summary import Summary
from jaxiqa.reports.table import cell, columns, notes, strengths


def page(summary: Summary, pictures: dict[str, bytes], *, title: str, facts: dict[str, str]) -> str:
    """The report as HTML that loads nothing from anywhere.

    Args:
        summary: the numbers.
        pictures: caption -> PNG.
        title: the experiment's name.
        facts: such as command, device and date.
    """
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(
        files("jaxiqa.reports").joinpath("report.html.j2").read_text("utf-8")
    )
    names = columns(summary, every_strength=False)
    rows = [
        (
            model,
            [
                (cell(summary, model, name), value.mean if (value := summary.cells.get((model, name))) else None)
                for name in names
            ],
        )
        for model in summary.models
    ]
    return template.render(
        title=title,
        facts=facts,
        columns=names,
        rows=rows,
        notes=notes(summary),
        strengths=strengths(summary) if summary.attacks else None,
        pictures={caption: base64.b64encode(content).decode() for caption, content in pictures.items()},
    )
