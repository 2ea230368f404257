"""Folders that other tools downloaded: understood, checked, and not copied."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError, LicenseError, NotFoundError, UsageError
from llama_hub.hub.catalog import Catalog, Model, load
from llama_hub.hub.download import Downloaded, Job, download
from llama_hub.hub.importing import ImportedFolder, guess, import_folder, locate
from llama_hub.hub.sources.mirror import mirror
from llama_hub.hub.store import Store
from llama_hub.hub.verify import verify
from tests.support import foreign, models
from tests.support.command import run
from tests.support.fake_hub import COMMIT
from tests.support.licences import GOOD, write_terms

FILES = models.meta_files(shards=2)
MODEL = models.model(shards=2)


def take(folder: Path, model: Model = MODEL) -> Downloaded:
    place, fmt = locate(folder)
    return import_folder(Job(model, ImportedFolder(place, fmt), fmt))


def test_the_folder_of_metas_script(tmp_path: Path) -> None:
    models.write(tmp_path / "meta", FILES)
    done = take(tmp_path / "meta" / "acme-7b")
    for path, data in FILES.items():
        assert (done.path / Path(path).name).read_bytes() == data
    assert verify(done.path).ok
    assert done.manifest.source["kind"] == "import"
    assert done.manifest.file("consolidated.00.pth").md5


def test_weights_are_not_copied_where_the_file_system_allows(tmp_path: Path) -> None:
    models.write(tmp_path / "meta", FILES)
    done = take(tmp_path / "meta" / "acme-7b")
    theirs = (tmp_path / "meta" / "acme-7b" / "consolidated.00.pth").stat()
    ours = (done.path / "consolidated.00.pth").stat()
    cloned = ours.st_ino != theirs.st_ino  # only a file system with shared blocks does that
    assert cloned or ours.st_nlink == 2


def test_a_folder_of_hf_download(tmp_path: Path) -> None:
    files = models.hf_files() | {".cache/huggingface/x.metadata": b"1"}
    done = take(models.write(tmp_path / "acme-7b-hf", files))
    assert done.manifest.format == "hf"
    assert verify(done.path).ok
    assert not list(done.path.glob("*.bin"))


def test_the_cache_of_hugging_face_with_its_links(tmp_path: Path) -> None:
    repository = tmp_path / "models--acme--acme-7b-hf"
    write_cache(repository, models.hf_files())
    done = take(repository)
    assert done.manifest.source["repository"] == "acme/acme-7b-hf"
    assert done.manifest.source["commit"] == COMMIT
    shard = done.path / "model-00001-of-00002.safetensors"
    assert shard.read_bytes() == models.hf_files()[shard.name]
    assert not shard.is_symlink()


def test_a_blob_of_the_cache_has_to_have_the_digest_that_is_its_name(tmp_path: Path) -> None:
    repository = tmp_path / "models--acme--acme-7b-hf"
    write_cache(repository, models.hf_files())
    blob = (repository / "snapshots" / COMMIT / "model-00002-of-00002.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match="is damaged: its sha256"):
        take(repository)


def write_cache(repository: Path, files: dict[str, bytes]) -> None:
    """A repository as the Hugging Face libraries keep it."""
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for name, data in files.items():
        large = name.endswith((".safetensors", ".bin"))
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        digest = hashlib.sha256(data).hexdigest() if large else git
        (repository / "blobs" / digest).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{digest}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)


def test_a_fine_tune_is_imported_by_name_and_licence(tmp_path: Path) -> None:
    files = models.hf_files() | {"chat_template.jinja": b"{{ messages }}"}
    files["added_tokens.json"] = b'{"<|im_end|>": 3124}'
    folder = models.write(tmp_path / "mine", files)
    outcome = run("import", str(folder), "--name", "mine", "--license", "other-open", "--json")
    assert outcome.code == 0, outcome.stderr
    kept = {path.name for path in Store().find("mine").path.iterdir()}
    assert {"added_tokens.json", "chat_template.jinja"} <= kept


def test_every_problem_of_a_folder_is_told_at_once(tmp_path: Path) -> None:
    files = models.hf_files()
    del files["tokenizer.model"]
    files["model-00002-of-00002.safetensors"] = models.noise(1000)
    folder = models.write(tmp_path / "mine", files)
    outcome = run("import", str(folder), "--json")
    message = outcome.json["error"]["message"]
    assert outcome.code == 2
    for problem in ("does not tell which model", "licence", "no tokenizer", "header"):
        assert problem in message
    assert "--name NAME --license ID" in outcome.json["error"]["hint"]
    assert Store().all() == []


def test_a_licence_is_not_loosened(tmp_path: Path) -> None:
    files = models.hf_files() | {"README.md": b"---\nlicense: llama2\n---\n"}
    folder = models.write(tmp_path / "mine", files)
    outcome = run("import", str(folder), "--name", "mine", "--license", "other-open", "--json")
    assert outcome.code == 3
    assert "inherits llama-2-community" in outcome.json["error"]["message"]


def test_a_damaged_file_is_refused_and_nothing_is_imported(tmp_path: Path) -> None:
    folder = models.write(tmp_path / "meta", FILES) / "acme-7b"
    shard = folder / "consolidated.01.pth"
    shard.write_bytes(b"!" + shard.read_bytes()[1:])
    with pytest.raises(IntegrityError, match=r"consolidated\.01\.pth is damaged") as caught:
        take(folder)
    assert "nothing was imported" in caught.value.hint
    assert Store().all() == []
    assert shard.is_file()


def test_an_unfinished_download_is_refused(tmp_path: Path) -> None:
    folder = models.write(tmp_path / "meta", FILES) / "acme-7b"
    (folder / "consolidated.01.pth").unlink()
    with pytest.raises(NotFoundError, match=r"consolidated\.01\.pth is missing"):
        take(folder)


def test_the_licence_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_terms(tmp_path / "terms")
    monkeypatch.setenv("LLAMA_HUB_LICENSES", str(tmp_path / "terms"))
    place, fmt = locate(models.write(tmp_path / "meta", FILES) / "acme-7b")
    gated = models.gated_model(shards=2)
    with pytest.raises(LicenseError):
        import_folder(Job(gated, ImportedFolder(place, fmt), fmt))
    accepted = Job(gated, ImportedFolder(place, fmt), fmt, accept=lambda *_: GOOD)
    assert (import_folder(accepted).path / "NOTICE").is_file()


@pytest.mark.parametrize("name", ["empty", "nowhere"])
def test_a_folder_that_is_no_model_is_not_found(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError):
        locate(tmp_path / name)


def test_two_snapshots_without_a_main_have_to_be_told_apart(tmp_path: Path) -> None:
    for commit in ("one", "two"):
        models.write(tmp_path / "snapshots" / commit, models.hf_files())
    with pytest.raises(UsageError, match="has 2 snapshots"):
        locate(tmp_path)


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("llama-2-13b-chat", "llama-2-13b-chat"),
        ("Llama-2-7b-hf", "llama-2-7b"),
        ("models--meta-llama--Llama-2-70b-chat-hf/snapshots/abc", "llama-2-70b-chat"),
    ],
)
def test_the_folders_name_tells_the_model(tmp_path: Path, folder: str, expected: str) -> None:
    assert guess(tmp_path / folder, load()).id == expected


def test_a_name_that_tells_nothing_is_a_usage_error(tmp_path: Path) -> None:
    known = Catalog({MODEL.id: replace(MODEL)})
    with pytest.raises(UsageError, match="does not tell which model"):
        guess(tmp_path / "weights", known)


# what lies in the folder may be anything


def put(kind: str, path: Path, outside: Path) -> None:
    """Something that is no file of a model, in a file's place."""
    path.unlink(missing_ok=True)
    makers: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "folder": lambda: path.mkdir(),
        "circle": lambda: path.symlink_to(path.name),
        "broken": lambda: path.symlink_to(outside / "nothing"),
        "sparse": lambda: os.truncate(os.open(path, os.O_RDWR | os.O_CREAT), (1 << 40) + 1),
    }
    makers[kind]()


