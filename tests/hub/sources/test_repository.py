"""Repositories that no catalogue lists: licence, family and completeness before any weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from llama_hub.errors import UsageError
from llama_hub.hub.repository_id import RepositoryId, parse
from llama_hub.hub.sources import model_card
from llama_hub.hub.store import Store
from llama_hub.hub.verify import verify
from llama_hub.licenses.gate import Acceptance, Gate, Texts
from llama_hub.licenses.terms import load
from llama_hub.licenses.wording import normalised_sha256
from tests.support import models
from tests.support.command import Outcome, run
from tests.support.fake_hub import FakeHub

NAME = "acme/Vicuna-7B"
LOCAL = "acme--vicuna-7b"
SECOND = "model-00002-of-00002.safetensors"
OPEN = b"---\nlicense: apache-2.0\n---\n# A card\n"
LLAMA_2 = b"---\nlicense: llama2\nbase_model: meta-llama/Llama-2-7b-hf\n---\n"


def files(card: bytes = OPEN, **changed: bytes | None) -> dict[str, bytes]:
    """A repository; ``changed``: by name with ``__`` for a dot, ``None`` for a file less."""
    found = models.hf_files() | {"README.md": card, "chat_template.jinja": b"{{ messages }}"}
    for name, data in changed.items():
        path = name.replace("__", ".")
        if data is None:
            del found[path]
        else:
            found[path] = data
    return found


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)


def download(
    monkeypatch: pytest.MonkeyPatch, hub: FakeHub, *more: str, name: str = NAME
) -> Outcome:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    return run("download", name, *more, "--json")


def weights_asked(hub: FakeHub) -> bool:
    return any(seen.path.endswith((".safetensors", ".bin")) for seen in hub.hub.seen)


def test_a_repository_comes_whole_with_its_template(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub(NAME, files(), gated=False) as hub:
        outcome = download(monkeypatch, hub)
        assert outcome.code == 0, outcome.stderr
        assert outcome.json["model"] == LOCAL
        stored = Store().find(LOCAL)
        assert (stored.path / "chat_template.jinja").read_bytes() == b"{{ messages }}"
        assert stored.manifest.source["commit"] == hub.commit
        assert stored.manifest.license == "other-open"
        assert verify(stored.path).ok
        again = download(monkeypatch, hub, name=LOCAL)
        assert again.json["reused"]


def test_another_commit_is_another_download(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub(NAME, files(), gated=False) as hub:
        assert not download(monkeypatch, hub).json["reused"]
        assert download(monkeypatch, hub).json["reused"]
        hub.commit = "b" * 40
        hub.files["generation_config.json"] = b"{}"
        moved = download(monkeypatch, hub, "--revision", "b" * 40)
        assert moved.code == 0, moved.stderr
        assert not moved.json["reused"]
        assert download(monkeypatch, hub, name=f"hf://{NAME}@main").json["reused"]
    assert Store().find(LOCAL).manifest.source["commit"] == "b" * 40


@pytest.mark.parametrize(
    ("card", "said"),
    [(b"# no head", "nothing"), (b"---\nlicense: cc-by-nc-4.0\n---\n", "cc-by-nc-4.0"),
     (b"---\nlicense: other\n---\n", "other"), (b"---\n[broken\n---\n", "not valid YAML"),
     (b"---\nlicense: mit\nbase_model: acme/unseen\n---\n", "acme/unseen")],
)  # fmt: skip
def test_a_licence_that_cannot_be_told_has_to_be_stated(
    card: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub(NAME, files(card), gated=False) as hub:
        outcome = download(monkeypatch, hub)
        assert outcome.code == 3
        assert said in outcome.json["error"]["message"]
        assert "--license" in outcome.json["error"]["hint"]
        assert not weights_asked(hub)
        assert download(monkeypatch, hub, "--license", "other-open").code == 0


@pytest.mark.parametrize(
    "card",
    [b"---\nlicense: llama2\n---\n",
     b"---\nlicense: mit\nbase_model: meta-llama/Llama-2-7b-hf\n---\n",
     b"---\nlicense: other\nlicense_name: llama-2-community-license\n---\n",
     b"---\nlicense: apache-2.0\nbase_model: [a/b, NousResearch/Llama-2-13b]\n---\n"],
)  # fmt: skip
def test_what_was_made_from_llama_2_inherits_its_licence(
    card: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub(NAME, files(card), gated=False) as hub:
        outcome = download(monkeypatch, hub)
        assert outcome.code == 3
        assert "llama-2-community" in outcome.json["error"]["message"]
        assert "license accept llama-2-community" in outcome.json["error"]["hint"]
        assert download(monkeypatch, hub, "--license", "other-open").code == 3
        assert not weights_asked(hub)


def test_the_accepted_agreement_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "The agreement of Llama 2, in some wording.\n"
    statement = Acceptance("Ada", "ada@example.org", "", True, True, normalised_sha256(text))
    Gate().accept(load("llama-2-community"), Texts(text), lambda *_: statement)
    with FakeHub(NAME, files(LLAMA_2), gated=False) as hub:
        outcome = download(monkeypatch, hub)
    assert outcome.code == 0, outcome.stderr
    stored = Store().find(LOCAL)
    assert (stored.path / "LICENSE").read_text() == text
    assert (stored.path / "LICENSE.model").is_file()
    assert "Llama 2" in (stored.path / "NOTICE").read_text()
    assert outcome.json["receipt"] == Gate().require("llama-2-community").id


def test_the_agreement_and_the_models_own_licence_are_mended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The one comes from the receipt, the other from the repository, where it is LICENSE."""
    text = "The agreement of Llama 2, in some wording.\n"
    statement = Acceptance("Ada", "ada@example.org", "", True, True, normalised_sha256(text))
    Gate().accept(load("llama-2-community"), Texts(text), lambda *_: statement)
    with FakeHub(NAME, files(LLAMA_2), gated=False) as hub:
        assert download(monkeypatch, hub).code == 0
        stored = Store().find(LOCAL)
        own = (stored.path / "LICENSE.model").read_bytes()
        (stored.path / "LICENSE").write_text("Everything is allowed.\n")
        (stored.path / "LICENSE.model").unlink()
        mended = run("verify", LOCAL, "--repair", "--json")
        assert mended.code == 0, mended.stderr
    assert (stored.path / "LICENSE").read_text() == text
    assert (stored.path / "LICENSE.model").read_bytes() == own


