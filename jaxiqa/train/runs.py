"""Check what the folder of a variant already contains, and whether training may resume in it. Needs its lock."""

import json
from pathlib import Path
from typing import Any

from jaxiqa.config.identity import differences


def earlier_run(folder: Path, described: dict[str, Any], names: list[str]) -> dict[str, Any] | None:
    """Return the content of training.json if exactly this training is finished, else None.

    A folder without a checkpoint or a model counts as empty: a failed start leaves nothing worth keeping.

    Args:
        folder: of the run.
        described: the training to do, see `jaxiqa.config.describe`.
        names: of the variants in it, see `jaxiqa.config.identity.chain`.

    Raises:
        ValueError: the folder contains another training; the message names each field that differs, with both values.
    """
    if not holds_work(folder):
        return None
    changed = differences(_read(folder / "config.json"), described, names)
    if changed:
        raise ValueError(f"{folder} holds another training ({'; '.join(changed)})")
    finished = folder / "training.json"
    return _read(finished) if finished.exists() and (folder / "model.json").exists() else None


def holds_work(folder: Path) -> bool:
    """Return whether the folder contains a model or a step of a checkpoint."""
    kept = any((folder / name).exists() for name in ("training.json", "model.json", "model.safetensors"))
    checkpoints = folder / "checkpoints"
    names = [path.name for path in checkpoints.iterdir()] if checkpoints.is_dir() else []
    return kept or any(name.partition(".")[0].isdigit() and "tmp" not in name for name in names)


def _read(path: Path) -> dict[str, Any]:
    mend = f"restore it, or delete {path.parent} and train again"
    if not path.is_file():
        raise ValueError(f"{path} is missing, but {path.parent} holds a checkpoint or a model; {mend}")
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {mend}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object; {mend}")
    return content
