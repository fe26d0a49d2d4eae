"""Example images of an attack on disk, for reports."""

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxiqa.core.files import write_bytes


@dataclass(frozen=True)
class Example:
    """One attacked image; pixels are float ``h w c`` in [0, 1]."""

    image: str
    model: str
    attack: str
    epsilon: float | None
    score: float
    attacked_score: float
    clean: np.ndarray
    attacked: np.ndarray


def save(example: Example, path: Path) -> None:
    """Write one example to an ``.npz`` file, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(vars(example), epsilon=np.nan if example.epsilon is None else example.epsilon))
    write_bytes(path, buffer.getvalue())


def load(path: Path) -> Example:
    """Read an example that `save` wrote.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged; the message names it.
    """
    try:
        with np.load(path) as file:
            epsilon = float(file["epsilon"])
            return Example(
                image=str(file["image"]),
                model=str(file["model"]),
                attack=str(file["attack"]),
                epsilon=None if np.isnan(epsilon) else epsilon,
                score=float(file["score"]),
                attacked_score=float(file["attacked_score"]),
                clean=file["clean"],
                attacked=file["attacked"],
            )
    except FileNotFoundError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged; delete it and run the same command to make it again ({error})") from error
