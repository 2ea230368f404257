"""A GGUF file that another tool downloaded is taken into the store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub.download import Downloaded, Job
from llama_hub.hub.importing import import_folder
from llama_hub.hub.importing_gguf import ImportedFile, gguf_file_at
from llama_hub.hub.verify import verify
from tests.support import foreign, gguf_files, models
from tests.support.command import run
from tests.support.gguf_files import File

MODEL = replace(models.model(), license="llama-hub-demo")


def take(path: Path) -> Downloaded:
    file = gguf_file_at(path)
    assert file is not None
    return import_folder(Job(MODEL, ImportedFile(file), "gguf"))


@pytest.mark.parametrize("what", ["m.gguf", "."])
def test_a_file_or_its_folder(home: Path, tmp_path: Path, what: str) -> None:
    there = tmp_path / "there"
    gguf_files.write(there / "m.gguf", File(kind="Q4_K"))
    (there / "LICENSE").write_text("Anybody's.\n")
    done = take(there / what)
    assert done.path == home / "models" / MODEL.id / "gguf"
    assert done.manifest.format == "gguf"
    assert done.manifest.source["kind"] == "import"
    assert (done.path / "m.gguf").samefile(there / "m.gguf")
    assert (done.path / "LICENSE").read_text() == "Anybody's.\n"
    assert verify(done.path, deep=True).ok


def test_all_parts_come_along(home: Path, tmp_path: Path) -> None:
    there = tmp_path / "there"
    gguf_files.write(there / "m.gguf", File(split=8))
    (there / "other.txt").write_text("not of it")
    (there / "m.LICENSE").write_text("Its own.\n")
    (there / "LICENSE").write_text("Another's.\n")
    done = take(there / "m-00002-of-00003.gguf")
    names = [f"m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert foreign.names(done.path) == sorted(
        ["LICENSE", "NOTICE", "README.md", *names, "llama-hub.json"]
    )
    assert (done.path / "LICENSE").read_text() == "Its own.\n"


def test_a_blob_without_ending_is_known_by_its_beginning(home: Path, tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "m.gguf")
    blob = (tmp_path / "m.gguf").rename(tmp_path / "sha256-0123")
    done = take(blob)
    assert (done.path / f"{MODEL.id}.gguf").samefile(blob)
    assert verify(done.path, deep=True).ok
    assert verify(blob).ok


def test_a_missing_part_stops_it(home: Path, tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "m.gguf", File(split=8))
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    with pytest.raises(NotFoundError, match="m-00002"):
        take(tmp_path / "m-00001-of-00003.gguf")
    assert not (home / "models").exists()


def test_what_is_no_model_stops_it(home: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(IntegrityError):
        take(tmp_path / "m.gguf")
    assert not (home / "models").exists()


def test_the_command_guesses_the_model_by_the_file_s_name(home: Path, tmp_path: Path) -> None:
    gguf_files.write(tmp_path / "llama-demo.Q8_0.gguf", File(kind="Q8_0"))
    done = run("import", str(tmp_path / "llama-demo.Q8_0.gguf"), "--json")
    assert done.code == 0
    assert done.json["model"] == "llama-demo"
    assert run("list", "--json").json["models"][0]["format"] == "gguf"


def test_a_fine_tune_is_called_like_its_file(home: Path, tmp_path: Path) -> None:
    path = tmp_path / "acme-chat.Q4_0.gguf"
    gguf_files.write(path, File(kind="Q4_0"))
    refused = run("import", str(path), "--json")
    assert refused.code == 3  # nobody says which licence it has
    assert "--license" in refused.json["error"]["hint"]
    done = run("import", str(path), "--license", "other-open", "--json")
    assert done.code == 0
    assert done.json["model"] == "acme-chat"
    assert run("path", "acme-chat", "--json").json["format"] == "gguf"
