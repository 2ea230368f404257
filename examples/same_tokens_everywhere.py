"""Deploy one model to several backends and show that each answers with the same tokens.

    python examples/same_tokens_everywhere.py chat.yaml local azure sagemaker huggingface

The file is an ordinary deployment spec; its ``options`` may hold a block for each backend::

    name: parity
    backend: local
    model: llama-demo-chat
    context: 256
    options:
      huggingface: {image: ghcr.io/acme/llama-hub:0.1}

Each backend gets the same spec, is asked the same ten prompts greedily, states the manifest that
it serves, and is removed again. Exit code 1 if anything differs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llama_hub.backends.lookup import deployer_for
from llama_hub.deploy import artifact, client
from llama_hub.deploy.apply import ApplyOptions
from llama_hub.deploy.attest import attest
from llama_hub.deploy.deployer import Artifacts, Deployer
from llama_hub.deploy.spec import DeploymentSpec

PROMPTS = (
    "What can llama-hub do?",
    "Who are you?",
    "What is a checksum?",
    "What is a llama?",
    "What is the capital of France?",
    "What colour is the sky?",
    "What is two plus three?",
    "How many days are in a week?",
    "What does a cow eat?",
    "Thank you!",
)


@dataclass(frozen=True)
class Answers:
    """What one backend said and serves."""

    backend: str
    manifest: str | None
    texts: tuple[str, ...]


def ask(
    deployer: Deployer,
    spec: DeploymentSpec,
    artifacts: Artifacts = artifact.find,
    options: ApplyOptions | None = None,
) -> Answers:
    """Deploy ``spec``, ask every prompt, attest, and remove it again, whatever happens."""
    try:
        deployer.apply(deployer.plan(spec), options)
        texts = tuple(_answer(deployer, spec.name, prompt) for prompt in PROMPTS)
        found = attest(deployer, spec.name, artifacts)
        return Answers(deployer.backend.name, found.served, texts)
    finally:
        deployer.apply(deployer.plan_delete(spec.name), options)


def _answer(deployer: Deployer, name: str, prompt: str) -> str:
    body = {"messages": [{"role": "user", "content": prompt}], "temperature": 0, "max_tokens": 48}
    return client.text_of(b"".join(client.chat(deployer.backend, name, body, stream=False)))


def differences(answers: Sequence[Answers]) -> list[str]:
    """One line for each difference from the first backend; empty if all is equal."""
    first, *others = answers
    found = []
    for other in others:
        if other.manifest != first.manifest:
            found.append(
                f"{other.backend} serves {other.manifest}, {first.backend} {first.manifest}"
            )
        for prompt, mine, theirs in zip(PROMPTS, first.texts, other.texts, strict=True):
            if mine != theirs:
                found.append(f"{prompt!r}: {first.backend} {mine!r}, {other.backend} {theirs!r}")
    return found


def show(answers: Sequence[Answers]) -> str:
    """What was asked and said, and by whom."""
    lines = [f"{one.backend:<12} {one.manifest}" for one in answers]
    lines += [
        f"{prompt}\n    {text}" for prompt, text in zip(PROMPTS, answers[0].texts, strict=True)
    ]
    return "\n".join(lines)


def spec_for(backend: str, document: Mapping[str, Any]) -> DeploymentSpec:
    """The document as a spec for ``backend``, with only its own options."""
    options = (document.get("options") or {}).get(backend, {})
    return DeploymentSpec(**{**document, "backend": backend, "options": options})


def main(arguments: Sequence[str]) -> int:
    """Run the comparison; the exit code."""
    if len(arguments) < 2:
        print("usage: same_tokens_everywhere.py SPEC.yaml BACKEND …", file=sys.stderr)
        return 2
    document = yaml.safe_load(Path(arguments[0]).read_text(encoding="utf-8"))
    answers = []
    for backend in arguments[1:]:
        spec = spec_for(backend, document)
        artifact.prepare(spec)
        answers.append(ask(deployer_for(spec), spec))
    print(show(answers))
    found = differences(answers)
    print("\n".join(found) if found else f"the same tokens from {len(answers)} backends")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
