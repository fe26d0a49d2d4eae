"""Adapt docstrings to reStructuredText: they are written for `help()`, so formulas are indented, not marked up."""

import importlib
import re

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Example|Examples|Note|Reference):\s*$")


def literal_formulas(lines: list[str]) -> list[str]:
    """Put ``::`` before each indented block that follows a blank line outside of a section: it is a formula.

    >>> literal_formulas(["Return a sum.", "", "    a + b", "", "Args:", "    a: first."])
    ['Return a sum.', '', '::', '', '    a + b', '', 'Args:', '    a: first.']
    """
    found: list[str] = []
    inside = formula = False
    for line in lines:
        indented = line.startswith("    ")
        if line and not indented:
            inside, formula = bool(SECTION.match(line)), False
        elif indented and not inside and not formula and (not found or not found[-1]):
            found += ["::", ""]
            formula = True
        found.append(line)
    return found


def escaped(prose: str) -> str:
    """Escape the characters of prose that reStructuredText would take for markup; literals stay, also over two lines.

    >>> escaped("the sum |x| of `x` and ``|y|``, or *args")
    'the sum \\\\|x\\\\| of `x` and ``|y|``, or \\\\*args'
    """
    parts = re.split(r"(``.+?``|`[^`]+`|\*\*[^*]+\*\*)", prose, flags=re.S)
    return "".join(part if i % 2 else re.sub(r"([|*]|(?<=\w)_(?!\w))", r"\\\1", part) for i, part in enumerate(parts))


def adapt(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Change the lines of a docstring in place, before napoleon reads its sections."""
    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", "\n".join(literal_formulas(lines))):
        literal = found[-2:-1] == ["::"] and paragraph.startswith("    ")
        prose = not literal and not paragraph.lstrip().startswith(">>>")
        found += [*(escaped(paragraph) if prose else paragraph).split("\n"), ""]
    if what in ("attribute", "data"):
        found[:0] = ["..", ""]  # a comment: napoleon takes the words before a colon on the first line for a type
    lines[:] = found


def skip(app: Sphinx, what: str, name: str, obj: object, skipped: bool, options: object) -> bool | None:
    """Leave out the fields of named tuples, whose only text is "Alias for field number N"."""
    return True if (getattr(obj, "__doc__", None) or "").startswith("Alias for field number") else None


def home(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element) -> nodes.Element | None:
    """Link a name that a package re-exports to the page of the module that defines it."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("jaxiqa."):
        return None
    parent, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(parent), name)
    except (ImportError, AttributeError):
        return None
    full = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    if full == target:
        return None
    domain = env.get_domain("py")
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", full, node, content)


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-process-docstring", adapt, priority=100)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", home)
    return {"parallel_read_safe": True}
