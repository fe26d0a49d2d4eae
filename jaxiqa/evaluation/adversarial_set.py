"""The adversarial set: every attacked image is stored as an 8-bit PNG once; all defenses read it."""

import hashlib
import io
import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxiqa.core.files import safe_name, write_bytes
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.results.rows import StoredRow, Strength

_log = logging.getLogger(__name__)

Digests = dict[tuple[str, str, float | str | None], str]
"""(attack, image, strength) -> SHA-256 of the file."""


def png_path(evaluated: EvaluatedModel, attack: str, strength: Strength, image: str) -> Path:
    """Return WORKDIR/images/MODEL/ATTACK/STRENGTH/IMAGE.png, with names that are valid on every file system."""
    folder = evaluated.root / "images" / evaluated.file_prefix / safe_name(attack) / strength.folder
    return folder / f"{safe_name(image)}.png"


def write(
    evaluated: EvaluatedModel, attack: str, strength: Strength, image: str, pixels: UInt8[np.ndarray, "h w 3"]
) -> StoredRow:
    """Store one attacked 8-bit image; a file never exists in part."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    content = buffer.getvalue()
    write_bytes(png_path(evaluated, attack, strength, image), content)
    digest = hashlib.sha256(content).hexdigest()
    epsilon = None if strength.epsilon is None else float(strength.epsilon)
    return StoredRow(image, evaluated.name, evaluated.seed, attack, epsilon, strength.level, digest)


def digests(evaluated: EvaluatedModel, *, verify: bool = False) -> Digests:
    """Return the digests of the stored images of this model whose files exist.

    With ``verify`` every file is read; changed files are logged and left out.
    """
    found: Digests = {}
    for row in evaluated.rows(StoredRow):
        strength = Strength(row.epsilon, row.level)
        if png_path(evaluated, row.attack, strength, row.image).exists():
            found[row.attack, row.image, strength.key] = row.sha256
    for (attack, image, key), digest in list(found.items()) if verify else ():
        path = png_path(evaluated, attack, _strength(key), image)
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            _log.warning("%s is damaged; it is made again", path)
            del found[attack, image, key]
    return found


def _strength(key: float | str | None) -> Strength:
    """Return a strength with this key; all strengths with one key have the same file paths."""
    return Strength(None, key) if isinstance(key, str) else Strength(key)


def read(
    evaluated: EvaluatedModel, attack: str, strength: Strength, images: Iterable[str], expected: Digests
) -> UInt8[np.ndarray, "b h w 3"]:
    """Read the stored attacked versions of these images.

    Raises:
        ValueError: a file was changed after it was written.
    """
    stored = []
    for image in images:
        path = png_path(evaluated, attack, strength, image)
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected[attack, image, strength.key]:
            raise ValueError(f"{path} was changed after it was stored; delete it and run the same command again")
        stored.append(np.asarray(Image.open(io.BytesIO(content))))
    return np.stack(stored)
