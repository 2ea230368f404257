"""``llama-hub download ORG/NAME:Q4_K_M``: one of the GGUF files that a repository has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from llama_hub.errors import NotFoundError, UsageError
from llama_hub.hub.repository_id import RepositoryId, parse
from llama_hub.hub.sources.hub_gguf import gguf_files, is_gguf_only, pick, type_of
from llama_hub.hub.sources.huggingface import HubFile
from tests.support import gguf_files as made
from tests.support.command import Outcome, run
from tests.support.fake_hub import FakeHub

NAME = "TheBloke/Tuned-7B-GGUF"
CARD = b"---\nlicense: apache-2.0\n---\n# A quantised fine-tune\n"
WEIGHT_FILES = ("tuned-7b.Q8_0.gguf", "tuned-7b.Q4_0.gguf", "tuned-7b.F16.gguf")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


@cache
def weights(name: str, split: int = 0) -> dict[str, bytes]:
    """The file called ``name``, or its parts, by name."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        made.write(Path(folder) / name, made.File(kind=type_of(name), split=split))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def repository() -> dict[str, bytes]:
    """As such repositories are: a card, a configuration that says nothing, many files."""
    files = {"README.md": CARD, "config.json": b'{"model_type": "llama"}'}
    for name in WEIGHT_FILES:
        files |= weights(name)
    return files


@contextmanager
def hub_with(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], name: str = NAME
) -> Iterator[FakeHub]:
    with FakeHub(name, files, gated=False) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        yield hub


def error(outcome: Outcome, code: int) -> dict[str, str]:
    assert outcome.code == code, outcome.stderr
    found: dict[str, str] = outcome.json["error"]
    return found


