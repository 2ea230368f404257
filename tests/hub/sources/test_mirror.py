"""Mirrors: folders, HTTP bases and S3 prefixes, in Meta's and in Hugging Face's layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import AccessError, DiskFullError, IntegrityError, NotFoundError, UsageError
from llama_hub.hub.catalog import Model
from llama_hub.hub.download import Downloaded, Job, download
from llama_hub.hub.sources.mirror import mirror
from llama_hub.hub.store import Store
from llama_hub.licenses.gate import Gate
from tests.support import models
from tests.support.http_server import Seen, Server

FILES = models.meta_files(shards=2)
MODEL = models.model(shards=2)


def fetch(base: str, model: Model = MODEL, **more: Any) -> Downloaded:
    fmt = "hf" if model.layout == "hf" else "meta"
    return download(Job(model, mirror(base), fmt, **more))  # type: ignore[arg-type]


@pytest.fixture(params=["folder", "http"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The same tree as a folder and over HTTP."""
    folder = models.write(tmp_path / "mirror", FILES)
    if request.param == "folder":
        yield str(folder)
        return
    with Server(folder) as server:
        yield server.url


def test_metas_layout(base: str) -> None:
    done = fetch(base)
    for path, data in FILES.items():
        assert (done.path / Path(path).name).read_bytes() == data
    assert done.manifest.digest == Store().find("acme-7b").manifest.digest
    assert done.received == sum(len(data) for data in FILES.values())
    assert done.manifest.source["kind"] == "mirror"


def test_the_second_download_reuses_the_first(base: str) -> None:
    first, second = fetch(base), fetch(base)
    assert second.reused
    assert second.received == 0
    assert second.manifest == first.manifest


@pytest.mark.parametrize("arrangement", ["inside", "flat"])
def test_tokenizer_and_licence_may_lie_beside_the_weights(tmp_path: Path, arrangement: str) -> None:
    prefix = "acme-7b/" if arrangement == "inside" else ""
    files = {prefix + Path(path).name: data for path, data in FILES.items()}
    done = fetch(str(models.write(tmp_path / "mirror", files)))
    assert (done.path / "tokenizer.model").read_bytes() == FILES["tokenizer.model"]


def test_hugging_faces_layout(tmp_path: Path) -> None:
    files = models.hf_files()
    done = fetch(str(models.write(tmp_path / "m", files)), replace(MODEL, layout="hf", folder="."))
    assert (done.path / "model-00002-of-00002.safetensors").is_file()
    assert (done.path / "LICENSE").read_bytes() == files["LICENSE.txt"]
    assert not list(done.path.glob("*.bin"))
    assert "a digest of model-00001-of-00002.safetensors" in done.lacks


def test_one_unsharded_safetensors_file(tmp_path: Path) -> None:
    whole = models.hf_files(shards=1)
    weights = whole["model-00001-of-00001.safetensors"]
    files = {name: whole[name] for name in ("config.json", "tokenizer.model")}
    files["model.safetensors"] = weights
    done = fetch(str(models.write(tmp_path / "m", files)), replace(MODEL, layout="hf", folder="."))
    assert (done.path / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("name", ["../evil.safetensors", "/etc/passwd", "a/b.safetensors", ""])
def test_an_index_that_names_paths_is_refused(tmp_path: Path, name: str) -> None:
    files = models.hf_files()
    files["model.safetensors.index.json"] = b'{"weight_map": {"t": "%s"}}' % name.encode()
    with pytest.raises(IntegrityError, match="in the same folder"):
        fetch(str(models.write(tmp_path / "m", files)), replace(MODEL, layout="hf", folder="."))


def test_sha256sums_are_used_where_they_are(tmp_path: Path) -> None:
    shard = "acme-7b/consolidated.00.pth"
    wrong = f"{'0' * 64}  consolidated.00.pth\n".encode()
    folder = models.write(tmp_path / "m", FILES | {"acme-7b/SHA256SUMS": wrong})
    with pytest.raises(IntegrityError, match=r"consolidated\.00\.pth is damaged: its sha256"):
        fetch(str(folder))
    right = f"{hashlib.sha256(FILES[shard]).hexdigest()}  consolidated.00.pth\n".encode()
    models.write(tmp_path / "m", {"acme-7b/SHA256SUMS": right})
    assert fetch(str(folder)).manifest.model == "acme-7b"


def test_a_store_folder_is_a_mirror_with_digests(tmp_path: Path) -> None:
    first = fetch(str(models.write(tmp_path / "m", FILES)))
    published = tmp_path / "published"
    first.path.rename(published)
    (published / "consolidated.00.pth").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(IntegrityError, match=r"consolidated\.00\.pth"):
        fetch(str(published))


def test_pinned_digests_are_told_from_those_that_came_along(tmp_path: Path) -> None:
    folder = models.write(tmp_path / "m", FILES)
    data = FILES["acme-7b/consolidated.00.pth"]
    pins = {"consolidated.00.pth": f"sha256:{hashlib.sha256(data).hexdigest()}"}
    done = fetch(str(folder), replace(MODEL, digests=pins))
    assert done.manifest.file("consolidated.00.pth").pinned
    assert not done.manifest.file("consolidated.01.pth").pinned


def test_a_wrong_checksum_leaves_nothing_under_a_final_name(base: str, tmp_path: Path) -> None:
    shard = tmp_path / "mirror" / "acme-7b" / "consolidated.01.pth"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"consolidated\.01\.pth is damaged: its md5"):
        fetch(base)
    assert Store().all() == []
    models.write(tmp_path / "mirror", FILES)
    assert fetch(base).manifest.model == "acme-7b"


