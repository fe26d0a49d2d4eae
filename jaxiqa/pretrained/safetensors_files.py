"""Read Hugging Face's ``.safetensors`` files."""

from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors

from jaxiqa.pretrained.budget import check_arrays

LONGEST = 100_000_000
"""Largest header in bytes, as in the package safetensors."""

DTYPES = {f"{letter}{8 * size}": np.dtype(f"<{letter.lower()}{size}") for letter in "IU" for size in (1, 2, 4, 8)}
DTYPES |= {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "C64": np.dtype("<c8")}
DTYPES |= {"BOOL": np.dtype(bool), "BF16": np.dtype(ml_dtypes.bfloat16)}
DTYPES |= {"F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn), "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2)}


def is_safetensors(start: bytes) -> bool:
    """Return whether a file with these first bytes is one: the length of a header, and its opening brace.

    The length may begin with any byte, also with that of a pickle (0x80) or those of a zip file (``PK``). Such files
    are not mistaken for it: their first eight bytes, as a length, are far above `LONGEST`, or the ninth is no brace.

    >>> is_safetensors(bytes([0x80, 2, 0, 0, 0, 0, 0, 0]) + b"{")
    True
    """
    return start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= LONGEST


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays by name, and the texts in the header.

    Raises:
        ValueError: the file is damaged, or has numbers of a type that NumPy does not have.
    """
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    check_arrays(content.count(b'"data_offsets"', 8, 8 + length))
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
        arrays = {
            name: np.frombuffer(entry["data"], DTYPES[entry["dtype"]]).reshape(entry["shape"])
            for name, entry in safetensors.deserialize(content)
        }
    except KeyError as error:
        raise ValueError(f"numbers of type {error} are not supported") from error
    except safetensors.SafetensorError as error:
        raise ValueError(f"not a whole safetensors file: {error}") from error
    return arrays, metadata
