"""Damage is found, named to the block, and mended by fetching no more than the block."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llama_hub.errors import AccessError, IntegrityError, LicenseError, UsageError
from llama_hub.hub import manifest as manifests
from llama_hub.hub.catalog import load
from llama_hub.hub.digests import hash_file
from llama_hub.hub.download import Downloaded, Job, download
from llama_hub.hub.manifest import FileEntry, Manifest
from llama_hub.hub.repair import repair
from llama_hub.hub.sources.builtin import builtin
from llama_hub.hub.sources.mirror import mirror
from llama_hub.hub.sources.resolve import SourceRequest, recorded
from llama_hub.hub.store import Store
from llama_hub.hub.transfer.journal import BLOCK
from llama_hub.hub.verify import MAX_EXTRA, MAX_FILE, Verification, check_file, extra_files, verify
from tests.support import foreign, models
from tests.support.command import run
from tests.support.http_server import Server

SIZE = 3 * BLOCK + 1000
FILES = models.meta_files(size=SIZE)
SHARD = "consolidated.00.pth"
MODEL = models.model()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(models.write(tmp_path / "mirror", FILES)) as running:
        yield running


@pytest.fixture
def stored(server: Server) -> Downloaded:
    done = download(Job(MODEL, mirror(server.url), "meta"))
    server.seen.clear()
    server.sent = 0
    return done


def flip(path: Path, *offsets: int) -> None:
    with path.open("r+b") as file:
        for offset in offsets:
            file.seek(offset)
            [byte] = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 0x10]))


def mend(found: Verification) -> int:
    return repair(found, MODEL, recorded(MODEL, found.manifest, SourceRequest()))


def status_of(found: Verification, name: str) -> str:
    return next(check.status for check in found.files if check.path == name)


def test_a_whole_model_is_ok(stored: Downloaded) -> None:
    found = verify(stored.path)
    assert found.ok
    assert {check.status for check in found.files} == {"ok"}
    assert found.manifest == stored.manifest


@pytest.mark.parametrize("seed", range(4))
def test_exactly_the_damaged_blocks_are_named_and_fetched(
    stored: Downloaded, server: Server, seed: int
) -> None:
    chance = random.Random(seed)
    blocks = sorted(chance.sample(range(4), chance.randint(1, 3)))
    length = {number: min(BLOCK, SIZE + 4 - number * BLOCK) for number in blocks}
    offsets = [number * BLOCK + chance.randrange(length[number]) for number in blocks]
    flip(stored.path / SHARD, *offsets)
    found = verify(stored.path)
    [check] = found.damaged
    assert (check.path, check.status, list(check.blocks)) == (SHARD, "damaged", blocks)
    assert mend(found) == sum(length.values())
    assert sum(_length(seen.range) for seen in server.requests(SHARD)) == sum(length.values())
    assert verify(stored.path).ok


def _length(header: str | None) -> int:
    first, _, last = (header or "").removeprefix("bytes=").partition("-")
    return int(last) + 1 - int(first)


def test_a_truncated_file_keeps_its_good_blocks(stored: Downloaded, server: Server) -> None:
    with (stored.path / SHARD).open("r+b") as file:
        file.truncate(BLOCK + 5)
    found = verify(stored.path)
    assert status_of(found, SHARD) == "size"
    assert mend(found) == SIZE + 4 - BLOCK
    assert verify(stored.path).ok


def test_a_missing_file_comes_again(stored: Downloaded) -> None:
    (stored.path / SHARD).unlink()
    (stored.path / "params.json").unlink()
    found = verify(stored.path)
    assert status_of(found, SHARD) == status_of(found, "params.json") == "missing"
    mend(found)
    assert verify(stored.path).ok


def test_an_extra_file_is_told_and_harms_nothing(stored: Downloaded) -> None:
    (stored.path / "notes.txt").write_text("mine")
    found = verify(stored.path)
    assert found.ok
    assert status_of(found, "notes.txt") == "extra"


def test_an_edited_manifest_is_an_integrity_error(stored: Downloaded) -> None:
    path = stored.path / "llama-hub.json"
    path.write_text(path.read_text().replace('"size": 5000', '"size": 5001'))
    with pytest.raises(IntegrityError, match="was edited"):
        verify(stored.path)


def test_a_repair_that_breaks_off_goes_on_later(stored: Downloaded, server: Server) -> None:
    flip(stored.path / SHARD, 5, 2 * BLOCK + 5)
    server.fault(SHARD, "status", status=403, after=1)
    found = verify(stored.path)
    with pytest.raises(AccessError):
        mend(found)
    assert not (stored.path / SHARD).exists()
    again = verify(stored.path)
    assert status_of(again, SHARD) == "missing"
    mend(again)
    assert verify(stored.path).ok
    assert server.sent <= 4 * BLOCK


def test_what_the_checksums_of_blocks_miss_the_digest_of_the_file_finds(
    stored: Downloaded, server: Server
) -> None:
    """As if a block had been changed to another one with the same CRC-32."""
    flip(stored.path / SHARD, 77)
    manifest = stored.manifest
    blocks = verify(stored.path).damaged[0].blocks
    assert blocks == (0,)
    forged = replace(manifest.file(SHARD), blocks=hash_file(stored.path / SHARD).blocks)
    files = tuple(forged if entry.path == SHARD else entry for entry in manifest.files)
    replace(manifest, files=files).write(stored.path)
    found = verify(stored.path)
    assert [(check.status, check.blocks) for check in found.damaged] == [("damaged", ())]
    mend(found)
    assert verify(stored.path).ok


def test_a_repair_needs_a_receipt(stored: Downloaded) -> None:
    replace(stored.manifest, license="llama-2-community").write(stored.path)
    flip(stored.path / SHARD, 5)
    with pytest.raises(LicenseError):
        mend(verify(stored.path))


def test_what_was_converted_here_has_no_source(stored: Downloaded) -> None:
    made = replace(stored.manifest, source={}, made_by={"operation": "convert"})
    with pytest.raises(UsageError, match=r"made here \(convert\)"):
        recorded(MODEL, made, SourceRequest())


@pytest.fixture
def demo() -> Downloaded:
    return download(Job(load().get("llama-demo"), builtin(), "meta"))


def test_the_notice_is_written_again_without_asking_the_source(demo: Downloaded) -> None:
    (demo.path / "NOTICE").write_text("something else")
    found = verify(demo.path)
    assert status_of(found, "NOTICE") == "size"
    model = load().get("llama-demo")
    assert repair(found, model, recorded(model, found.manifest, SourceRequest())) == 0
    assert verify(demo.path).ok


# Tensors


def test_deep_reads_every_tensor(demo: Downloaded) -> None:
    found = verify(demo.path, deep=True)
    assert found.ok
    assert found.tensors
    assert found.tensors > 10


def test_deep_compares_tensors_with_the_manifest(demo: Downloaded) -> None:
    from llama_hub.hub.checkpoints.fingerprint import tensor_entries

    entries = tensor_entries(demo.path)
    wrong = replace(entries[3], sha256="0" * 64)
    listed = tuple(wrong if entry.name == wrong.name else entry for entry in entries)
    replace(demo.manifest, tensors=listed).write(demo.path)
    assert verify(demo.path).ok
    found = verify(demo.path, deep=True)
    assert not found.ok
    assert found.damaged_tensors == (wrong.name,)


def test_the_manifest_of_two_downloads_of_the_same_bytes_is_the_same(
    stored: Downloaded, tmp_path: Path
) -> None:
    other = download(
        Job(MODEL, mirror(str(tmp_path / "mirror")), "meta", store=Store(tmp_path / "other"))
    )
    assert other.manifest.digest == stored.manifest.digest
    assert manifests.read(other.path).source != manifests.read(stored.path).source


# what a manifest lists may lie anywhere, and be anything


def lay(folder: Path, kind: str, outside: Path) -> Path:
    """A folder whose one listed file ``x`` is something else than a file of it."""
    folder.mkdir()
    outside.mkdir()
    (outside / "x").write_bytes(b"outside")
    path = folder / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "circle":
        path.symlink_to("x")
    else:
        path.symlink_to({"zero": Path("/dev/zero"), "link": outside / "x"}[kind])
    size = path.stat().st_size if kind != "circle" else 7
    digest = hash_file(outside / "x").digests["sha256"]
    Manifest("evil", "hf", "other-open", (FileEntry("x", size, digest),)).write(folder)
    return folder


@pytest.mark.parametrize("kind", ["pipe", "folder", "circle", "zero", "link"])
def test_what_is_no_file_of_the_folder_is_not_ok(kind: str, tmp_path: Path) -> None:
    folder = lay(tmp_path / "evil", kind, tmp_path / "outside")
    before = foreign.names(tmp_path)
    outcome = run("verify", str(folder), "--json")
    assert outcome.code == 5
    [found] = outcome.json["files"]
    assert found["status"] == ("missing" if kind == "circle" else "damaged")
    for more in (["--deep"], ["--repair"]):
        assert run("verify", str(folder), *more, "--json").code in (2, 5, 6)
    assert (tmp_path / "outside" / "x").read_bytes() == b"outside"
    names = set(foreign.names(tmp_path)) - {"home", ".evil.lock", "home/licenses"}
    assert {name for name in names if not name.startswith("home/")} == set(before)


def test_a_file_that_grows_or_is_a_hole_does_not_keep_anyone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").write_bytes(bytes(100))
    os.truncate(tmp_path / "x", MAX_FILE + 1)
    found = check_file(tmp_path, FileEntry("x", MAX_FILE + 1, "0" * 64))
    assert (found.status, found.blocks) == ("size", ())
    os.truncate(tmp_path / "x", 40 * BLOCK)
    longer = check_file(tmp_path, FileEntry("x", 10, "0" * 64, blocks=("00000000",)))
    assert (longer.status, longer.blocks) == ("size", (0, 1))
    moments = iter((0.0, 10.0, 1e6, 2e6))
    monkeypatch.setattr(time, "monotonic", lambda: next(moments))
    os.truncate(tmp_path / "x", 3 << 20)
    slow = check_file(tmp_path, FileEntry("x", 3 << 20, "0" * 64))
    assert slow.status == "damaged"
    assert "slower than" in slow.detail


def test_more_extra_files_than_anybody_reads(tmp_path: Path) -> None:
    for number in range(MAX_EXTRA + 50):
        (tmp_path / f"{number}").touch()
    (tmp_path / "up").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    made = Manifest("x", "hf", "other-open", ())
    assert len(extra_files(tmp_path, made)) == MAX_EXTRA


# a repair changes the folder and nothing else


@pytest.fixture
def small(tmp_path: Path) -> Downloaded:
    """A model of a few kilobytes, from a folder."""
    base = models.write(tmp_path / "small", models.meta_files(size=5000))
    return download(Job(MODEL, mirror(str(base)), "meta"))


def test_a_file_with_a_second_name_is_mended_in_a_copy(small: Downloaded, tmp_path: Path) -> None:
    os.link(small.path / SHARD, tmp_path / "theirs")
    flip(small.path / SHARD, 5)
    damaged = (tmp_path / "theirs").read_bytes()
    mend(verify(small.path))
    assert verify(small.path).ok
    assert (tmp_path / "theirs").read_bytes() == damaged


def test_a_link_in_a_files_place_is_replaced_not_followed(
    small: Downloaded, tmp_path: Path
) -> None:
    (tmp_path / "theirs").write_bytes(b"irreplaceable")
    (small.path / SHARD).unlink()
    (small.path / SHARD).symlink_to(tmp_path / "theirs")
    mend(verify(small.path))
    assert verify(small.path).ok
    assert not (small.path / SHARD).is_symlink()
    assert (tmp_path / "theirs").read_bytes() == b"irreplaceable"


@pytest.mark.parametrize("kind", ["folder", "link", "file"])
def test_the_place_where_files_are_mended_may_be_anothers(
    kind: str, small: Downloaded, tmp_path: Path
) -> None:
    aside = small.path.with_name(f".{small.path.name}.repair")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "diary.txt").write_text("irreplaceable")
    if kind == "link":
        aside.symlink_to(theirs)
    elif kind == "folder":
        theirs.rename(aside)
        theirs = aside
    else:
        aside.write_text("irreplaceable")
    (small.path / SHARD).unlink()
    with pytest.raises(UsageError, match="not llama-hub's"):
        mend(verify(small.path))
    kept = aside if kind == "file" else theirs / "diary.txt"
    assert kept.read_text() == "irreplaceable"


def test_a_folder_in_a_files_place_is_named(small: Downloaded) -> None:
    (small.path / SHARD).unlink()
    (small.path / SHARD).mkdir()
    with pytest.raises(IntegrityError, match="stands in a file's place"):
        mend(verify(small.path))
