"""Downloads from a local server that breaks off, ignores ranges, serves another file, or is down."""

import hashlib
import http.server
import threading
from dataclasses import dataclass, field

import pytest

from jaxiqa.pretrained import download
from jaxiqa.pretrained.files import WeightsUrl

CONTENT = bytes(range(256)) * 4000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """Served content, number of bytes before it breaks off (per request), and the requested ranges."""

    content: bytes = CONTENT
    breaks: list[int] = field(default_factory=list)
    ranges: bool = True
    status: int | None = None
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXIQA_CACHE", str(tmp_path / "cache"))
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    server = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            wanted = self.headers["Range"]
            server.asked.append(wanted)
            if server.status:
                self.send_error(server.status)
                return
            first = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and server.ranges else 0
            if first >= len(server.content):
                self.send_error(416)
                return
            body = server.content[first:]
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: server.breaks.pop(0)] if server.breaks else body)

        def log_message(self, *_):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    server.url = f"http://127.0.0.1:{running.server_address[1]}/some/model%20v1.pth?download=1"
    yield server
    running.shutdown()
    running.server_close()


def fetch(source):
    return download.fetch(source, "koniq10k", model="demo", pause=0.01)


def source(server, **changes):
    return WeightsUrl(
        **{"url": server.url, "page": "the authors' page", "sha256": SHA256, "size": len(CONTENT)} | changes
    )


@pytest.mark.parametrize("known", [{}, {"sha256": SHA256[:8], "size": None}, {"sha256": None}])
def test_a_file_is_downloaded_once(server, known, tmp_path):
    path = fetch(source(server, **known))
    assert path == tmp_path / "cache" / "weights" / "demo-koniq10k" / "model v1.pth"
    assert path.read_bytes() == CONTENT
    assert fetch(source(server, **known)) == path
    assert server.asked == [None]


@pytest.mark.parametrize("known", [{}, {"size": None}])
def test_an_interrupted_download_is_resumed(server, known):
    server.breaks = [4 * download.CHUNK, 7 * download.CHUNK + 99]
    assert fetch(source(server, **known)).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={4 * download.CHUNK}-", f"bytes={11 * download.CHUNK}-"]


def test_the_next_call_resumes_the_download(server):
    server.breaks = [download.CHUNK, 10, download.CHUNK, 30]
    with pytest.raises(FileNotFoundError, match="cannot be downloaded"):
        fetch(source(server))
    assert fetch(source(server)).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={2 * download.CHUNK}-"


def test_a_server_without_ranges_sends_everything_again(server):
    server.ranges, server.breaks = False, [3 * download.CHUNK]
    assert fetch(source(server)).read_bytes() == CONTENT
    assert server.asked == [None, f"bytes={3 * download.CHUNK}-"]


def test_without_size_and_digest_nothing_is_resumed(server):
    server.breaks = [download.CHUNK, 10, 10, 10]
    with pytest.raises(FileNotFoundError):
        fetch(source(server, sha256=None, size=None))
    assert fetch(source(server, sha256=None, size=None)).read_bytes() == CONTENT
    assert server.asked[-1] is None


def test_a_part_of_another_file_is_downloaded_again(server, tmp_path):
    folder = tmp_path / "cache" / "weights" / "demo-koniq10k"
    folder.mkdir(parents=True)
    for rubbish in (b"rubbish" * 100, b"rubbish" * 200_000):
        (folder / "model v1.pth.part").write_bytes(rubbish)
        path = fetch(source(server))
        assert path.read_bytes() == CONTENT
        path.unlink()


def test_another_file_is_refused_and_not_kept(server, tmp_path):
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(ValueError, match=r"is not the published file of weights='koniq10k' of demo: its SHA-256 is"):
        fetch(source(server))
    with pytest.raises(ValueError, match=r"not 0123abcd\.\.\.; get the file from the authors' page and pass its path"):
        fetch(source(server, sha256="0123abcd", size=None))
    server.content = CONTENT + b"x"
    with pytest.raises(ValueError, match=f"it has {len(CONTENT) + 1} bytes instead of {len(CONTENT)}"):
        fetch(source(server))
    assert [path.name for path in (tmp_path / "cache" / "weights" / "demo-koniq10k").iterdir()] == [".lock"]


def test_a_damaged_copy_in_the_cache_is_detected(server, caplog):
    path = fetch(source(server))
    path.write_bytes(CONTENT[:-1] + b"x")
    assert fetch(source(server)).read_bytes() == CONTENT
    assert "is damaged" in caplog.text


@pytest.mark.parametrize("status", [404, 503])
def test_the_error_for_a_missing_file_names_the_page(server, status):
    server.status = status
    message = rf"{status}.*get the file from the authors' page and pass its path: weights='/path/to/the/file'"
    with pytest.raises(FileNotFoundError, match=message):
        fetch(source(server))
    assert len(server.asked) == (1 if status == 404 else download.ATTEMPTS)


def test_the_error_for_an_unreachable_host_names_the_page(server):
    with pytest.raises(FileNotFoundError, match=r"127\.0\.0\.1:9/.*cannot be downloaded.*the authors' page"):
        fetch(source(server, url="http://127.0.0.1:9/model.pth"))


def test_the_error_for_a_manual_download_names_the_page(server):
    with pytest.raises(
        FileNotFoundError, match=r"'koniq10k' of demo cannot be downloaded by a program; get the file fr"
    ):
        fetch(source(server, url=None))
    assert server.asked == []
