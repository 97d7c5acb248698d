"""A small Hugging Face Hub on this machine, which can be told to fail.

It speaks what huggingface_hub needs to download files of model repositories and to push a commit:
config.json is a git file with a sha1 for its ETag; model.safetensors is an LFS file, announced with
its sha256 and size, and served, as by the real Hub, by a redirect to a storage host of another
origin.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

EMPTY: dict[str, str] = {}
LFS_SUFFIX = ".safetensors"
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_STORAGE = re.compile(r"/storage/([0-9a-f]{64})")
_PREUPLOAD = re.compile(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)")
_COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)")
_LFS_BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass(frozen=True)
class Request:
    """One request that the server got; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def resolved(self) -> tuple[str, str, str] | None:
        """(repository, revision, file) of a request for a file, None for any other."""
        match = _RESOLVE.fullmatch(self.path)
        return match and tuple(map(unquote, match.groups()))


@dataclass
class Repo:
    """Commits of a repository, and the branches and tags that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def resolve(self, revision: str) -> str | None:
        """The commit of a branch, tag or commit; None where there is none."""
        return revision if revision in self.commits else self.refs.get(revision)


class HubServer(ThreadingHTTPServer):
    """The server, running inside its ``with`` block.

    Attributes:
        requests: all requests so far.
        storage: sha256 -> the bytes delivered for it. Other bytes than those that hash to it are a
            damaged delivery.
        token: when set, requests without it are refused.
        refusal: (status, X-Error-Code, X-Error-Message) answered to every request for a file.
        before: called with every request before it is answered.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.storage: dict[str, bytes] = {}
        self.token = ""
        self.refusal: tuple[int, str, str] | None = None
        self.before: Callable[[Request], None] = lambda request: None

    @property
    def url(self) -> str:
        """What HF_ENDPOINT has to be."""
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage_url(self) -> str:
        """Another origin than ``url``, though the same server."""
        return f"http://localhost:{self.server_port}/storage"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def commit(self, repo: str, files: dict[str, bytes], ref: str = "main") -> str:
        """Make a commit of these files and point ``ref`` to it; returns its sha."""
        entry = self.repos.setdefault(repo, Repo())
        sha = hashlib.sha1(f"{repo} {len(entry.commits)}".encode()).hexdigest()
        entry.commits[sha] = files
        entry.refs[ref] = sha
        self.storage |= {
            hashlib.sha256(data).hexdigest(): data for name, data in files.items() if is_lfs(name)
        }
        return sha

    def asked_for(self, method: str = "") -> list[tuple[str, str]]:
        """(revision, file) of the requests for files, in order and without repetitions in a row."""
        files = [
            request.resolved[1:]
            for request in self.requests
            if request.resolved and method in request.method
        ]
        return [
            file for number, file in enumerate(files) if not number or file != files[number - 1]
        ]

    def from_storage(self) -> list[Request]:
        """Requests that reached the storage host."""
        return [request for request in self.requests if _STORAGE.fullmatch(request.path)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self._begin()
        self._answer_get()

    def do_GET(self) -> None:
        self._begin()
        self._answer_get()

    def do_POST(self) -> None:
        self._begin()
        if self._may():
            self._answer_post()

    def do_PUT(self) -> None:
        self._begin()
        match = _STORAGE.fullmatch(self.path)
        if match and hashlib.sha256(self.body).hexdigest() == match[1]:
            self.server.storage[match[1]] = self.body
            return self._reply(200)
        self._error(400, "", "the content does not hash to its name")

    def _begin(self) -> None:
        self.path = urlsplit(self.path).path
        self.body = self._read_body()
        request = Request(
            self.command, self.path, {name.lower(): value for name, value in self.headers.items()}
        )
        self.server.requests.append(request)
        self.server.before(request)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _may(self) -> bool:
        """Whether the token is right; answers the request if not."""
        token, sent = self.server.token, self.headers.get("Authorization")
        if token and not sent:
            self._error(401, "RepoNotFound", "Repository not found")
        elif token and sent != f"Bearer {token}":
            self._error(401, "", "Invalid credentials in Authorization header")
        else:
            return True
        return False

    def _answer_get(self) -> None:
        if match := _STORAGE.fullmatch(self.path):
            return self._answer_storage(match[1])
        if not (match := _RESOLVE.fullmatch(self.path)):
            return self._error(404, "", "no such page")
        if self.server.refusal:
            return self._error(*self.server.refusal)
        if not self._may():
            return None
        repo, revision, name = map(unquote, match.groups())
        entry = self.server.repos.get(repo)
        if entry is None:
            return self._error(404, "RepoNotFound", "Repository not found")
        commit = entry.resolve(revision)
        if commit is None:
            return self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        common = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        data = entry.commits[commit].get(name)
        if data is None:
            return self._error(404, "EntryNotFound", "Entry not found", common)
        if not is_lfs(name):
            sha = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self._reply(200, {**common, "ETag": f'"{sha}"'}, data)
        sha = hashlib.sha256(data).hexdigest()
        linked = {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(data))}
        self._reply(302, {**common, **linked, "Location": f"{self.server.storage_url}/{sha}"})

    def _answer_storage(self, sha: str) -> None:
        data = self.server.storage.get(sha)
        if data is None:
            return self._error(404, "", "no such object")
        self._reply(200, {"ETag": f'"{sha}"'}, data)

    def _answer_post(self) -> None:
        server = self.server
        if self.path == "/api/repos/create":
            wanted = json.loads(self.body)
            name = f"{wanted['organization']}/{wanted['name']}"
            known = name in server.repos
            private = wanted.get("private") or wanted.get("visibility") == "private"
            server.repos.setdefault(name, Repo(private=bool(private)))
            return self._json({"url": f"{server.url}/{name}"}, 409 if known else 200)
        if self.path == "/api/validate-yaml":
            return self._json({"warnings": [], "errors": []})
        if _PREUPLOAD.fullmatch(self.path):
            names = [file["path"] for file in json.loads(self.body)["files"]]
            modes = [
                {"path": n, "uploadMode": "lfs" if is_lfs(n) else "regular", "shouldIgnore": False}
                for n in names
            ]
            return self._json({"files": modes})
        if _LFS_BATCH.fullmatch(self.path):
            objects = [{k: o[k] for k in ("oid", "size")} for o in json.loads(self.body)["objects"]]
            for entry in objects:
                entry["actions"] = {"upload": {"href": f"{server.storage_url}/{entry['oid']}"}}
            return self._json({"transfer": "basic", "objects": objects})
        if match := _COMMIT.fullmatch(self.path):
            lines = [json.loads(line) for line in self.body.splitlines()]
            files = {
                line["value"]["path"]: self._committed(line)
                for line in lines
                if line["key"] != "header"
            }
            sha = server.commit(match[1], files, unquote(match[2]))
            return self._json(
                {"commitUrl": f"{server.url}/{match[1]}/commit/{sha}", "commitOid": sha}
            )
        self._error(404, "", "no such page")

    def _committed(self, line: dict) -> bytes:
        if line["key"] == "lfsFile":
            return self.server.storage[line["value"]["oid"]]
        return base64.b64decode(line["value"]["content"])

    def _json(self, value: object, status: int = 200) -> None:
        self._reply(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _error(self, status: int, code: str, message: str, headers: dict[str, str] = EMPTY) -> None:
        named = {"X-Error-Code": code, "X-Error-Message": message}
        self._reply(status, {**headers, **{name: value for name, value in named.items() if value}})

    def _reply(self, status: int, headers: dict[str, str] = EMPTY, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def is_lfs(name: str) -> bool:
    """Whether a file of this name is an LFS file."""
    return name.endswith(LFS_SUFFIX)


def use_hub(patch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    """Make huggingface_hub of this process use the Hub at ``url`` and a home folder of its own, and
    hardly wait.

    HF_ENDPOINT and HF_HOME count when it is imported; that is why its constants are set here.
    """
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING", "HUGGINGFACE"))]:
        patch.delenv(name)
    patch.setenv("NO_PROXY", "*")
    patch.setattr(constants, "ENDPOINT", url)
    patch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    paths = {
        "HF_HOME": "",
        "HF_HUB_CACHE": "hub",
        "HF_TOKEN_PATH": "token",
        "HF_STORED_TOKENS_PATH": "stored_tokens",
    }
    for name, file in {**paths, "AGENT_HARNESSES_PATH": ".agent_harnesses.json"}.items():
        patch.setattr(constants, name, str(home / file), raising=False)
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    sleep = time.sleep
    patch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    huggingface_hub.close_session()  # an open one holds connections, and the proxies of before
