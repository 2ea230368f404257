"""The transfer of one file: receive ranges, write them in place, hash them on the way.

Receivers (``hub.receiving``) take missing spans and write them at their place in the preallocated
file. Hashers (``hub.following``) follow the file from its beginning as far as it is there without
a gap, reading what is still in the page cache. A keeper flushes data, then journal, and lets the
page cache go.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isal.isal_zlib import crc32

from llama_hub.errors import DiskFullError, IntegrityError
from llama_hub.files import CHUNK, open_own, write_at
from llama_hub.hub import digests
from llama_hub.hub.transfer.blocks import Coverage
from llama_hub.hub.transfer.buffers import Buffers
from llama_hub.hub.transfer.connection import Connection
from llama_hub.hub.transfer.hasher import Hasher, JournalFlusher
from llama_hub.hub.transfer.journal import BLOCK, BlockState, Journal, Recorded
from llama_hub.hub.transfer.receiver import Receiver, refuse_web_page
from llama_hub.hub.transfer.remote_file import Body, Changed, RemoteFile, Transient
from llama_hub.hub.transfer.retry import Cancel, Policy, Pulse, TransferError
from llama_hub.progress import Progress

JOURNALS = ".journals"  # inside a partial folder
_DAMAGED = (
    "the damaged copy was discarded; run the command again, and if it stays, the source's copy or "
    "its checklist is wrong: try another --source"
)


@dataclass(frozen=True)
class Fetched:
    """A file that is there, with its digests."""

    path: str
    hashed: digests.Hashed
    received: int  # bytes that came from the source in this run


def fetch(
    file: RemoteFile,
    target: Path,
    journal: Path,
    policy: Policy,
    *,
    progress: Progress,
    cancel: Cancel,
) -> Fetched:
    """Bring ``file`` to ``target`` and check it; continues what an earlier call left there.

    ``IntegrityError`` if the source keeps changing, or serves other bytes than were promised.
    """
    received = 0
    for last in (False, True):
        transfer = _Transfer(
            file, target, Journal(journal), Connection(file, policy, progress, cancel)
        )
        try:
            hashed = transfer.run()
            digests.check(file.path, file.digests, hashed.digests, hint=_DAMAGED)
            return Fetched(file.path, hashed, received + transfer.connection.received)
        except Changed as error:
            _discard(target, journal)
            if last:
                raise IntegrityError(
                    f"{file.path} keeps changing at the source ({file.request.where})",
                    hint="run the command again when the source is quiet",
                ) from error
            progress.say(f"{file.path} has changed at the source: starting it again")
        except digests.DigestError as error:
            _discard(target, journal)
            if last or not policy.retry_damaged:
                raise
            progress.say(f"{error.message}; fetching it once more")
        received += transfer.connection.received
    raise AssertionError("unreachable")


def _discard(target: Path, journal: Path) -> None:
    for path in (journal, target):
        path.unlink(missing_ok=True)


class _Transfer:
    """One attempt at one file."""

    def __init__(
        self, file: RemoteFile, target: Path, journal: Journal, connection: Connection
    ) -> None:
        self.connection = connection
        self._file = file
        self._target = target
        self._journal = journal
        self._descriptor = -1

    def run(self) -> digests.Hashed:
        """Bring the bytes and return their digests."""
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = open_own(self._target, os.O_RDWR | os.O_CREAT)
        try:
            recorded = self._begin()
            self._preallocate(recorded.total)
            self._journal.begin(recorded)
            return self._transfer(recorded)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise disk_full(self._target) from error
            raise
        finally:
            self.connection.close_all()
            self._journal.close()
            os.close(self._descriptor)

    # Before the first byte

    def _begin(self) -> Recorded:
        """What is there already, and how large the file is; asks the source only if it has to."""
        recorded = self._usable(self._journal.read())
        if self._file.digests:
            if recorded is not None:
                return recorded
            if self._file.size is not None:
                return Recorded(self._identity(None), self._file.size)
        validator = recorded.identity["validator"] if recorded else None
        return self._ask(recorded, validator)

    def _ask(self, recorded: Recorded | None, validator: str | None) -> Recorded:
        """Open the first body: it tells the size, and whether the file is still the same."""
        start = _first_missing(recorded) if recorded else 0
        self.connection.validator = validator
        body = self.connection.tries().until_done(lambda: self.connection.open(start, None))
        if body.total is None:
            return self._spool(body)
        self.connection.check_size(body.total, self._file.size)
        if recorded is not None and body.total != recorded.total:
            raise Changed(self._file.path)
        self.connection.keep_first(start, body)
        return recorded or Recorded(self._identity(self.connection.validator), body.total)

    def _identity(self, validator: str | None) -> Mapping[str, Any]:
        """By what a later run knows that it is the same file."""
        return {"digests": dict(self._file.digests), "validator": validator}

    def _usable(self, recorded: Recorded | None) -> Recorded | None:
        """What the journal says, unless it is about another file."""
        if recorded is None or os.fstat(self._descriptor).st_size != recorded.total:
            return None
        validator = recorded.identity.get("validator")
        same = recorded.identity == self._identity(validator) and (
            self._file.size in (None, recorded.total)
        )
        return recorded if same and (self._file.digests or validator) else None

    def _preallocate(self, total: int) -> None:
        """Take the disk space now, so that a disk that is too small is known before the bytes."""
        if os.fstat(self._descriptor).st_size != total:
            os.ftruncate(self._descriptor, 0)
        if total and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, 0, total)
        else:
            os.ftruncate(self._descriptor, total)

    def _spool(self, body: Body) -> Recorded:
        """A body of unknown length can only be taken in one go."""
        blocks: dict[int, BlockState] = {}
        view, at = memoryview(bytearray(CHUNK)), 0
        pulse = Pulse(self.connection.policy)
        os.ftruncate(self._descriptor, 0)
        try:
            while count := body.readinto(view[: BLOCK - at % BLOCK]):
                pulse.beat(count)
                self.connection.check_unsized(at + count)
                if at == 0:
                    refuse_web_page(self._file, body, view[:count])
                state = blocks.setdefault(at // BLOCK, BlockState())
                state.have += count
                state.crc = crc32(view[:count], state.crc)
                write_at(self._descriptor, view[:count], at)
                at += count
        except Transient as error:
            raise TransferError(
                f"{self._file.path} broke off after {at} bytes, and the server does not say how "
                f"long it is: {error}",
                hint="run the command again",
            ) from error
        except IntegrityError:
            os.ftruncate(self._descriptor, 0)
            raise
        self.connection.arrived(at)
        self.connection.check_size(at, self._file.size)
        return Recorded(self._identity(self.connection.validator), at, blocks)

    # The transfer itself

    def _transfer(self, recorded: Recorded) -> digests.Hashed:
        receivers = self._connections(recorded)
        coverage, buffers = Coverage(recorded, self._journal), Buffers()
        path, descriptor, progress = self._file.path, self._descriptor, self.connection.progress
        progress.start(path, recorded.total, done=coverage.have)
        hashers = [
            Hasher(path, descriptor, coverage, buffers, name, progress)
            for name in _algorithms(self._file)
        ]
        keeper = JournalFlusher(descriptor, coverage, self._journal, hashers)
        threads = [
            *(
                Receiver(self.connection, coverage, buffers, descriptor, n)
                for n in range(receivers)
            ),
            *hashers,
        ]
        coverage.on_stop(self.connection.abort)
        with self.connection.cancel.watching(coverage.stop):
            _run(threads, keeper, coverage)
        if coverage.stopped is not None:
            raise coverage.stopped
        digests_of = {hasher.algorithm: hasher.hexdigest for hasher in hashers}
        return digests.Hashed(recorded.total, digests_of, coverage.blocks)

    def _connections(self, recorded: Recorded) -> int:
        policy = self.connection.policy
        if policy.span is None:
            return 1
        missing = recorded.total - sum(state.have for state in recorded.blocks.values())
        return max(1, min(policy.connections, -(-missing // policy.span)))


def _run(threads: list[threading.Thread], keeper: JournalFlusher, coverage: Coverage) -> None:
    """Run every thread to its end; an interruption of the caller stops them all."""
    try:
        for thread in [*threads, keeper]:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as interruption:
        coverage.stop(interruption)
        raise
    finally:
        for thread in threads:
            if thread.ident is not None:
                thread.join()
        keeper.finish()


def _first_missing(recorded: Recorded) -> int:
    """Where the first gap begins; the last byte if there is none, only to ask about the file."""
    at = 0
    while at < recorded.total:
        have = recorded.blocks.get(at // BLOCK, BlockState()).have
        if have < min(BLOCK, recorded.total - at):
            return at + have
        at += BLOCK
    return max(0, recorded.total - 1)


def _algorithms(file: RemoteFile) -> list[str]:
    """SHA-256 always, and first: it leads."""
    return ["sha256", *(name for name in file.digests if name != "sha256")]


def disk_full(path: Path, missing: int | None = None) -> DiskFullError:
    """The disk of ``path`` has no room; ``missing``: bytes, where known."""
    how_much = f"{missing / 1e9:.2f} GB ({missing} bytes) more are needed" if missing else "no room"
    return DiskFullError(
        f"the disk of {path.parent} is full: {how_much}",
        hint="free space or set LLAMA_HUB_HOME to a larger disk, then run the command again; "
        "what came so far is kept",
    )
