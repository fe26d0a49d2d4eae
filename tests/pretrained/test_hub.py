"""Repositories on the hub: download, cache, offline use, uploads, and errors that say what to do."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub_setting import environment, fake_hub

from jaxiqa.core.hub_address import HubAddress, parse_hub_address
from jaxiqa.pretrained import hub

ROOT = Path(__file__).parents[2]
FILES = {"model.json": b"{}", "model.safetensors": b"\0" * 64, "README.md": b"---\ntags:\n- a\n---\n# mine\n"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    with fake_hub(tmp_path / "cache", monkeypatch) as found:
        yield found


def close(server):
    """Close the server's port, as if there were no network."""
    server.shutdown()
    server.server_close()


def read(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("text", ["hf://a/b", "hf://A-b_c/d.e@v1", "hf://a/b@refs/pr/1"])
def test_addresses_are_parsed_and_written_as_they_were(text):
    assert str(parse_hub_address(text)) == text


@pytest.mark.parametrize(
    "text",
    ["hf://", "hf://a", "hf://a/b/c", "hf://a/..", "hf://../b", "hf://a/b@", "hf://a/b@../x", "a/b", "hf://a/b c"],
)
def test_other_texts_are_errors(text):
    with pytest.raises(
        ValueError, match=r"is no address on the hub; write hf://owner/name or hf://owner/name@revision"
    ):
        parse_hub_address(text)


def test_only_the_files_of_a_metric_are_downloaded_and_only_once(server):
    server.add("me/mine", {**FILES, "checkpoint.bin": b"large"})
    folder = hub.fetch("hf://me/mine")
    assert read(folder) == FILES
    asked = len(server.asked)
    assert hub.fetch("hf://me/mine") == folder
    assert not any("/resolve/" in line for line in server.asked[asked:])
    assert not any("checkpoint.bin" in line for line in server.asked)


def test_a_revision_is_a_branch_a_tag_or_a_commit(server):
    first = server.add("me/mine", FILES)
    second = server.add("me/mine", {"model.json": b"{ }"})
    assert (hub.fetch(f"hf://me/mine@{first}") / "model.json").read_bytes() == b"{}"
    assert (hub.fetch("hf://me/mine@main") / "model.json").read_bytes() == b"{ }"
    assert hub.fetch("hf://me/mine").name == second
    with pytest.raises(FileNotFoundError, match=r"hf://me/mine@v9: me/mine has no revision 'v9'"):
        hub.fetch("hf://me/mine@v9")


def test_the_cached_copy_is_used_without_a_network(server):
    commit = server.add("me/mine", FILES)
    folder = hub.fetch("hf://me/mine")
    close(server)
    assert hub.fetch("hf://me/mine") == folder
    assert hub.fetch(f"hf://me/mine@{commit}") == folder
    assert read(folder) == FILES


def test_without_a_network_and_a_copy_the_error_names_both(server, tmp_path):
    close(server)
    message = rf"hf://me/mine: {server.url} cannot be reached, and there is no complete copy in {tmp_path}/cache/hub"
    with pytest.raises(FileNotFoundError, match=message):
        hub.fetch("hf://me/mine")


def test_half_a_download_is_no_copy_and_is_continued(server):
    server.add("me/mine", FILES)
    server.refused["GET .*/model.safetensors"] = 403
    with pytest.raises(FileNotFoundError, match=r"hf://me/mine: cannot be downloaded \(.*403"):
        hub.fetch("hf://me/mine")
    server.refused["GET /api/.*"] = 503
    with pytest.raises(FileNotFoundError, match=r"hf://me/mine"):
        hub.fetch("hf://me/mine")
    server.refused.clear()
    assert read(hub.fetch("hf://me/mine")) == FILES


def test_an_unknown_or_private_repository_is_an_error_that_says_how_to_log_in(server, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"there is no repository me/none at http.*hf auth login"):
        hub.fetch("hf://me/none")
    server.add("me/secret", FILES, private=True)
    assert read(hub.fetch("hf://me/secret")) == FILES
    monkeypatch.setenv("HF_TOKEN", "wrong")
    server.add("me/other", FILES, private=True)
    with pytest.raises(FileNotFoundError, match=r"no repository me/other at .*, or it is private"):
        hub.fetch("hf://me/other")


@pytest.mark.parametrize("missing", hub.NEEDED)
def test_a_repository_without_a_metric_is_named(server, missing):
    server.add("me/other", {name: content for name, content in FILES.items() if name != missing})
    with pytest.raises(FileNotFoundError, match=rf"hf://me/other holds no metric of jaxiqa: it has no {missing}"):
        hub.fetch("hf://me/other")


def test_a_push_is_one_commit_in_a_new_repository(server):
    page, commit = hub.push(FILES, HubAddress("me/mine"), message="first")
    repository = server.repositories["me/mine"]
    assert page == f"{server.url}/me/mine"
    assert repository.commits == {commit: FILES}
    assert not repository.private
    assert read(hub.fetch("hf://me/mine")) == FILES


def test_a_branch_leaves_main_unchanged(server):
    hub.push(FILES, HubAddress("me/mine"), message="first")
    hub.push({**FILES, "model.json": b"{ }"}, HubAddress("me/mine", "trial"), message="second")
    assert (hub.fetch("hf://me/mine") / "model.json").read_bytes() == b"{}"
    assert (hub.fetch("hf://me/mine@trial") / "model.json").read_bytes() == b"{ }"


def test_a_private_push_is_not_made_public(server):
    hub.push(FILES, HubAddress("me/secret"), message="first", private=True)
    assert server.repositories["me/secret"].private
    hub.push({**FILES, "model.json": b"{ }"}, HubAddress("me/secret"), message="second", private=True)
    hub.push({**FILES, "model.json": b"[]"}, HubAddress("me/secret"), message="third")
    assert server.repositories["me/secret"].private
    server.add("me/open", FILES)
    with pytest.raises(ValueError, match=r"private: http.*me/open exists and is public"):
        hub.push({**FILES, "model.json": b"{ }"}, HubAddress("me/open"), message="first", private=True)
    assert len(server.repositories["me/open"].commits) == 1


def test_without_the_right_to_write_the_error_says_how_to_log_in(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(PermissionError, match=r"me/mine at http.*: you may not write to it; log in by `hf auth login`"):
        hub.push(FILES, HubAddress("me/mine"), message="first")
    assert server.repositories == {}


@pytest.mark.parametrize("refused", ["PUT .*", "POST .*/commit/main", "POST .*/preupload/main"])
def test_a_failed_push_changes_no_file_and_the_next_one_succeeds(server, refused):
    hub.push(FILES, HubAddress("me/mine"), message="first")
    new = {**FILES, "model.json": b"{ }", "model.safetensors": b"\1" * 64}
    server.refused[refused] = 422
    with pytest.raises(
        ConnectionError, match=r"me/mine at http.*: not uploaded \(.*422.*\); the repository has none of"
    ):
        hub.push(new, HubAddress("me/mine"), message="second")
    assert len(server.repositories["me/mine"].commits) == 1
    server.refused.clear()
    hub.push(new, HubAddress("me/mine"), message="second")
    assert read(hub.fetch("hf://me/mine")) == new


def test_a_push_without_a_network_is_an_error(server):
    close(server)
    with pytest.raises(ConnectionError, match=r"me/mine at http.*: not uploaded"):
        hub.push(FILES, HubAddress("me/mine"), message="first")


PUSH = """
import sys
from pathlib import Path
from jaxiqa.core.hub_address import HubAddress
from jaxiqa.pretrained import hub
folder = Path(sys.argv[1])
hub.push({path.name: path for path in folder.iterdir()}, HubAddress("me/mine"), message="killed")
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_a_killed_push_leaves_nothing_here_and_changes_nothing_there(server, tmp_path):
    server.add("me/mine", FILES)
    run, temporary = tmp_path / "run", tmp_path / "tmp"
    for folder in (run, temporary):
        folder.mkdir()
    for name, content in {**FILES, "model.safetensors": b"\1" * 64}.items():
        (run / name).write_bytes(content)
    before = {path: path.stat().st_mtime_ns for path in run.iterdir()}
    server.go_on.clear()
    settings = {
        **os.environ,
        **environment(server, tmp_path / "cache"),
        "TMPDIR": str(temporary),
        "PYTHONPATH": str(ROOT),
    }
    process = subprocess.Popen([sys.executable, "-c", PUSH, str(run)], env=settings, stderr=subprocess.PIPE)
    assert server.uploading.wait(60), process.stderr.read()
    process.kill()
    process.communicate(timeout=30)
    server.go_on.set()
    assert process.returncode == -signal.SIGKILL
    assert {path: path.stat().st_mtime_ns for path in run.iterdir()} == before
    assert list(temporary.iterdir()) == []
    assert read(hub.fetch("hf://me/mine")) == FILES
    hub.push({path.name: path for path in run.iterdir()}, HubAddress("me/mine"), message="again")
    assert read(hub.fetch("hf://me/mine"))["model.safetensors"] == b"\1" * 64


def test_the_error_without_the_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"need the package huggingface_hub: pip install 'jaxiqa\[hub\]'"):
        hub.fetch("hf://me/mine")
    with pytest.raises(ImportError, match=r"jaxiqa\[hub\]"):
        hub.push(FILES, HubAddress("me/mine"), message="first")
