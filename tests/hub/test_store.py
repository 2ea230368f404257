"""The store's promises: found by name or path, removed whole, unfinished work kept apart."""

from __future__ import annotations

import errno
import shutil
import tempfile
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.files import exchange
from llama_hub.hub import store as stores
from llama_hub.hub.download import Downloaded, Job, download
from llama_hub.hub.manifest import read
from llama_hub.hub.sources.mirror import mirror
from llama_hub.hub.store import Store
from llama_hub.hub.verify import verify
from tests.support import foreign, models
from tests.support.crashing import killed_at

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


# nothing outside the store, whatever lies in it or is said of it


WRONG = ["", ".", "..", "../x", "/etc", "a/b", "A", "a\0", "a\n", "x" * 200, "~", "con"]


@pytest.mark.parametrize("model", WRONG, ids=ascii)
def test_no_path_is_made_of_what_is_no_model(model: str, home: Path) -> None:
    store = Store()

    def work(name: str, variant: str) -> Path:
        return store.work_folder(name, variant, "conversion")

    for make in (store.folder, store.partial_folder, work):
        with pytest.raises(UsageError):
            make(model, "hf")
        with pytest.raises(UsageError):
            make("acme-7b", model)
    with pytest.raises(UsageError):
        store.remove(model)
    with pytest.raises(UsageError), store.lock(model, "hf"):
        pass
    with pytest.raises((UsageError, NotFoundError)):
        store.find(model)
    assert not home.exists()


