"""One file's connections to its source, shared by all of its receivers."""

from __future__ import annotations

import threading

from llama_hub.errors import IntegrityError
from llama_hub.hub.transfer.remote_file import MAX_UNSIZED, Body, RemoteFile
from llama_hub.hub.transfer.retry import Cancel, Policy, RetryState
from llama_hub.progress import Progress


class Connection:
    """One file's connections to its source; used by all of its receivers."""

    def __init__(
        self, file: RemoteFile, policy: Policy, progress: Progress, cancel: Cancel
    ) -> None:
        self.file = file
        self.policy = policy
        self.progress = progress
        self.cancel = cancel
        self.received = 0  # bytes from the source
        self.whole_only = False  # the source does not answer ranges
        self.validator: str | None = None  # of a file without known digests
        self._first: tuple[int, Body] | None = None
        self._bodies: set[Body] = set()
        self._lock = threading.Lock()

    def tries(self) -> RetryState:
        """A fresh count of failures."""
        what = f"{self.file.path} from {self.file.request.where}"
        return RetryState(what, self.policy, self.cancel, self.progress)

    def open(self, start: int, stop: int | None) -> Body:
        """Ask the source, or take the answer that told the size."""
        with self._lock:
            first, self._first = self._first, None
        if first is not None and first[0] == start:
            return first[1]
        if first is not None:
            self.close(first[1])
        body = self.file.request.open(start, stop, self.validator)
        if self.validator is None and not self.file.digests:
            self.validator = body.validator
        with self._lock:
            self._bodies.add(body)
        return body

    def keep_first(self, start: int, body: Body) -> None:
        """Let the receiver that asks for ``start`` have ``body``."""
        self._first = (start, body)

    def close(self, body: Body) -> None:
        """Done with ``body``."""
        with self._lock:
            self._bodies.discard(body)
        body.close()

    def close_all(self) -> None:
        """Done with everything that is still open."""
        for body in list(self._bodies):
            self.close(body)

    def abort(self) -> None:
        """Wake receivers that wait for their connection."""
        with self._lock:
            for body in self._bodies:
                body.abort()

    def arrived(self, count: int) -> None:
        """Count bytes from the source."""
        with self._lock:
            self.received += count

    def check_size(self, total: int, expected: int | None) -> None:
        """``IntegrityError`` if the source's copy has another size than the file must have."""
        if expected is None and total > self.file.limit:
            raise self._too_large(f"has {total} bytes", self.file.limit)
        if expected not in (None, total):
            raise IntegrityError(
                f"{self.file.path} has {total} bytes at {self.file.request.where}, "
                f"it must have {expected}",
                hint="the source's copy is truncated or another file: try another --source",
            )

    def check_unsized(self, so_far: int) -> None:
        """The same for a body whose length nobody states, while it comes."""
        known = self.file.limit if self.file.size is None else self.file.size
        limit = min(known, MAX_UNSIZED)
        if so_far > limit:
            raise self._too_large(f"does not end after {limit} bytes", limit)

    def _too_large(self, what: str, limit: int) -> IntegrityError:
        return IntegrityError(
            f"{self.file.path} {what} at {self.file.request.where}; it can have at most {limit}",
            hint="the address is wrong, or whoever runs that server means harm: try another",
        )
