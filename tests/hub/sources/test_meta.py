"""Meta's signed URL against a server that counts, expires and refuses as CloudFront does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llama_hub.errors import AccessError, IntegrityError, LicenseError, UsageError
from llama_hub.hub.download import Downloaded, Job, download
from llama_hub.hub.sources.meta import LARGEST_RANGE, POLICY, MetaSource
from llama_hub.hub.store import Store
from llama_hub.hub.transfer.retry import TransferError
from llama_hub.licenses.gate import Gate
from tests.support import models
from tests.support.licences import GOOD, write_terms
from tests.support.signed_urls import MetaServer, signed

SIZE = 3 * models.MIB
FILES = models.meta_files(shards=2, size=SIZE)
MODEL = models.gated_model(shards=2)
SHARD = "consolidated.01.pth"
HOSTS = ("127.0.0.1",)
QUICK = replace(POLICY, backoff=0.001, longest_wait=0.01)


@pytest.fixture
def server() -> Iterator[MetaServer]:
    with MetaServer(FILES) as running:
        yield running


@pytest.fixture(autouse=True)
def terms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_terms(tmp_path / "terms")
    monkeypatch.setenv("LLAMA_HUB_LICENSES", str(tmp_path / "terms"))


def fetch(url: str, ask: Callable[[str], str] | None = None) -> Downloaded:
    source = MetaSource(url, allow_hosts=HOSTS, ask=ask, policy=QUICK)
    return download(Job(MODEL, source, "meta", accept=lambda *_: GOOD))


def test_the_download_is_whole_and_asks_once_for_each_file(server: MetaServer) -> None:
    done = fetch(server.signed())
    for path, data in FILES.items():
        assert (done.path / Path(path).name).read_bytes() == data
    assert (done.path / "NOTICE").read_text() == "ACME model, Copyright (c) ACME Inc.\n"
    assert sorted(seen.path for seen in server.seen) == sorted(f"/{path}" for path in FILES)
    assert {seen.method for seen in server.seen} == {"GET"}
    assert done.manifest.source["request_id"] == "123456789"
    assert done.manifest.receipt == Gate().require("acme-community").id
    assert all(entry.md5 for entry in done.manifest.files if entry.path.endswith(".pth"))
    assert "MODEL_CARD.md" in done.lacks


def test_no_secret_reaches_the_manifest_or_the_ledger(server: MetaServer, home: Path) -> None:
    fetch(server.signed())
    kept = [path for path in home.rglob("*") if path.is_file() and path.suffix != ".pth"]
    assert any(path.name == "ledger.jsonl" for path in kept)
    for path in kept:
        assert b"Signature=" not in path.read_bytes()
        assert b"Policy=" not in path.read_bytes()


def test_the_licence_comes_before_the_first_weight_byte(server: MetaServer) -> None:
    source = MetaSource(server.signed(), allow_hosts=HOSTS)
    with pytest.raises(LicenseError):
        download(Job(MODEL, source, "meta"))
    assert sorted(seen.path for seen in server.seen) == ["/LICENSE", "/USE_POLICY.md"]


def test_an_expired_url_is_refused_without_a_request(server: MetaServer) -> None:
    with pytest.raises(AccessError, match="expired"):
        fetch(server.signed(valid_for=-60))
    assert server.seen == []


def test_without_a_url_and_a_person_the_option_is_named() -> None:
    with pytest.raises(UsageError, match="signed URL is needed") as caught:
        download(Job(MODEL, MetaSource(None), "meta"))
    assert "LLAMA_HUB_META_URL" in caught.value.hint


def test_a_url_used_up_half_way_keeps_every_byte_for_the_next_one(server: MetaServer) -> None:
    server.fault(SHARD, "cut", at=SIZE // 2)
    server.fault(SHARD, "status", status=403, times=99)
    with pytest.raises(AccessError, match=rf"refused .*{SHARD} after {SIZE // 2} bytes") as caught:
        fetch(server.signed())
    assert "nothing comes twice" in caught.value.hint
    server.faults.clear()
    server.good = {"fresh"}
    before = server.sent
    done = fetch(server.signed(signature="fresh"))
    assert (done.path / SHARD).read_bytes() == FILES[f"acme-7b/{SHARD}"]
    small = sum(len(data) for path, data in FILES.items() if not path.endswith(".pth"))
    assert server.sent - before == SIZE + 4 - SIZE // 2 + small


def test_a_person_is_asked_for_a_fresh_url_once_and_the_download_goes_on(
    server: MetaServer,
) -> None:
    questions = []

    def ask(question: str) -> str:
        questions.append(question)
        return server.signed(signature="fresh")

    def use_up(handler: object, seen: object) -> bool:
        if len([one for one in server.seen if one.path.endswith(".pth")]) == 1:
            server.good = {"fresh"}
        return gate(handler, seen)  # type: ignore[arg-type]

    gate = server.handler
    assert gate is not None
    server.handler = use_up
    server.fault(".pth", "cut", at=SIZE // 3)
    done = fetch(server.signed(), ask)
    assert (done.path / SHARD).read_bytes() == FILES[f"acme-7b/{SHARD}"]
    assert len(questions) == 1
    assert "Every byte so far is kept" in questions[0]
    assert done.received == sum(len(data) for data in FILES.values())


def test_another_shard_goes_on_when_one_is_refused(server: MetaServer) -> None:
    """An interruption would burn one of the URL's few uses."""
    server.fault("consolidated.00.pth", "status", status=403, times=99)
    with pytest.raises(AccessError):
        fetch(server.signed())
    partial = Store().partial_folder(MODEL.id, "meta")
    assert (partial / SHARD).read_bytes() == FILES[f"acme-7b/{SHARD}"]


