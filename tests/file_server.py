"""Local servers, one of which answers range requests as object storage does, and can be told to
fail.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class LocalServer(ThreadingHTTPServer):
    """A server of this machine at ``url``, running inside its ``with`` block."""

    daemon_threads = True

    def __init__(self, handler: type[LocalHandler]) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> LocalServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *args: object) -> None:
        """A client that hangs up is nothing to print."""


class LocalHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status: int, headers: dict[str, str], size: int) -> None:
        """All but the body, of ``size`` bytes."""
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(size)}).items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nothing on stderr."""


class FileServer(LocalServer):
    """Serves the files of a folder.

    Attributes:
        asked: (path, range) of every request.
        broken: whether all requests are answered with 503.
        cuts: by path, how many bodies still end, with the connection, after half of them.
        etags: by path, the version of a file that the server tells.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(_Handler)
        self.folder, self.broken = folder, False
        self.cuts: Counter[str] = Counter()
        self.etags: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []


class _Handler(LocalHandler):
    server: FileServer

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append((self.path, wanted))
        file = self.server.folder / self.path.lstrip("/")
        if self.server.broken or not file.is_file():
            self.answer(503 if self.server.broken else 404, {}, 0)
            return
        status, headers, content = 200, {"Accept-Ranges": "bytes"}, file.read_bytes()
        if self.path in self.server.etags:
            headers["ETag"] = self.server.etags[self.path]
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted):
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self.answer(status, headers, len(content))
        if self.command == "HEAD":
            return
        if self.server.cuts[self.path] > 0:
            self.server.cuts[self.path] -= 1
            content = content[: len(content) // 2]
            self.close_connection = True
        self.wfile.write(content)

    do_HEAD = do_GET
