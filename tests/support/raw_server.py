"""A server of raw bytes on loopback, for answers that no HTTP library would make.

Every connection reads one request head and is then given to ``answer``, which writes what it
likes. What it cannot prove: what a kernel on another machine, or TLS, would add.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

PATIENCE = 0.2  # seconds: what a client under test gives each phase as a whole
PAUSE = PATIENCE / 10  # between two pieces: no single read waits too long
Answer = Callable[["Peer"], None]


class Peer:
    """One connection, as the hostile end sees it."""

    def __init__(self, server: RawServer, sock: socket.socket, head: bytes) -> None:
        self.server = server
        self.head = head  # of the request
        self._sock = sock

    def send(self, data: bytes) -> None:
        """Send, and count it; ends the thread when the client is gone."""
        self._sock.sendall(data)
        with self.server.lock:
            self.server.sent += len(data)

    def drip(self, data: bytes, pause: float, pieces: int = 40) -> None:
        """Send in so many pieces, with a pause before each."""
        step = max(1, -(-len(data) // pieces))
        for at in range(0, len(data), step):
            time.sleep(pause)
            self.send(data[at : at + step])

    def flood(self, data: bytes, total: int) -> None:
        """Send ``data`` again and again until ``total`` bytes are on their way."""
        piece = data * max(1, 65536 // len(data))
        for _ in range(0, total, len(piece)):
            self.send(piece)


class RawServer:
    """Listens, and answers each connection in a thread of its own."""

    def __init__(self, answer: Answer, *, reads_head: bool = True) -> None:
        self.sent = 0  # bytes, to all clients
        self.connections = 0
        self.lock = threading.Lock()
        self._answer = answer
        self._reads_head = reads_head
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._acceptor = threading.Thread(target=self._accept)

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self.address}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.connections += 1
                self._open.append(sock)
                thread = threading.Thread(target=self._serve, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, sock: socket.socket) -> None:
        with suppress(OSError), sock:
            head = b""
            while self._reads_head and b"\r\n\r\n" not in head:
                data = sock.recv(65536)
                if not data:
                    return
                head += data
            self._answer(Peer(self, sock, head))

    def start(self) -> None:
        """Begin to listen."""
        self._acceptor.start()

    def stop(self) -> None:
        """End every thread."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()


@contextmanager
def raw(answer: Answer | bytes, *, reads_head: bool = True) -> Iterator[RawServer]:
    """A server whose every answer is what ``answer`` sends (or is)."""
    if isinstance(answer, bytes):
        data = answer
        server = RawServer(lambda peer: peer.send(data), reads_head=reads_head)
    else:
        server = RawServer(answer, reads_head=reads_head)
    server.start()
    try:
        yield server
    finally:
        server.stop()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def flood(before: bytes, filler: bytes, total: int, after: bytes = OK) -> Answer:
    """``before``, then ``filler`` again and again, then a good end."""

    def answer(peer: Peer) -> None:
        peer.send(before)
        peer.flood(filler, total)
        peer.send(after)

    return answer


def drip(before: bytes, slow: bytes, after: bytes = b"", pause: float = PAUSE) -> Answer:
    """``before``, then ``slow`` piece by piece, then a good end."""

    def answer(peer: Peer) -> None:
        peer.send(before)
        peer.drip(slow, pause)
        peer.send(after)

    return answer
