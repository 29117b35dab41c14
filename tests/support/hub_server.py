"""A stand-in for the Hugging Face hub: repositories in memory, behind the addresses that its own program asks."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

_REPO = r"(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Repo:
    """One repository: its commits by hash, its branches, and whether it is private."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False
    pull_requests: int = 0

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Adds files to what a branch holds; returns the hash."""
        held = self.commits.get(self.branches.get(branch, ""), {}) | files
        digest = hashlib.sha1(repr(sorted(held.items())).encode()).hexdigest()
        self.commits[digest] = held
        self.branches[branch] = digest
        return digest


@dataclass
class Hub:
    """The hub: its address, what it holds, what it was asked, and an answer it may be told to give to everything."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)  # "models/me/x" -> repository
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, path, authorization
    refuses: tuple[int, dict[str, str]] | None = None

    def add(self, name: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Commits files to a repository such as ``models/me/x``; returns the hash."""
        return self.repos.setdefault(name, Repo()).commit(files, branch)


@contextmanager
def running(monkeypatch, cache):
    """Starts a hub, and has the hub's own program in this process ask it, and keep its files in an empty cache."""
    from huggingface_hub import constants

    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    point_to(monkeypatch, hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        from huggingface_hub.utils import close_session

        close_session()
        server.shutdown()
        server.server_close()
        thread.join()


def point_to(monkeypatch, endpoint: str) -> None:
    """Has the hub's own program ask an address."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):  # noqa: N802
        self._answer()

    do_HEAD = do_POST = do_GET  # noqa: N815

    def _answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        address = urlsplit(self.path)
        path = unquote(address.path).removeprefix("/")
        self.hub.asked.append((self.command, path, self.headers.get("Authorization")))
        if self.hub.refuses:
            status, headers = self.hub.refuses
            return self._send(status, b"{}", **headers)
        for form, method in _ROUTES:
            if match := re.fullmatch(form, path):
                return method(self, body, parse_qs(address.query), **match.groupdict())
        return self._missing("RepoNotFound")

    def _send(self, status: int, content: bytes, **headers: str):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _json(self, content):
        self._send(200, json.dumps(content).encode(), Content_Type="application/json")

    def _missing(self, what: str):
        self._send(404, b"{}", X_Error_Code=what)

    def _create(self, body, query):
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if f"models/{name}" in self.hub.repos:
            return self._send(409, json.dumps({"url": f"{self.hub.endpoint}/{name}"}).encode())
        self.hub.repos[f"models/{name}"] = Repo(private=wanted.get("visibility") == "private")
        self.hub.add(f"models/{name}", {".gitattributes": b""})
        return self._json({"url": f"{self.hub.endpoint}/{name}"})

    def _valid(self, body, query):
        assert json.loads(body)["content"].startswith("---\n")
        self._json({"errors": [], "warnings": []})

    def _preupload(self, body, query, kind, repo, revision):
        names = [file["path"] for file in json.loads(body)["files"]]
        self._json({"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]})

    def _commit(self, body, query, kind, repo, revision):
        lines = [json.loads(line) for line in body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        held = self.hub.repos[f"{kind}/{repo}"]
        held.pull_requests += "create_pr" in query
        branch = f"refs/pr/{held.pull_requests}" if "create_pr" in query else revision
        digest, page = held.commit(files, branch), f"{self.hub.endpoint}/{repo}"
        answer = {"commitUrl": f"{page}/commit/{digest}", "commitOid": digest}
        if "create_pr" in query:
            answer["pullRequestUrl"] = f"{page}/discussions/{held.pull_requests}"
        self._json(answer)

    def _found(self, kind, repo, revision) -> tuple[str, dict[str, bytes]] | None:
        """The commit that a revision means; else says what is missing."""
        held = self.hub.repos.get(f"{kind}/{repo}")
        digest = held and held.branches.get(revision, revision)
        if held is None or digest not in held.commits:
            self._missing("RepoNotFound" if held is None else "RevisionNotFound")
            return None
        return digest, held.commits[digest]

    def _info(self, body, query, kind, repo, revision="main"):
        if found := self._found(kind, repo, revision):
            names, private = [{"rfilename": name} for name in found[1]], self.hub.repos[f"{kind}/{repo}"].private
            self._json({"id": repo, "sha": found[0], "private": private, "siblings": names})

    def _tree(self, body, query, kind, repo, revision):
        if found := self._found(kind, repo, revision):
            rows = found[1].items()
            self._json([{"type": "file", "path": name, "size": len(x), "oid": _oid(x)} for name, x in rows])

    def _resolve(self, body, query, repo, revision, name, kind=None):
        if found := self._found(kind or "models", repo, revision):
            if name not in found[1]:
                return self._missing("EntryNotFound")
            content = found[1][name]
            return self._send(200, content, ETag=f'"{_oid(content)}"', X_Repo_Commit=found[0])
        return None


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


_ROUTES = [
    ("api/repos/create", _Handler._create),
    ("api/validate-yaml", _Handler._valid),
    (f"api/{_REPO}/preupload/(?P<revision>.+)", _Handler._preupload),
    (f"api/{_REPO}/commit/(?P<revision>.+)", _Handler._commit),
    (f"api/{_REPO}/tree/(?P<revision>.+)", _Handler._tree),
    (f"api/{_REPO}/revision/(?P<revision>.+)", _Handler._info),
    (f"api/{_REPO}", _Handler._info),
    (
        r"(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)",
        _Handler._resolve,
    ),
]
