"""Where a conversion writes: a folder of its own, and over nothing that was there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llama_hub.errors import IntegrityError, NotFoundError, UsageError
from llama_hub.hub.conversion.convert import convert
from llama_hub.hub.conversion.partial_folder import exclusive
from llama_hub.hub.manifest import read
from llama_hub.hub.store import Store
from llama_hub.hub.verify import verify
from tests.support import foreign
from tests.support.command import run
from tests.support.crashing import killed_at
from tests.support.demo_model import CHAT, demo_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model as a folder outside any store."""
    home = tmp_path_factory.mktemp("home")
    folder = demo_folder(home).path.parent / "meta"
    return Path(shutil.copytree(folder, tmp_path_factory.mktemp("source") / CHAT))


def make(source: Path, destination: Path, **options: object) -> Path:
    return convert(source, destination, to="hf", **options).path  # type: ignore[arg-type]


def test_a_folder_with_things_in_it_is_refused_untouched(source: Path, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    (theirs / "below").mkdir(parents=True)
    (theirs / "below" / "diary.txt").write_text("irreplaceable")
    before = foreign.tree(tmp_path)
    for destination in (theirs, theirs / "below", theirs / "below" / "diary.txt"):
        outcome = run("convert", str(source), str(destination), "--json")
        assert outcome.code == 2
        assert "there already" in outcome.json["error"]["message"]
    assert foreign.tree(tmp_path) == before


def test_the_place_where_the_output_is_put_together_may_be_anothers(
    source: Path, tmp_path: Path
) -> None:
    """``.out.partial`` is a folder of somebody's: it is not cleared."""
    theirs = tmp_path / ".out.partial"
    theirs.mkdir()
    (theirs / "diary.txt").write_text("irreplaceable")
    before = foreign.tree(theirs)
    with pytest.raises(UsageError, match="not llama-hub's"):
        make(source, tmp_path / "out")
    assert foreign.tree(theirs) == before
    shutil.rmtree(theirs)
    theirs.write_text("a file")
    with pytest.raises(UsageError, match="cannot be a folder"):
        make(source, tmp_path / "out")
    assert theirs.read_text() == "a file"


@pytest.mark.parametrize("name", [".out.partial", "out"])
def test_links_where_the_output_goes_lead_nowhere(name: str, source: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / name).symlink_to(outside)
    with pytest.raises(UsageError):
        make(source, tmp_path / "out")
    assert list(outside.iterdir()) == []


def test_links_among_the_files_of_an_unfinished_conversion_are_not_written_through(
    source: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("soft", "hard"):
        (outside / name).write_text("irreplaceable")
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "conversion.journal").write_text("{}\n")
    (partial / "model-00001-of-00001.safetensors").symlink_to(outside / "soft")
    (partial / "model.safetensors").symlink_to(outside / "soft")
    os.link(outside / "hard", partial / "config.json")
    (partial / "tokenizer.model").symlink_to(outside)
    (partial / "folder").symlink_to(outside)
    before = foreign.tree(outside)
    made = make(source, tmp_path / "out")
    assert foreign.tree(outside) == before
    assert verify(made).ok
    assert not any(path.is_symlink() for path in made.iterdir())


def test_paths_that_lead_back_into_the_source_are_refused(source: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(source, tmp_path / "source"))
    (tmp_path / "door").symlink_to(folder)
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    before = foreign.tree(folder)
    for path in (folder / "new", tmp_path / "door" / "new", tmp_path / "x" / ".." / "source" / "y"):
        with pytest.raises(UsageError, match="lies in the source"):
            make(folder, path)
    with pytest.raises(UsageError):
        make(folder, tmp_path / "circle" / "new")
    assert foreign.tree(folder) == before


def test_the_stores_own_folders_are_no_destination(source: Path, home: Path) -> None:
    for place in ("models/llama-demo-chat/hf", "models/new/hf-int8", "partials/x/hf", "models/x"):
        with pytest.raises(UsageError, match="lies in the store"):
            make(source, home / place)
    assert not home.exists()


def test_names_that_no_folder_can_have(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / ("x" * 250), tmp_path / "file" / "new", Path("a\0b")):
        with pytest.raises(UsageError):
            make(source, path)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "home") == ["file"]


def test_a_word_means_the_stores_model_also_as_a_source(
    source: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = demo_folder(home).path.parent
    shutil.copytree(source, tmp_path / "work" / CHAT)
    (tmp_path / "work" / "bare").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert Store().source(CHAT) == genuine / "meta"
    assert Store().source(f"./{CHAT}") == Path(CHAT)
    assert Store().source("bare") == Path("bare")
    with pytest.raises(NotFoundError):
        Store().source("nothing")


def test_two_at_once_and_one_gets_it(source: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "llama_hub", "convert", str(source), str(tmp_path / "out")]
    running = [
        subprocess.Popen([*words, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(3)
    ]
    codes = []
    for child in running:
        child.communicate()
        codes.append(child.returncode)
    assert sorted(codes) == [0, 2, 2]
    assert verify(tmp_path / "out").ok
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_what_another_has_just_finished_is_not_begun_again(source: Path, tmp_path: Path) -> None:
    partial = tmp_path / ".out.partial"
    with exclusive(partial), pytest.raises(UsageError, match="another conversion"):
        make(source, tmp_path / "out")
    assert not partial.exists()


@pytest.mark.parametrize("step", [19001, pytest.param(307, marks=pytest.mark.exhaustive)])
def test_killed_at_any_call_the_next_run_makes_it_whole(
    source: Path, tmp_path: Path, step: int
) -> None:
    made = None
    for number, moment in enumerate(range(50, 60_000, step)):
        destination = tmp_path / f"{number}"
        died = killed_at(moment, lambda to=destination: make(source, to, workers=1))  # type: ignore[misc]
        if died and not destination.exists():
            make(source, destination)
        assert verify(destination).ok
        made = made or read(destination).digest
        assert read(destination).digest == made
        assert list(tmp_path.glob(".*")) == []
        shutil.rmtree(destination)
        if not died:
            break


def test_a_name_that_is_none_is_a_mistake(source: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(source, tmp_path / "My Model (v2)"))
    (bare / "llama-hub.json").unlink()
    options = {"license": "llama-hub-demo"}
    with pytest.raises(UsageError, match="no model name"):
        make(bare, tmp_path / "out", model="../../x", **options)
    assert read(make(bare, tmp_path / "out", **options)).model == "my-model-v2"
    foreign.forge(source_copy := Path(shutil.copytree(source, tmp_path / "evil")), model="../x")
    with pytest.raises(IntegrityError):
        make(source_copy, tmp_path / "out2", model="fine")
