"""A local server of files that answers range requests, as object storage does, and that can be told
to fail.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer(ThreadingHTTPServer):
    """Serves the files of a folder inside its ``with`` block.

    Attributes:
        asked: (path, range) of every request.
        failures: requests that are answered with 503 before one is served.
        cuts: by path, how many bodies still end, with the connection, after half of them.
        etags: by path, the version of a file that the server tells.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.failures = folder, 0
        self.cuts: Counter[str] = Counter()
        self.etags: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> FileServer:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *args: object) -> None:
        """A client that hangs up is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FileServer

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append((self.path, wanted))
        file = self.server.folder / self.path.lstrip("/")
        if self.server.failures:
            self.server.failures -= 1
            self._send(503, b"", body)
        elif not file.is_file():
            self._send(404, b"", body)
        elif match := re.fullmatch(r"bytes=(\d+)-(\d*)", wanted):
            content = file.read_bytes()
            first, last = int(match[1]), int(match[2] or len(content) - 1)
            self._send(206, content[first : last + 1], body, f"bytes {first}-{last}/{len(content)}")
        else:
            self._send(200, file.read_bytes(), body)

    def _send(self, status: int, content: bytes, body: bool, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        if self.path in self.server.etags:
            self.send_header("ETag", self.server.etags[self.path])
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        if body and self.server.cuts[self.path] > 0:
            self.server.cuts[self.path] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
        elif body:
            self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass
