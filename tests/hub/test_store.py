"""The store's promises: found by name or path, removed whole, unfinished work kept apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama_hub.errors import NotFoundError
from llama_hub.hub.download import Downloaded, Job, download
from llama_hub.hub.sources.mirror import mirror
from llama_hub.hub.store import Store
from tests.support import models

MODEL = models.model()


@pytest.fixture
def stored(tmp_path: Path) -> Downloaded:
    base = models.write(tmp_path / "mirror", models.meta_files())
    return download(Job(MODEL, mirror(str(base)), "meta"))


def test_a_model_is_found_by_id_format_and_path(stored: Downloaded) -> None:
    for name in ("acme-7b", str(stored.path)):
        assert Store().find(name).path == stored.path
    assert Store().find("acme-7b", "meta").path == stored.path
    assert [one.manifest.model for one in Store().all()] == ["acme-7b"]


def test_what_is_not_there_says_what_to_do(stored: Downloaded, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        Store().find("llama-2-7b")
    assert "llama-hub download llama-2-7b" in caught.value.hint
    with pytest.raises(NotFoundError, match="in the format hf"):
        Store().find("acme-7b", "hf")
    with pytest.raises(NotFoundError, match=r"without llama-hub\.json") as caught:
        Store().find(str(tmp_path / "mirror"))
    assert "llama-hub import" in caught.value.hint


def test_removing_leaves_nothing(stored: Downloaded, home: Path) -> None:
    [removed] = Store().remove("acme-7b")
    assert removed.path == stored.path
    assert not (home / "models" / "acme-7b").exists()
    assert Store().partials() == []
    with pytest.raises(NotFoundError):
        Store().remove("acme-7b")


def test_a_model_with_a_damaged_manifest_can_be_removed(stored: Downloaded) -> None:
    (stored.path / "llama-hub.json").write_text("{")
    Store().remove("acme-7b", "meta")
    assert not stored.path.exists()


def test_unfinished_work_is_listed_and_collected_unless_somebody_is_busy(home: Path) -> None:
    store = Store()
    for name in ("one", "two"):
        store.partial_folder(name, "meta").mkdir(parents=True)
        (store.partial_folder(name, "meta") / "x").write_bytes(bytes(10_000))
    assert [(part.model, part.bytes >= 10_000) for part in store.partials()] == [
        ("one", True),
        ("two", True),
    ]
    with store.lock("one", "meta"):
        assert [part.model for part in store.collect_partials()] == ["two"]
    assert [part.model for part in store.collect_partials("two")] == []
    assert [part.model for part in store.collect_partials()] == ["one"]
    assert store.partials() == []


def test_publishing_replaces_what_was_there(stored: Downloaded) -> None:
    store = Store()
    made = store.partial_folder("acme-7b", "meta")
    made.mkdir(parents=True)
    (made / "new").write_text("new")
    stored.manifest.write(made)
    store.publish("acme-7b", "meta")
    assert (stored.path / "new").is_file()
    assert not (stored.path / "params.json").exists()
    assert store.partials() == []
