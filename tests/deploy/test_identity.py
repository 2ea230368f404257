"""A folder that calls itself something: it takes no other model's place, and none outside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llama_hub.backends.huggingface.storage import FileInfo, _holds, git_digest
from llama_hub.backends.memory import backend as memory
from llama_hub.deploy import artifact
from llama_hub.deploy.backend import Deployed
from llama_hub.errors import (
    IntegrityError,
    LlamaHubError,
    NotFoundError,
    UsageError,
)
from llama_hub.hub.conversion import run as conversion_run
from llama_hub.hub.conversion.convert import convert, into_store, served
from llama_hub.hub.manifest import read
from llama_hub.hub.store import Store, StoredModel
from tests.support import foreign
from tests.support.command import run
from tests.support.demo_model import CHAT, demo_folder
from tests.support.deployments import echo, make_folder, spec


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the demo model: as downloaded, converted, and quantised."""
    home = tmp_path_factory.mktemp("shared")
    served_ = demo_folder(home)
    store = Store(home)
    into_store(store, store.find(CHAT), to="hf", quantize="int8")
    assert served_.id == CHAT
    return home


@pytest.fixture
def genuine(shared: Path, home: Path) -> Path:
    """The same in the home of this test; the folder of the models."""
    shutil.copytree(shared, home)
    return home / "models" / CHAT


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What a stranger aims at: nothing in it may change."""
    for folder in ("models", "precious/hf-int8", "precious/hf", "llama-demo/hf-int8"):
        (tmp_path / "outside" / folder).mkdir(parents=True)
        (tmp_path / "outside" / folder / "diary.txt").write_text("irreplaceable")
    return tmp_path / "outside"


AIMS = [
    "../../outside/precious",
    "../../../outside/precious",
    "{outside}/precious",
    ".",
    "..",
    "a/b",
]
WAYS: list[list[str]] = [
    ["deploy", "local", "{evil}", "--quantize", "int8", "--name", "x", "--yes"],
    ["deploy", "memory", "{evil}", "--name", "x", "--yes"],
    ["convert", "{evil}"],
    ["convert", "{evil}", "{new}", "--to", "meta"],
    ["chat", "{evil}", "--once", "hello"],
    ["serve", "{evil}", "--port", "0"],
    ["verify", "{evil}"],
    ["path", "{evil}"],
]


@pytest.mark.parametrize("aim", AIMS)
def test_a_manifest_that_names_a_path_is_refused_and_nothing_changes(
    aim: str, genuine: Path, outside: Path, tmp_path: Path
) -> None:
    name = aim.format(outside=outside)
    evil = foreign.copy(genuine / "meta", tmp_path / "evil", model=name)
    before = foreign.tree(tmp_path)
    for way in WAYS:
        words = [word.format(evil=evil, new=tmp_path / "new") for word in way]
        outcome = run(*words, "--json")
        assert outcome.code == 5, (words, outcome.stderr)
        assert "no model name" in outcome.stdout
    assert foreign.tree(tmp_path) == before


def test_a_namesake_takes_neither_name_nor_variant(genuine: Path, tmp_path: Path) -> None:
    evil = foreign.copy(genuine / "meta", tmp_path / "evil", license="llama-hub-demo", parent=None,
                        made_by={"operation": "x"})  # fmt: skip
    before = foreign.tree(genuine)
    wanted = spec(model=str(evil), quantization="int8")
    made = artifact.prepare(wanted)
    own = Store().find(str(evil)).id
    assert own.startswith(f"{CHAT}-")
    assert made.folder.parts[-2:] == (own, "hf-int8")
    assert made.manifest.parent == read(evil).digest
    assert artifact.find(wanted) == made
    assert served(Store(), str(evil)).path.parts[-2:] == (own, "hf")
    assert artifact.find(spec(model=str(evil))).folder.parts[-2:] == (own, "hf")
    assert foreign.tree(genuine) == before
    assert artifact.find(spec(model=CHAT, quantization="int8")).folder == genuine / "hf-int8"
    listed = {(one["id"], one["format"]) for one in run("list", "--json").json["models"]}
    assert {(own, "hf"), (CHAT, "hf"), (CHAT, "meta")} <= listed
    assert run("remove", own, "--yes", "--json").code == 0
    assert foreign.tree(genuine) == before


def test_a_folder_with_another_models_manifest_is_verified_before_it_stands_for_it(
    genuine: Path, tmp_path: Path
) -> None:
    """It has the genuine digest and other bytes: what is made of it must not bear that digest."""
    evil = shutil.copytree(genuine / "meta", tmp_path / "evil")
    foreign.damage(evil, "consolidated.00.pth")
    shutil.rmtree(genuine.parents[1] / "partials")
    before = foreign.tree(tmp_path)
    for change in ({"quantization": "int8"}, {}):
        with pytest.raises(IntegrityError, match="not what its manifest says"):
            artifact.prepare(spec(model=str(evil), **change))
    after = foreign.tree(tmp_path)
    assert {k: v for k, v in after.items() if not k.startswith("home/partials")} == before


def test_a_namesake_in_the_present_folder_is_not_meant_by_the_name(
    genuine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign.copy(genuine / "hf", tmp_path / "work" / CHAT, license="llama-hub-demo", parent=None)
    monkeypatch.chdir(tmp_path / "work")
    assert Store().find(CHAT).path == genuine / "meta"
    assert Store().find(CHAT, "hf").path == genuine / "hf"
    assert Store().find(f"./{CHAT}").path == tmp_path / "work" / CHAT
    assert run("download", CHAT, "--json").json["path"] == str(genuine / "meta")
    shutil.rmtree(genuine)
    for command in (["path", CHAT], ["convert", CHAT, "out"], ["serve", CHAT, "--plan"]):
        absent = run(*command, "--json")
        assert absent.code == 6
        assert f"./{CHAT}" in absent.json["error"]["hint"]
    shutil.move(CHAT, "mine")
    assert run("path", "mine", "--json").json["path"] == str(tmp_path / "work" / "mine")


def test_a_foreign_manifest_does_not_say_where_a_model_is_downloaded_from(
    genuine: Path, tmp_path: Path
) -> None:
    source = {"kind": "mirror", "base": "http://127.0.0.1:9/evil"}
    evil = foreign.copy(genuine / "meta", tmp_path / "evil", source=source)
    served(Store(), str(evil))
    shutil.rmtree(genuine)
    assert run("download", CHAT, "--json").json["source"] == "builtin"


# a variant is whole before the old one goes


def remade(genuine: Path) -> StoredModel:
    """The download, again: other bytes, so that all that was made of the first is out of date."""
    fresh = foreign.copy(genuine / "meta", genuine.parent / "fresh", made_by={"operation": "again"})
    shutil.rmtree(genuine / "meta")
    fresh.rename(genuine / "meta")
    return Store().find(CHAT)


class Broken(Exception):
    """Something goes wrong."""


@pytest.mark.parametrize("moment", ["_describe", "_check_unchanged", "_check_disk"])
def test_a_conversion_that_fails_leaves_the_old_variant(
    moment: str, genuine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = remade(genuine)
    before = foreign.tree(genuine)

    def fail(*arguments: Any) -> None:
        raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(conversion_run, moment, fail)
        with pytest.raises(Broken):
            artifact.prepare(spec(model=CHAT, quantization="int8"))
        assert foreign.tree(genuine) == before
    made = artifact.prepare(spec(model=CHAT, quantization="int8"))
    assert made.manifest.parent == source.manifest.digest
    assert made.folder == genuine / "hf-int8"
    assert [path.name for path in genuine.iterdir() if path.name.startswith(".")] == []
    assert Store().partials() == []


def test_a_damaged_source_leaves_the_old_variant(genuine: Path) -> None:
    remade(genuine)
    (genuine / "meta" / "consolidated.00.pth").write_bytes(b"?")
    before = foreign.tree(genuine)
    with pytest.raises(LlamaHubError):
        artifact.prepare(spec(model=CHAT, quantization="int8"))
    assert foreign.tree(genuine) == before


def test_a_source_that_is_replaced_meanwhile_makes_no_mixture(
    genuine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    describe = conversion_run._describe

    def replaced(*arguments: Any) -> Any:
        remade(genuine)
        return describe(*arguments)

    remade(genuine)
    monkeypatch.setattr(conversion_run, "_describe", replaced)
    before = foreign.tree(genuine / "hf-int8")
    foreign.forge(genuine / "meta", made_by={"operation": "third"})
    with pytest.raises(IntegrityError, match="was changed while it was converted"):
        artifact.prepare(spec(model=CHAT, quantization="int8"))
    assert foreign.tree(genuine / "hf-int8") == before


# what is deployed is not removed


def deploy(model: str) -> None:
    outcome = run("deploy", "memory", model, "--name", "x", "--context", "256", "--yes", "--json")
    assert outcome.code == 0, outcome.stderr


def test_remove_is_refused_while_deployed_and_says_by_whom(home: Path) -> None:
    folder = make_folder(home / "models" / "llama-demo" / "hf")
    deploy("llama-demo")
    for words in (["remove", "llama-demo"], ["remove", "llama-demo", "--format", "hf"]):
        refused = run(*words, "--yes", "--json")
        assert refused.code == 2
        assert refused.json["error"]["type"] == "InUseError"
        assert "deployed as x (memory)" in refused.json["error"]["message"]
        assert "llama-hub delete x" in refused.json["error"]["hint"]
    assert folder.is_dir()
    make_folder(home / "models" / "llama-demo" / "hf", "other bytes, which are not deployed")
    assert run("remove", "llama-demo", "--yes", "--json").code == 2
    assert run("delete", "x", "--yes", "--json").code == 0
    assert run("remove", "llama-demo", "--yes", "--json").code == 0
    assert not folder.exists()


def test_what_is_deployed_under_another_name_counts_by_its_bytes(home: Path) -> None:
    make_folder(home / "models" / "llama-demo" / "hf")
    make_folder(home / "models" / "other" / "hf", "other", model="other")
    deploy(str(home / "models" / "llama-demo" / "hf"))
    assert run("remove", "llama-demo", "--yes", "--json").code == 2
    assert run("remove", "other", "--yes", "--json").code == 0


def test_force_removes_what_is_deployed(home: Path) -> None:
    make_folder(home / "models" / "llama-demo" / "hf")
    deploy("llama-demo")
    assert run("remove", "llama-demo", "--yes", "--force", "--json").code == 0
    assert run("status", "x", "--json").json["status"] == "ready"


def test_a_journal_that_says_nothing_keeps_no_model(home: Path) -> None:
    make_folder(home / "models" / "llama-demo" / "hf")
    deploy("llama-demo")
    (home / "deployments" / "memory" / "x" / "journal.jsonl").write_text("garbage\n")
    assert run("remove", "llama-demo", "--yes", "--json").code == 0


# names of deployments become paths too


@pytest.mark.parametrize("name", ["../../outside", "/etc", "a/b", "A", "x" * 40, "..", "x\0", "-x"])
def test_a_name_that_no_deployment_has_is_not_looked_for(name: str, home: Path) -> None:
    for command in ("status", "delete", "logs", "attest", "rollback"):
        outcome = run(command, "--json", "--", name)
        assert outcome.code in (2, 6), outcome.stderr
    assert not home.exists() or list(home.iterdir()) == []


def test_folders_that_are_no_deployments_are_none(home: Path) -> None:
    for name in ("UPPER", "a b", ".hidden"):
        (home / "deployments" / "local" / name / "service").mkdir(parents=True)
        (home / "deployments" / "local" / name / "service" / "desired.json").write_text("{}")
        (home / "deployments" / "local" / name / "journal.jsonl").write_text("")
    assert run("ps", "--json").json["deployments"] == []


@pytest.mark.parametrize("model", ["a\0b", "a\nb", "\x1b[2J", "x" * 5000, "\ud800"], ids=ascii)
def test_a_spec_names_a_model_or_a_path(model: str) -> None:
    with pytest.raises(UsageError, match="neither an id nor a path"):
        spec(model=model)
    with pytest.raises((UsageError, NotFoundError)):
        Store().find(model)


def test_converting_a_variant_into_the_store_refuses_what_has_no_place(genuine: Path) -> None:
    with pytest.raises(UsageError):
        into_store(Store(), Store().find(CHAT), to="hf", quantize="int2")
    with pytest.raises(UsageError, match="lies in the store"):
        convert(genuine / "meta", genuine / "hf-int4", to="hf", quantize="int4")


@pytest.mark.parametrize("tag", ["../../x", "\x1b[2J", "A", "", None, "x" * 500])
def test_a_tag_names_a_model_or_nothing(tag: str | None) -> None:
    assert Deployed("x", "azure", "ready", None, None, tag, None).model is None
    assert Deployed("x", "azure", "ready", None, None, CHAT, None).model == CHAT


def test_small_files_are_compared_with_the_manifest_not_with_what_lies_there_now(
    tmp_path: Path,
) -> None:
    """Git's digest on the Hub is of whatever was sent: it must have been the manifest's file."""
    folder = make_folder(tmp_path / "model")
    entry = read(folder).file("config.json")
    sent = FileInfo(entry.size, None, git_digest((folder / "config.json").read_bytes()))
    assert _holds(sent, entry, folder)
    other = b" " * entry.size
    (folder / "config.json").write_bytes(other)
    with pytest.raises(IntegrityError, match="not what the manifest says"):
        _holds(FileInfo(entry.size, None, git_digest(other)), entry, folder)


def test_a_deployment_remembers_a_path_that_means_the_same_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(tmp_path / "work" / "mine")
    monkeypatch.chdir(tmp_path / "work")
    deploy("./mine")
    monkeypatch.chdir(tmp_path)
    status = run("status", "x", "--json").json
    assert status["drift"] == []
    assert status["model"] == "llama-demo"


def test_a_folder_named_like_a_deployment_does_not_answer_for_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def answer(folder: Path, body: Any, stream: bool) -> Iterator[bytes]:
        asked.append(folder)
        choice = {"index": 0, "delta": {"content": "genuine"}, "finish_reason": "stop"}
        yield f"data: {json.dumps({'choices': [choice]})}\n\ndata: [DONE]\n\n".encode()

    monkeypatch.setattr(memory, "_core", lambda: answer)
    genuine = make_folder(home / "models" / "llama-demo" / "hf")
    deploy("llama-demo")
    make_folder(tmp_path / "work" / "x", "evil")
    monkeypatch.chdir(tmp_path / "work")
    assert run("chat", "x", "--once", "Who are you?", "--json").json["reply"] == "genuine"
    assert asked == [genuine]


def test_the_memory_platform_does_not_answer_from_another_model(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_core", lambda: echo)
    folder = make_folder(home / "models" / "llama-demo" / "hf")
    deploy("llama-demo")
    assert run("invoke", "x", "hello").stdout.strip() == "hello"
    make_folder(folder, "other bytes")
    refused = run("invoke", "x", "hello", "--json")
    assert refused.code == 8
    assert "was replaced by another" in refused.json["error"]["message"]


def test_a_failed_deployment_that_was_kept_keeps_its_model(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folder(home / "models" / "llama-demo" / "hf")
    monkeypatch.setenv("LLAMA_HUB_MEMORY_FAIL", "revision/*")
    words = ["deploy", "memory", "llama-demo", "--name", "x", "--context", "256", "--yes"]
    assert run(*words, "--on-failure", "keep", "--json").code == 8
    monkeypatch.delenv("LLAMA_HUB_MEMORY_FAIL")
    assert run("remove", "llama-demo", "--yes", "--json").code == 2
    assert run("delete", "x", "--json", "--yes").code == 0
    assert run("remove", "llama-demo", "--yes", "--json").code == 0
