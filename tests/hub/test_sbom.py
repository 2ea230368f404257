"""The statements for a compliance officer: which bytes, under whose acceptance."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llama_hub.errors import IntegrityError, NotFoundError
from llama_hub.hub import sbom as statement
from llama_hub.hub.manifest import FileEntry, Manifest
from llama_hub.hub.store import Store
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Gate
from llama_hub.licenses.ledger import Receipt
from tests.support.licences import ACME, GOOD, texts, write_terms

WEIGHTS = b"weights"
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
MD5 = hashlib.md5(WEIGHTS).hexdigest()


@pytest.fixture(autouse=True)
def _acme(home: Path) -> None:
    write_terms(home / "licenses" / "terms")


@pytest.fixture
def receipt() -> Receipt:
    return Gate().accept(ACME, texts(), lambda *_: GOOD)


@pytest.fixture
def original(home: Path, receipt: Receipt) -> Manifest:
    """A stored model, as it was downloaded under the receipt."""
    manifest = Manifest(
        model="acme-7b",
        format="meta",
        license=ACME.id,
        files=(FileEntry("consolidated.00.pth", len(WEIGHTS), SHA256, md5=MD5),),
        source={"kind": "mirror", "host": "mirror.example"},
        receipt=receipt.id,
    )
    return store(home, manifest)


@pytest.fixture
def converted(home: Path, original: Manifest) -> Manifest:
    """The same model in another format, made from the first."""
    files = (FileEntry("model.safetensors", 3, hashlib.sha256(b"abc").hexdigest()),)
    return store(
        home, replace(original, format="hf", files=files, parent=original.digest, source={})
    )


def store(home: Path, manifest: Manifest) -> Manifest:
    folder = home / "models" / manifest.model / manifest.format
    folder.mkdir(parents=True)
    manifest.write(folder)
    return manifest


def evidence(name: str | None = None) -> statement.Evidence:
    return statement.gather(Gate().ledger, Store(), name)


def test_plain_names_models_bytes_and_acceptance(converted: Manifest, receipt: Receipt) -> None:
    document = statement.plain(evidence())
    hf, meta = sorted(document["models"], key=lambda model: str(model["format"]))
    assert meta["accepted"]
    assert hf["parent"] == meta["manifest"]
    assert meta["files"] == [
        {"path": "consolidated.00.pth", "size": 7, "sha256": SHA256, "md5": MD5}
    ]
    assert document["receipts"] == [json.loads(json.dumps(receipt.to_json()))]
    assert [license["id"] for license in document["licenses"]] == [ACME.id]
    assert document["ledger"]["count"] == 1
    assert len(document["texts"]) == 2


def test_one_model_brings_only_its_own_receipt(converted: Manifest, receipt: Receipt) -> None:
    Gate().require("other-open")
    document = statement.plain(evidence("acme-7b"))
    assert len(document["models"]) == 2
    assert [one["id"] for one in document["receipts"]] == [receipt.id]
    assert document["ledger"]["count"] == 2


def test_a_folder_is_a_model_too(original: Manifest, home: Path, tmp_path: Path) -> None:
    original.write(tmp_path)
    assert evidence(str(tmp_path)).models == (original,)
    with pytest.raises(NotFoundError):
        evidence("no-such-model")


def test_a_model_whose_receipt_is_not_here_is_told(original: Manifest, home: Path) -> None:
    store(home, replace(original, model="stray", receipt="r-0000000000000000"))
    found = evidence()
    assert [model.model for model in found.unlicensed] == ["stray"]
    accepted = {model["model"]: model["accepted"] for model in statement.plain(found)["models"]}
    assert accepted == {"acme-7b": True, "stray": False}


def test_a_receipt_of_another_licence_does_not_count(original: Manifest, home: Path) -> None:
    stray = store(home, replace(original, model="stray", license="llama-2-community"))
    assert evidence().unlicensed == [stray]


def test_in_toto_subjects_are_the_files(converted: Manifest) -> None:
    document = statement.in_toto(evidence())
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert re.fullmatch(r"[a-z][a-z0-9+.-]*:.+", document["predicateType"])
    assert {"name": "acme-7b/meta/consolidated.00.pth", "digest": {"sha256": SHA256}} in document[
        "subject"
    ]
    assert len(document["subject"]) == 2
    assert [model["accepted"] for model in document["predicate"]["models"]] == [True, True]
    assert document["predicate"]["receipts"][0]["licensee"]["organization"] == "Engines Ltd"


def test_in_toto_without_models_is_about_the_texts(receipt: Receipt, home: Path) -> None:
    subjects = statement.in_toto(evidence())["subject"]
    assert len(subjects) == 2
    for subject in subjects:
        content = (home / subject["name"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == subject["digest"]["sha256"]


def test_in_toto_needs_a_subject() -> None:
    with pytest.raises(NotFoundError, match="nothing to state"):
        statement.in_toto(evidence())


def test_cyclonedx_has_what_the_format_requires(converted: Manifest, receipt: Receipt) -> None:
    document = statement.cyclonedx(evidence())
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert re.fullmatch(
        r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", document["serialNumber"]
    )
    references = [component["bom-ref"] for component in every_component(document)]
    assert len(references) == len(set(references)) == 4
    for component in every_component(document):
        assert component["type"] in {"machine-learning-model", "file"}
        assert component["name"]
        for known in component.get("hashes", []):
            assert len(known["content"]) == {"SHA-256": 64, "MD5": 32}[known["alg"]]


def test_cyclonedx_names_licence_licensee_and_parent(converted: Manifest, receipt: Receipt) -> None:
    components = {
        c["properties"][0]["value"]: c for c in statement.cyclonedx(evidence())["components"]
    }
    license = components["hf"]["licenses"][0]["license"]
    assert license["name"] == ACME.name
    assert license["licensing"]["altIds"] == [receipt.id]
    assert license["licensing"]["licensee"] == {
        "organization": {
            "name": "Engines Ltd",
            "contact": [{"name": "Ada Lovelace", "email": "ada@example.org"}],
        }
    }
    assert components["hf"]["pedigree"]["ancestors"][0]["version"] == components["meta"]["version"]
    assert "pedigree" not in components["meta"]


def test_cyclonedx_gives_a_listed_licence_by_its_id(home: Path) -> None:
    demo = Gate().ensure(terms.load("llama-hub-demo"), texts(), None)
    store(home, Manifest("llama-demo", "meta", "llama-hub-demo", (), receipt=demo.id))
    license = statement.cyclonedx(evidence())["components"][0]["licenses"][0]["license"]
    assert license["id"] == "Apache-2.0"
    assert "licensing" not in license


def test_a_licence_that_is_not_described_here_is_stated_by_its_id(home: Path) -> None:
    store(home, Manifest("old", "hf", "gone-license", ()))
    found = evidence()
    assert statement.plain(found)["licenses"][0]["spdx"] == "NOASSERTION"
    assert statement.cyclonedx(found)["components"][0]["licenses"][0]["license"]["name"] == (
        "gone-license"
    )


@pytest.mark.parametrize("format", statement.FORMATS)
def test_every_form_is_json(converted: Manifest, format: str) -> None:
    document = statement.FORMATS[format](evidence())
    assert json.loads(json.dumps(document)) == document


def test_nothing_is_stated_from_a_tampered_ledger(original: Manifest) -> None:
    path = Gate().ledger.path
    path.write_text(path.read_text().replace("Ada", "Eve"))
    with pytest.raises(IntegrityError):
        evidence()


def every_component(document: dict[str, Any]) -> list[dict[str, Any]]:
    models = document["components"]
    return [*models, *(file for model in models for file in model["components"])]
