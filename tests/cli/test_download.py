"""``llama-hub download`` as a person and as a script use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from llama_hub.hub.store import Store
from tests.support import models
from tests.support.command import Outcome, run, spawn
from tests.support.fake_hub import FakeHub
from tests.support.http_server import Server
from tests.support.licences import write_terms
from tests.support.signed_urls import MetaServer
from tests.support.terminal import terminal

FILES = models.meta_files(shards=2)
MODEL = models.model(shards=2)
ACCEPT = ("--accept-license", "--licensee", "Ada", "--email", "ada@example.org", "--confirm-mau")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_terms(tmp_path / "terms")
    monkeypatch.setenv("LLAMA_HUB_LICENSES", str(tmp_path / "terms"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    use(tmp_path, monkeypatch)


def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: models.Model = MODEL) -> None:
    path = models.catalogue(tmp_path / "catalogue.toml", entry)
    monkeypatch.setenv("LLAMA_HUB_CATALOG", str(path))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(models.write(tmp_path / "mirror", FILES))


@pytest.fixture
def meta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MetaServer]:
    use(tmp_path, monkeypatch, models.gated_model(shards=2))
    with MetaServer(FILES) as server:
        yield server


def failed(outcome: Outcome, code: int) -> dict[str, str]:
    """The error object of a command that ended with ``code``."""
    assert outcome.code == code, outcome.stderr
    error: dict[str, str] = outcome.json["error"]
    assert error["code"] == code
    assert error["hint"]
    return error


def test_the_document_that_scripts_rely_on(folder: str) -> None:
    outcome = run("download", "acme-7b", "--url", folder, "--json")
    assert outcome.code == 0
    document = outcome.json
    stored = Store().find("acme-7b")
    assert document["model"] == "acme-7b"
    assert document["path"] == str(stored.path)
    assert document["manifest"] == stored.manifest.digest
    assert document["receipt"] == stored.manifest.receipt
    assert document["source"] == "mirror"
    assert document["bytes"] == stored.manifest.bytes
    assert document["bytes_transferred"] == sum(len(data) for data in FILES.values())
    assert document["seconds"] > 0
    by_path = {file["path"]: file for file in document["files"]}
    shard = by_path["consolidated.00.pth"]
    assert (shard["size"], shard["pinned"]) == (100_004, False)
    assert len(shard["sha256"]) == 64
    assert len(shard["md5"]) == 32


def test_a_person_reads_where_it_is_and_what_next(folder: str) -> None:
    outcome = run("download", "acme-7b", "--url", folder)
    assert "is in the local store, verified" in outcome.stdout
    assert "llama-hub serve acme-7b" in outcome.stdout
    again = run("download", "acme-7b", "--url", folder)
    assert "is already in the local store" in again.stdout


def test_what_is_here_needs_no_source_any_more(folder: str) -> None:
    run("download", "acme-7b", "--url", folder)
    again = run("download", "acme-7b", "--json")
    assert again.json["reused"] is True


def test_a_dry_run_fetches_no_weights(folder: str) -> None:
    with Server(Path(folder)) as server:
        outcome = run("download", "acme-7b", "--url", server.url, "--dry-run", "--json")
        assert not server.requests(".pth")
    assert outcome.code == 0
    files = {file["path"]: file for file in outcome.json["files"]}
    assert "md5" in files["consolidated.01.pth"]["digests"]
    assert Store().all() == []


def test_json_is_one_document_and_quiet_is_quiet(folder: str) -> None:
    outcome = run("download", "acme-7b", "--url", folder, "--json", "--quiet")
    json.loads(outcome.stdout)
    assert outcome.stderr == ""


# Each refusal has its exit code


def test_an_unknown_model_is_not_found(folder: str) -> None:
    error = failed(run("download", "acme-8b", "--url", folder, "--json"), 6)
    assert "acme-7b" in error["hint"]


def test_no_source_at_all_is_a_usage_error() -> None:
    error = failed(run("download", "acme-7b", "--json"), 2)
    assert "--source mirror | meta | huggingface" in error["hint"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--source", "torrent"),
        ("--source", "builtin"),
        ("--source", "mirror"),
        ("--format", "gguf", "--url", "x"),
        ("--source", "meta", "--format", "hf", "--url", "x"),
        ("--source", "meta", "--url", "hello"),
        ("--source", "meta", "--url", "@/nowhere/url.txt"),
        ("--source", "meta"),
        ("--files", "0", "--url", "x"),
    ],
)
def test_wrong_options_are_usage_errors(arguments: tuple[str, ...]) -> None:
    failed(run("download", "acme-7b", *arguments, "--json"), 2)


def test_a_licence_that_nobody_accepted(meta: MetaServer) -> None:
    arguments = ("--url", meta.signed(), "--allow-host", "127.0.0.1", "--source", "meta")
    error = failed(run("download", "acme-7b", *arguments, "--json"), 3)
    assert "--accept-license" in error["hint"]
    assert not meta.requests(".pth")


def test_damaged_weights(folder: str, tmp_path: Path) -> None:
    (tmp_path / "mirror" / "acme-7b" / "consolidated.01.pth").write_bytes(b"PK\x03\x04?")
    failed(run("download", "acme-7b", "--url", folder, "--json"), 5)
    assert Store().all() == []


def test_too_small_a_disk(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = replace(MODEL, sizes={"consolidated.00.pth": 10**15, "consolidated.01.pth": 1})
    use(tmp_path, monkeypatch, huge)
    error = failed(run("download", "acme-7b", "--url", folder, "--json"), 7)
    assert "more are needed" in error["message"]


# Meta's URL and its secrets


@pytest.mark.parametrize("way", ["flag", "file", "stdin", "environment"])
def test_the_signed_url_comes_by_every_way(
    meta: MetaServer, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, given, stdin = meta.signed(), [], ""
    if way == "flag":
        given = ["--url", url]
    elif way == "file":
        (tmp_path / "url.txt").write_text(f"{url}\n")
        given = ["--url", f"@{tmp_path / 'url.txt'}"]
    elif way == "stdin":
        given, stdin = ["--url", "-"], url
    else:
        monkeypatch.setenv("LLAMA_HUB_META_URL", url)
    outcome = run(
        "download", "acme-7b", "--source", "meta", "--allow-host", "127.0.0.1", *given, *ACCEPT,
        "--json", stdin=stdin,
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["source"] == "meta"
    assert "is valid until" in outcome.stderr
    assert "Signature" not in outcome.stdout + outcome.stderr


def test_a_url_used_up_half_way_exits_4_and_the_next_run_goes_on(meta: MetaServer) -> None:
    shard, data = "consolidated.01.pth", FILES["acme-7b/consolidated.01.pth"]
    meta.fault(shard, "cut", at=60_000)
    meta.fault(shard, "status", status=403, times=99)
    given = ("--source", "meta", "--allow-host", "127.0.0.1", *ACCEPT, "--json")
    first = run("download", "acme-7b", "--url", meta.signed(signature="good"), *given)
    error = failed(first, 4)
    assert "new URL" in error["hint"]
    assert "Signature" not in first.stdout + first.stderr
    meta.faults.clear()
    meta.good = {"fresh"}
    second = run("download", "acme-7b", "--url", meta.signed(signature="fresh"), *given)
    assert second.code == 0
    assert (Store().find("acme-7b").path / shard).read_bytes() == data
    assert meta.requests(shard)[-1].range == f"bytes=60000-{len(data) - 1}"


def test_on_a_terminal_a_fresh_url_is_asked_for(
    meta: MetaServer, tmp_path: Path, home: Path
) -> None:
    run("license", "accept", "acme-community", "--text-file", _text(tmp_path, "LICENSE"),
        "--policy-file", _text(tmp_path, "USE_POLICY.md"), *ACCEPT)  # fmt: skip
    meta.fault("consolidated.00.pth", "status", status=403)
    environment = {"LLAMA_HUB_META_URL": meta.signed()}
    arguments = ("--source", "meta", "--allow-host", "127.0.0.1")
    with terminal("download", "acme-7b", *arguments, environment=environment) as shell:
        shell.expect("A fresh URL")
        meta.good.add("fresh")
        shell.type(meta.signed(signature="fresh"))
        code, out = shell.finish()
    assert code == 0, shell.shown
    assert "is in the local store, verified" in out
    assert "Signature" not in out + shell.shown


def _text(folder: Path, name: str) -> str:
    (folder / name).write_bytes(FILES[name])
    return str(folder / name)


# Hugging Face


@pytest.mark.parametrize(
    ("account", "code"), [("granted", 0), ("pending", 4), ("stranger", 4), ("unknown", 4)]
)
def test_the_hub_from_the_command_line(
    account: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(tmp_path, monkeypatch, models.gated_model(shards=2))
    token = tmp_path / "token"
    token.write_text(f"hf_{account}0000\n")
    with FakeHub("acme/acme-7b-hf", models.hf_files()) as hub:
        outcome = spawn(
            ["download", "acme-7b", "--source", "huggingface", "--token", f"@{token}", *ACCEPT,
             "--json"],
            environment={"HF_ENDPOINT": hub.url},
        )  # fmt: skip
        assert hub.leaks == []
    assert outcome.code == code, outcome.stderr
    assert f"hf_{account}" not in outcome.stdout + outcome.stderr
    if code:
        assert "acme/acme-7b-hf" in json.dumps(outcome.json) or "settings/tokens" in outcome.stdout
    else:
        assert outcome.json["format"] == "hf"


# Interruptions and neighbours


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "llama_hub", "download", "acme-7b", *arguments, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )


def test_ctrl_c_leaves_nothing_half_named_and_the_next_run_goes_on(folder: str) -> None:
    with Server(Path(folder)) as server:
        stall = server.fault("consolidated.01.pth", "stall", at=50_000)
        child = start("--url", server.url)
        assert stall.reached.wait(60)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
        assert child.returncode == 130
        assert json.loads(out)["error"]["type"] == "Interrupted"
        assert "Traceback" not in err
        assert Store().all() == []
        assert spawn(["download", "acme-7b", "--url", server.url]).code == 0
    assert [one.manifest.model for one in Store().all()] == ["acme-7b"]


def test_two_processes_at_once_fetch_once(folder: str) -> None:
    with Server(Path(folder)) as server:
        stall = server.fault("consolidated.01.pth", "drip", at=99_000)
        children = [start("--url", server.url) for _ in range(2)]
        answers = [json.loads(child.communicate(timeout=60)[0]) for child in children]
        assert stall.times == 0
        assert len(server.requests("consolidated.00.pth")) == 1
    assert [child.returncode for child in children] == [0, 0]
    assert sorted(answer["reused"] for answer in answers) == [False, True]
    assert answers[0]["manifest"] == answers[1]["manifest"]
