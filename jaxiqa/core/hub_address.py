"""Addresses of trained metrics on the Hugging Face hub: ``hf://owner/name`` or ``hf://owner/name@revision``."""

import re
from dataclasses import dataclass
from typing import Any

PREFIX = "hf://"
PART = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}(?<![.-])(?<!\.git)")
"""Allowed names of owners and repositories: the hub's rule."""
REVISION = re.compile(r"(?!.*\.\.)[A-Za-z0-9_][A-Za-z0-9_./-]*")


@dataclass(frozen=True)
class HubAddress:
    """A repository on the hub, and a revision of it.

    Attributes:
        repository: ``owner/name``.
        revision: a branch, a tag or a commit; None: the branch main.
    """

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub_address(value: Any) -> bool:
    """Return whether a value is meant as an address on the hub.

    >>> is_hub_address("hf://owner/name"), is_hub_address("runs/mine"), is_hub_address(None)
    (True, False, False)
    """
    return isinstance(value, str) and value.startswith(PREFIX)


def parse_hub_address(text: str) -> HubAddress:
    """Parse ``hf://owner/name`` or ``hf://owner/name@revision``.

    Raises:
        ValueError: the text has another form, or a name that the hub does not allow.

    >>> parse_hub_address("hf://owner/name@v1")
    HubAddress(repository='owner/name', revision='v1')
    >>> parse_hub_address("hf://name")
    Traceback (most recent call last):
    ValueError: 'hf://name' is no address on the hub; write hf://owner/name or hf://owner/name@revision
    """
    repository, at, revision = text.removeprefix(PREFIX).partition("@")
    parts = repository.split("/")
    named = len(parts) == 2 and all(PART.fullmatch(part) for part in parts)
    if not text.startswith(PREFIX) or not named or (at and not REVISION.fullmatch(revision)):
        raise ValueError(f"{text!r} is no address on the hub; write {PREFIX}owner/name or {PREFIX}owner/name@revision")
    return HubAddress(repository, revision or None)
