"""Trained metrics on the Hugging Face hub: download a repository once, upload a metric as one commit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jaxiqa.core.hub_address import HubAddress, parse_hub_address

NEEDED = ("model.json", "model.safetensors")
"""Files of a metric; a repository without one of them holds none."""
CARD = "README.md"
"""The page that the hub shows."""
LOG_IN = "log in by `hf auth login`, or set HF_TOKEN"


def fetch(address: str) -> Path:
    """Return the folder of a metric on the hub; download its files unless they are in the cache.

    Only model.json, model.safetensors and README.md are downloaded, into huggingface_hub's own cache (``$HF_HOME``).
    Each call asks the hub for the newest commit of the revision. Without a network the cached one is used; a commit
    as revision needs no network once it is cached. `jaxiqa.models.load_run` checks the seal and the digest.

    Args:
        address: ``hf://owner/name``, or ``hf://owner/name@revision`` for a branch, a tag or a commit.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: the text is no address.
        FileNotFoundError: there is no such repository or revision, the repository holds no metric, or the hub cannot
            be reached and the cache holds no complete copy.

    >>> fetch("hf://name")
    Traceback (most recent call last):
    ValueError: 'hf://name' is no address on the hub; write hf://owner/name or hf://owner/name@revision
    """
    chosen = parse_hub_address(address)
    hub = _library()
    endpoint, errors = hub.constants.ENDPOINT, hub.errors
    try:
        patterns = [*NEEDED, CARD]
        found = hub.snapshot_download(chosen.repository, revision=chosen.revision, allow_patterns=patterns)
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{address}: {chosen.repository} has no revision {chosen.revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{address}: there is no repository {chosen.repository} at {endpoint}, or it is private; for a private "
            f"one, {LOG_IN}"
        ) from error
    except errors.LocalEntryNotFoundError as error:
        raise FileNotFoundError(
            f"{address}: {endpoint} cannot be reached, and there is no complete copy in {hub.constants.HF_HUB_CACHE} "
            f"({_first_line(error.__cause__ or error)})"
        ) from error
    except (errors.HTTPError, OSError) as error:
        raise FileNotFoundError(f"{address}: cannot be downloaded ({_first_line(error)}); try again") from error
    folder = Path(found)
    if missing := [name for name in NEEDED if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{address} holds no metric of jaxiqa: it has no {' and no '.join(missing)}")
    return folder


def cached_repository(folder: Path) -> Path | None:
    """Return the part of the cache to delete so that a folder of `fetch` is downloaded again; None for other folders.

    >>> cached_repository(Path("hub/models--owner--name/snapshots/1f0c")).as_posix()
    'hub/models--owner--name'
    >>> cached_repository(Path("runs/mine/base/seed0")) is None
    True
    """
    ours = folder.parent.name == "snapshots" and folder.parents[1].name.startswith("models--")
    return folder.parents[1] if ours else None


def push(
    files: Mapping[str, bytes | Path], address: HubAddress, *, message: str, private: bool = False
) -> tuple[str, str]:
    """Upload files as one commit; create the repository, and the branch that the address names, if they do not exist.

    All files become visible at once: an upload that is refused or killed before its end changes no file there. If only
    the answer to the commit is lost, all are there.

    Args:
        files: name in the repository -> content, or the path of a local file.
        address: the repository, and the branch; None: main.
        message: of the commit.
        private: create a private repository.

    Returns:
        The address of the repository's page, and the commit.

    Raises:
        ImportError: huggingface_hub is not installed.
        ValueError: ``private``, but the repository exists and is public.
        PermissionError: not logged in, or without the right to write.
        ConnectionError: the hub cannot be reached or does not accept the files.

    >>> push({"model.json": b"{}"}, HubAddress("owner/name"), message="A metric")  # doctest: +SKIP
    ('https://.../owner/name', '1f0c...')
    """
    hub = _library()
    api, repository = hub.HfApi(), address.repository
    with _explained(hub, repository):
        page = api.create_repo(repository, private=private or None, exist_ok=True)
        public = private and not api.repo_info(repository).private
    if public:
        raise ValueError(f"private: {page} exists and is public; change that on its page, or push without private")
    with _explained(hub, repository):
        if address.revision:
            api.create_branch(repository, branch=address.revision, exist_ok=True)
        added = [hub.CommitOperationAdd(name, content) for name, content in files.items()]
        commit = api.create_commit(repository, added, commit_message=message, revision=address.revision)
    return str(page), str(commit.oid)


@contextmanager
def _explained(hub: Any, repository: str) -> Iterator[None]:
    """Convert the errors of an upload."""
    try:
        yield
    except (hub.errors.HTTPError, OSError, RuntimeError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        where = f"{repository} at {hub.constants.ENDPOINT}"
        if status in (401, 403) or isinstance(error, hub.errors.LocalTokenNotFoundError):
            raise PermissionError(f"{where}: you may not write to it; {LOG_IN} with a token that may") from error
        reason = _first_line(error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error)
        raise ConnectionError(
            f"{where}: not uploaded ({reason}); the repository has none of the files, or all"
        ) from error


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError as error:
        raise ImportError(
            "addresses hf://owner/name and `jaxiqa push` need the package huggingface_hub: pip install 'jaxiqa[hub]'"
        ) from error
    return huggingface_hub


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
