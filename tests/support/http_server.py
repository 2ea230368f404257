"""A real HTTP/1.1 server on loopback with ranges, kept connections, and faults on order.

``python -m tests.support.http_server FOLDER`` serves a folder in a process of its own and prints
its URL. What it cannot prove: behaviour under TLS, latency, and a CDN's own rate limits.
"""

from __future__ import annotations

import email.utils
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE = 1 << 20


@dataclass
class Fault:
    """What goes wrong with the next ``times`` requests for a path that ends in ``path``.

    ``kind``: ``cut`` (close after ``at`` bytes of the body) · ``stall`` (send nothing more after
    ``at`` bytes until the server ends) · ``drip`` (one byte at a time after ``at`` bytes, each when
    ``pace()`` returns) · ``whole`` (200 and the whole file for a range) · ``flip`` (invert the byte
    at offset ``at`` of the file) · ``status`` (answer ``status``) · ``shifted`` (206 for another
    range) · ``resized`` (claim ``at`` bytes as the total) · ``unsized`` (no length at all) ·
    ``chunked`` · ``page`` (200 with a web page) · ``replace`` (serve ``data`` instead).
    """

    path: str
    kind: str
    at: int = 0
    times: int = 1
    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    pace: Callable[[], object] = lambda: None
    after: int = 0  # requests for the path that go well before
    reached: threading.Event = field(default_factory=threading.Event)  # cut, stall, drip: at ``at``


@dataclass(frozen=True)
class Seen:
    """A request that came in."""

    method: str
    path: str  # decoded, without query
    query: str
    headers: Mapping[str, str]  # names in lower case

    @property
    def range(self) -> str | None:
        """The Range header."""
        return self.headers.get("range")