@pytest.mark.parametrize(
    "text",
    [
        f"{NAME}:Q8_0",
        f"hf://{NAME}:q8_0",
        f"{NAME}:tuned-7b.Q8_0.gguf",
        f"https://huggingface.co/{NAME}/blob/main/tuned-7b.Q8_0.gguf",
    ],
)
def test_one_file_comes_and_is_known_by_repository_and_type(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_with(monkeypatch, repository()) as hub:
        outcome = run("download", text, "--json")
        assert outcome.code == 0, outcome.stderr
        assert outcome.json["model"] == "thebloke--tuned-7b-gguf-q8_0"
        folder = Path(outcome.json["path"])
        assert (folder / "tuned-7b.Q8_0.gguf").read_bytes() == hub.files["tuned-7b.Q8_0.gguf"]
        asked = {seen.path.rpartition("/")[2] for seen in hub.hub.seen}
        assert not asked & {"tuned-7b.Q4_0.gguf", "tuned-7b.F16.gguf"}
        assert run("download", text, "--json").json["reused"] is True
    manifest = json.loads((folder / "llama-hub.json").read_text())
    assert (manifest["format"], manifest["license"]) == ("gguf", "other-open")
    assert manifest["source"]["file"] == "tuned-7b.Q8_0"
    assert run("verify", "thebloke--tuned-7b-gguf-q8_0").code == 0
    assert run("path", "thebloke--tuned-7b-gguf-q8_0").stdout.strip() == str(folder)


def test_two_types_stand_side_by_side_and_need_no_hub_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hub_with(monkeypatch, repository()):
        for kind in ("Q8_0", "Q4_0"):
            assert run("download", f"{NAME}:{kind}", "--json").code == 0
    for text in (f"{NAME}:Q8_0", f"{NAME}:Q4_0", "thebloke--tuned-7b-gguf-q4_0"):
        assert run("download", text, "--json").json["reused"] is True, text
    assert run("download", f"{NAME}:F16", "--json").code == 10


def test_the_parts_of_a_split_file_come_together(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = weights("tuned-7b.Q8_0.gguf", split=9)
    assert len(parts) > 1
    files = {"README.md": CARD} | {f"Q8_0/{name}": data for name, data in parts.items()}
    with hub_with(monkeypatch, files):
        outcome = run("download", NAME, "--json")
    assert outcome.code == 0, outcome.stderr
    folder = Path(outcome.json["path"])
    assert {path.name for path in folder.glob("*.gguf")} == set(parts)
    assert run("verify", str(folder)).code == 0


def test_a_repository_with_several_lists_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_with(monkeypatch, repository()) as hub:
        several = error(run("download", NAME, "--json"), 2)
        other = error(run("download", f"{NAME}:Q5_K_M", "--json"), 6)
        assert not any(seen.path.endswith(".gguf") for seen in hub.hub.seen)
    for found in (several, other):
        assert all(kind in found["message"] for kind in ("Q8_0", "Q4_0", "F16"))
        assert found["hint"].startswith(f"llama-hub download {NAME}:")


def test_what_is_no_llama_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    data = weights("tuned-7b.Q8_0.gguf")["tuned-7b.Q8_0.gguf"]
    files = {"README.md": CARD, "other.Q8_0.gguf": data.replace(b"llama.block", b"llama.blocc", 1)}
    with hub_with(monkeypatch, files) as hub:
        found = error(run("download", NAME, "--json"), 5)
        fetched = sum(seen.path.endswith(".gguf") for seen in hub.hub.seen)
    assert hub.url in found["message"]
    assert fetched == 1


def test_a_damaged_file_is_mended_from_the_same_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_with(monkeypatch, repository()):
        outcome = run("download", f"{NAME}:Q8_0", "--json")
        path = Path(outcome.json["path"]) / "tuned-7b.Q8_0.gguf"
        good = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert run("verify", outcome.json["model"], "--json").code == 5
        mended = run("verify", outcome.json["model"], "--repair", "--json")
        assert mended.code == 0, mended.stderr
    assert path.read_bytes() == good


def test_safetensors_come_before_gguf_unless_a_file_is_named() -> None:
    both = {"model.safetensors", "config.json", "a.Q8_0.gguf"}
    assert not is_gguf_only(both)
    assert is_gguf_only({"config.json", "a.Q8_0.gguf"})
    assert not is_gguf_only({"config.json"})


def listing(*names: str) -> dict[str, HubFile]:
    return {name: HubFile(name, 1000) for name in names}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("llama-2-7b-chat.Q4_K_M.gguf", "Q4_K_M"),
        ("llama-2-7b-chat-q4_k_m.gguf", "Q4_K_M"),
        ("Q4_K_M/llama-Q4_K_M-00001-of-00002", ""),  # a part's name is no stem
        ("model-IQ2_XXS.gguf", "IQ2_XXS"),
        ("model.bf16.gguf", "BF16"),
        ("ggml-model-f16.gguf", "F16"),
        ("q8_0", "Q8_0"),
        ("llama-2-7b", ""),
        ("Q-Anything", ""),
    ],
)
def test_types_by_name(name: str, kind: str) -> None:
    assert type_of(name) == kind


def test_a_name_that_is_meant_twice_is_asked_for_again() -> None:
    found = gguf_files(listing("a.Q8_0.gguf", "b.Q8_0.gguf", "c.Q4_0.gguf"))
    assert pick("hub/x/y", found, "q4_0").name == "c.Q4_0"
    assert pick("hub/x/y", found, "b.Q8_0").name == "b.Q8_0"
    with pytest.raises(UsageError, match="3 GGUF files") as several:
        pick("hub/x/y", found, "Q8_0")
    assert several.value.hint == "llama-hub download x/y:Q4_0"
    with pytest.raises(NotFoundError, match="no GGUF files"):
        pick("hub/x/y", [], "Q8_0")


@pytest.mark.parametrize("text", ["a/b:", "hf://a/b:../c", "hf://a/b:x y", "hf://a/b::c"])
def test_what_is_no_file_is_no_repository(text: str) -> None:
    if text.startswith("hf://"):
        with pytest.raises(UsageError, match="is not a repository"):
            parse(text)
    else:
        assert parse(text) is None


def test_the_parts_of_a_repositorys_name() -> None:
    assert parse("a/b:Q4_K_M@v1") == RepositoryId("a/b", "v1", "Q4_K_M")
    assert str(RepositoryId("a/b", "v1", "Q4_K_M")) == "a/b:Q4_K_M@v1"
    long = RepositoryId(f"{'o' * 40}/{'n' * 50}", file="Q4_K_M")
    assert long.variant_id("Q4_K_M") != long.variant_id("Q8_0")
