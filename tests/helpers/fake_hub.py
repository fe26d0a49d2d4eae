"""A server on 127.0.0.1 with the part of the Hugging Face hub's interface that downloads and uploads use."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_test"


@dataclass
class Repository:
    """Files by commit, and commits by branch."""

    private: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files, branch="main"):
        content = {**self.commits.get(self.branches.get(branch), {}), **files}
        seed = f"{len(self.commits)} {sorted(content)}"
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha], self.branches[branch] = content, sha
        return sha

    def resolve(self, revision):
        return self.branches.get(revision, revision if revision in self.commits else None)


class FakeHub(ThreadingHTTPServer):
    """The server; tests read and change its attributes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}  # large files by their SHA-256
        self.asked: list[str] = []  # "METHOD path"
        self.refused: dict[str, int] = {}  # regular expression of "METHOD path" -> status
        self.uploading, self.go_on = threading.Event(), threading.Event()  # an upload waits for go_on
        self.go_on.set()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"

    def add(self, name, files, **options):
        """Publish files as a commit."""
        return self.repositories.setdefault(name, Repository(**options)).commit(files)


@contextmanager
def running():
    """Run a server in a thread."""
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.go_on.set()
        server.shutdown()
        server.server_close()


ROUTES = [
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate"),
    ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "info"),
    ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", "tree"),
    ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
    ("POST", r"/api/models/([^/]+/[^/]+)/branch/([^/]+)", "branch"),
    ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
    ("POST", r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
    ("PUT", r"/stored/(\w+)", "store"),
    ("HEAD", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "file"),
    ("GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "file"),
]


def is_large(name):
    return name.endswith(".safetensors")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def route(self):
        path = urlsplit(self.path).path
        line = f"{self.command} {path}"
        self.server.asked.append(line)
        length = int(self.headers.get("Content-Length") or 0)
        chunked = self.headers.get("Transfer-Encoding") == "chunked"
        self.body = self.rfile.read(length) if not chunked else b"".join(self.chunks())
        for pattern, status in self.server.refused.items():
            if re.fullmatch(pattern, line):
                return self.answer({"error": "refused by the test"}, status)
        for method, pattern, name in ROUTES:
            if method == self.command and (found := re.fullmatch(pattern, path)):
                return getattr(self, name)(*(part and unquote(part) for part in found.groups()))
        return self.answer({"error": f"no such path: {line}"}, 404)

    do_GET = do_HEAD = do_POST = do_PUT = route

    def chunks(self):
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    @property
    def known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def found(self, name, revision="main", *, write=False):
        """Return the repository and the commit, or answer as the hub does."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and not self.known):
            return self.answer(
                {"error": "Repository not found"}, 404 if self.known else 401, X_Error_Code="RepoNotFound"
            )
        if write and not self.known:
            return self.answer({"error": "Forbidden"}, 403)
        commit = repository.resolve(revision or "main")
        if commit is None and repository.commits:
            return self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
        return repository, commit

    def create(self):
        asked = json.loads(self.body)
        name = f"{asked['organization']}/{asked['name']}"
        if not self.known:
            return self.answer({"error": "Invalid username or password."}, 401)
        if name in self.server.repositories:
            return self.answer(
                {"error": "You already created this model repo", "url": f"{self.server.url}/{name}"}, 409
            )
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        self.server.repositories[name] = Repository(private)
        return self.answer({"url": f"{self.server.url}/{name}"})

    def validate(self):
        import yaml

        _, head, *_ = json.loads(self.body)["content"].split("---\n")
        fields = yaml.safe_load(head)
        good = isinstance(fields.get("license", ""), str) and {type(tag) for tag in fields["tags"]} == {str}
        errors = [] if good else [{"message": f"bad header {fields}"}]
        return self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def info(self, name, revision):
        if found := self.found(name, revision):
            repository, commit = found
            siblings = [{"rfilename": path} for path in repository.commits.get(commit, {})]
            self.answer({"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []})

    def tree(self, name, revision):
        if found := self.found(name, revision):
            repository, commit = found
            entries = []
            for path, content in repository.commits[commit].items():
                entry = {"type": "file", "path": path, "size": len(content), "oid": oid(content)}
                if is_large(path):
                    entry["lfs"] = {"oid": digest(content), "size": len(content), "pointerSize": 130}
                entries.append(entry)
            self.answer(entries)

    def file(self, name, revision, path):
        if not (found := self.found(name, revision)):
            return None
        repository, commit = found
        content = repository.commits[commit].get(path)
        if content is None:
            return self.answer({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        tag = digest(content) if is_large(path) else oid(content)
        linked = {"X_Linked_Etag": f'"{tag}"', "X_Linked_Size": len(content)} if is_large(path) else {}
        return self.answer(content, ETag=f'"{tag}"', X_Repo_Commit=commit, **linked)

    def preupload(self, name, revision):
        if self.found(name, revision, write=True):
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if is_large(one["path"]) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(self.body)["files"]
            ]
            self.answer({"files": files})

    def batch(self, name):
        if self.found(name, write=True):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.server.url}/stored/{one['oid']}"}}}
                for one in json.loads(self.body)["objects"]
            ]
            self.answer({"transfer": "basic", "objects": objects})

    def store(self, sha256):
        self.server.uploading.set()
        self.server.go_on.wait()
        if digest(self.body) != sha256:
            return self.answer({"error": "wrong digest"}, 400)
        self.server.stored[sha256] = self.body
        return self.answer({})

    def branch(self, name, branch):
        if found := self.found(name, write=True):
            repository, commit = found
            if branch in repository.branches:
                return self.answer({"error": "Reference already exists"}, 409)
            repository.branches[branch] = commit
            return self.answer({})
        return None

    def commit(self, name, branch):
        if not (found := self.found(name, branch, write=True)):
            return None
        files = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.server.stored[value["oid"]]
        sha = found[0].commit(files, branch)
        return self.answer({"success": True, "commitOid": sha, "commitUrl": f"{self.server.url}/{name}/commit/{sha}"})


def digest(content):
    return hashlib.sha256(content).hexdigest()


def oid(content):
    """Return the name that git gives to a file."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
