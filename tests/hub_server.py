"""A small Hugging Face Hub on this machine, which can be told to fail.

It speaks what huggingface_hub needs to download files of model repositories and to push a commit.
All files are small ones of git; the real Hub stores large ones elsewhere, which is
huggingface_hub's concern.
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
        token: when set, requests without it are refused.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, Repo] = {}
        self.asked: set[tuple[str, str]] = set()
        self.token = ""
        self.url = f"http://127.0.0.1:{self.server_port}"  #: what HF_ENDPOINT has to be

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
        return sha

    def answer(self, path: str, sent: str | None, body: bytes) -> Reply:
        """``sent`` is the header with the token."""
        if self.token and not sent:
            return error(401, "RepoNotFound", "Repository not found")
        if self.token and sent != f"Bearer {self.token}":
            return error(401, "", "Invalid credentials in Authorization header")
        if match := _RESOLVE.fullmatch(path):
            repo, revision, name = map(unquote, match.groups())
            self.asked.add((revision, name))
            return self._file(repo, revision, name)
        return self._api(path, [json.loads(line) for line in body.splitlines()])

    def _file(self, repo: str, revision: str, name: str) -> Reply:
        if not (entry := self.repos.get(repo)):
            return error(404, "RepoNotFound", "Repository not found")
        commit = revision if revision in entry.commits else entry.refs.get(revision)
        if commit is None:
            return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        headers = {"X-Repo-Commit": commit}
        data = entry.commits[commit].get(name)
        if data is None:
            return error(404, "EntryNotFound", "Entry not found", headers)
        announced = hashlib.sha1(f"{commit} {name}".encode()).hexdigest()
        return 200, headers | {"ETag": f'"{announced}"'}, data

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
            how = {"uploadMode": "regular", "shouldIgnore": False}
            return as_json({"files": [{"path": file["path"], **how} for file in lines[0]["files"]]})
        if not (match := _COMMIT.fullmatch(path)):
            return error(404, "", "no such page")
        files = {}
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
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
        status, headers, content = self.server.answer(path, sent, body)
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_HEAD = do_GET = do_POST = _answer

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


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
