"""A fake hub for tests, with a cache and a token of their own."""

from contextlib import contextmanager

import pytest
from fake_hub import TOKEN, running


def environment(server, cache, *, token=TOKEN):
    """Return the environment of a process that uses the fake hub."""
    return {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(cache),
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_TOKEN": token,
        "HF_HUB_DISABLE_XET": "1",  # the fake hub stores large files as the hub did before Xet
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }


@contextmanager
def fake_hub(cache, monkeypatch):
    """Point huggingface_hub, in this process, at a fake hub; it reads its environment only when it is imported."""
    pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (the extra hub)")
    from huggingface_hub import constants

    with running() as server:
        found = environment(server, cache)
        for name, value in found.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", found["HF_HUB_CACHE"])
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server
