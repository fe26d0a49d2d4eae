"""List metrics, backbones, attacks, defenses, certifiers, networks, data sets and configs, and what each needs."""

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

import tyro

from jaxiqa.cli.runtime import explained

WIDTH = 200
"""Characters of a line in a file or a pipe."""

Section = Literal["metrics", "backbones", "attacks", "defenses", "certifiers", "networks", "data", "configs"]


@dataclass(frozen=True)
class Arguments:
    """Arguments of the program."""

    sections: Annotated[tuple[Section, ...], tyro.conf.Positional] = ()
    """Sections to show; default: all."""


def main(arguments: Sequence[str] | None = None, program: str = "jaxiqa list") -> None:
    """Run the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with explained():
        chosen = tyro.cli(Arguments, prog=program, description=__doc__, args=words)
        show(chosen.sections or get_args(Section))


def show(sections: Iterable[str]) -> None:
    """Print the tables of these sections."""
    from jaxiqa.core.progress import console

    if not console.is_terminal:
        console.width = WIDTH
    for section in sections:
        console.print(TABLES[section]())
        console.print()


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    from jaxiqa.reports.table import Table

    return Table(title, header, list(rows), text=len(header))


def metrics() -> Any:
    """List the published metrics, their test protocols, and the weights known by name."""
    from jaxiqa.models import MODELS
    from jaxiqa.models.zoo import SHIPPED

    rows = [[name, what, "", "", "", "comes with jaxiqa", "Apache-2.0"] for name, what in SHIPPED.items()]
    for name, spec in MODELS.items():
        known = [
            f"{weights}{'' if source.url or source.installed else ' (by hand)'}"
            for weights, source in spec.weights.items()
        ]
        rows.append([name, spec.title, spec.paper, spec.protocol, spec.results, ", ".join(known) or "–", spec.licence])
    header = ["metric", "title", "paper", "protocol", "SROCC / PLCC", "known weights", "licence"]
    return _table("Metrics: jaxiqa.load(NAME, weights)", header, rows)


def backbones() -> Any:
    """List the backbones for a Linearity head, and the weights known by name."""
    from jaxiqa.nn.backbones import BACKBONES

    rows = [
        [name, ", ".join(spec.taps), str(spec.width), str(spec.classes), ", ".join(spec.weights) or "–"]
        for name, spec in BACKBONES.items()
    ]
    header = ["backbone", "the head reads", "width", "classes", "known weights"]
    return _table("Backbones: jaxiqa.models.build(NAME, backbone_weights=...)", header, rows)


def attacks() -> Any:
    """List the attacks, their strength fields, and what they need from the metric and from the user."""
    from jaxiqa.attacks import ATTACKS, FITTED, QueryAttack, strength_option

    rows = []
    for name, kind in ATTACKS.items():
        strength = strength_option(name)
        asks = "scores" if issubclass(kind, QueryAttack) else "gradients"
        rows.append([name, strength, asks, _required(kind, without=(strength,)), _first_line(kind)])
    for name, fitted in FITTED.items():
        needs = ["images to fit on", *filter(None, [_required(fitted.fit, without=("score_fn", "images", "key"))])]
        rows.append([name, "amplitude", "gradients, once", ", ".join(needs), _first_line(fitted.fit)])
    header = ["attack", "strength", "uses", "needs", "what it does"]
    return _table("Attacks: jaxiqa.attacks.make(NAME, ...)", header, rows)


def defenses() -> Any:
    """List the purifiers."""
    from jaxiqa.defenses.purify import PURIFIERS

    rows = [
        [name, "random" if getattr(kind, "random", False) else "fixed", _required(kind), _first_line(kind)]
        for name, kind in PURIFIERS.items()
    ]
    title = "Purifiers: jaxiqa.defenses.purify.make(NAME, ...)"
    return _table(title, ["defense", "result", "needs", "what it does"], rows)


def certifiers() -> Any:
    """List the certified defenses."""
    from jaxiqa.defenses.smoothing import CERTIFIERS

    rows = [[name, _required(kind), _first_line(kind)] for name, kind in CERTIFIERS.items()]
    return _table("Certifiers: jaxiqa.defenses.smoothing", ["certifier", "needs", "what it does"], rows)


def networks() -> Any:
    """List the networks for attacks and defenses."""
    from jaxiqa.networks import NETWORKS

    rows = [
        [name, spec.title, spec.paper, ", ".join(spec.weights) or "–", spec.licence] for name, spec in NETWORKS.items()
    ]
    header = ["network", "title", "paper", "known weights", "licence"]
    return _table("Networks: jaxiqa.networks.load(NAME, weights=...)", header, rows)


def data() -> Any:
    """List the data sets and their options."""
    from jaxiqa.data import DATASETS, resolve

    rows = []
    for name, load in DATASETS.items():
        options = [option for option in inspect.signature(load).parameters if option != "source"]
        place = "made in memory" if name == "builtin" else str(resolve(name))
        rows.append([name, place, ", ".join(options) or "–", _first_line(load)])
    return _table("Data sets: jaxiqa.data.load(NAME)", ["data set", "default source", "options", "what it is"], rows)


def configs() -> Any:
    """List the configs that come with the package."""
    from jaxiqa.config.loading import shipped

    rows = []
    for name, path in shipped().items():
        text = path.read_text().lstrip("\"'\n ")
        rows.append([name, text.partition("\n")[0].strip("\"' ")])
    return _table("Configs: jaxiqa train --config NAME", ["config", "what it does"], rows)


TABLES: dict[str, Callable[[], Any]] = {
    "metrics": metrics,
    "backbones": backbones,
    "attacks": attacks,
    "defenses": defenses,
    "certifiers": certifiers,
    "networks": networks,
    "data": data,
    "configs": configs,
}


def _required(kind: Callable[..., Any], without: Sequence[str] = ()) -> str:
    """Return the options without a default."""
    if dataclasses.is_dataclass(kind):
        found = [
            field.name
            for field in dataclasses.fields(kind)
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        ]
    else:
        parameters = inspect.signature(kind).parameters.values()
        found = [one.name for one in parameters if one.default is one.empty and one.kind.name != "VAR_KEYWORD"]
    return ", ".join(name for name in found if name not in without)


def _first_line(thing: Any) -> str:
    """Return the first line of a docstring without markup."""
    text = (inspect.getdoc(thing) or "").partition("\n")[0].replace("`", "")
    return text if text.endswith((".", ":")) else f"{text} ..."
