"""``models``, ``list``, ``path``, ``remove``, ``import`` and ``verify`` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_hub.hub.store import Store
from tests.support import models
from tests.support.command import run
from tests.support.http_server import Server

FILES = models.meta_files()
SHARD = "consolidated.00.pth"


@pytest.fixture(autouse=True)
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = models.catalogue(tmp_path / "catalogue.toml", models.model())
    monkeypatch.setenv("LLAMA_HUB_CATALOG", str(path))


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    base = models.write(tmp_path / "mirror", FILES)
    assert run("download", "acme-7b", "--url", str(base), "--quiet").code == 0
    return Store().find("acme-7b").path


def test_the_catalogue_as_a_document() -> None:
    known = {model["id"]: model for model in run("models", "--json").json["models"]}
    assert known["llama-2-70b"] == {
        "id": "llama-2-70b",
        "family": "llama-2",
        "size": "70B",
        "variant": "base",
        "shards": 8,
        "context": 4096,
        "license": "llama-2-community",
        "sources": ["meta", "huggingface", "mirror"],
        "bytes": 137973649960,
    }
    assert {"llama-demo", "llama-demo-chat", "acme-7b"} <= set(known)


def test_one_model_and_what_of_it_is_here(stored: Path) -> None:
    document = run("models", "show", "acme-7b", "--json").json
    [here] = document["stored"]
    assert here["path"] == str(stored)
    assert "LICENSE" in here["files"]
    assert "MODEL_CARD.md" in here["source"]["lacks"]
    text = run("models", "show", "acme-7b").stdout
    assert str(stored) in text
    assert "the source has no MODEL_CARD.md" in text
    assert "daa8e3109935070df7fe8fc42d34525e" in run("models", "show", "llama-2-7b").stdout
    assert run("models", "show", "acme-9b", "--json").code == 6


def test_list_and_path(stored: Path) -> None:
    document = run("list", "--json").json
    manifest = Store().find("acme-7b").manifest
    assert document["models"] == [
        {
            "id": "acme-7b",
            "format": "meta",
            "path": str(stored),
            "manifest": manifest.digest,
            "bytes": manifest.bytes,
        }
    ]
    assert run("path", "acme-7b").stdout == f"{stored}\n"
    assert run("path", "acme-7b", "--format", "hf", "--json").code == 6
    assert run("path", "acme-7b", "--format", "zip", "--json").code == 2
    assert "acme-7b" in run("list").stdout


def test_an_empty_store_says_what_to_do() -> None:
    assert "llama-hub models" in run("list").stdout


def test_remove_asks_and_removes(stored: Path) -> None:
    refused = run("remove", "acme-7b", "--json")
    assert refused.code == 2
    assert "--yes" in refused.json["error"]["hint"]
    assert stored.is_dir()
    document = run("remove", "acme-7b", "--yes", "--json").json
    assert [one["path"] for one in document["models"]] == [str(stored)]
    assert not stored.exists()
    assert run("remove", "acme-7b", "--yes", "--json").code == 6


def test_unfinished_downloads_are_listed_and_removed() -> None:
    partial = Store().partial_folder("acme-7b", "meta")
    partial.mkdir(parents=True)
    (partial / SHARD).write_bytes(bytes(5000))
    assert [one["id"] for one in run("list", "--json").json["partials"]] == ["acme-7b"]
    assert run("remove", "--partials", "--json").json["bytes"] >= 5000
    assert run("list", "--json").json["partials"] == []
    assert run("remove", "--json").code == 2


def test_import(tmp_path: Path) -> None:
    models.write(tmp_path / "theirs", FILES)
    document = run("import", str(tmp_path / "theirs" / "acme-7b"), "--json").json
    assert document["source"] == "import"
    assert run("verify", "acme-7b", "--json").json["ok"] is True
    assert run("import", str(tmp_path / "nowhere"), "acme-7b", "--json").code == 6


@pytest.mark.parametrize("linked", [True, False])
def test_another_folder_of_the_same_name_is_not_taken_for_it(tmp_path: Path, linked: bool) -> None:
    """One flipped bit, and the answer was: it is in the store already."""
    words = ("--name", "mine", "--license", "other-open", "--json")
    files = models.hf_files(size=32_000)
    first = models.write(tmp_path / "first", files)
    imported = run("import", str(first), *words)
    assert imported.code == 0, imported.stderr
    if not linked:
        first = models.write(tmp_path / "again", files)
    assert run("import", str(first), *words).json["reused"]
    name = next(name for name in files if name.endswith(".safetensors"))
    changed = files | {name: files[name][:-3] + bytes([files[name][-3] ^ 1]) + files[name][-2:]}
    refused = run("import", str(models.write(tmp_path / "second", changed)), *words)
    assert refused.code == 2
    assert name in refused.json["error"]["message"]
    assert "llama-hub remove mine" in refused.json["error"]["hint"]


# verify


def test_a_whole_model(stored: Path) -> None:
    outcome = run("verify", "acme-7b", "--json")
    assert outcome.code == 0
    assert outcome.json["ok"] is True
    assert outcome.json["manifest"] == Store().find("acme-7b").manifest.digest
    assert {file["status"] for file in outcome.json["files"]} == {"ok"}
    assert run("verify", str(stored), "--json").json == outcome.json


def test_damage_exits_5_with_the_whole_answer(stored: Path) -> None:
    data = (stored / SHARD).read_bytes()
    (stored / SHARD).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    (stored / "params.json").unlink()
    outcome = run("verify", "acme-7b", "--json")
    assert outcome.code == 5
    by_path = {file["path"]: file for file in outcome.json["files"]}
    assert by_path[SHARD] == {"path": SHARD, "status": "damaged", "blocks": [0]}
    assert by_path["params.json"]["status"] == "missing"
    assert outcome.json["ok"] is False
    assert "--repair" in outcome.stderr
    text = run("verify", "acme-7b")
    assert text.code == 5
    assert f"{SHARD}: damaged, blocks 0" in text.stdout


def test_repair_mends_from_the_recorded_mirror_or_from_another(
    stored: Path, tmp_path: Path
) -> None:
    (stored / SHARD).write_bytes(b"?")
    outcome = run("verify", "acme-7b", "--repair", "--json")
    assert outcome.code == 0
    assert outcome.json["ok"] is True
    assert outcome.json["bytes_transferred"] > 0
    (stored / SHARD).unlink()
    with Server(tmp_path / "mirror") as server:
        again = run(
            "verify", "acme-7b", "--repair", "--source", "mirror", "--url", server.url, "--json"
        )
        assert server.requests(SHARD)
    assert again.code == 0


def test_an_edited_manifest_and_an_unknown_model(stored: Path) -> None:
    path = stored / "llama-hub.json"
    path.write_text(path.read_text().replace("other-open", "open-other"))
    assert run("verify", "acme-7b", "--json").json["error"]["code"] == 5
    assert run("verify", "acme-9b", "--json").json["error"]["code"] == 6
