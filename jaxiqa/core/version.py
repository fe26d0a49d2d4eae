"""The version of this package, installed or in a checkout."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def package_version() -> str:
    """Return the version of the installed package; in a checkout that is not installed, of its pyproject.toml.

    >>> package_version().count(".")
    2
    """
    try:
        return version("jaxiqa")
    except PackageNotFoundError:
        import tomllib

        path = Path(__file__).parents[2] / "pyproject.toml"
        return tomllib.loads(path.read_text("utf-8"))["project"]["version"] if path.is_file() else "unknown"


__version__ = package_version()