@pytest.fixture
def elsewhere(stored: Downloaded, tmp_path: Path) -> Path:
    """A folder like the store's, with a model in it, which the store may never change."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(stored.path.parent, folder / "acme-7b")
    return folder


@pytest.mark.parametrize("place", ["models/linked", "models/linked/meta", "partials/linked"])
def test_a_link_in_the_store_leads_nowhere(
    place: str, elsewhere: Path, home: Path, stored: Downloaded
) -> None:
    link = home / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(elsewhere / "acme-7b" / ("meta" if place.endswith("meta") else ""))
    before = foreign.tree(elsewhere)
    store = Store()
    assert [one.id for one in store.all()] == ["acme-7b"]
    assert store.partials() == []
    assert store.collect_partials() == []
    with pytest.raises((IntegrityError, NotFoundError)):
        store.find("linked", "meta")
    with pytest.raises(IntegrityError, match="is a link"):
        store.publish("linked", "meta", stored.path if place.startswith("models") else None)
    with pytest.raises(IntegrityError, match="is a link"):
        download(replace_model("linked", elsewhere))
    if place.startswith("models"):
        [removed] = store.remove("linked")
        assert removed.path == link
        assert not link.is_symlink()
    assert foreign.tree(elsewhere) == before


def replace_model(name: str, folder: Path) -> Job:
    return Job(models.model(id=name, folder="meta"), mirror(str(folder / "acme-7b")), "meta")


def test_removing_one_format_through_a_link_is_refused(elsewhere: Path, home: Path) -> None:
    (home / "models" / "linked").symlink_to(elsewhere / "acme-7b")
    before = foreign.tree(elsewhere)
    with pytest.raises(IntegrityError, match="is a link"):
        Store().remove("linked", "meta")
    assert foreign.tree(elsewhere) == before


def test_a_lock_that_is_a_link_makes_no_file(home: Path, tmp_path: Path) -> None:
    (home / "partials").mkdir(parents=True)
    (home / "partials" / ".acme-7b.hf.lock").symlink_to(tmp_path / "made")
    with pytest.raises(IntegrityError, match="a link"), Store().lock("acme-7b", "hf"):
        pass
    assert not (tmp_path / "made").exists()


def test_what_is_in_a_models_folder_and_no_format_is_left_alone(stored: Downloaded) -> None:
    (stored.path.parent / "notes").mkdir()
    Store().remove("acme-7b")
    assert [path.name for path in stored.path.parent.iterdir()] == ["notes"]


def test_a_folder_that_holds_another_format_is_not_taken_for_it(
    stored: Downloaded, home: Path
) -> None:
    stored.path.rename(home / "models" / "acme-7b" / "hf")
    with pytest.raises(IntegrityError, match="in the format meta"):
        Store().find("acme-7b")
    Store().remove("acme-7b", "hf")


def test_a_path_into_the_store_is_the_stores_model(
    stored: Downloaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Store().find(str(stored.path)).id == "acme-7b"
    monkeypatch.chdir(stored.path.parent)
    assert Store().find("./meta").id == "acme-7b"
    outside = shutil.copytree(stored.path, tmp_path / "copy")
    digest = stored.manifest.digest.removeprefix("sha256:")
    assert Store().find(str(outside)).id == f"acme-7b-{digest[:16]}"


def test_a_model_that_is_being_made_is_not_removed(stored: Downloaded) -> None:
    with Store().lock("acme-7b", "meta"), pytest.raises(UsageError, match="busy"):
        Store().remove("acme-7b")
    assert stored.path.is_dir()


# replaced in one step


def fresh(store: Store, stored: Downloaded) -> Path:
    made = store.partial_folder("acme-7b", "meta")
    shutil.copytree(stored.path, made)
    return foreign.forge(made, made_by={"operation": "again"})


def cannot(first: Path, second: Path) -> None:
    raise OSError(errno.EINVAL, "this file system does not swap names")


@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("step", [311, pytest.param(5, marks=pytest.mark.exhaustive)])
def test_there_is_no_moment_without_a_whole_model(
    stored: Downloaded, monkeypatch: pytest.MonkeyPatch, swaps: bool, step: int
) -> None:
    """Killed at any call of publishing, the old or the new model is there, found, and whole."""
    if not swaps:
        monkeypatch.setattr(stores, "exchange", cannot)
    old = stored.manifest.digest
    seen = set()
    store = Store()
    for moment in range(1, 4000, step):
        shutil.rmtree(store.root / "partials", ignore_errors=True)
        new = read(fresh(store, stored)).digest
        died = killed_at(moment, lambda: store.publish("acme-7b", "meta"))
        found = Store().find("acme-7b")
        assert verify(found.path).ok
        assert found.manifest.digest in (old, new)
        seen.add(found.manifest.digest)
        if not died:
            break
        if found.manifest.digest == new:
            foreign.forge(found.path, made_by=dict(stored.manifest.made_by))
    assert not died
    assert seen == {old, new}
    assert [path.name for path in stored.path.parent.iterdir()] == ["meta"]


def test_swapping_names_swaps_what_they_name(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    (tmp_path / "b").mkdir()
    exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b" / "x").exists()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "nothing")


def test_models_may_lie_on_another_disk(home: Path, tmp_path: Path) -> None:
    """``models`` is a link of the user's: what is made there is put together there."""
    disk = Path("/dev/shm")  # another file system than the tests' own, on most systems
    if not disk.is_dir() or disk.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    base = models.write(tmp_path / "mirror", models.meta_files())
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        home.mkdir()
        (home / "models").symlink_to(folder)
        store = Store()
        store.partial_folder("half", "meta").mkdir(parents=True)
        assert [part.model for part in store.partials()] == ["half"]
        done = download(Job(MODEL, mirror(str(base)), "meta"))
        assert verify(done.path).ok
        assert [one.id for one in store.all()] == ["acme-7b"]
        assert [part.model for part in store.collect_partials()] == ["half"]
        store.remove("acme-7b")
        assert store.all() == []


def test_a_folder_that_cannot_be_moved_is_deleted_where_it_is(
    stored: Downloaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a folder of an image's lower layer, which overlayfs does not rename."""
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self == stored.path:
            raise OSError(errno.EXDEV, "another file system")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    Store().remove("acme-7b")
    assert not stored.path.exists()
