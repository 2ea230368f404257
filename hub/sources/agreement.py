"""The text of a licence that a model inherits, where the model does not hand it out itself.

Most fine-tunes say ``license: llama2`` and hold no LICENSE, or that of their own additions. The
agreement then comes from the base's repository, or from the receipt of who has accepted it before;
it is what the gate shows, and what lies in the store as LICENSE.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from llama_hub.errors import LicenseError
from llama_hub.hub.catalog import Model
from llama_hub.hub.manifest import Manifest
from llama_hub.hub.sources.base import FetchPlan, Source
from llama_hub.hub.transfer.remote_file import BytesRequest, RemoteFile
from llama_hub.licenses.gate import Gate, Texts
from llama_hub.licenses.terms import License
from llama_hub.licenses.wording import normalised_sha256

OWN = "LICENSE.model"  # in the store: what the model itself has as LICENSE, and is another text
_TEXTS = ("LICENSE", "USE_POLICY.md")


@dataclass
class WithAgreement:
    """A source whose model is under ``agreement``, which another place handed out."""

    source: Source
    agreement: Texts
    kind: str = field(init=False)

    def __post_init__(self) -> None:
        self.kind = self.source.kind

    @property
    def about(self) -> str:
        """That of the source."""
        return self.source.about

    def texts(self, model: Model) -> Texts:
        """The agreement."""
        return self.agreement

    def holds(self, manifest: Manifest) -> bool:
        """As the source says."""
        return self.source.holds(manifest)

    def plan(self, model: Model) -> FetchPlan:
        """The source's files, and the agreement among them."""
        plan = self.source.plan(model)
        kept = [
            replace(file, path=OWN) if file.path == "LICENSE" else file
            for file in plan.files
            if file.path != "USE_POLICY.md" or self.agreement.policy is None
        ]
        added = dict(zip(_TEXTS, (self.agreement.license, self.agreement.policy), strict=True))
        files = [
            RemoteFile(
                name, BytesRequest(text.encode(), f"the agreement ({name})"), len(text.encode())
            )
            for name, text in added.items()
            if text is not None
        ]
        lacks = tuple(name for name in plan.lacks if added.get(name) is None)
        return replace(plan, files=(*kept, *files), lacks=lacks)

    def close(self) -> None:
        """Let idle connections go."""
        self.source.close()


def agreement_for(
    license: License, where: str, own: Texts | None, gate: Gate, others: Iterable[Texts]
) -> Texts | None:
    """What has to be accepted in place of ``own``; ``None`` if that is it.

    ``others``: texts of the models that it was made from, the nearest first. ``LicenseError`` with
    the command that helps, where nobody has the text.
    """
    if not license.gated or (own is not None and _is_wording(own.license, license)):
        return None
    for texts in others:
        if _is_wording(texts.license, license):
            return texts
    try:
        receipt = gate.require(license.id)
    except LicenseError as error:
        raise LicenseError(
            f"{where} is under {license.id} and does not hand out its text, nor does what it was "
            "made from",
            hint=f"get the text ({license.url or 'from the licensor'}), then: llama-hub license "
            f"accept {license.id} --text-file LICENSE [--policy-file USE_POLICY.md]",
        ) from error
    text = gate.ledger.text(receipt.license_sha256 or "")
    policy = gate.ledger.text(receipt.policy_sha256) if receipt.policy_sha256 else None
    return Texts(text, policy, {"kind": "receipt", "receipt": receipt.id})


def _is_wording(text: str, license: License) -> bool:
    """Whether a text is that licence's: a known wording, or one that has its name."""
    if not text.strip():
        return False
    words = " ".join(text.split()).lower()
    named = license.name.lower().removesuffix(" agreement") in words
    return not license.known_licenses or normalised_sha256(text) in license.known_licenses or named