KINDS = ("pipe", "device", "folder", "circle", "broken", "sparse")
PLACES = (
    "acme-7b/consolidated.01.pth",
    "acme-7b/params.json",
    "acme-7b/checklist.chk",
    "tokenizer.model",
    "LICENSE",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PLACES)
def test_what_is_no_file_of_a_model_is_refused_at_once(
    kind: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = models.catalogue(tmp_path / "catalogue.toml", MODEL)
    monkeypatch.setenv("LLAMA_HUB_CATALOG", str(path))
    base = models.write(tmp_path / "theirs", FILES)
    put(kind, base / name, tmp_path)
    before = foreign.names(tmp_path / "theirs")
    outcome = run("import", str(base / "acme-7b"), "acme-7b", "--json")
    if outcome.code == 0:  # a file that need not be there counts as missing
        assert name in ("LICENSE", "acme-7b/checklist.chk")
        assert kind in ("folder", "circle", "broken", "pipe", "device")
    else:
        assert outcome.code in (2, 5, 6), outcome.stdout
        assert Store().all() == []
        assert Store().partials() == []
    assert foreign.names(tmp_path / "theirs") == before


def test_a_failed_import_is_no_obstacle_to_a_download(tmp_path: Path) -> None:
    """What an import linked are the person's own files: nothing may go on writing them."""
    folder = models.write(tmp_path / "meta", FILES) / "acme-7b"
    good = models.write(tmp_path / "good", FILES)
    store = Store()
    begun = store.partial_folder(MODEL.id, "meta")
    begun.mkdir(parents=True)
    (begun / "consolidated.00.pth").write_bytes(b"half a download")
    shard = folder / "consolidated.01.pth"
    shard.write_bytes(b"!" + shard.read_bytes()[1:])
    before = foreign.tree(folder)
    with pytest.raises(IntegrityError):
        take(folder)
    assert (begun / "consolidated.00.pth").read_bytes() == b"half a download"
    assert foreign.tree(folder) == before
    done = download(Job(MODEL, mirror(str(good)), "meta"))
    assert verify(done.path).ok
    assert foreign.tree(folder) == before


def test_more_snapshots_than_anybody_counts(tmp_path: Path) -> None:
    for number in range(150):
        (tmp_path / "snapshots" / f"{number}").mkdir(parents=True)
    with pytest.raises(UsageError, match="100 or more snapshots"):
        locate(tmp_path)


@pytest.mark.parametrize("path", ["~nobody-of-that-name/x", "a\0b", "x" * 5000, ""])
def test_a_path_that_can_be_none(path: str) -> None:
    with pytest.raises((UsageError, NotFoundError)):
        locate(Path(path or "nowhere"))
