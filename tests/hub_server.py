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
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_STORAGE = re.compile(r"/storage/([0-9a-f]{64})")
_COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)")

#: Status, headers, body.
Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Repo:
    """Commits of a repository, and the branches and tags that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False


class HubServer(ThreadingHTTPServer):
    """The server, running inside its ``with`` block.

    Attributes:
        asked: (revision, file) of the requests for files.
        storage: sha256 -> the bytes delivered for it. Other bytes than those that hash to it are a
            damaged delivery.
        token: when set, requests without it are refused.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.asked: set[tuple[str, str]] = set()
        self.storage: dict[str, bytes] = {}
        self.token = ""
        self.url = f"http://127.0.0.1:{self.server_port}"  #: what HF_ENDPOINT has to be
        #: Another origin than ``url``, though the same server.
        self.storage_url = f"http://localhost:{self.server_port}/storage"

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

    def answer(self, method: str, path: str, sent: str | None, body: bytes) -> Reply:
        """``sent`` is the header with the token."""
        if match := _STORAGE.fullmatch(path):
            return self._from_storage(method, match[1], body)
        if self.token and not sent:
            return error(401, "RepoNotFound", "Repository not found")
        if self.token and sent != f"Bearer {self.token}":
            return error(401, "", "Invalid credentials in Authorization header")
        if match := _RESOLVE.fullmatch(path):
            repo, revision, name = map(unquote, match.groups())
            self.asked.add((revision, name))
            return self._file(repo, revision, name)
        return self._api(path, [json.loads(line) for line in body.splitlines()])

    def _from_storage(self, method: str, sha: str, body: bytes) -> Reply:
        if method == "PUT":
            assert hashlib.sha256(body).hexdigest() == sha
            self.storage[sha] = body
            return 200, {}, b""
        return 200, {"ETag": f'"{sha}"'}, self.storage[sha]

    def _file(self, repo: str, revision: str, name: str) -> Reply:
        if not (entry := self.repos.get(repo)):
            return error(404, "RepoNotFound", "Repository not found")
        commit = revision if revision in entry.commits else entry.refs.get(revision)
        if commit is None:
            return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        data = entry.commits[commit].get(name)
        if data is None:
            return error(404, "EntryNotFound", "Entry not found", headers)
        if not is_lfs(name):
            sha = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return 200, headers | {"ETag": f'"{sha}"'}, data
        sha = hashlib.sha256(data).hexdigest()
        headers |= {"X-Linked-Etag": f'"{sha}"', "X-Linked-Size": str(len(data))}
        return 302, headers | {"Location": f"{self.storage_url}/{sha}"}, b""

    def _api(self, path: str, lines: list[dict]) -> Reply:
        if path == "/api/repos/create":
            (wanted,) = lines
            name = f"{wanted['organization']}/{wanted['name']}"
            known = name in self.repos
            private = wanted.get("private") or wanted.get("visibility") == "private"
            self.repos.setdefault(name, Repo(private=bool(private)))
            return as_json({"url": f"{self.url}/{name}"}, 409 if known else 200)
        if path == "/api/validate-yaml":  # of the card
            return as_json({"warnings": [], "errors": []})
        if "/preupload/" in path:
            names = [file["path"] for file in lines[0]["files"]]
            modes = {name: "lfs" if is_lfs(name) else "regular" for name in names}
            files = [
                {"path": name, "uploadMode": mode, "shouldIgnore": False}
                for name, mode in modes.items()
            ]
            return as_json({"files": files})
        if path.endswith("/info/lfs/objects/batch"):
            objects = []
            for wanted in lines[0]["objects"]:
                upload = {"upload": {"href": f"{self.storage_url}/{wanted['oid']}"}}
                objects.append({"oid": wanted["oid"], "size": wanted["size"], "actions": upload})
            return as_json({"transfer": "basic", "objects": objects})
        if not (match := _COMMIT.fullmatch(path)):
            return error(404, "", "no such page")
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "lfsFile":
                files[value["path"]] = self.storage[value["oid"]]
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
        sha = self.commit(match[1], files, unquote(match[2]))
        return as_json({"commitUrl": f"{self.url}/{match[1]}/commit/{sha}", "commitOid": sha})


def error(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> Reply:
    named = {"X-Error-Code": code, "X-Error-Message": message}
    return status, (headers or {}) | {name: text for name, text in named.items() if text}, b""


def as_json(value: object, status: int = 200) -> Reply:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        sent = self.headers.get("Authorization")
        body = self._read_body()
        status, headers, content = self.server.answer(self.command, path, sent, body)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET = do_POST = do_PUT = _answer

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


def is_lfs(name: str) -> bool:
    """Whether a file of this name is an LFS file."""
    return name.endswith(".safetensors")


def use_hub(patch: pytest.MonkeyPatch, url: str, home: Path) -> None:
    """Make huggingface_hub of this process use the Hub at ``url`` and a home folder of its own, and
    hardly wait.

    HF_ENDPOINT and HF_HOME count when it is imported; that is why its constants are set here.
    """
    for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING"))]:
        patch.delenv(name)
    patch.setenv("NO_PROXY", "*")
    paths = {
        "HF_HOME": home,
        "HF_HUB_CACHE": home / "hub",
        "HF_TOKEN_PATH": home / "token",
        "HF_STORED_TOKENS_PATH": home / "stored_tokens",
        "AGENT_HARNESSES_PATH": home / ".agent_harnesses.json",
    }
    settings = {name: str(path) for name, path in paths.items()} | {
        "ENDPOINT": url,
        "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
    }
    for name, value in settings.items():
        patch.setattr(constants, name, value, raising=False)
    sleep = time.sleep
    patch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    huggingface_hub.close_session()  # an open one holds connections, and the proxies of before
