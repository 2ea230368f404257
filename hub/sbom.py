"""The bill of materials for a compliance officer: models, bytes, and under whose acceptance.

Three forms of the same facts: plain JSON, an in-toto statement (v1) whose
subjects are the model files, and a CycloneDX (1.6) bill of materials with one
machine-learning-model component per stored folder.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from llama_hub import __version__
from llama_hub.errors import NotFoundError
from llama_hub.files import sha256_file
from llama_hub.hub.manifest import FileEntry, Manifest
from llama_hub.hub.store import Store
from llama_hub.licenses import terms
from llama_hub.licenses.ledger import Audit, Ledger, Licensee, Receipt, in_force, text_digests
from llama_hub.licenses.terms import License

PREDICATE_TYPE = "urn:llama-hub:license-acceptance:v1"
_NO_TERMS = "NOASSERTION"


@dataclass(frozen=True)
class Evidence:
    """The verified facts that a statement is made of."""

    audit: Audit
    receipts: tuple[Receipt, ...]
    valid: frozenset[str]  # ids of the receipts whose agreement has not ended
    models: tuple[Manifest, ...]
    texts: Mapping[str, str]  # normalised digest of each accepted text → SHA-256 of its file
    at: str  # UTC, ISO 8601

    def receipt_of(self, model: Manifest) -> Receipt | None:
        """The receipt under which ``model`` was obtained, if it is in the ledger and in force."""
        for receipt in self.receipts:
            if receipt.id == model.receipt and receipt.license == model.license:
                return receipt if receipt.id in self.valid else None
        return None

    @property
    def unlicensed(self) -> list[Manifest]:
        """Models without a receipt in force in this ledger."""
        return [model for model in self.models if self.receipt_of(model) is None]


def gather(ledger: Ledger, store: Store, name: str | None = None) -> Evidence:
    """Verify the ledger and collect everything, or what concerns the model ``name``."""
    audit = ledger.verify()
    receipts = ledger.receipts()
    models = _models(store, name)
    valid = frozenset(receipt.id for receipt in in_force(receipts))
    if name is not None:
        named = {model.receipt for model in models}
        ended = {model.license for model in models}
        receipts = [r for r in receipts if r.id in named or _ends(r, ended)]
    digests = sorted({digest for receipt in receipts for digest in text_digests(receipt)})
    return Evidence(
        audit=audit,
        receipts=tuple(receipts),
        valid=valid,
        models=tuple(models),
        texts={digest: sha256_file(ledger.text_path(digest)) for digest in digests},
        at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )


def _ends(receipt: Receipt, licenses: set[str]) -> bool:
    return receipt.method == "ended" and receipt.license in licenses


def plain(evidence: Evidence) -> dict[str, Any]:
    """Everything, in llama-hub's own terms."""
    files = {id(model): [_file(entry) for entry in model.files] for model in evidence.models}
    models = [
        _model(evidence, model) | {"bytes": model.bytes, "files": files[id(model)]}
        for model in evidence.models
    ]
    return _facts(evidence) | {"models": models}


def in_toto(evidence: Evidence) -> dict[str, Any]:
    """An in-toto statement: these files (else these accepted texts), that acceptance.

    ``NotFoundError`` if there are neither files nor texts.
    """
    subjects = [
        {"name": f"{model.model}/{model.format}/{entry.path}", "digest": {"sha256": entry.sha256}}
        for model in evidence.models
        for entry in model.files
    ] or [
        {"name": f"licenses/texts/{digest}.txt", "digest": {"sha256": sha256}}
        for digest, sha256 in evidence.texts.items()
    ]
    if not subjects:
        raise NotFoundError(
            "there is nothing to state: no model is in the store and no licence text was accepted",
            hint="llama-hub download MODEL",
        )
    models = [_model(evidence, model) for model in evidence.models]
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subjects,
        "predicateType": PREDICATE_TYPE,
        "predicate": _facts(evidence) | {"models": models},
    }


def cyclonedx(evidence: Evidence) -> dict[str, Any]:
    """A CycloneDX bill of materials (an ML-BOM)."""
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": evidence.at,
            "tools": {
                "components": [{"type": "application", "name": "llama-hub", "version": __version__}]
            },
        },
        "components": [_component(evidence, model) for model in evidence.models],
        "properties": _properties(
            ledger_head=evidence.audit.head, ledger_count=evidence.audit.count
        ),
    }


FORMATS: Mapping[str, Callable[[Evidence], dict[str, Any]]] = {
    "json": plain,
    "in-toto": in_toto,
    "cyclonedx": cyclonedx,
}


