"""A gated repository on two origins: every state of the gate, both layouts, expired addresses."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llama_hub.errors import AccessError, IntegrityError, NotFoundError
from llama_hub.hub.download import Downloaded, Job, download
from llama_hub.hub.manifest import Format
from llama_hub.hub.sources.huggingface import POLICY, HuggingFace
from tests.support import models
from tests.support.fake_hub import COMMIT, REFUSALS, FakeHub
from tests.support.licences import GOOD, write_terms

SIZE = 3 * models.MIB
HF = models.hf_files(size=SIZE)
ORIGINAL = {
    path.removeprefix("acme-7b/"): data
    for path, data in models.meta_files(shards=2, size=SIZE).items()
}
ORIGINAL["LICENSE.txt"] = ORIGINAL.pop("LICENSE")
ORIGINAL["README.md"] = b"# card\n"
ORIGINAL["Responsible-Use-Guide.pdf"] = b"%PDF-" + models.noise(30_000)
MODEL = models.gated_model(shards=2)
GRANTED = "hf_granted0000"
QUICK = replace(POLICY, backoff=0.001, longest_wait=0.01, span=models.MIB)


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub("acme/acme-7b-hf", HF) as running:
        yield running


@pytest.fixture(autouse=True)
def terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_terms(tmp_path / "terms")
    monkeypatch.setenv("LLAMA_HUB_LICENSES", str(tmp_path / "terms"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


def fetch(
    hub: FakeHub, fmt: Format = "hf", token: str | None = GRANTED, revision: str | None = None
) -> Downloaded:
    source = HuggingFace(
        hub.repository, fmt, token=token, revision=revision, endpoint=hub.url, policy=QUICK
    )
    return download(Job(MODEL, source, fmt, accept=lambda *_: GOOD))


def test_the_safetensors_layout_comes_whole_and_without_the_duplicate(hub: FakeHub) -> None:
    done = fetch(hub)
    expected = {name: data for name, data in HF.items() if not name.endswith(".bin")}
    expected["LICENSE"] = expected.pop("LICENSE.txt")
    for name, data in expected.items():
        assert (done.path / name).read_bytes() == data
    assert {entry.path for entry in done.manifest.files} == {*expected, "NOTICE"}
    assert done.manifest.source["commit"] == COMMIT
    assert done.manifest.source["repository"] == "acme/acme-7b-hf"
    assert done.lacks == ("Responsible-Use-Guide.pdf",)


def test_metas_files_come_with_both_digests() -> None:
    with FakeHub("acme/acme-7b", ORIGINAL) as hub:
        done = fetch(hub, "meta")
    for shard in MODEL.weight_files:
        assert (done.path / shard).read_bytes() == ORIGINAL[shard]
        assert done.manifest.file(shard).md5
    assert (done.path / "MODEL_CARD.md").read_bytes() == b"# card\n"
    assert (done.path / "Responsible-Use-Guide.pdf").is_file()
    assert done.lacks == ()


def test_the_token_never_reaches_the_cdn(hub: FakeHub) -> None:
    fetch(hub)
    assert hub.cdn.seen
    assert hub.leaks == []
    assert any("authorization" in seen.headers for seen in hub.hub.seen)


def test_the_commit_is_pinned_in_every_request(hub: FakeHub) -> None:
    fetch(hub)
    resolved = [seen.path for seen in hub.hub.seen if "/resolve/" in seen.path]
    assert resolved
    assert all(f"/resolve/{COMMIT}/" in path for path in resolved)


STATES = {
    "anonymous": (None, "you are not logged in", "hf auth login"),
    "invalid": ("hf_unknown00000", "does not know the token", "settings/tokens"),
    "stranger": ("hf_stranger0000", "has not asked for access", "open http"),
    "pending": ("hf_pending0000", "waiting for its authors' approval", "run the same command"),
    "rejected": ("hf_rejected0000", "was rejected by its authors", "--source meta"),
    "scopeless": ("hf_scopeless0000", "token may not read gated", "settings/tokens"),
}


@pytest.mark.parametrize("closed_metadata", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_each_state_of_the_gate_is_told_in_words(state: str, closed_metadata: bool) -> None:
    token, message, hint = STATES[state]
    with FakeHub("acme/acme-7b-hf", HF, closed_metadata=closed_metadata) as hub:
        with pytest.raises(AccessError, match=message) as caught:
            fetch(hub, token=token)
        assert hint in caught.value.hint
        assert token is None or token not in caught.value.message + caught.value.hint
        assert hub.cdn.seen == []


def test_the_states_are_all_that_the_fake_knows() -> None:
    assert set(STATES) == {"anonymous", "invalid", *REFUSALS}


def test_a_missing_repository_and_a_missing_revision_are_not_found(hub: FakeHub) -> None:
    with pytest.raises(NotFoundError, match="no revision 'v9'"):
        fetch(hub, revision="v9")
    hub.repository = "acme/moved"
    with pytest.raises(NotFoundError, match="does not exist"):
        HuggingFace("acme/acme-7b-hf", "hf", token=GRANTED, endpoint=hub.url).plan(MODEL)


def test_a_repository_in_the_other_layout_is_named(hub: FakeHub) -> None:
    with pytest.raises(NotFoundError, match=r"has no consolidated\.00\.pth") as caught:
        fetch(hub, "meta")
    assert "--format hf" in caught.value.hint


def test_an_address_of_the_cdn_that_expires_half_way_is_asked_for_again(hub: FakeHub) -> None:
    name = "model-00001-of-00002.safetensors"
    digest = next(p for p, data in hub.cdn.root.items() if data == HF[name])  # type: ignore[union-attr]
    hub.cdn.fault(digest, "cut", at=1000)
    hub.cdn.fault(digest, "status", status=403, times=2)
    done = fetch(hub)
    assert (done.path / name).read_bytes() == HF[name]


def test_a_flipped_bit_is_found_although_the_size_is_right(hub: FakeHub) -> None:
    """What ``hf download`` takes for a success."""
    name = "model-00002-of-00002.safetensors"
    good = HF[name]
    digest = next(p for p, data in hub.cdn.root.items() if data == good)  # type: ignore[union-attr]
    hub.cdn.root[digest] = good[:500] + bytes([good[500] ^ 1]) + good[501:]  # type: ignore[index]
    with pytest.raises(IntegrityError, match=f"{name} is damaged: its sha256"):
        fetch(hub)


def test_a_small_file_is_checked_by_its_git_digest(hub: FakeHub) -> None:
    real = hub._give

    def give(handler: object, path: str) -> None:
        if path == "config.json":
            handler.serve_bytes(b'{"model_type": "other"}\n')  # type: ignore[attr-defined]
        else:
            real(handler, path)

    hub._give = give  # type: ignore[method-assign]
    with pytest.raises(IntegrityError, match=r"config\.json is damaged: its git-sha1"):
        fetch(hub)


def test_an_open_repository_needs_no_token(hub: FakeHub) -> None:
    hub.gated = False
    assert fetch(hub, token=None).manifest.format == "hf"


def test_rate_limits_are_waited_out(hub: FakeHub) -> None:
    hub.hub.fault("tokenizer.model", "status", status=429, headers={"Retry-After": "0"})
    assert fetch(hub).manifest.format == "hf"


# The real client, to show that the fake is faithful

REAL = """
import sys
from huggingface_hub import snapshot_download
from huggingface_hub.errors import GatedRepoError
try:
    print(snapshot_download(sys.argv[1], token=sys.argv[2] or False))
except GatedRepoError as error:
    print("GATED", error.response.status_code, type(error).__name__)
"""


def _real(hub: FakeHub, tmp_path: Path, token: str) -> str:
    environment = os.environ | {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", REAL, hub.repository, token],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_real_client_downloads_from_the_fake(hub: FakeHub, tmp_path: Path) -> None:
    snapshot = Path(_real(hub, tmp_path, GRANTED))
    assert snapshot.name == COMMIT
    assert {path.name: path.read_bytes() for path in snapshot.iterdir()} == HF
    assert hub.leaks == []


@pytest.mark.parametrize(("token", "status"), [("", 401), ("hf_stranger0000", 403)])
def test_the_real_client_meets_the_same_gate(
    hub: FakeHub, tmp_path: Path, token: str, status: int
) -> None:
    assert _real(hub, tmp_path, token) == f"GATED {status} GatedRepoError"
