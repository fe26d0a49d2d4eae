"""Download published weight files: once, resumable, verified, cached. Or find them in an installed package."""

import importlib.util
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from jaxiqa.core.files import cache_folder, locked
from jaxiqa.pretrained.files import WeightsUrl

ATTEMPTS = 4
CHUNK = 2**16  # bytes; an interrupted download loses less than this
logger = logging.getLogger(__name__)


def fetch(source: WeightsUrl, name: str, *, model: str, pause: float = 2.0) -> Path:
    """Return the file of a source; download it unless it is in the cache.

    An interrupted download continues where it stopped: up to four attempts in one call, and again in the next call.
    The size and the digest must match those that are known; a resumed file that does not match is downloaded once more.
    A file that an installed package contains (``source.installed``) is read where it is.

    Args:
        source: its address, and its size and digest if known.
        name, model: name of the source and of its model; for errors and for the folder in the cache.
        pause: seconds before the second attempt, doubled before each further one.

    Raises:
        FileNotFoundError: the download is impossible, or the package is not installed; the message says where to get
            the file by hand.
        ValueError: the downloaded or installed file is not the published one.
        BlockingIOError: another process is downloading it.
    """
    if source.installed is not None:
        return _installed(source, source.installed, name, model)
    if source.url is None:
        raise FileNotFoundError(f"weights={name!r} of {model} cannot be downloaded by a program; {_by_hand(source)}")
    folder = cache_folder() / "weights" / f"{model}-{name}"
    path = folder / (unquote(Path(urlsplit(source.url).path).name) or "weights")
    if path.is_file():
        if not (problem := _problem(path, source)):
            return path
        logger.warning("%s in the cache is damaged (%s); downloading it again", path, problem)
    part = path.with_name(f"{path.name}.part")
    with locked(folder):
        if source.sha256 is None and source.size is None:
            part.unlink(missing_ok=True)  # without size and digest, a wrong join of two halves would stay unnoticed
        resumed = part.exists()
        _download(source, part, name, model, pause)
        problem = _problem(part, source)
        if problem and resumed:
            part.unlink()
            _download(source, part, name, model, pause)
            problem = _problem(part, source)
        if problem:
            part.unlink()
            raise ValueError(
                f"{source.url} is not the published file of weights={name!r} of {model}: {problem}; {_by_hand(source)}"
            )
        os.replace(part, path)
    return path


def _installed(source: WeightsUrl, file: str, name: str, model: str) -> Path:
    """Return the file of an installed package; the package is not imported."""
    package, _, inside = file.partition("/")
    found = importlib.util.find_spec(package)
    folders = [] if found is None else found.submodule_search_locations or []
    paths = [path for folder in folders if (path := Path(folder, inside)).is_file()]
    if not paths:
        reason = (
            f"the package {package} is not installed" if found is None else f"the package {package} has no {inside}"
        )
        raise FileNotFoundError(f"weights={name!r} of {model}: {reason}; {_by_hand(source)}")
    if problem := _problem(paths[0], source):
        raise ValueError(f"{paths[0]} is not the published file of weights={name!r} of {model}: {problem}")
    return paths[0]


def _by_hand(source: WeightsUrl) -> str:
    return f"get the file from {source.page} and pass its path: weights='/path/to/the/file'"


def _problem(path: Path, source: WeightsUrl) -> str | None:
    """Return how the file differs from the published one, or None."""
    import pooch

    size = path.stat().st_size
    if source.size is not None and size != source.size:
        return f"it has {size} bytes instead of {source.size}"
    if source.sha256 is None:
        return None
    digest = pooch.file_hash(str(path))
    return None if digest.startswith(source.sha256.lower()) else f"its SHA-256 is {digest}, not {source.sha256}..."


def _download(source: WeightsUrl, part: Path, name: str, model: str, pause: float) -> None:
    """Append the missing bytes to ``part``."""
    import pooch
    import requests

    for attempt in range(ATTEMPTS):
        have = part.stat().st_size if part.exists() else 0
        with open(part, "ab") as file:

            def restart(response: requests.Response, *_: Any, **__: Any) -> None:
                if response.status_code == 200:  # the whole file, not only the missing rest
                    file.truncate(0)

            headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
            get = pooch.HTTPDownloader(
                sys.stderr.isatty(), CHUNK, headers=headers, timeout=30, hooks={"response": restart}
            )
            try:
                get(source.url, file, None)
                error = None
            except requests.RequestException as caught:
                error = caught
        status = getattr(getattr(error, "response", None), "status_code", None)
        if error is None and not (source.size and part.stat().st_size < source.size):
            return
        if status == 416:  # the file has no more bytes
            return
        if status is not None and 400 <= status < 500:
            break
        if attempt + 1 < ATTEMPTS:
            time.sleep(pause * 2**attempt)
    reason = error or "it ends too early"
    raise FileNotFoundError(
        f"weights={name!r} of {model}: {source.url} cannot be downloaded ({reason}); {_by_hand(source)}"
    )