@pytest.mark.parametrize(
    "missing", ["acme-7b/consolidated.01.pth", "acme-7b/params.json", "tokenizer.model"]
)
def test_a_missing_file_is_not_found(base: str, tmp_path: Path, missing: str) -> None:
    (tmp_path / "mirror" / missing).unlink()
    with pytest.raises(NotFoundError):
        fetch(base)
    assert Store().all() == []


def test_a_server_that_refuses_what_is_not_there(tmp_path: Path) -> None:
    """As S3 does for whoever may not list the bucket."""

    def refuse_missing(handler: Any, seen: Seen) -> bool:
        if seen.path.lstrip("/") in FILES:
            return False
        handler.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        return True

    with Server(FILES, handler=refuse_missing) as server:
        assert fetch(server.url).manifest.model == "acme-7b"


def test_a_server_that_refuses_everything_is_an_access_error() -> None:
    with Server({}) as server:
        server.fault("", "status", status=403, times=99)
        with pytest.raises(AccessError, match="refused: 403"):
            fetch(server.url)


def test_a_checklist_of_more_shards_stops_before_the_weights(base: str) -> None:
    with pytest.raises(IntegrityError, match="names 2 shards, acme-7b has 1"):
        fetch(base, replace(MODEL, shards=1))


def test_a_gated_model_without_its_licence_is_refused(tmp_path: Path) -> None:
    files = {path: data for path, data in FILES.items() if path != "LICENSE"}
    with pytest.raises(NotFoundError, match="has no LICENSE"):
        fetch(str(models.write(tmp_path / "m", files)), replace(MODEL, license="llama-2-community"))


def test_a_disk_that_is_too_small_says_how_much_is_missing(tmp_path: Path) -> None:
    with Server(models.write(tmp_path / "m", FILES)) as server:
        huge = replace(MODEL, sizes={"consolidated.00.pth": 10**15, "consolidated.01.pth": 1})
        with pytest.raises(DiskFullError, match=r"\d+ bytes\) more are needed"):
            fetch(server.url, huge)
        assert not server.requests(".pth")


@pytest.mark.parametrize("address", ["ftp://host.example/x", "gs://bucket/x"])
def test_an_address_of_another_kind_is_a_usage_error(address: str) -> None:
    with pytest.raises(UsageError, match="cannot be a"):
        mirror(address)


def test_a_folder_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no folder"):
        mirror(str(tmp_path / "nowhere"))


def test_the_query_of_a_base_goes_along_and_stays_secret(tmp_path: Path, home: Path) -> None:
    with Server(models.write(tmp_path / "m", FILES)) as server:
        done = fetch(f"{server.url}?sv=1&sig=SECRETSECRET")
    assert all(seen.query == "sv=1&sig=SECRETSECRET" for seen in server.seen)
    assert "SECRET" not in (done.path / "llama-hub.json").read_text()
    assert done.manifest.source["base"] == server.url
    assert "SECRET" not in str(Gate().ledger.receipts())


# S3, through the real boto3 against a loopback endpoint


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    models.write(tmp_path / "bucket" / "llama", FILES)
    with Server(tmp_path) as server:
        for name, value in {
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE",
            "AWS_SECRET_ACCESS_KEY": "SECRETSECRET",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        yield server


def test_an_s3_prefix(s3: Server) -> None:
    s3.fault("consolidated.00.pth", "cut", at=1000)
    done = fetch("s3://bucket/llama/")
    for path, data in FILES.items():
        assert (done.path / Path(path).name).read_bytes() == data
    assert done.manifest.source["base"] == "s3://bucket/llama"
    assert all(seen.headers["authorization"].startswith("AWS4-") for seen in s3.seen)


@pytest.mark.parametrize(("status", "error"), [(403, AccessError), (404, NotFoundError)])
def test_s3_refusals(s3: Server, status: int, error: type[Exception]) -> None:
    def refuse(handler: Any, seen: Seen) -> bool:
        handler.answer(status, b"<Error><Code>AccessDenied</Code></Error>")
        return True

    s3.handler = refuse
    with pytest.raises(error):
        fetch("s3://bucket/llama")


def test_s3_without_credentials_names_the_variables(
    s3: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(AccessError, match="no usable AWS credentials") as caught:
        fetch("s3://bucket/llama")
    assert "AWS_PROFILE" in caught.value.hint
