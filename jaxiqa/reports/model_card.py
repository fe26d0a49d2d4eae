"""The model card of a trained metric: Markdown with the header that the Hugging Face hub reads.

It only says what the files of a run say. A field that they lack is left out.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from jaxiqa.reports.table import Table, as_markdown

Fields = Mapping[str, Any]

CODE = """\
```py
import jaxiqa

model = jaxiqa.load({address})
scores = model(images)  # images b h w 3, RGB in [0, 1] -> b scores, higher is better
```

```sh
jaxiqa score {word} photo.jpg
```"""


def model_card(
    described: Fields,
    *,
    address: str,
    training: Fields | None = None,
    config: Fields | None = None,
    about: str | None = None,
    licence: str | None = None,
    licences: Mapping[str, str] | None = None,
    tables: Sequence[Table] = (),
) -> str:
    """Return the text of README.md for a trained metric.

    Args:
        described: content of the run's model.json.
        address: what `jaxiqa.load` takes, such as ``hf://owner/name``; the last part of it is the title.
        training: content of the run's training.json.
        config: content of the run's config.json.
        about: the method and its paper.
        licence: of the metric, by the hub's name of it, such as ``apache-2.0``.
        licences: other licences: of what -> text; for example of the training data and of the first weights.
        tables: results to show.

    >>> described = {"model": "linearity", "options": {"width": 8}, "blocks": [], "score_range": [0.0, 100.0]}
    >>> card = model_card(described, address="hf://owner/mine", training={"validation_srocc": 0.81234})
    >>> print(card.partition("## Training")[2].strip())
    | | |
    |---|---|
    | validation SROCC | 0.8123 |
    >>> print(card.partition("# mine")[0].strip())
    ---
    library_name: jaxiqa
    tags:
    - image-quality-assessment
    - jaxiqa
    - linearity
    ---
    """
    training, config = training or {}, config or {}
    sections = [
        _header(described, licence),
        f"# {as_markdown(address.rpartition('/')[2])}",
        f"A metric that scores the quality of an image without a reference"
        f"{f': {as_markdown(about)}' if about else ''}. Made with jaxiqa.",
        f"## Use\n\n{CODE.format(address=json.dumps(address), word=shlex.quote(address))}",
        _section("Metric", _metric(described, training)),
        _section("Training", _training(training, config)),
        _retrain(training),
        *(_results(table) for table in tables),
        _section("Licences", {"this metric": licence} | dict(licences or {})),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _header(described: Fields, licence: str | None) -> str:
    lines = ["library_name: jaxiqa"]
    if licence:
        lines.append(f"license: {json.dumps(licence)}")  # a JSON string is a YAML string
    lines += ["tags:", "- image-quality-assessment", "- jaxiqa", f"- {described['model']}"]
    return "\n".join(["---", *lines, "---"])


def _metric(described: Fields, training: Fields) -> Iterator[tuple[str, Any]]:
    """Yield the facts of model.json."""
    for label, one in [("", described), *((f"member {i}: ", m) for i, m in enumerate(described.get("members", ()), 1))]:
        yield f"{label}architecture", one["model"]
        yield f"{label}options", one["options"]
        for number, block in enumerate(one.get("blocks", ()), start=1):
            yield f"{label}block {number}", {key: value for key, value in block.items() if key != "name"}
        for field in ("activations", "blur", "pooling"):
            yield f"{label}{field}", one.get(field)
    yield "parameters", f"{training['parameters']:,}" if "parameters" in training else None
    if "score_range" in described:
        low, high = described["score_range"]
        yield "scores", f"about {low:.4g} to {high:.4g}"
    yield "SHA-256 of the weights", described.get("sha256")


def _training(training: Fields, config: Fields) -> Iterator[tuple[str, Any]]:
    """Yield the facts of config.json and training.json."""
    data = config.get("data", {})
    yield "data", data.get("name")
    yield (
        "options of the data",
        {key: data[key] for key in ("limit", "folds", "fold") if key in data} | data.get("options", {}),
    )
    model = config.get("model", {})
    yield "first weights", model.get("weights")
    yield "size of the images", model.get("input_size")
    links = config.get("variants", [])
    for number, link in enumerate(links, start=1):
        label = f"step {number}" if len(links) > 1 else "changes"
        yield label, {key: value for key, value in link.items() if key != "training"}
        yield f"training of step {number}" if len(links) > 1 else "training", link.get("training")
    yield "seed", config.get("seed")
    srocc = training.get("validation_srocc")
    yield "validation SROCC", None if srocc is None else f"{srocc:.4f}"
    yield "best epoch", training.get("best_epoch")
    seconds = training.get("seconds_per_epoch")
    yield "seconds per epoch", f"{seconds:.1f}" if seconds else None
    yield "variant", training.get("variant")
    yield "version of jaxiqa", training.get("version")
    yield "commit of jaxiqa", training.get("commit")


def _retrain(training: Fields) -> str | None:
    """Return the command that trained it, without the folders of the machine it ran on."""
    if not training.get("command"):
        return None
    words, kept = iter(shlex.split(training["command"])), []
    for word in words:
        if word == "--workdir":
            next(words, None)
        elif not word.startswith("--workdir="):
            kept.append("=".join(_without_folders(part) for part in word.split("=", 1)))
    return f"To train it again:\n\n```sh\n{shlex.join(kept)}\n```"


def _results(table: Table) -> str:
    return "\n".join([f"## {as_markdown(table.title)}", "", *table.markdown(), "", *table.markdown_notes()]).rstrip()


def _section(title: str, facts: Mapping[str, Any] | Iterator[tuple[str, Any]]) -> str | None:
    pairs = dict(facts)
    lines = [f"| {as_markdown(name)} | {as_markdown(text)} |" for name in pairs if (text := _text(pairs[name]))]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *lines]) if lines else None


def _text(value: Any) -> str:
    """Return a value for reading; empty for one that says nothing.

    >>> _text({"a": 1.0, "b": None, "c": {"d": [1, 2]}, "e": "/home/me/x.csv", "f": False})
    'a = 1, c = (d = 1 × 2), e = x.csv, f = no'
    """
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:g}"
        case str():
            return _without_folders(value)
        case Mapping():
            parts = {key: f"({_text(one)})" if isinstance(one, Mapping) else _text(one) for key, one in value.items()}
            return ", ".join(f"{key} = {text}" for key, text in parts.items() if text not in ("", "()"))
        case list() | tuple():
            simple = all(isinstance(one, int | float) for one in value)
            return (" × " if simple else "; ").join(_text(one) for one in value)
    return str(value)


def _without_folders(text: str) -> str:
    """Return the last part of an absolute path, which says something about a machine; other texts are unchanged.

    >>> _without_folders("/home/me/mine.py"), _without_folders("clive/mine.py")
    ('mine.py', 'clive/mine.py')
    """
    return PurePath(text).name if PurePath(text).is_absolute() or text.startswith("~") else text
