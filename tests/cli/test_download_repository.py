"""``llama-hub download ORG/NAME``: any repository of the family, in the catalogue or not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import models
from tests.support.command import Outcome, run
from tests.support.fake_hub import COMMIT, FakeHub

FILES = models.hf_files(size=32_000)
NAME = "acme/Tuned-7B"


def card(text: str) -> dict[str, bytes]:
    return {"README.md": f"---\n{text}\n---\n# A fine-tune\n".encode()}


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


@contextmanager
def hub_with(
    monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], name: str = NAME
) -> Iterator[FakeHub]:
    with FakeHub(name, files, gated=False) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        yield hub


def fetched(hub: FakeHub) -> list[str]:
    """Weights that were asked for."""
    return [one.path for one in hub.hub.seen if one.path.endswith(".safetensors")]


def error(outcome: Outcome, code: int) -> dict[str, str]:
    assert outcome.code == code, outcome.stderr
    found: dict[str, str] = outcome.json["error"]
    assert found["hint"]
    return found


@pytest.mark.parametrize("text", [NAME, f"hf://{NAME}", f"https://huggingface.co/{NAME}"])
def test_an_open_fine_tune_is_downloaded_and_known_by_its_name(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_with(monkeypatch, FILES | card("license: apache-2.0")) as hub:
        outcome = run("download", text, "--json")
        assert outcome.code == 0, outcome.stderr
        again = run("download", text, "--json")
        assert again.json["reused"] is True
        assert len(fetched(hub)) > 0
    assert outcome.json["model"] == "acme--tuned-7b"
    manifest = json.loads((Path(outcome.json["path"]) / "llama-hub.json").read_text())
    assert manifest["source"]["repository"] == NAME
    assert manifest["source"]["commit"] == COMMIT
    assert run("path", "acme--tuned-7b").stdout.strip() == outcome.json["path"]
    assert run("verify", "acme--tuned-7b").code == 0
    assert "acme--tuned-7b" in run("list").stdout


def test_what_is_here_needs_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_with(monkeypatch, FILES | card("license: apache-2.0")):
        assert run("download", NAME, "--json").code == 0
    for text in (NAME, f"{NAME}@{COMMIT}", "acme--tuned-7b"):  # the Hub is gone
        assert run("download", text, "--json").json["reused"] is True, text
    assert run("download", f"{NAME}@other", "--json").code == 10


def test_a_damaged_file_is_fetched_again_from_the_same_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hub_with(monkeypatch, FILES | card("license: apache-2.0")):
        path = Path(run("download", NAME, "--json").json["path"])
        weights = path / "model-00001-of-00002.safetensors"
        weights.chmod(0o644)
        weights.write_bytes(weights.read_bytes()[:-1] + b"?")
        assert run("verify", "acme--tuned-7b").code == 5
        assert run("verify", "acme--tuned-7b", "--repair").code == 0
    assert weights.read_bytes() == FILES[weights.name]


def test_a_name_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_with(monkeypatch, FILES | card("license: mit")):
        assert run("download", NAME, "--name", "mine", "--json").json["model"] == "mine"
        error(run("download", NAME, "--name", "../mine", "--json"), 2)
        error(run("download", NAME, "--name", "llama-2-7b", "--json"), 2)


INHERITED = {
    "its card": card("license: llama2"),
    "its card's name of the licence": card("license: other\nlicense_name: llama-2"),
    "the name of its base": card("license: apache-2.0\nbase_model: meta-llama/Llama-2-7b-hf"),
}


@pytest.mark.parametrize("files", INHERITED.values(), ids=INHERITED)
def test_the_licence_of_the_base_is_asked_for(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = {name: data for name, data in FILES.items() if not name.startswith("LICENSE")}
    with hub_with(monkeypatch, plain | files) as hub:
        found = error(run("download", NAME, "--json"), 3)
        assert "llama-2-community" in found["message"]
        assert "llama-hub license accept llama-2-community" in found["hint"]
        loosened = error(run("download", NAME, "--license", "other-open", "--json"), 3)
        assert "inherits llama-2-community" in loosened["message"]
        assert fetched(hub) == []


@pytest.mark.parametrize("files", [card("tags: [x]"), card("license: other"), {"README.md": b"x"}])
def test_a_licence_that_cannot_be_told_has_to_be_stated(
    files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_with(monkeypatch, FILES | files) as hub:
        found = error(run("download", NAME, "--json"), 3)
        assert "--license" in found["hint"]
        assert fetched(hub) == []
        assert run("download", NAME, "--license", "other-open", "--json").code == 0


def config(**changes: Any) -> dict[str, bytes]:
    return {"config.json": json.dumps(json.loads(FILES["config.json"]) | changes).encode()}


NOT_SERVED: dict[str, tuple[dict[str, bytes], int, str]] = {
    "another family": (config(model_type="mistral"), 5, "model_type"),
    "an activation": (config(hidden_act="relu"), 5, "hidden_act"),
    "a quantiser's": (config(quantization_config={"quant_method": "gptq"}), 5, "gptq"),
    "Llama 3's vocabulary": (config(vocab_size=128_256), 5, "vocab_size"),
    "no tokenizer": ({"tokenizer.model": b""}, 6, "tokenizer"),
    "a web page": ({"tokenizer.model": b"<html>"}, 5, "web page"),
}


@pytest.mark.parametrize("case", NOT_SERVED.values(), ids=NOT_SERVED)
def test_what_cannot_be_served_is_said_before_its_weights_are_fetched(
    case: tuple[dict[str, bytes], int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, code, word = case
    files = {name: data for name, data in (FILES | changes).items() if data}
    with hub_with(monkeypatch, files | card("license: apache-2.0")) as hub:
        found = error(run("download", NAME, "--json"), code)
        assert word in found["message"]
        assert not [one for one in hub.cdn.seen if "safetensors" in one.path]


def test_what_is_no_gguf_file_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {"model.Q4_K_M.gguf": b"GGUF"} | card("license: apache-2.0")
    with hub_with(monkeypatch, files):
        found = error(run("download", NAME, "--json"), 5)
    assert f"{NAME}/model.Q4_K_M.gguf is no sound GGUF file" in found["message"]


def test_another_revision_is_another_download(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_with(monkeypatch, FILES | card("license: apache-2.0")):
        assert run("download", f"{NAME}@{COMMIT}", "--json").code == 0
        error(run("download", f"{NAME}@other", "--json"), 6)
        two = error(run("download", f"{NAME}@{COMMIT}", "--revision", "main", "--json"), 2)
        assert "two revisions" in two["message"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("hf://acme",), 2),
        (("hf://../x",), 2),
        (("nobody/nothing",), 6),
        (("llama-demo", "--name", "x"), 2),
        ((NAME, "--source", "meta"), 2),
    ],
)
def test_wrong_names(words: tuple[str, ...], code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_with(monkeypatch, FILES):
        error(run("download", *words, "--json"), code)
