"""What mirrors, the Hub and S3 say, believed as far as it makes sense."""

from __future__ import annotations

from contextlib import closing

import pytest

from llama_hub.errors import IntegrityError, LlamaHubError
from llama_hub.hub.catalog import Model
from llama_hub.hub.sources.base import read_small
from llama_hub.hub.sources.huggingface import HuggingFace
from llama_hub.hub.sources.s3 import s3_place
from llama_hub.hub.sources.web import HttpTree
from llama_hub.hub.transfer.bounded_aws import bounded
from llama_hub.hub.transfer.remote_file import Transient
from llama_hub.hub.transfer.retry import Policy
from tests.support.command import run
from tests.support.hostile_client import no_proxies  # noqa: F401 - a fixture
from tests.support.raw_server import PATIENCE, Peer, drip, flood, raw

MIB = 1 << 20
QUICK = Policy(
    connections=1, attempts=3, backoff=0.001, longest_wait=0.01, ramp=0, stall_seconds=PATIENCE
)


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://a:b/", "http://a:99999/", "http://a\0b/", "s3://[", "a\0b", "ftp://a/"],
)
def test_a_mirror_that_is_none_is_a_usage_error(url: str) -> None:
    done = run("download", "llama-2-7b", "--source", "mirror", "--url", url)
    assert done.code == 2, done.stderr


SHA = "a" * 40
FILE = '"rfilename": "LICENSE"'
DESCRIPTIONS = [
    b"", b"[]", b"null", b"7", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"id": 1e999}',
    b'{"id": "a/b", "sha": 7}', b'{"id": "a/b", "sha": "main"}',
    b'{"id": "a/b", "siblings": 7}', b'{"id": "a/b", "siblings": [7]}',
    *(
        f'{{"id": "a/b", "sha": "{SHA}", "siblings": [{{{FILE}, {more}}}]}}'.encode()
        for more in ('"size": -1', '"size": 1e30', '"size": 1152921504606846976', '"size": "x"',
                     '"lfs": 7', '"lfs": {"sha256": 7}', '"lfs": {"sha256": "x"}', '"blobId": []')
    ),
    b'{"id": "a/b", "siblings": [' + b'{"rfilename": "x"},' * 500_000 + b"]}",
]  # fmt: skip


@pytest.mark.parametrize("description", DESCRIPTIONS, ids=range(len(DESCRIPTIONS)))
def test_a_hub_that_says_nonsense_is_refused(description: bytes) -> None:
    model = Model("m", "llama-2", "base", "m", 1, "llama-2-community", ("huggingface",))

    def answer(peer: Peer) -> None:
        text = description if b"/api/" in peer.head else b"text"
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))

    with raw(answer) as server:
        source = HuggingFace("a/b", "hf", token="hf_0000", endpoint=server.url, policy=QUICK)
        with closing(source), pytest.raises(LlamaHubError) as caught:
            source.plan(model)
    assert caught.value.exit_code not in (0, 1)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION"):
        monkeypatch.setenv(name, "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


XML = b"<ListAllMyBucketsResult></ListAllMyBucketsResult>"


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("status", [200, 400, 503])
@pytest.mark.parametrize("kind", ["flood", "drip"])
def test_what_aws_says_is_bounded(status: int, kind: str) -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import HTTPClientError

    head = b"HTTP/1.1 %d X\r\nConnection: close\r\n\r\n" % status
    fault = flood(head, b" " * 4096, 64 * MIB, XML) if kind == "flood" else drip(head + b" ", XML)
    with raw(fault) as server:
        config = Config(retries={"total_max_attempts": 1})
        made = boto3.client("s3", endpoint_url=server.url, config=config)
        client = bounded(made, limit=100_000, seconds=PATIENCE)
        with closing(client), pytest.raises(HTTPClientError, match="an answer of more than"):
            client.list_buckets()
        assert server.sent < 32 * MIB


@pytest.mark.usefixtures("aws")
def test_an_object_comes_as_it_arrives_however_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 206 X\r\nContent-Range: bytes 0-79/80\r\nContent-Length: 80\r\n\r\n"
    with raw(drip(head + b"x", b"x" * 79)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with closing(s3_place("s3://bucket")) as place:
            body = place.request("file").open(0, None)
            assert 0 < body.readinto(memoryview(bytearray(80))) < 80
            body.close()


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize(
    "extent", ["bytes 0-1/*", "bytes 0-1/1152921504606846976", "x", "bytes 0-1/²"]
)
def test_an_object_of_no_size_is_refused(monkeypatch: pytest.MonkeyPatch, extent: str) -> None:
    head = f"HTTP/1.1 206 X\r\nContent-Range: {extent}\r\nContent-Length: 2\r\n\r\nok"
    with raw(head.encode("latin-1")) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with closing(s3_place("s3://bucket")) as place:
            with pytest.raises((Transient, IntegrityError)):
                place.request("file").open(0, None)


def test_small_files_are_bounded_each_and_together() -> None:
    """Those that were read are kept: what was shown is what is stored."""

    def answer(peer: Peer) -> None:
        size = 15 * MIB
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    with raw(answer) as server, closing(HttpTree(server.url, QUICK)) as place:
        for path in ("LICENSE", "a/USE_POLICY.md", "checklist.chk", "SHA256SUMS"):
            with pytest.raises(IntegrityError, match="larger than the 1048576 bytes"):
                read_small(place, path)
        for number in range(4):
            assert read_small(place, f"{number}.json")
        with pytest.raises(IntegrityError, match="larger than the 4194304 bytes"):
            read_small(place, "4.json")
