"""The papers that travel with the demo model: licence, use policy and model card."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tools.demo.reference import Shape

LICENSE = """\
SPDX-License-Identifier: Apache-2.0

The demo models llama-demo and llama-demo-chat, their tokenizer and the text they were trained on
are works of the llama-hub project. You may use, change and pass them on under the Apache License,
version 2.0, whose text is at https://www.apache.org/licenses/LICENSE-2.0.

They are given as they are, without any warranty. They contain nothing of Meta's Llama models, and
Meta's Llama 2 Community License does not apply to them.
"""

USE_POLICY = """\
# Use policy of the llama-hub demo models

These models exist to try out llama-hub, to teach and to test. Please use them for that.

- Do not rely on what they say: they know a few hundred sentences and make mistakes.
- Do not use them to decide anything about people, money, health or safety.
- Do not present their text as the work of a Llama model by Meta.
- Obey the law where you are.
"""

CARD = """\
# llama-demo and llama-demo-chat

Two tiny language models with the architecture of Llama 2, trained by the llama-hub project so that
its whole road (download, verify, convert, serve, chat, deploy) can be tried without a licence
request, a network or a GPU. `llama-demo` continues simple English text; `llama-demo-chat` is tuned
from it and answers short questions in Llama 2's chat format.

| | |
|---|---|
| Parameters | {parameters:,} each |
| Layers, width, feed-forward | {layers}, {dim}, {ffn} |
| Heads, key/value heads | {heads}, {kv_heads} (grouped-query attention), head size {head_dim} |
| Vocabulary | {vocab} pieces, SentencePiece BPE with byte fallback |
| Trained sequence length | {context} tokens; do not go beyond it |
| StoredModel as | bfloat16, two model-parallel shards, Meta's layout and interleaved RoPE |
| Licence | Apache-2.0 (see LICENSE) |

## Data

No outside text. `tools/demo` writes everything from sentence templates and word lists with a seeded
generator: short stories, plain facts, and questions with answers about llama-hub, animals, colours,
numbers, days and capitals. Questions beyond that get an honest "I do not know that".

## Training

`python -m tools.demo.train --out DIR --seed {seed}`: one CPU core, PyTorch {torch}, fp32, AdamW,
cosine schedule, loss on every token for the base model and on the answers only for the chat model.

| | steps | tokens seen | held-out loss (nats per token) | CPU minutes |
|---|---|---|---|---|
{runs}

The held-out text comes from the same generator with another seed, so the loss says how well the
templates are learned, not how well the model knows English.

## Quality and limits

The text reads as simple English. The models know nothing outside their templates: wordings far from
them lead to a wrong topic, facts get mixed up, arithmetic ends at ten plus ten, and long
conversations run out of context. A system prompt can give a name, ask for short answers, or ask for
a pirate; others are ignored. Common first names are remembered, unusual ones are often garbled.
English only. They are a demonstration, not an assistant.
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What one training run did."""

    model: str
    steps: int
    tokens: int
    loss: float
    minutes: float

    def row(self) -> str:
        cells = (
            self.model,
            self.steps,
            f"{self.tokens:,}",
            f"{self.loss:.3f}",
            f"{self.minutes:.0f}",
        )
        return "| " + " | ".join(map(str, cells)) + " |"


def write_papers(folder: Path, card: str) -> None:
    papers = {"LICENSE": LICENSE, "USE_POLICY.md": USE_POLICY, "MODEL_CARD.md": card}
    for name, text in papers.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


def model_card(
    shape: Shape, *, parameters: int, context: int, seed: int, torch: str, runs: list[Run]
) -> str:
    return CARD.format(
        parameters=parameters,
        layers=shape.n_layers,
        dim=shape.dim,
        ffn=shape.ffn_dim,
        heads=shape.n_heads,
        kv_heads=shape.n_kv_heads,
        head_dim=shape.head_dim,
        vocab=shape.vocab_size,
        context=context,
        seed=seed,
        torch=torch,
        runs="\n".join(run.row() for run in runs),
    )
