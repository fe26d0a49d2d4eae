"""Upload a trained metric to the Hugging Face hub, with a model card made from its run.

    jaxiqa push runs/mine/robust_block/seed0 owner/name --dry-run      # only shows the card and the files
    jaxiqa push runs/mine/robust_block/seed0 owner/name --evaluation runs/mine

Then everyone can load it: jaxiqa.load("hf://owner/name"). It needs the extra jaxiqa[hub], and `hf auth login` once.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jaxiqa.cli.runtime import explained


@dataclass(frozen=True)
class Arguments:
    """Arguments of the program."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Folder of a training run, or a folder with only one run."""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="OWNER/NAME")]
    """Repository on the hub; it is created if it does not exist."""
    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Create a private repository."""
    revision: str | None = None
    """Branch to write to; it is created if it does not exist. Default: main."""
    evaluation: Path | None = None
    """Working directory of an evaluation of this metric, whose results the card shows. Gains are divided by the range
    of the metric's scores on its training images."""
    licence: str | None = None
    """Licence of the metric, by the hub's name of it, such as apache-2.0."""
    data_licence: str | None = None
    """Licence of the training data, for the card."""
    dry_run: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Upload nothing; print the card and the files."""


def main(arguments: Sequence[str] | None = None, program: str = "jaxiqa push") -> None:
    """Run the command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    with explained("the repository has none of the new files, or all; run the same command again"):
        run(tyro.cli(Arguments, prog=program, description=__doc__, args=words))


def run(arguments: Arguments) -> None:
    """Load the metric, make its card, show both, and upload them. Nothing is written on this machine."""
    from jaxiqa.core.hub_address import HubAddress, parse_hub_address

    revision = f"@{arguments.revision}" if arguments.revision else ""
    address = parse_hub_address(f"hf://{arguments.repository.removeprefix('hf://')}{revision}")
    from jaxiqa.cli.runtime import start_jax
    from jaxiqa.core.progress import note, say

    start_jax()
    from jaxiqa import models
    from jaxiqa.models.saved_model import run_folder
    from jaxiqa.pretrained import hub

    folder = run_folder(arguments.folder)
    if folder is None:
        raise ValueError(f"folder: {arguments.folder} is a file of no training run; give the run's folder")
    models.load_run(folder)  # raises the error for damaged files
    card = card_of(folder, address, arguments)
    files: dict[str, bytes | Path] = {name: folder / name for name in hub.NEEDED}
    files[hub.CARD] = card.encode()
    for name, content in files.items():
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        note(f"{name:<18} {size:>12,} bytes")
    if arguments.dry_run:
        say(card.rstrip())
        return
    page, commit = hub.push(
        files,
        HubAddress(address.repository, address.revision),
        message="Add a metric of jaxiqa",
        private=arguments.private,
    )
    say(f"{page}  commit {commit}")
    say(f'jaxiqa.load("{address}")')


def card_of(folder: Path, address: Any, arguments: Arguments) -> str:
    """Return the text of the model card."""
    from jaxiqa.reports.model_card import model_card

    tables = []
    if arguments.evaluation:
        from jaxiqa.evaluation.model_tables import model_tables

        tables = model_tables(arguments.evaluation, folder)
    described, training, config = (_read(folder / f"{name}.json") for name in ("model", "training", "config"))
    licences = {"data": arguments.data_licence} if arguments.data_licence else {}
    return model_card(
        described,
        address=str(address),
        training=training,
        config=config,
        about=_about(described["model"]),
        licence=arguments.licence,
        licences=licences | first_weights(config.get("model", {})),
        tables=tables,
    )


def _about(name: str) -> str | None:
    from jaxiqa.models import MODELS

    return f"{MODELS[name].title}, {MODELS[name].paper}" if name in MODELS else None


def first_weights(model: dict[str, Any]) -> dict[str, str]:
    """Return the licence of the published weights that the training started from, if it is known."""
    from jaxiqa.models import BACKBONES, MODELS
    from jaxiqa.models.zoo import SHIPPED

    metric, backbone, weights = model.get("metric", "linearity"), model.get("backbone"), model.get("weights")
    if weights in SHIPPED:
        return {f"first weights ({weights})": "Apache-2.0"}
    if weights in MODELS[metric].weights:
        return {f"first weights ({weights} of {metric})": MODELS[metric].licence}
    source = BACKBONES[backbone].weights.get(weights) if backbone in BACKBONES else None
    licence = getattr(source, "licence", None)
    return {f"first weights ({weights} of {backbone})": licence} if licence else {}


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a JSON file of the run; nothing if the run has no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or train again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object; restore it, or train again")
    return content
