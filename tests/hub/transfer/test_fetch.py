"""One file over a real HTTP server, and everything that goes wrong on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import AccessError, DiskFullError, IntegrityError, NotFoundError
from llama_hub.hub.transfer.journal import BLOCK, Journal
from llama_hub.hub.transfer.retry import Policy, TransferError
from tests.support.http_server import Server
from tests.support.models import MIB, noise
from tests.support.tiers import examples, family
from tests.support.transfers import DATA, DIGESTS, NAME, SIZE, Target


@pytest.fixture
def server() -> Iterator[Server]:
    with Server({NAME: DATA}) as running:
        yield running


@pytest.fixture
def target(tmp_path: Path, server: Server) -> Target:
    return Target(tmp_path, server.url)


@pytest.mark.parametrize("connections", [1, 2, 4])
@pytest.mark.parametrize("known", ["both", "md5", "nothing"])
def test_a_file_arrives_with_its_digests(
    target: Target, server: Server, connections: int, known: str
) -> None:
    digests = {} if known == "nothing" else {k: DIGESTS[k] for k in DIGESTS if known in (k, "both")}
    policy = Policy(connections=connections, span=BLOCK, ramp=0)
    fetched = target.fetch(digests, None if known == "nothing" else SIZE, policy)
    target.assert_right()
    assert fetched.hashed.digests == {"sha256": DIGESTS["sha256"], **digests}
    assert fetched.received == SIZE
    assert not any(seen.method == "HEAD" for seen in server.seen)


def test_one_request_is_enough_where_the_source_wants_few(target: Target, server: Server) -> None:
    target.fetch(policy=Policy(connections=1, span=None))
    assert [seen.range for seen in server.seen] == [f"bytes=0-{SIZE - 1}"]


FAULTS = ["cut", "whole", "flip", "status", "shifted", "page"]


@pytest.mark.parametrize("seed", family(range(30), 5))
def test_any_sequence_of_faults_ends_with_the_right_bytes_or_a_refusal(
    target: Target, server: Server, seed: int
) -> None:
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 4)):
        kind = chance.choice(FAULTS)
        server.fault(
            NAME,
            kind,
            at=chance.randrange(SIZE),
            status=chance.choice([403, 408, 429, 500, 502, 503]),
            after=chance.randrange(3),
        )
    policy = Policy(
        connections=chance.choice([1, 2, 4]),
        span=chance.choice([None, BLOCK, 2 * BLOCK]),
        backoff=0.001,
        longest_wait=0.01,
        ramp=0,
    )
    digests = chance.choice([DIGESTS, {"md5": DIGESTS["md5"]}])
    for _ in range(8):  # a refusal is final for one run only
        try:
            target.fetch(digests, chance.choice([SIZE, None]), policy)
        except (AccessError, IntegrityError, TransferError):
            continue
        break
    target.assert_right()


def test_a_flipped_byte_costs_one_more_fetch_and_is_never_kept(
    target: Target, server: Server
) -> None:
    server.fault(NAME, "flip", at=BLOCK + 17)
    fetched = target.fetch()
    target.assert_right()
    assert fetched.received == 2 * SIZE


def test_a_source_that_always_flips_a_byte_is_refused(target: Target, server: Server) -> None:
    server.fault(NAME, "flip", at=17, times=99)
    with pytest.raises(IntegrityError, match="its sha256 is|its md5 is"):
        target.fetch()
    assert not target.path.exists()
    assert not target.journal.exists()


def test_a_truncated_copy_at_the_source_is_named(target: Target, server: Server) -> None:
    server.fault(NAME, "resized", at=SIZE - 1000, times=99)
    with pytest.raises(IntegrityError, match=f"has {SIZE - 1000} bytes .* must have {SIZE}"):
        target.fetch()


def test_a_web_page_is_known_from_its_first_bytes(target: Target, server: Server) -> None:
    server.fault(NAME, "page", times=99)
    with pytest.raises(IntegrityError, match="web page instead of"):
        target.fetch(size=None)
    server.faults.clear()
    target.fetch()
    target.assert_right()


def test_a_fast_connection_stays_the_only_one(target: Target, server: Server) -> None:
    target.fetch(policy=Policy(connections=4, span=BLOCK, ramp=60))
    assert len(server.seen) == 3
    assert len({seen.headers["host"] for seen in server.seen}) == 1


def test_a_slow_connection_gets_company(target: Target, server: Server) -> None:
    company = threading.Event()

    def watch(handler: object, seen: object) -> bool:
        if len(server.seen) == 2:
            company.set()
        return False

    server.handler = watch
    server.fault(NAME, "drip", at=BLOCK - 100, pace=lambda: company.wait(60))
    target.fetch(policy=Policy(connections=2, span=BLOCK, ramp=0.01))
    target.assert_right()
    assert company.is_set()


def test_a_drop_is_continued_where_it_happened(target: Target, server: Server) -> None:
    server.fault(NAME, "cut", at=3 * MIB + 5)
    fetched = target.fetch(policy=Policy(connections=1, span=None, backoff=0.001))
    target.assert_right()
    assert fetched.received == SIZE
    assert server.seen[1].range == f"bytes={3 * MIB + 5}-{SIZE - 1}"


@pytest.mark.parametrize("kind", ["drip", "stall"])
def test_a_stalled_connection_is_left(target: Target, server: Server, kind: str) -> None:
    server.fault(NAME, kind, at=MIB)
    impatient = Policy(
        connections=1, span=None, backoff=0.001, stall_seconds=0.5, stall_bytes=1 << 18
    )
    fetched = target.fetch(policy=impatient)
    target.assert_right()
    assert fetched.received == SIZE
    assert len(server.seen) == 2


def test_a_server_without_ranges_is_read_from_the_beginning(tmp_path: Path) -> None:
    with Server({NAME: DATA}, ranges=False) as server:
        target = Target(tmp_path, server.url)
        target.fetch(policy=Policy(connections=4, span=BLOCK, backoff=0.001, ramp=0))
        target.assert_right()


def test_200_for_a_range_after_a_drop_repeats_no_byte_in_the_file(
    target: Target, server: Server
) -> None:
    server.fault(NAME, "cut", at=BLOCK + 7)
    server.fault(NAME, "whole", times=99)
    fetched = target.fetch(policy=Policy(connections=1, span=None, backoff=0.001))
    target.assert_right()
    assert fetched.received == SIZE + BLOCK + 7


@pytest.mark.parametrize("kind", ["chunked", "unsized"])
def test_a_body_of_unknown_length_is_taken_in_one_go(
    target: Target, server: Server, kind: str
) -> None:
    server.fault(NAME, kind)
    target.fetch(digests={}, size=None)
    target.assert_right()


def test_an_empty_file_is_a_file(tmp_path: Path) -> None:
    with Server({"empty.json": b""}) as server:
        target = Target(tmp_path, server.url, "empty.json")
        fetched = target.fetch(digests={}, size=None)
    assert fetched.hashed.digests["sha256"] == hashlib.sha256(b"").hexdigest()
    assert target.path.read_bytes() == b""


def test_a_complete_file_is_hashed_again_and_not_fetched(target: Target, server: Server) -> None:
    target.fetch()
    before = len(server.seen)
    assert target.fetch().received == 0
    assert len(server.seen) == before


def test_a_file_that_changed_at_the_source_is_started_again(tmp_path: Path) -> None:
    other = b"PK\x03\x04" + noise(SIZE - 4, seed=5)
    with Server({NAME: DATA}) as server:
        target = Target(tmp_path, server.url)
        server.fault(NAME, "cut", at=BLOCK + 5, times=99)
        with pytest.raises(TransferError):
            target.fetch({}, None, Policy(connections=1, attempts=1, patient=False))
        server.faults.clear()
        server.root = {NAME: other}
        target.fetch({}, None)
    assert target.path.read_bytes() == other


@pytest.mark.parametrize(
    ("status", "error"), [(401, AccessError), (403, AccessError), (404, NotFoundError)]
)
def test_a_refusal_is_final_and_keeps_what_came(
    target: Target, server: Server, status: int, error: type[Exception]
) -> None:
    server.fault(NAME, "cut", at=BLOCK + 5)
    server.fault(NAME, "status", status=status)
    policy = Policy(connections=1, span=None, backoff=0.001)
    with pytest.raises(error):
        target.fetch(policy=policy)
    fetched = target.fetch(policy=policy)
    target.assert_right()
    assert fetched.received == SIZE - BLOCK - 5


def test_it_gives_up_after_as_many_tries_as_the_policy_says(target: Target, server: Server) -> None:
    server.fault(NAME, "status", status=503, times=99)
    with pytest.raises(TransferError, match="answered 503.*tried 4 times"):
        target.fetch(policy=Policy(connections=1, attempts=4, backoff=0.001))
    assert len(server.seen) == 4


def test_retry_after_is_honoured_up_to_a_limit(target: Target, server: Server) -> None:
    server.fault(NAME, "status", status=429, headers={"Retry-After": "3600"})
    target.fetch(policy=Policy(connections=1, longest_wait=0.01))
    target.assert_right()


# What a crash leaves


def _start(folder: Path, url: str, connections: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.support.killable",
            str(folder),
            url,
            NAME,
            DIGESTS["md5"],
            str(connections),
        ],  # fmt: skip
        cwd=Path(__file__).parents[3],
    )


@pytest.mark.sized
@pytest.mark.parametrize("connections", [1, 4])
def test_sigkill_at_random_offsets_costs_at_most_one_block_each(
    tmp_path: Path, server: Server, connections: int
) -> None:
    """Again and again: stall every connection somewhere, kill, go on, count what came twice."""
    chance = random.Random(connections)
    for number in range(examples(4, 16)):
        target = Target(tmp_path / str(number), server.url)
        server.sent = 0
        offset = chance.randrange(1, (SIZE if connections == 1 else BLOCK) - 1)
        stall = server.fault(NAME, "stall", at=offset, times=connections)
        with _start(target.path.parent, server.url, connections) as child:
            sent = _wait_until_written_down(server, target, stall.reached)
            child.kill()
        stall.times = 0
        fetched = target.fetch({"md5": DIGESTS["md5"]}, None)
        target.assert_right()
        assert sent + fetched.received <= SIZE + BLOCK
        target.path.unlink()


def test_kill_after_kill_adds_up(tmp_path: Path, server: Server) -> None:
    """The same download killed again and again never begins again."""
    target = Target(tmp_path, server.url)
    for number in range(1, 5):
        stall = server.fault(NAME, "stall", at=20 * MIB if number == 1 else 3 * MIB)
        with _start(tmp_path, server.url, 1) as child:
            _wait_until_written_down(server, target, stall.reached)
            child.kill()
    fetched = target.fetch({"md5": DIGESTS["md5"]}, None)
    target.assert_right()
    assert server.sent <= SIZE + 4 * BLOCK
    assert fetched.received < SIZE - 4 * MIB


def _wait_until_written_down(server: Server, target: Target, stalled: threading.Event) -> int:
    """Until the journal has all that was sent but for one block; returns the bytes sent then."""
    assert stalled.wait(60)
    for _ in range(2000):
        sent = server.sent
        recorded = Journal(target.journal).read()
        states = recorded.blocks.values() if recorded else ()
        if sum(state.have for state in states) > sent - BLOCK:
            return sent
        threading.Event().wait(0.01)
    raise AssertionError("the child has not written down what came")


@pytest.mark.parametrize("seed", family(range(15), 4))
def test_what_a_power_loss_leaves_is_found_by_its_checksums(
    target: Target, server: Server, seed: int
) -> None:
    """Blocks that never reached the disk, and a journal that was torn or lost lines."""
    chance = random.Random(seed)
    server.fault(NAME, "cut", at=chance.randrange(MIB, SIZE), times=1)
    policy = Policy(connections=1, span=None, attempts=1, patient=False, retry_damaged=False)
    with pytest.raises(TransferError):
        target.fetch(policy=policy)
    damaged = chance.sample(range(SIZE // BLOCK + 1), chance.randint(0, 2))
    with target.path.open("r+b") as file:
        for number in damaged:
            file.seek(number * BLOCK)
            file.write(bytes(chance.randrange(1, 100_000)))
    lines = target.journal.read_bytes()
    target.journal.write_bytes(lines[: chance.randrange(len(lines) // 2, len(lines) + 1)])
    target.fetch(policy=policy)
    target.assert_right()


@pytest.mark.parametrize(
    "junk", [b"", b"{", b"\xff\xfe\n", b'{"identity": 3, "total": "x"}\n', b"[]\n"]
)
def test_a_journal_that_cannot_be_read_means_starting_again(target: Target, junk: bytes) -> None:
    target.path.write_bytes(b"x" * SIZE)
    target.journal.write_bytes(junk)
    target.fetch()
    target.assert_right()


# The disk


def test_a_full_disk_is_known_before_the_first_byte(
    target: Target, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", no_room)
    with pytest.raises(DiskFullError, match="is full"):
        target.fetch()
    assert server.seen == []


def test_a_disk_that_fills_up_half_way_loses_nothing(
    target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = os.pwrite, [BLOCK + 3 * MIB]

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        if room[0] < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(data)
        return real(descriptor, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        with pytest.raises(DiskFullError, match="is full"):
            target.fetch(policy=Policy(connections=1, span=None))
    fetched = target.fetch()
    target.assert_right()
    assert fetched.received <= SIZE - BLOCK - 2 * MIB
