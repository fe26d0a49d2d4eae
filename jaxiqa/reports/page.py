"""A self-contained HTML page: sections with tables and figures, attacked images, and how they were made."""

import base64
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

import jinja2
from markupsafe import Markup, escape

from jaxiqa.reports.comparison import Comparison
from jaxiqa.reports.section import Section


def page(
    sections: Sequence[Section],
    *,
    title: str,
    facts: Mapping[str, str],
    compared: Sequence[Comparison] = (),
    config: str = "",
) -> str:
    """Return the report as HTML that loads no other files; its links to files are relative.

    Args:
        sections: in their order.
        title: the experiment's name.
        facts: for example command, commit and date.
        compared: attacked images, for the last section.
        config: the whole configuration, shown on request.

    >>> text = page([Section("One & two", files=("table.csv",))], title="A page", facts={"seeds": "0"})
    >>> '<section id="one-two">' in text, '<a href="table.csv">' in text
    (True, True)
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters |= {"base64": in_base64, "unbroken": unbroken}
    folder = files("jaxiqa.reports")
    template, look, script = (
        folder.joinpath(name).read_text("utf-8") for name in ("report.html.j2", "report.css", "report.js")
    )
    names = anchors([*(section.title for section in sections), "Attacked images"])
    return environment.from_string(template).render(
        title=title,
        facts=facts,
        sections=list(zip(names, sections, strict=False)),
        compared=compared,
        compared_anchor=names[-1],
        config=config,
        look=Markup(look),
        script=Markup(script),
    )


def in_base64(content: bytes) -> str:
    """Return a file's bytes as text for an address.

    >>> in_base64(b"PNG")
    'UE5H'
    """
    return base64.b64encode(content).decode()


def anchors(titles: Sequence[str]) -> list[str]:
    """Return one name per title for the end of an address; equal ones are numbered.

    >>> anchors(["Gain @ 2/255", "gain 2 255", "图"])
    ['gain-2-255', 'gain-2-255-2', 'section']
    """
    found: list[str] = []
    for title in titles:
        name = base = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        number = 1
        while name in found:
            number += 1
            name = f"{base}-{number}"
        found.append(name)
    return found


def unbroken(text: str) -> Markup:
    """Return the text of a number's cell, in which a line ends only between the number and its interval.

    >>> print(unbroken("0.50 ± 0.01"), unbroken("-0.1 (-0.2 to 0.0)"), unbroken("1"), sep="\\n")
    <span>0.50</span> <small>± 0.01</small>
    <span>-0.1</span> <small>(-0.2 to 0.0)</small>
    <span>1</span>
    """
    number, gap, rest = text.partition(" ")
    if not gap or rest[0] not in "±(":
        return escape(text) if gap else Markup("<span>{}</span>").format(text)
    return Markup("<span>{}</span> <small>{}</small>").format(number, rest)
