"""The fingerprint of an evaluation in WORKDIR/evaluation.json: all that decides its rows, so that rows never mix.

All functions here read or write WORKDIR; call them inside its lock. Strengths are not part of the fingerprint of an
attack: each row has its own strength, so rows of unchanged strengths are reused.
"""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxiqa.config import Experiment, root_folder, run_folder
from jaxiqa.core.files import safe_name, write_text
from jaxiqa.core.version import package_version
from jaxiqa.evaluation.build_defense import source_digest
from jaxiqa.evaluation.networks import weight_digests
from jaxiqa.results.parts import schema
from jaxiqa.results.rows import FILES
from jaxiqa.results.store import Store

LABELLED = ("attack", "defense", "certifier")
FOLDERS = ("fitted", "aligned", "images", "examples", "parquet")


def check_same_evaluation(experiment: Experiment, images: Mapping[str, str]) -> None:
    """Check that earlier rows have the same fingerprint as this run, then write WORKDIR/evaluation.json.

    Entries that an older file lacks (a version, a digest) are taken from this run.

    Args:
        experiment: the experiment.
        images: digests of "labelled images", "attacked images", "images of attack LABEL".

    Raises:
        FileNotFoundError: a model is not trained, or evaluation.json is missing.
        ValueError: evaluation.json is damaged, or an entry with rows has changed; the message names the entry, both
            values, and what to do.
    """
    root = root_folder(experiment)
    today = json.loads(json.dumps(describe(experiment, images)))
    earlier = _earlier(root)
    changed = {
        key: lines
        for key in today
        if key in earlier and (lines := differences(key, earlier[key], today[key])) and _left_something(root, key)
    }
    if changed:
        raise ValueError(_refusal(root, changed))
    for key in earlier.keys() & today.keys():
        if isinstance(earlier[key], dict) and not differences(key, earlier[key], today[key]):
            today[key] = earlier[key] | today[key]  # for example how an attack was aligned earlier
    write_text(root / "evaluation.json", json.dumps(earlier | today, indent=1))


def describe(experiment: Experiment, images: Mapping[str, str]) -> dict[str, Any]:
    """Return all that decides a row, by entry."""
    evaluation = experiment.evaluation
    described: dict[str, Any] = {"version of jaxiqa": package_version()}
    described |= {f"digest of {what}": digest for what, digest in images.items()}
    for label, attack in evaluation.attacks.items():
        fields = asdict(attack)
        del fields["epsilons"]
        described[f"attack {label}"] = {k: v for k, v in fields.items() if k != "aligned" or v is not None}
    for label, defense in evaluation.defenses.items():
        described[f"defense {label}"] = [asdict(defense), source_digest(defense), evaluation.adaptive.draws]
    for label, certifier in evaluation.certifiers.items():
        described[f"certifier {label}"] = [asdict(certifier)[key] for key in ("name", "options", "networks")]
    groups: tuple[Mapping[str, Any], ...] = (evaluation.attacks, evaluation.defenses, evaluation.certifiers)
    for kind, parts in zip(LABELLED, groups, strict=True):
        for label, part in parts.items():
            if digests := weight_digests(part.networks):
                described[f"weights of {kind} {label}"] = digests
    described["attacked images"] = asdict(evaluation.data)
    subset = evaluation.subset and asdict(evaluation.subset)
    described["choice of attacked images"] = [evaluation.attacked_split, subset, evaluation.size]
    described["labelled images"] = [asdict(experiment.data), evaluation.split]
    for seed, name in itertools.product(experiment.seeds, experiment.variants):
        described[f"model {name} seed {seed}"] = model_digest(run_folder(experiment, name, seed) / "model.json")
    return described


