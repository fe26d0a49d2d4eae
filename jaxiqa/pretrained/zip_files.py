"""Read zip files within a budget: PyTorch's since version 1.6, and NumPy's ``.npz``."""

import io
import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from jaxiqa.pretrained.budget import ARRAYS, Budget, check_arrays

FAULTS: tuple[type[Exception], ...] = (zipfile.BadZipFile, RuntimeError, NotImplementedError, LookupError)
FAULTS += (EOFError, OSError)
FAULTS += (zlib.error, lzma.LZMAError, struct.error, OverflowError, MemoryError, AssertionError, TypeError)
FAULTS += (SyntaxError, tokenize.TokenError)  # from NumPy's headers, which are Python literals
RECORD = 400  # assumed bytes of one entry in the zip directory, for the limit on its size


class Archive:
    """The records of a zip file.

    Attributes:
        names: of all records, in their order.
        budget: limits on the cost of reading.

    Raises:
        ValueError: two records have one name, or there are too many; from ``read``: a record is damaged, or larger
            than a file of this size may contain.
    """

    def __init__(self, archive: zipfile.ZipFile, budget: Budget):
        self._archive = archive
        self._records = {record.filename: record for record in archive.infolist()}
        self.names = list(self._records)
        self.budget = budget
        check_arrays(len(archive.infolist()), "records")
        if len(self.names) < len(archive.infolist()):
            names = [record.filename for record in archive.infolist()]
            raise ValueError(f"two records are called {next(name for name in names if names.count(name) > 1)!r}")

    def read(self, name: str) -> bytes:
        """Return the bytes of one record."""
        record = self._records[name]
        if record.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"record {name!r} is packed by method {record.compress_type}; 0 and 8 are read")
        if record.compress_size > self.budget.size:
            raise ValueError(
                f"record {name!r} claims {record.compress_size:,} bytes of a file that has {self.budget.size:,}"
            )
        self.budget.spend(unpacked=record.file_size)
        with self._archive.open(record) as file:
            return file.read(record.file_size)  # no more than the record claims, whatever it unpacks to


@contextmanager
def opened(path: Path, budget: Budget) -> Iterator[Archive]:
    """Open a zip file; raise ValueError for anything wrong with it."""
    try:
        with open(path, "rb", buffering=0) as raw:
            file = _Guarded(raw)
            with zipfile.ZipFile(file) as archive:
                file.limit = None
                yield Archive(archive, budget)
    except FAULTS as error:
        raise ValueError(f"not a whole zip file: {error}") from error


class _Guarded(io.BufferedReader):
    """A file that reads at most ``limit`` bytes at once, which limits the directory that `zipfile` parses."""

    limit: int | None = RECORD * ARRAYS

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is not None and size is not None and size > self.limit:
            raise ValueError(f"its list of records has {size:,} bytes; more than {self.limit:,} are not read")
        return super().read(size)


def read_npz(archive: Archive) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file, by name.

    Raises:
        ValueError: an array is damaged, or holds Python objects.
    """
    return {name.removesuffix(".npy"): _npy(name, archive.read(name)) for name in archive.names}


def _npy(name: str, data: bytes) -> np.ndarray:
    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{name!r} is in version {version} of NumPy's format; 1 and 2 are read")
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = header(file)
    if dtype.hasobject:
        raise ValueError(f"{name!r} holds Python objects, which are not read")
    if any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != len(data) - file.tell():
        raise ValueError(f"{name!r} has {len(data) - file.tell()} bytes, not {shape} x {dtype}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order="F" if fortran else "C")
