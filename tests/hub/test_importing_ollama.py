"""Models that Ollama or LM Studio has: found by name, verified, linked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from llama_hub.hub.store import Store
from llama_hub.hub.verify import verify
from tests.support import gguf_files
from tests.support.command import run
from tests.support.gguf_files import File

TYPE = "application/vnd.ollama.image."


@pytest.fixture
def ollama(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ollama's folder with the model ``tiny:7b``, as ``ollama pull`` leaves it."""
    home = tmp_path / "ollama"
    gguf_files.write(tmp_path / "m.gguf", File(kind="Q4_K"))
    parts = [
        ("model", (tmp_path / "m.gguf").read_bytes()),
        ("license", b"Some open licence.\n"),
        ("template", b"{{ .Prompt }}"),
        ("params", b'{"stop": ["[INST]"]}'),
    ]
    layers = []
    (home / "blobs").mkdir(parents=True)
    for kind, data in parts:
        digest = hashlib.sha256(data).hexdigest()
        (home / "blobs" / f"sha256-{digest}").write_bytes(data)
        layers.append({"mediaType": TYPE + kind, "digest": f"sha256:{digest}", "size": len(data)})
    manifest = home / "manifests/registry.ollama.ai/library/tiny/7b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    monkeypatch.setenv("OLLAMA_MODELS", str(home))
    return home


def test_ollamas_model_is_imported_with_its_licence(ollama: Path) -> None:
    outcome = run("import", "ollama://tiny:7b", "--license", "other-open", "--json")
    assert outcome.code == 0, outcome.stdout
    stored = Store().find("tiny-7b")
    assert stored.manifest.format == "gguf"
    assert stored.manifest.source["name"] == "tiny:7b"
    assert (stored.path / "LICENSE").read_text() == "Some open licence.\n"
    assert verify(stored.path).ok
    assert run("import", "ollama://tiny:7b", "--json").code == 3  # its licence cannot be told


def test_a_damaged_blob_is_refused(ollama: Path) -> None:
    blob = max((ollama / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    outcome = run("import", "ollama://tiny:7b", "--license", "other-open", "--json")
    assert outcome.code == 5
    assert "damaged" in outcome.json["error"]["message"]
    assert Store().all() == []


@pytest.mark.parametrize(
    ("name", "code"), [("ollama://tiny", 6), ("ollama://../x", 2), ("ollama://", 2),
                       ("lmstudio://x", 2), ("hf://acme/none", 6), ("lmstudio://a/none", 6)],
)  # fmt: skip
def test_what_is_not_there(ollama: Path, name: str, code: int) -> None:
    outcome = run("import", name, "--json")
    assert outcome.code == code
    assert outcome.json["error"]["hint"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"layers": [{"digest": "sha256:../x"}]}', "x"])
def test_a_manifest_of_any_content_is_refused(ollama: Path, text: str) -> None:
    (ollama / "manifests/registry.ollama.ai/library/tiny/7b").write_text(text)
    assert run("import", "ollama://tiny:7b", "--json").code == 5


def test_lm_studios_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".lmstudio/models/acme/tiny-GGUF"
    folder.mkdir(parents=True)
    gguf_files.write(folder / "tiny.Q4_K_M.gguf", File(kind="Q4_K"))
    given = ("--license", "other-open", "--name", "tiny", "--json")
    outcome = run("import", "lmstudio://acme/tiny-GGUF", *given)
    assert outcome.code == 0, outcome.stdout
    assert Store().find("tiny").manifest.format == "gguf"