class Server:
    """Serves ``root`` (a folder, or bytes by path); use it as a context manager."""

    def __init__(
        self,
        root: Path | Mapping[str, bytes | Path],
        *,
        etags: bool = True,
        ranges: bool = True,
        handler: Callable[[Any, Seen], bool] | None = None,
    ) -> None:
        self.root = root
        self.etags = etags
        self.ranges = ranges
        self.handler = handler  # may answer a request itself; True if it did
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.sent = 0  # bytes of bodies
        self.ended = threading.Event()
        self.lock = threading.Lock()
        self._server = _Threads(("127.0.0.1", 0), _Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        """The base URL, no slash at its end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def fault(self, path: str, kind: str, **more: Any) -> Fault:
        """Order a fault."""
        made = Fault(path, kind, **more)
        with self.lock:
            self.faults.append(made)
        return made

    def take_fault(self, path: str) -> Fault | None:
        """The fault for this request, if one was ordered."""
        with self.lock:
            for fault in self.faults:
                if path.endswith(fault.path) and fault.times > 0:
                    if fault.after > 0:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault
        return None

    def requests(self, path: str) -> list[Seen]:
        """The requests for paths that end in ``path``."""
        return [seen for seen in self.seen if seen.path.endswith(path)]


class _Threads(ThreadingHTTPServer):
    owner: Server
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Threads

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:  # as CloudFront does for Meta's signed URLs
        owner = self.server.owner
        seen = self._note()
        if owner.handler is None or not owner.handler(self, seen):
            self.answer(403, b"")

    def do_GET(self) -> None:
        owner = self.server.owner
        seen = self._note()
        if owner.handler is not None and owner.handler(self, seen):
            return
        fault = owner.take_fault(seen.path)
        if fault is not None and fault.kind == "status":
            self.answer(fault.status, fault.data or b"refused", fault.headers)
        elif fault is not None and fault.kind == "page":
            page = b"<!DOCTYPE html>\n<html><body>Sorry</body></html>"
            self.answer(200, page, {"Content-Type": "text/html"})
        else:
            self._serve(seen, fault)

    def _note(self) -> Seen:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, unquote(parts.path), parts.query, headers)
        with self.server.owner.lock:
            self.server.owner.seen.append(seen)
        return seen

    def answer(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A short answer."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve_bytes(self, data: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Answer with ``data``, honouring a range; for handlers of their own."""
        self._serve_data(_Data(data, None), self.headers.get("Range"), None, headers or {})

    def _serve(self, seen: Seen, fault: Fault | None) -> None:
        data = self._find(seen.path)
        if fault is not None and fault.kind == "replace":
            data = _Data(fault.data, None)
        if data is None:
            self.answer(404, b"not found")
            return
        headers = {"ETag": data.etag} if self.server.owner.etags else {}
        wanted = seen.range if self.server.owner.ranges else None
        condition = seen.headers.get("if-range")
        if condition is not None and condition != data.etag:
            wanted = None
        self._serve_data(data, wanted, fault, headers)

    def _find(self, path: str) -> _Data | None:
        root = self.server.owner.root
        if isinstance(root, Path):
            file = root / path.lstrip("/")
            return _Data(None, file) if file.is_file() else None
        content = root.get(path.lstrip("/"))
        if isinstance(content, Path):
            return _Data(None, content)
        return None if content is None else _Data(content, None)

    def _serve_data(
        self, data: _Data, wanted: str | None, fault: Fault | None, headers: Mapping[str, str]
    ) -> None:
        kind = fault.kind if fault else ""
        total = fault.at if fault and kind == "resized" else data.size
        span = _parse_range(wanted, data.size) if wanted and kind != "whole" else None
        if span == "unsatisfiable":
            self.answer(416, b"", {**headers, "Content-Range": f"bytes */{data.size}"})
            return
        start, stop = span if isinstance(span, tuple) else (0, data.size)
        if kind == "resized":
            stop = min(stop, total)
        self.send_response(206 if isinstance(span, tuple) else 200)
        if isinstance(span, tuple):
            shown = start + 1 if kind == "shifted" else start
            self.send_header("Content-Range", f"bytes {shown}-{stop - 1}/{total}")
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/octet-stream")
        if kind == "chunked":
            self.send_header("Transfer-Encoding", "chunked")
        elif kind == "unsized":
            self.send_header("Connection", "close")
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(max(0, stop - start)))
        self.end_headers()
        if self.command != "HEAD":
            self._send(data, start, stop, fault)

    def _send(self, data: _Data, start: int, stop: int, fault: Fault | None) -> None:
        if fault is None:
            self._send_all(data, start, stop)
            return
        if fault.kind == "chunked":
            for at in range(start, stop, 1000):
                piece = data.read(at, min(at + 1000, stop))
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return
        until = min(stop, start + fault.at) if fault.kind in ("cut", "stall", "drip") else stop
        flip = fault.at if fault.kind == "flip" else None
        for at in range(start, until, PIECE):
            piece = bytearray(data.read(at, min(at + PIECE, until)))
            if flip is not None and at <= flip < at + len(piece):
                piece[flip - at] ^= 0xFF
            self._count(len(piece))
            self.wfile.write(piece)
        self._after(data, until, stop, fault)

    def _after(self, data: _Data, until: int, stop: int, fault: Fault) -> None:
        fault.reached.set()
        if fault.kind == "cut":
            self.wfile.flush()
            self.close_connection = True
        elif fault.kind == "stall":
            self.wfile.flush()
            self.server.owner.ended.wait()
            self.close_connection = True
        elif fault.kind == "drip":
            for at in range(until, stop):
                fault.pace()
                self.wfile.write(data.read(at, at + 1))
                self.wfile.flush()

    def _send_all(self, data: _Data, start: int, stop: int) -> None:
        self._count(stop - start)
        if data.file is None:
            self.wfile.write(data.read(start, stop))
            return
        self.wfile.flush()
        with data.file.open("rb") as file:
            while start < stop:
                start += os.sendfile(
                    self.connection.fileno(), file.fileno(), start, min(stop - start, 8 * PIECE)
                )

    def _count(self, count: int) -> None:
        with self.server.owner.lock:
            self.server.owner.sent += count


class _Data:
    """What a path serves."""

    def __init__(self, content: bytes | None, file: Path | None) -> None:
        self.file = file
        self._content = content
        self.size = len(content) if content is not None else _state(file).st_size
        mark = hash(content) if content is not None else _state(file).st_mtime_ns
        self.etag = f'"{self.size:x}-{mark & 0xFFFFFFFFFFFF:x}"'

    def read(self, start: int, stop: int) -> bytes:
        if self._content is not None:
            return self._content[start:stop]
        assert self.file is not None
        with self.file.open("rb") as file:
            file.seek(start)
            return file.read(stop - start)


def _state(file: Path | None) -> os.stat_result:
    assert file is not None
    return file.stat()


def _parse_range(header: str, size: int) -> tuple[int, int] | str:
    first, _, last = header.removeprefix("bytes=").partition("-")
    start = int(first)
    stop = min(int(last) + 1, size) if last else size
    return "unsatisfiable" if start >= size else (start, stop)


def http_date(seconds: float) -> str:
    """A date as HTTP headers carry it."""
    return email.utils.formatdate(seconds, usegmt=True)


@contextmanager
def serving(root: Path | Mapping[str, bytes | Path], **more: Any) -> Iterator[Server]:
    """A server for the length of a with block."""
    with Server(root, **more) as server:
        yield server


def main() -> None:
    """Serve a folder until standard input ends."""
    with Server(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
