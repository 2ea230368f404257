"""Proof of what runs: the digest that the service states, what storage holds, what we meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llama_hub.deploy import client, rollout
from llama_hub.deploy.backend import (
    SERVED,
    TAG_LICENSE,
    Attestable,
    Backend,
    Deployed,
    Invoker,
    Proof,
)
from llama_hub.deploy.deployer import Artifacts, Deployer
from llama_hub.deploy.spec import DeploymentSpec
from llama_hub.errors import LlamaHubError
from llama_hub.evaluation.record import Record
from llama_hub.hub import unchanged
from llama_hub.hub.manifest import Manifest
from llama_hub.licenses.gate import Gate

POLICY = "policy"  # the moderation policy that a service states


@dataclass(frozen=True)
class Attestation:
    """What was expected, what is served, and every line of evidence."""

    name: str
    expected: str | None  # digest of the manifest that was deployed from here, else of the tags
    served: str | None  # digest that the running service states
    checks: tuple[Proof, ...]
    ledger_head: str | None = None  # of this machine's licence ledger at this moment

    @property
    def ok(self) -> bool:
        """Whether the running model is the expected one."""
        return self.expected is not None and all(check.ok for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The document of ``attest``."""
        return {
            "name": self.name,
            "ok": self.ok,
            "expected": self.expected,
            "served": self.served,
            "checks": [
                {"what": one.what, "ok": one.ok, "evidence": one.evidence} for one in self.checks
            ],
            "ledger_head": self.ledger_head,
        }


def attest(
    deployer: Deployer, name: str, artifacts: Artifacts, scored: Record | None = None
) -> Attestation:
    """Collect the evidence about ``name``; failing to get some is a failed line, no exception.

    ``scored``: the record of an evaluation, of which it is shown whether it is of what is served.
    """
    backend = deployer.backend
    deployed = backend.status(name)
    good = deployer.journal(name).history().good
    expected = good[-1]["manifest"] if good else deployed.manifest
    local, about_local = _local(backend, good, expected, artifacts)
    proofs = _proofs(backend, name, local)
    served = next((one.evidence for one in proofs if one.what == "manifest"), None)
    unstated = next((one for one in proofs if one.what == SERVED), None)
    proofs = [*proofs, *_moderation(good, proofs)]
    checks = [
        unstated or _compare(SERVED, expected, served),
        _compare("tags", expected, deployed.manifest),
        about_local,
        _license(deployed),
        *_ledger(good),
        *(one for one in proofs if one.what not in ("manifest", SERVED, POLICY)),
        *(() if scored is None else _scored(scored, served, proofs)),
    ]
    return Attestation(name, expected, served, tuple(checks), _head())


def _compare(what: str, expected: str | None, found: str | None) -> Proof:
    ok = found is not None and found == expected
    return Proof(what, ok, found or "nothing is stated")


def _local(
    backend: Backend, good: Sequence[Any], expected: str | None, artifacts: Artifacts
) -> tuple[Manifest | None, Proof]:
    """The manifest on this machine, and whether it is the one that was deployed.

    That is the deployment's own, where it keeps one here; its files are looked at, too.
    """
    if not good:
        return None, Proof("local", True, "deployed from another machine; compared with the tags")
    try:
        own = rollout.held(backend, good[-1])
        if own is not None:
            unchanged.check(own.folder, own.manifest)
        manifest = (own or artifacts(DeploymentSpec(**good[-1]["spec"]))).manifest
    except LlamaHubError as error:
        return None, Proof("local", False, error.message)
    return manifest, Proof("local", manifest.digest == expected, manifest.digest)


def _proofs(backend: Backend, name: str, manifest: Manifest | None) -> Sequence[Proof]:
    """What the platform and the service state."""
    proofs: list[Proof] = []
    if isinstance(backend, Attestable) and manifest is not None:
        try:
            proofs += backend.prove(name, manifest)
        except LlamaHubError as error:
            proofs.append(Proof("platform", False, error.message))
    if not isinstance(backend, Invoker) and not any(one.what == "manifest" for one in proofs):
        proofs += _asked(backend, name)
    return proofs