def differences(where: str, before: Any, today: Any) -> list[str]:
    """List the fields whose values differ; a field that only one side has (an older file) is not listed.

    >>> differences("attack PGD", {"options": {"steps": 1}, "epsilons": [0.1]}, {"options": {"steps": 2}})
    ['attack PGD.options.steps: 1 -> 2']
    """
    if before == today:
        return []
    if isinstance(before, dict) and isinstance(today, dict):
        whole = where.endswith(("options", "networks"))  # here a missing field has a meaning
        keys = before.keys() | today.keys() if whole else before.keys() & today.keys()
        return [line for key in sorted(keys) for line in differences(f"{where}.{key}", before.get(key), today.get(key))]
    if isinstance(before, list) and isinstance(today, list) and len(before) == len(today):
        pairs = enumerate(zip(before, today, strict=True))
        return [line for i, pair in pairs for line in differences(f"{where}[{i}]", *pair)]
    return [f"{where}: {before!r} -> {today!r}"]


def _earlier(root: Path) -> dict[str, Any]:
    path = root / "evaluation.json"
    if not path.exists():
        if left := [name for name in FILES.values() if (root / name).exists() and (root / name).stat().st_size]:
            raise FileNotFoundError(
                f"{path} is missing, so the origin of the rows in {', '.join(left)} is unknown; "
                "put it back, or delete these files, or choose another --workdir"
            )
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}; expected an object")
        return found
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); put it back, or delete it and {', '.join(FILES.values())} in its folder"
        ) from error


def model_digest(card: Path) -> str:
    """Return what decides a model's scores, from its model.json.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is damaged.
    """
    if not card.exists():
        raise FileNotFoundError(f"{card} does not exist; train first, with train.py and the same arguments")
    try:
        described = json.loads(card.read_text("utf-8"))
        swapped = described.get("activations", {})  # not seen in the digest of the weights
        parts = [str(described["sha256"]), *(f"{part}={swapped[part]}" for part in sorted(swapped))]
        parts += [f"{name}={described[name]}" for name in ("blur", "pooling") if name in described]
        if "members" in described:  # neither are their calibrations and the views
            content = json.dumps([described["members"], described["options"]], sort_keys=True)
            parts.append(f"members={hashlib.sha256(content.encode()).hexdigest()}")
        return " ".join(parts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{card} is damaged ({error!r}); train again into an empty folder") from error


def _left_something(root: Path, key: str) -> bool:
    """Return whether the folder may hold results under this key of `describe`; if not, the entry may change."""
    kind, _, label = key.removeprefix("weights of ").removeprefix("digest of images of ").partition(" ")
    if kind not in LABELLED:
        return any((root / name).exists() and (root / name).stat().st_size for name in FILES.values())
    store = Store(root)
    for row_type in FILES:
        if kind in schema(row_type) and store.rows(row_type).only(**{kind: label}).select("1", "LIMIT 1"):
            return True
    learnt = [path for folder in ("fitted", "aligned") for path in (root / folder).glob("*/*")]
    return kind == "attack" and safe_name(label) in {path.name.removesuffix(".json") for path in learnt}


def _refusal(root: Path, changed: Mapping[str, list[str]]) -> str:
    lines = [line if len(line) <= 300 else f"{line[:299]}…" for found in changed.values() for line in found]
    listed = "\n  ".join([*lines[:20], *([f"and {len(lines) - 20} more"] if len(lines) > 20 else [])])
    kinds = {key.removeprefix("weights of ").partition(" ")[0] for key in changed}
    if kinds <= {"defense", "certifier"}:
        return (
            f"{root} holds rows for a different {', for a different '.join(changed)}:\n  {listed}\nuse a new label, or "
            "delete its lines in defenses.jsonl or certificates.jsonl and its entry in evaluation.json in this folder"
        )
    relabel = "use a new label, then only this attack is run; or " if kinds == {"attack"} else ""
    return (
        f"{root}/results.jsonl holds rows for a different evaluation ({', '.join(changed)} changed):\n  {listed}\n"
        f"{relabel}choose another --workdir; or delete evaluation.json, {', '.join(FILES.values())}, "
        f"{', '.join(f'{name}/' for name in FOLDERS)} in this folder"
    )
