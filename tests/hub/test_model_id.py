"""What may be the name of a model, and what a file may say of paths."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError, UsageError
from llama_hub.hub import manifest
from llama_hub.hub.manifest import MANIFEST_NAME, FileEntry, Manifest
from llama_hub.hub.model_id import MAX_LENGTH, ModelId, model_id
from llama_hub.hub.relative_path import regular_file, relative_path

DIGEST = "sha256:" + "0123456789abcdef" * 4
WRONG = [
    "", ".", "..", "../x", "a/b", "/etc", "a\\b", "~", "~root", "-x", "x-", ".x", "x.", "a..b",
    "A", "Llama-2", "ä", "a b", "a\n", "a\0", "\x1b[2J", "a:b", "con", "nul.txt", "com1", "a*",
    "x" * (MAX_LENGTH + 1), "\u202ex", "\uff0e\uff0e", "%2e%2e",
    None, 7, ["a"], {"a": 1}, b"a", True,
]  # fmt: skip
RIGHT = [
    "llama-2-7b-chat",
    "codellama-34b",
    "acme_7b.v2",
    "a",
    "7b",
    "models--org--name",
    "console",
]


@pytest.mark.parametrize("text", WRONG, ids=repr)
def test_what_could_be_a_path_is_no_name(text: object) -> None:
    with pytest.raises(ValueError, match="is no model name"):
        ModelId(text)
    with pytest.raises(IntegrityError, match="here: "):
        model_id(text, "here", IntegrityError)


@pytest.mark.parametrize("text", RIGHT)
def test_a_name_is_itself_and_text(text: str) -> None:
    name = ModelId(text)
    assert name == text
    assert copy.deepcopy(name) == text
    assert json.dumps({name: name}) == json.dumps({text: text})


def test_an_error_repeats_little_of_a_wrong_name_and_nothing_raw() -> None:
    with pytest.raises(UsageError) as caught:
        model_id("\x1b[31m" + "x" * 5000)
    assert "\x1b" not in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Llama-2-7b-hf", "llama-2-7b-hf"),
        ("My Model (v2)", "my-model-v2"),
        ("..", "model"),
        ("", "model"),
        ("CON", "model-con"),
        ("ä" * 500 + "7B", "model"),
        ("x" * 500, "x" * MAX_LENGTH),
    ],
)
def test_a_folder_without_a_name_gets_the_nearest(folder: str, name: str) -> None:
    assert ModelId.of_folder(folder) == name


def test_a_foreign_name_has_the_digest_and_is_a_name() -> None:
    assert ModelId("llama-demo").foreign(DIGEST) == "llama-demo-0123456789abcdef"
    for text in ("x" * MAX_LENGTH, "a" + "-b" * 40 + "ccccc"):
        assert ModelId(text).foreign(DIGEST).endswith("-0123456789abcdef")


PATHS = [
    "", "/etc/passwd", "../x", "a/../../x", "a/./b", "./a", "a//b", "a/", "a\\b", "a\0", "a\nb",
    "\x1b[2J", "x" * 300, "a/" * 400 + "b", "\ud800", None, 3, "..",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=ascii)
def test_a_manifest_lists_files_below_its_folder_only(path: object) -> None:
    with pytest.raises(ValueError, match="is no path"):
        relative_path(path)
    with pytest.raises(ValueError, match="is no path"):
        FileEntry(path, 1, "0" * 64)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "path", ["model.safetensors", "a/b c/d.json", "größe.txt", ".gitattributes"]
)
def test_plain_paths_are_taken(path: str) -> None:
    assert relative_path(path) == path


def forged(folder: Path, **changes: object) -> Path:
    """A folder whose manifest says what it likes and has the digest of that."""
    made = Manifest("x", "hf", "other-open", (FileEntry("a", 1, "0" * 64),))
    document = made.to_json() | changes
    identity = {k: v for k, v in document.items() if k not in ("receipt", "created", "source")}
    del identity["digest"]
    import hashlib

    digest = hashlib.sha256(manifest.canonical(identity)).hexdigest()
    (folder / MANIFEST_NAME).write_text(json.dumps(document | {"digest": f"sha256:{digest}"}))
    return folder


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "../../outside"},
        {"model": "/tmp/x"},
        {"model": 5},
        {"model": None},
        {"format": "hf-int8"},
        {"format": "../hf"},
        {"format": ["hf"]},
        {"files": [{"path": "../x", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "/dev/zero", "size": 1, "sha256": "0" * 64}]},
        {"files": [{"path": "a", "size": 1, "sha256": "0" * 64}] * 2},
    ],
    ids=repr,
)
def test_a_manifest_with_a_digest_of_its_own_is_refused(
    changes: dict[str, object], tmp_path: Path
) -> None:
    assert manifest.read(forged(tmp_path)).model == "x"
    with pytest.raises(IntegrityError, match="the manifest "):
        manifest.read(forged(tmp_path, **changes))


def test_the_name_in_a_manifest_is_the_type() -> None:
    made = Manifest("x", "hf", "other-open", ())
    assert isinstance(made.model, ModelId)
    with pytest.raises(ValueError, match="is no model name"):
        dataclasses.replace(made, model="../x")


def test_only_regular_files_of_the_folder_count(tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    (folder / "below").mkdir(parents=True)
    outside.mkdir()
    for place in (folder / "file", folder / "below" / "file", outside / "file"):
        place.write_text("x")
    (folder / "inner").symlink_to("below/file")
    (folder / "outer").symlink_to(outside / "file")
    (folder / "up").symlink_to(outside)
    (folder / "circle").symlink_to("circle")
    (folder / "zero").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe")
    for good in ("file", "below/file", "inner"):
        assert regular_file(folder, good) == ""
    assert "leads out" in regular_file(folder, "outer")
    assert "leads out" in regular_file(folder, "up/file")
    assert "leads out" in regular_file(folder, "zero")
    assert regular_file(folder, "pipe") == "it is a pipe"
    assert regular_file(folder, "below") == "it is a folder"
    for missing in ("nothing", "circle"):
        with pytest.raises(FileNotFoundError):
            regular_file(folder, missing)


def test_a_manifest_may_list_an_empty_file(tmp_path: Path) -> None:
    made = Manifest("x", "hf", "other-open", (FileEntry("empty", 0, "0" * 64),))
    made.write(tmp_path)
    assert manifest.read(tmp_path) == made
