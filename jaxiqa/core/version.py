"""The version of this package, installed or in a checkout, and the commit of its source."""

from importlib.metadata import PackageNotFoundError, distribution, version
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


def package_versions() -> str:
    """Return the versions of what computes the numbers: this package, Python, and the libraries beneath.

    >>> package_versions().startswith("jaxiqa ")
    True
    """
    import platform

    libraries = [f"{name} {version(name)}" for name in ("jax", "jaxlib", "flax", "numpy")]
    return ", ".join([f"jaxiqa {package_version()}", f"Python {platform.python_version()}", *libraries])


def source_commit() -> str | None:
    """Return the git commit of this package's source; None if it is unknown.

    It is that of the checkout that is running, with ``-dirty`` after it if tracked files were changed; or the one that
    ``pip install git+https://...`` has recorded.

    >>> source_commit() is None or len(source_commit().removesuffix("-dirty")) == 40
    True
    """
    import json
    import subprocess

    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() or None
    try:
        recorded = json.loads(distribution("jaxiqa").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        return None
    return recorded.get("vcs_info", {}).get("commit_id")


__version__ = package_version()