CONFIG = json.loads(models.hf_files()["config.json"])


def config(**values: object) -> bytes:
    return json.dumps(CONFIG | values).encode()


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"config__json": config(model_type="mistral")}, "'mistral' is another family"),
        ({"config__json": config(hidden_act="relu2")}, "hidden_act"),
        ({"config__json": config(vocab_size=128256)}, "Llama 3"),
        ({"config__json": config(quantization_config={"quant_method": "awq"})}, "AWQ"),
        ({"tokenizer__model": None}, "no tokenizer"),
        ({"model-00002-of-00002__safetensors": b"\x08" + models.noise(20_000)}, "header"),
        ({"model-00002-of-00002__safetensors": None}, "incomplete"),
        ({"config__json": config(intermediate_size=48)}, "has shape"),
        ({"config__json": config(num_hidden_layers=2)}, "is missing"),
        ({"adapter_config__json": b"{}"}, "adapter"),
    ],
)
def test_what_cannot_be_served_is_told_before_the_weights(
    changed: dict[str, bytes | None], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub(NAME, files(**changed), gated=False) as hub:
        outcome = download(monkeypatch, hub)
        assert outcome.code in (5, 6), outcome.stdout
        assert said in outcome.json["error"]["message"]
        assert outcome.json["error"]["hint"]
        total = sum(int(seen.headers.get("content-length", 0)) for seen in hub.cdn.seen)
        assert total == 0
    assert Store().all() == []


@pytest.mark.parametrize(
    ("names", "said"),
    [(("adapter_config.json", "adapter_model.safetensors"), "is an adapter"),
     (("README.md",), "no model")],
)  # fmt: skip
def test_a_repository_without_a_model(
    names: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeHub(NAME, dict.fromkeys(names, b"x"), gated=False) as hub:
        outcome = download(monkeypatch, hub)
    assert outcome.code == 6
    assert said in outcome.json["error"]["message"]


def test_a_missing_or_private_repository_is_told_apart_from_a_gate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeHub(NAME, files(), gated=False) as hub:
        outcome = download(monkeypatch, hub, name="acme/unseen")
        assert outcome.code == 6
        assert "HF_TOKEN" in outcome.json["error"]["hint"]
    with FakeHub(NAME, files()) as hub:
        assert download(monkeypatch, hub).code == 4


def test_the_rate_limit_is_waited_out_as_told(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    sleep = "llama_hub.hub.transfer.retry.Cancel.sleep"
    monkeypatch.setattr(sleep, lambda _self, seconds: waits.append(seconds))
    with FakeHub(NAME, files(), gated=False) as hub:
        limited = {"RateLimit": '"resolvers";r=0;t=240'}
        hub.hub.fault("config.json", "status", status=429, headers=limited)
        assert download(monkeypatch, hub).code == 0
    assert 240.0 in waits


def test_the_catalogues_repository_is_the_catalogues_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with FakeHub("meta-llama/Llama-2-7b-hf", files(), gated=True) as hub:
        outcome = download(monkeypatch, hub, name="meta-llama/Llama-2-7b-hf")
    assert outcome.code == 4
    assert "gated" in outcome.json["error"]["message"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/x", RepositoryId("acme/x")),
        ("acme/x@refs/pr/1", RepositoryId("acme/x", "refs/pr/1")),
        ("hf://acme/x@v1.0", RepositoryId("acme/x", "v1.0")),
        ("https://huggingface.co/acme/x/tree/main", RepositoryId("acme/x", "main")),
        ("./acme", None), ("/acme/x", None), ("a/b/c", None), ("llama-2-7b", None),
        ("acme/..", None), ("acme/x@../y", None), ("~/x", None),
    ],
)  # fmt: skip
def test_the_name_of_a_repository(text: str, expected: RepositoryId | None) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize("text", ["hf://acme", "hf://a/../b", "https://huggingface.co/a/b/c/d/e"])
def test_what_has_the_scheme_and_is_no_repository(text: str) -> None:
    with pytest.raises(UsageError, match="not a repository"):
        parse(text)


def test_every_repository_has_one_plain_name_in_the_store() -> None:
    ids = [RepositoryId(name).model_id for name in ("A/b", "a/b_.c", "a/b.c", "org/" + "x" * 90)]
    assert ids[0] == "a--b"
    assert len(set(ids)) == 4
    assert all("/" not in one for one in ids)


def test_a_card_of_any_content_is_read_or_says_why_not() -> None:
    assert model_card.read(b"---\nlicense: [llama2, MIT]\n---\n").licenses == ("llama2", "mit")
    assert model_card.read(b"---\nlicense: 3\nbase_model: {a: 1}\n---\n") == model_card.Card()
    assert model_card.read(None) == model_card.Card()
    assert model_card.read(b"---\n- a\n---\n").problem


def cached(folder: Path, files: dict[str, bytes]) -> None:
    """Large files as the Hugging Face libraries' cache has them."""
    blobs = folder / "hub" / f"models--{NAME.replace('/', '--')}" / "blobs"
    blobs.mkdir(parents=True)
    for name, data in files.items():
        if name.endswith(".safetensors"):
            (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)


def test_what_the_cache_of_hugging_face_has_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = files()
    cached(tmp_path / "hf", known)
    damaged = next((tmp_path / "hf").rglob(hashlib.sha256(known[SECOND]).hexdigest()))
    damaged.write_bytes(known[SECOND][:-1] + b"!")
    before = damaged.read_bytes()
    with FakeHub(NAME, known, gated=False) as hub:
        outcome = download(monkeypatch, hub)
    assert outcome.code == 0, outcome.stderr
    assert len(known[SECOND]) <= outcome.json["bytes_transferred"] < 2 * len(known[SECOND])
    assert "is not what its name says" in outcome.stderr
    assert damaged.read_bytes() == before
    stored = Store().find(NAME)
    assert stored.id == LOCAL
    assert verify(stored.path).ok
    assert (stored.path / SECOND).read_bytes() == known[SECOND]


def test_offline_the_hub_is_not_asked_and_the_cache_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    cached(tmp_path / "hf", files())
    with FakeHub(NAME, files(), gated=False) as hub:
        outcome = download(monkeypatch, hub)
        assert hub.hub.seen == []
    assert outcome.code == 10
    assert f"llama-hub import hf://{NAME}" in outcome.json["error"]["hint"]
