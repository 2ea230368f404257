"""Uploads: only what is missing goes, nothing wrong is put in scope, tokens may expire."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.azure.bodies import WorkspaceScope, weights_name, weights_prefix
from llama_hub.backends.azure.client import Client
from llama_hub.backends.azure.storage import Container
from llama_hub.deploy.backend import Artifact
from llama_hub.errors import AccessError, IntegrityError, TransientError, UsageError
from llama_hub.hub.manifest import FileEntry, Manifest
from tests.support.azure_blob import CONTAINER
from tests.support.azure_plane import ACCOUNT, Plane
from tests.support.azure_target import make_artifact
from tests.support.azure_wire import Reply

BLOCK = 16_384
WEIGHTS = "model-00001-of-00001.safetensors"


def container(block: int = BLOCK) -> Container:
    """The workspace's container, with blocks small enough for a test."""
    client = Client(WorkspaceScope("s", "g", "w"), sleep=lambda seconds: None)
    url = f"https://{ACCOUNT}.blob.core.windows.net"
    return Container(url, CONTAINER, client.credential, sleep=lambda seconds: None, block=block)


class Told:
    """A progress listener that adds up."""

    def __init__(self) -> None:
        self.totals: dict[str, int | None] = {}
        self.done: Counter[str] = Counter()
        self.notes: list[str] = []

    def start(self, task: str, total: int | None = None, *, unit: str = "B", done: int = 0) -> None:
        self.totals[task] = total
        self.done[task] = done

    def advance(self, task: str, amount: int) -> None:
        self.done[task] += amount

    def finish(self, task: str, note: str = "") -> None:
        self.notes.append(note)

    def say(self, message: str) -> None:
        self.notes.append(message)


def upload(artifact: Artifact, progress: Any = None) -> dict[str, int]:
    """Upload the whole folder."""
    manifest = artifact.manifest
    more = {"progress": progress} if progress else {}
    return container().upload(
        artifact.folder, manifest, weights_prefix(weights_name(manifest.digest)), **more
    )


def stored(plane: Plane, artifact: Artifact) -> dict[str, bytes]:
    """What lies in storage for a manifest."""
    prefix = weights_prefix(weights_name(artifact.manifest.digest))
    return {
        path.removeprefix(prefix): blob.data
        for path, blob in plane.blobs.blobs.items()
        if path.startswith(prefix)
    }


def test_all_files_arrive_and_the_manifest_comes_last(plane: Plane, artifact: Artifact) -> None:
    told = Told()
    facts = upload(artifact, told)
    files = {path.name: path.read_bytes() for path in artifact.folder.iterdir()}
    assert stored(plane, artifact) == files
    assert facts["bytes_sent"] == artifact.manifest.bytes
    (task,) = told.totals
    assert told.totals[task] == told.done[task] == artifact.manifest.bytes
    names = [
        request.path.rpartition("/")[2] for request in plane.requests if request.method == "PUT"
    ]
    assert names[-1] == "llama-hub.json"
    assert {"LICENSE", "USE_POLICY.md", "NOTICE"} <= set(names)


def test_a_second_upload_sends_nothing(plane: Plane, artifact: Artifact) -> None:
    upload(artifact)
    plane.forget()
    told = Told()
    assert upload(artifact, told)["bytes_sent"] == 0
    assert plane.writes() == []
    assert list(told.done.values()) == [artifact.manifest.bytes]


def test_blocks_that_are_there_are_not_sent_again(plane: Plane, artifact: Artifact) -> None:
    plane.fail("PUT .*comp=blocklist", Reply(403, b""))
    with pytest.raises(AccessError):
        upload(artifact)
    plane.forget()
    upload(artifact)
    assert not [line for line in plane.writes() if "comp=block&" in line]
    assert stored(plane, artifact)[WEIGHTS] == (artifact.folder / WEIGHTS).read_bytes()


def test_resumes_after_a_cut_in_the_middle(plane: Plane, artifact: Artifact) -> None:
    forbidden = Reply(403, b"", {"x-ms-error-code": "AuthorizationFailure"})
    plane.fail(r"PUT .*comp=block&blockid=MDAwMDAwMDY", forbidden)  # the seventh block
    with pytest.raises(AccessError):
        upload(artifact)
    prefix = weights_prefix(weights_name(artifact.manifest.digest))
    blocks = plane.blobs.staged[prefix + WEIGHTS].values()
    there = sum(len(block) for block in blocks)
    assert 0 < len(blocks) < 10
    assert WEIGHTS not in stored(plane, artifact)
    sent = upload(artifact)["bytes_sent"]
    later = artifact.manifest.file("tokenizer.model").size
    assert sent == artifact.manifest.file(WEIGHTS).size - there + later
    assert stored(plane, artifact)[WEIGHTS] == (artifact.folder / WEIGHTS).read_bytes()


