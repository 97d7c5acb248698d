"""A small Hugging Face Hub on this machine.

It speaks what huggingface_hub needs to download files of model repositories and to push a commit.
All files are small ones of git; the real Hub stores large ones elsewhere, which is
huggingface_hub's concern.
"""

import base64
import hashlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from file_server import LocalHandler, LocalServer
from huggingface_hub import constants

_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_COMMIT = re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)")


@dataclass
class Repo:
    """Commits of a repository, and the branches and tags that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False


class HubServer(LocalServer):
    """The server, whose ``url`` is what HF_ENDPOINT has to be.

    Attributes:
        asked: (revision, file) of the requests for files.
        token: when set, requests without it are refused.
    """

    def __init__(self) -> None:
        super().__init__(_Handler)
        self.repos: dict[str, Repo] = {}
        self.asked: set[tuple[str, str]] = set()
        self.token = ""

    def commit(self, repo: str, files: dict[str, bytes], ref: str = "main") -> str:
        """Make a commit of these files and point ``ref`` to it; returns its sha."""
        entry = self.repos.setdefault(repo, Repo())
        sha = hashlib.sha1(f"{repo} {len(entry.commits)}".encode()).hexdigest()
        entry.commits[sha] = files
        entry.refs[ref] = sha
        return sha


class _Handler(LocalHandler):
    server: HubServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        sent = self.headers.get("Authorization")
        body = self._read_body()
        if self.server.token and sent != f"Bearer {self.server.token}":
            if sent:
                self._refuse(401, "", "Invalid credentials in Authorization header")
            else:
                self._refuse(401, "RepoNotFound", "Repository not found")
        elif match := _RESOLVE.fullmatch(path):
            self._file(*map(unquote, match.groups()))
        else:
            self._api(path, [json.loads(line) for line in body.splitlines()])

    do_HEAD = do_POST = do_GET

    def _file(self, repo: str, revision: str, name: str) -> None:
        self.server.asked.add((revision, name))
        entry = self.server.repos.get(repo, Repo())
        commit = revision if revision in entry.commits else entry.refs.get(revision)
        if not entry.commits:
            self._refuse(404, "RepoNotFound", "Repository not found")
        elif commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif name not in entry.commits[commit]:
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            announced = hashlib.sha1(f"{commit} {name}".encode()).hexdigest()
            headers = {"X-Repo-Commit": commit, "ETag": f'"{announced}"'}
            self._send(200, headers, entry.commits[commit][name])

    def _api(self, path: str, lines: list[dict]) -> None:
        if path == "/api/repos/create":
            (wanted,) = lines
            name = f"{wanted['organization']}/{wanted['name']}"
            known = name in self.server.repos
            private = wanted.get("private") or wanted.get("visibility") == "private"
            self.server.repos.setdefault(name, Repo(private=bool(private)))
            self._send_json({"url": f"{self.server.url}/{name}"}, 409 if known else 200)
        elif path == "/api/validate-yaml":  # of the card
            self._send_json({"warnings": [], "errors": []})
        elif "/preupload/" in path:
            how = {"uploadMode": "regular", "shouldIgnore": False}
            files = [{"path": file["path"], **how} for file in lines[0]["files"]]
            self._send_json({"files": files})
        elif match := _COMMIT.fullmatch(path):
            values = [line["value"] for line in lines if line["key"] == "file"]
            files = {value["path"]: base64.b64decode(value["content"]) for value in values}
            sha = self.server.commit(match[1], files, unquote(match[2]))
            url = f"{self.server.url}/{match[1]}/commit/{sha}"
            self._send_json({"commitUrl": url, "commitOid": sha})
        else:
            self._refuse(404, "", "no such page")

    def _refuse(self, status: int, code: str, message: str) -> None:
        named = {"X-Error-Code": code} if code else {}
        self._send(status, named | {"X-Error-Message": message}, b"")

    def _send_json(self, value: object, status: int = 200) -> None:
        self._send(status, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def _send(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.answer(status, headers, len(content))
        if self.command != "HEAD":
            self.wfile.write(content)

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
    """Make huggingface_hub of this process use the Hub at ``url`` and a home folder of its own.

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
    patch.setattr(time, "sleep", lambda seconds: None)  # between attempts
    huggingface_hub.close_session()  # an open one holds connections, and the proxies of before