def _asked(backend: Backend, name: str) -> Sequence[Proof]:
    """The service's own word, at ``/manifest``: what it serves, and how it computes."""
    import httpx

    try:
        answer = client.get(backend.endpoint(name), "/manifest")
        stated = answer["manifest"]
    except (LlamaHubError, httpx.HTTPError, KeyError, TypeError, ValueError) as error:
        return [Proof("service", False, f"/manifest: {getattr(error, 'message', error)}")]
    proofs = [Proof("manifest", stated is not None, str(stated))]
    engine = answer.get("engine")
    proofs += policy_proof(answer.get("moderation"))
    return [*proofs, Proof("engine", True, _described(engine))] if engine else proofs


def _moderation(good: Sequence[Any], proofs: Sequence[Proof]) -> Sequence[Proof]:
    """Whether the service judges by the policy that was deployed; no line where none was."""
    wanted = good[-1]["spec"].get("moderation") if good else None
    stated = next((one.evidence for one in proofs if one.what == POLICY), "")
    if not wanted:
        return [Proof("moderation", True, stated)] if stated else ()
    from llama_hub.inference.service.moderators import policy

    try:
        expected = policy.of_spec(wanted).digest
    except LlamaHubError as error:
        return [Proof("moderation", False, error.message)]
    kept = stated.partition(" ")[0] == expected
    told = stated or "the service states no policy"
    return [Proof("moderation", kept, told if kept else f"{told}; expected {expected}")]


def policy_proof(stated: Any) -> Sequence[Proof]:
    """The service's word of its moderation policy."""
    try:
        names = ", ".join(map(str, stated["moderators"]))
        return [Proof(POLICY, True, f"{stated['policy']} ({names}; {stated['mode']})")]
    except (KeyError, TypeError):
        return ()


def _described(engine: Any) -> str:
    """Device, type, and how each kind of step is computed: a slow way is no secret."""
    try:
        about = f"{engine['engine']} on {engine['device']}, "
        about += str(engine["quantization"] or engine["dtype"])
        modes = dict(engine.get("step_modes") or {})
    except (KeyError, TypeError, ValueError):
        return "what the service says of its engine cannot be read"
    return "; ".join([about, *(f"{step}: {mode}" for step, mode in modes.items())])


def _license(deployed: Deployed) -> Proof:
    """Whether the receipt in the tags is in this machine's ledger, chain intact."""
    tag = deployed.tags.get(TAG_LICENSE, "")
    license_id, _, receipt = tag.partition("/")
    try:
        receipts = {one.id for one in Gate().ledger.receipts() if one.license == license_id}
    except LlamaHubError as error:
        return Proof("license", False, error.message)
    return Proof("license", receipt in receipts, tag or "no licence is stated")


def _ledger(good: Sequence[Any]) -> Sequence[Proof]:
    """Whether this machine's ledger still holds what it held at the deployment."""
    head = good[-1].get("ledger_head") if good else None
    if head is None:  # of another machine, or of an earlier version
        return ()
    try:
        kept = Gate().ledger.contains(head)
    except LlamaHubError as error:
        return (Proof("ledger", False, error.message),)
    gone = "" if kept else ", which the ledger no longer contains: it was rewritten"
    return (Proof("ledger", kept, f"head {head}{gone}"),)


def _scored(record: Record, served: str | None, proofs: Sequence[Proof]) -> Sequence[Proof]:
    """Whether what was scored is what is served: weights, their type, who judges."""
    subject = record.subject
    told = f"record {record.digest}, suite {record.suite}, of {subject.manifest}"
    same = subject.manifest is not None and subject.manifest == served
    checks = [Proof("evaluation", same, told)]
    engine = next((one.evidence for one in proofs if one.what == "engine"), None)
    kind = subject.quantization or subject.dtype
    if engine is not None and kind is not None:
        runs = engine.partition(";")[0].rpartition(", ")[2]
        checks.append(Proof("evaluated as", runs == kind, f"{kind}; it runs as {runs}"))
    policy = next((one.evidence.partition(" ")[0] for one in proofs if one.what == POLICY), None)
    if policy != subject.policy:
        told = f"{subject.policy or 'no policy'}; it judges by {policy or 'no policy'}"
        checks.append(Proof("evaluated under", False, told))
    return checks


def _head() -> str | None:
    try:
        return Gate().ledger.head
    except LlamaHubError:
        return None