def test_staged_blocks_of_other_content_are_not_taken(
    plane: Plane, artifact: Artifact, tmp_path: Path
) -> None:
    prefix = weights_prefix(weights_name(artifact.manifest.digest))
    other = make_artifact(tmp_path / "other", seed=9)
    plane.fail(r"PUT .*comp=blocklist", Reply(403, b""))
    with pytest.raises(AccessError):
        container().upload(other.folder, other.manifest, prefix)
    assert plane.blobs.staged[prefix + WEIGHTS]
    assert upload(artifact)["bytes_sent"] >= artifact.manifest.file(WEIGHTS).size
    assert stored(plane, artifact)[WEIGHTS] == (artifact.folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_damaged_file_is_never_put_in_place(plane: Plane, artifact: Artifact, name: str) -> None:
    path = artifact.folder / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=name):
        upload(artifact)
    assert name not in stored(plane, artifact)
    assert "llama-hub.json" not in stored(plane, artifact)


def test_storage_compares_what_arrived(plane: Plane, artifact: Artifact) -> None:
    upload(artifact)
    blocks = [
        request
        for request in plane.requests
        if request.query.get("comp") == "block" or request.path.endswith("config.json")
    ]
    puts = [request for request in blocks if request.method == "PUT"]
    assert len(puts) == -(-150_000 // BLOCK) + 1
    assert all(request.headers.get("Content-MD5") for request in puts)


def test_survives_throttling_errors_and_lost_answers(plane: Plane, artifact: Artifact) -> None:
    plane.fail("PUT .*comp=block&", Reply(503, b"", {"x-ms-error-code": "ServerBusy"}), times=2)
    plane.fail("PUT .*comp=block&", Reply(500, b""), times=1)
    plane.fail("PUT .*comp=block&", None, times=1, applied=True)
    plane.fail("PUT .*comp=blocklist", None, times=1, applied=True)
    upload(artifact)
    assert stored(plane, artifact)[WEIGHTS] == (artifact.folder / WEIGHTS).read_bytes()


def test_gives_up_as_transient_when_storage_stays_away(plane: Plane, artifact: Artifact) -> None:
    plane.fail("PUT .*comp=block&", Reply(503, b"", {"x-ms-error-code": "ServerBusy"}), times=999)
    with pytest.raises(TransientError, match="busy"):
        upload(artifact)


def test_tokens_are_renewed_while_it_lasts(plane: Plane, artifact: Artifact) -> None:
    plane.token_seconds = 200  # clients renew what lasts less than five minutes
    upload(artifact)
    logins = [request for request in plane.requests if request.path.endswith("/oauth2/v2.0/token")]
    assert len(logins) > 5


def test_without_the_storage_role_it_names_the_command(plane: Plane, artifact: Artifact) -> None:
    plane.blobs.writable = False
    with pytest.raises(AccessError) as error:
        upload(artifact)
    assert "Storage Blob Data Contributor" in error.value.hint


def test_too_many_files_are_refused_before_anything_goes(plane: Plane, artifact: Artifact) -> None:
    entries = tuple(FileEntry(f"f{n}", 1, "0" * 64) for n in range(1500))
    manifest = Manifest("x", "hf", "llama-hub-demo", entries)
    with pytest.raises(UsageError, match="1500 at most"):
        container().upload(artifact.folder, manifest, "p/")
    assert plane.requests == []


def test_deleting_takes_unfinished_uploads_along(plane: Plane, artifact: Artifact) -> None:
    plane.fail(r"PUT .*comp=blocklist", Reply(403, b""))
    with pytest.raises(AccessError):
        upload(artifact)
    prefix = weights_prefix(weights_name(artifact.manifest.digest))
    assert container().folders("llama-hub/models/") == {prefix.split("/")[2]}
    container().delete(prefix)
    assert plane.blobs.blobs == {}
    assert plane.blobs.staged == {}