def _models(store: Store, name: str | None) -> list[Manifest]:
    """Manifests of the store; of ``name`` in every format, or of the folder that it leads to."""
    stored = store.all()
    named = [found.manifest for found in stored if name in (None, found.id)]
    return named if named or name is None else [store.find(name).manifest]


def _facts(evidence: Evidence) -> dict[str, Any]:
    ids = {receipt.license for receipt in evidence.receipts}
    ids |= {model.license for model in evidence.models}
    return {
        "created": evidence.at,
        "tool": f"llama-hub {__version__}",
        "ledger": {"count": evidence.audit.count, "head": evidence.audit.head},
        "licenses": [_terms(license_id).to_json() for license_id in sorted(ids)],
        "receipts": [receipt.to_json() for receipt in evidence.receipts],
        "texts": [
            {"normalised_sha256": digest, "sha256": sha256}
            for digest, sha256 in evidence.texts.items()
        ],
    }


def _terms(license_id: str) -> License:
    """The licence's terms; a model may name one that this machine does not describe."""
    by_id = {license.id: license for license in terms.all_licenses()}
    return by_id.get(license_id) or License(license_id, license_id, _NO_TERMS, gated=True)


def _model(evidence: Evidence, model: Manifest) -> dict[str, Any]:
    return {
        "model": model.model,
        "format": model.format,
        "manifest": model.digest,
        "parent": model.parent,
        "license": model.license,
        "receipt": model.receipt,
        "accepted": evidence.receipt_of(model) is not None,
        "source": dict(model.source),
    }


def _file(entry: FileEntry) -> dict[str, Any]:
    fields = {"path": entry.path, "size": entry.size, "sha256": entry.sha256, "md5": entry.md5}
    return {key: value for key, value in fields.items() if value is not None}


def _component(evidence: Evidence, model: Manifest) -> dict[str, Any]:
    receipt = evidence.receipt_of(model)
    component = {
        "type": "machine-learning-model",
        "bom-ref": f"{model.model}/{model.format}@{model.digest}",
        "name": model.model,
        "version": model.digest,
        "licenses": [{"license": _cyclonedx_license(_terms(model.license), receipt)}],
        "modelCard": {
            "modelParameters": {
                "task": "text-generation",
                "architectureFamily": "transformer",
                "modelArchitecture": "Llama",
            }
        },
        "components": [_cyclonedx_file(model, entry) for entry in model.files],
        "properties": _properties(
            format=model.format, manifest=model.digest, receipt=model.receipt, bytes=model.bytes
        ),
    }
    if model.parent:
        parent = {"type": "machine-learning-model", "name": model.model, "version": model.parent}
        component["pedigree"] = {"ancestors": [parent]}
    return component


def _cyclonedx_file(model: Manifest, entry: FileEntry) -> dict[str, Any]:
    hashes = [{"alg": "SHA-256", "content": entry.sha256}]
    if entry.md5:
        hashes.append({"alg": "MD5", "content": entry.md5})
    return {
        "type": "file",
        "bom-ref": f"{model.model}/{model.format}/{entry.path}@{model.digest}",
        "name": entry.path,
        "hashes": hashes,
    }


def _cyclonedx_license(license: License, receipt: Receipt | None) -> dict[str, Any]:
    """The licence; one that is not on the SPDX list goes by its name."""
    listed = not license.spdx.startswith("LicenseRef-") and license.spdx != _NO_TERMS
    document: dict[str, Any] = {"id": license.spdx} if listed else {"name": license.name}
    document |= {"acknowledgement": "declared", "properties": _properties(spdx=license.spdx)}
    if license.url:
        document["url"] = license.url
    if receipt is not None and receipt.licensee is not None:
        document["licensing"] = _licensing(license, receipt, receipt.licensee)
        document["properties"] += _properties(
            text=receipt.license_sha256, policy=receipt.policy_sha256, accepted=receipt.at
        )
    return document


def _licensing(license: License, receipt: Receipt, licensee: Licensee) -> dict[str, Any]:
    person = {"name": licensee.name, "email": licensee.email}
    bound = {"organization": {"name": licensee.organization, "contact": [person]}}
    document: dict[str, Any] = {
        "altIds": [receipt.id],
        "licensee": bound if licensee.organization else {"individual": person},
    }
    if license.licensor:
        document["licensor"] = {"organization": {"name": license.licensor}}
    return document


def _properties(**values: object) -> list[dict[str, str]]:
    given: Iterable[tuple[str, object]] = ((k, v) for k, v in values.items() if v is not None)
    return [{"name": f"llama-hub:{key.replace('_', '-')}", "value": str(v)} for key, v in given]
