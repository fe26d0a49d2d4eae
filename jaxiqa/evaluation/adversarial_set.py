"""The adversarial set: every attacked image is stored as an 8-bit PNG once; all defenses read it."""

import hashlib
import io
import logging
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jaxiqa.core.files import safe_name, write_bytes
from jaxiqa.data.known import Content, recall, remember, stamp
from jaxiqa.evaluation.evaluated_model import EvaluatedModel
from jaxiqa.results.rows import StoredRow, Strength, StrengthKey

_log = logging.getLogger(__name__)

Digests = dict[tuple[str, str, StrengthKey], str]
"""(attack, image, strength) -> SHA-256 of the file."""


def png_path(evaluated: EvaluatedModel, attack: str, strength: Strength, image: str) -> Path:
    """Return WORKDIR/images/MODEL/ATTACK/STRENGTH/SHELF/IMAGE.png, with names that are valid on every file system.

    SHELF is one of 256 folders, by a digest of the name: file systems and browsers are slow with 100,000 files in one.
    """
    name = f"{safe_name(image)}.png"
    shelf = hashlib.sha256(image.encode()).hexdigest()[:2]
    return _images(evaluated) / safe_name(attack) / strength.folder / shelf / name


def _images(evaluated: EvaluatedModel) -> Path:
    return evaluated.root / "images" / evaluated.file_prefix


def stored_path(evaluated: EvaluatedModel, attack: str, strength: Strength, image: str) -> Path | None:
    """Return the path of a stored image; None if it does not exist.

    Versions before this one stored all images of a strength in its folder; they are still found there.
    """
    path = png_path(evaluated, attack, strength, image)
    if path.exists():
        return path
    older = path.parent.parent / path.name
    return older if older.exists() else None


def encoded(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """Return an 8-bit image as the content of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write(evaluated: EvaluatedModel, attack: str, strength: Strength, image: str, content: bytes) -> StoredRow:
    """Store one attacked image, `encoded`; a file never exists in part."""
    path = png_path(evaluated, attack, strength, image)
    write_bytes(path, content)
    (path.parent.parent / path.name).unlink(missing_ok=True)  # the damaged file of an older version
    digest = hashlib.sha256(content).hexdigest()
    epsilon = None if strength.epsilon is None else float(strength.epsilon)
    return StoredRow(image, evaluated.name, evaluated.seed, attack, epsilon, strength.level, digest)


def digests(evaluated: EvaluatedModel, *, verify: bool = False) -> Digests:
    """Return the digests of the stored images of this model whose files exist.

    With ``verify`` every file is read, unless it has the size and times of its last check; changed files are logged and
    left out.
    """
    found: Digests = {}
    paths: dict[tuple[str, str, StrengthKey], Path] = {}
    rows = evaluated.query(StoredRow).select("attack, image, epsilon, level, sha256", "ORDER BY place")
    for attack, image, epsilon, level, digest in rows:
        strength = Strength(epsilon, level)
        if path := stored_path(evaluated, attack, strength, image):
            found[attack, image, strength.key] = digest
            paths[attack, image, strength.key] = path
    content = _contents(paths.values(), _images(evaluated)) if verify else {}
    for key, path in paths.items() if verify else ():
        if content.get(path) != found[key]:
            _log.warning("%s is damaged; it is made again", path)
            del found[key]
    return found


def _contents(paths: Collection[Path], folder: Path) -> dict[Path, str]:
    """Return the digests of files in ``folder``; those that did not change since they were read last are not read."""
    known = recall(paths, Content, folder)
    read = {}
    for path in paths:
        if path not in known and (then := stamp(path)):
            read[path] = then, Content(hashlib.sha256(path.read_bytes()).hexdigest())
    if read:
        remember(read, Content, folder)
    return {path: content.digest for path, content in (known | {path: of for path, (_, of) in read.items()}).items()}


def read(
    evaluated: EvaluatedModel, attack: str, strength: Strength, images: Iterable[str], expected: Digests
) -> UInt8[np.ndarray, "b h w 3"]:
    """Read the stored attacked versions of these images.

    Raises:
        ValueError: a file was changed after it was written.
    """
    stored = []
    for image in images:
        path = stored_path(evaluated, attack, strength, image) or png_path(evaluated, attack, strength, image)
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != expected[attack, image, strength.key]:
            raise ValueError(f"{path} was changed after it was stored; delete it and run the same command again")
        stored.append(np.asarray(Image.open(io.BytesIO(content))))
    return np.stack(stored)