def test_few_tries_are_made_on_a_bad_line(server: MetaServer) -> None:
    server.fault(SHARD, "cut", at=1000, times=99)
    with pytest.raises(TransferError, match="tried 3 times"):
        fetch(server.signed())
    assert len(server.requests(SHARD)) == 3


def test_a_redirect_to_a_web_page_is_a_wrong_url(server: MetaServer) -> None:
    server.fault(
        SHARD, "status", status=302, headers={"Location": "https://www.facebook.com/unsupported"}
    )
    with pytest.raises(AccessError, match=r"sends the request on to www\.facebook\.com"):
        fetch(server.signed())


def test_a_web_page_instead_of_weights_is_refused(server: MetaServer) -> None:
    server.fault(SHARD, "page", times=99)
    with pytest.raises(AccessError, match="web page instead of the file"):
        fetch(server.signed())


def test_a_damaged_shard_is_not_fetched_twice_without_being_asked(server: MetaServer) -> None:
    server.fault(SHARD, "flip", at=77)
    with pytest.raises(IntegrityError, match=f"{SHARD} is damaged"):
        fetch(server.signed())
    assert len(server.requests(SHARD)) == 1


def test_a_checklist_against_a_pinned_digest_stops_before_the_weights(server: MetaServer) -> None:
    pinned = replace(MODEL, digests={SHARD: "md5:" + "0" * 32})
    source = MetaSource(server.signed(), allow_hosts=HOSTS)
    with pytest.raises(IntegrityError, match="contradict each other on consolidated"):
        download(Job(pinned, source, "meta", accept=lambda *_: GOOD))
    assert not [seen for seen in server.seen if seen.path.endswith(".pth")]


def test_a_checklist_of_another_model_stops_before_the_weights(server: MetaServer) -> None:
    one = replace(MODEL, shards=1)
    source = MetaSource(server.signed(), allow_hosts=HOSTS)
    with pytest.raises(IntegrityError, match="names 2 shards, acme-7b has 1"):
        download(Job(one, source, "meta", accept=lambda *_: GOOD))


def test_no_range_is_larger_than_cloudfront_serves() -> None:
    assert POLICY.span == LARGEST_RANGE <= 27_000_000_000
    assert POLICY.connections == 1


def test_code_llama_has_its_tokenizer_in_its_own_folder() -> None:
    files = models.meta_files()
    files["acme-7b/tokenizer.model"] = files.pop("tokenizer.model")
    del files["tokenizer_checklist.chk"]
    with MetaServer(files) as server:
        source = MetaSource(server.signed(), allow_hosts=HOSTS)
        entry = models.gated_model(family="code-llama")
        done = download(Job(entry, source, "meta", accept=lambda *_: GOOD))
    assert (done.path / "tokenizer.model").read_bytes() == files["acme-7b/tokenizer.model"]


def test_the_line_for_a_person_says_until_when() -> None:
    assert "is valid until 20" in MetaSource(signed()).about
