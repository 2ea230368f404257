"""What an earlier run, or somebody else, left where a transfer works."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError
from llama_hub.hub.redaction import plain_url
from llama_hub.hub.transfer.remote_file import read_all
from tests.support.http_server import Server
from tests.support.transfers import DATA, NAME, Target


def _plant(path: Path, kind: str, outside: Path) -> None:
    outside.write_bytes(b"precious")
    if kind == "symlink":
        path.symlink_to(outside)
    elif kind == "dangling":
        path.symlink_to(outside.with_name("nowhere"))
    elif kind == "hard link":
        path.hardlink_to(outside)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()


PLANTED = ["symlink", "dangling", "hard link", "fifo", "folder"]


@pytest.mark.parametrize("kind", PLANTED)
def test_a_partial_file_that_is_none_is_refused(tmp_path: Path, kind: str) -> None:
    with Server({NAME: DATA}) as server:
        target = Target(tmp_path, server.url)
        _plant(target.path, kind, tmp_path / "outside")
        with pytest.raises(IntegrityError, match=NAME):
            target.fetch()
        assert server.seen == []
    assert (tmp_path / "outside").read_bytes() == b"precious"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("kind", PLANTED)
def test_a_journal_that_is_none_is_begun_again(tmp_path: Path, kind: str) -> None:
    with Server({"small.bin": b"small"}) as server:
        target = Target(tmp_path, server.url, "small.bin")
        _plant(target.journal, kind, tmp_path / "outside")
        target.fetch({}, 5)
    assert target.path.read_bytes() == b"small"
    assert (tmp_path / "outside").read_bytes() == b"precious"


@pytest.mark.parametrize(
    "header",
    ['{"identity": 3, "total": 5}', '{"identity": {}, "total": 1e400}', "[" * 100_000, "null", "7",
     '{"identity": {"digests": 1, "validator": null}, "total": 5}',
     '{"identity": {"digests": {}, "validator": "x"}, "total": 1152921504606846976}',
     '{"identity": {"digests": {}, "validator": 5}, "total": true}'],
)  # fmt: skip
def test_a_journal_of_nonsense_is_begun_again(tmp_path: Path, header: str) -> None:
    with Server({"small.bin": b"small"}) as server:
        target = Target(tmp_path, server.url, "small.bin")
        target.path.write_bytes(b"other")
        target.journal.write_text(f"{header}\n0 5 5\n-1 5 5\n{'f' * 5000} 1 1\n")
        target.fetch({}, None)
    assert target.path.read_bytes() == b"small"


@pytest.mark.parametrize("kind", ["fifo", "folder"])
def test_a_mirror_folder_is_read_if_it_holds_files(tmp_path: Path, kind: str) -> None:
    from llama_hub.hub.transfer.remote_file import FolderRequest

    _plant(tmp_path / "LICENSE", kind, tmp_path / "outside")
    with pytest.raises(IntegrityError, match="LICENSE"):
        read_all(FolderRequest(tmp_path / "LICENSE"), 1000)


@pytest.mark.parametrize("url", ["http://[::1", "http://a:b/", "http://a:99999", "http://\0"])
def test_an_address_that_is_none_has_a_text(url: str) -> None:
    assert "none" in plain_url(url) or plain_url(url).startswith("http")
