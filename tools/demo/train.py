"""Makes the whole demo model: python -m tools.demo.train --out DIR --seed 0 (one core, ~20 min)."""

from __future__ import annotations

import argparse
import itertools
import logging
import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn
from torch.nn import functional

from tools.demo import cards, export, text
from tools.demo.reference import Llama, Shape
from tools.demo.tokenizer import encode_document, encode_turn, load_tokenizer, train_tokenizer

log = logging.getLogger("demo")

ROW_LENGTHS = (64, 128, 256, 512)
"""Tokens per row; each step takes one of them in turn, so short and long contexts are learned."""
STEP_TOKENS = 1024
"""Few on purpose: with a fixed time, many small steps learned more than fewer large ones."""
PEAK_RATE = 3e-3
IGNORED = -100
"""The target of tokens that carry no loss (the default `ignore_index` of cross_entropy)."""

Row = tuple[list[int], list[int]]
"""Token ids and targets of one row, equally long; targets are already shifted by one."""


def row_of(tokens: list[int], learned: list[bool], length: int) -> Row:
    """The first `length` tokens with the next token as target where that one is to be learned."""
    targets = [token if learn else IGNORED for token, learn in zip(tokens, learned, strict=True)]
    return tokens[:length], targets[1 : length + 1]


def base_rows(tokenizer: SentencePieceProcessor, seed: int) -> Iterator[Iterator[Row]]:
    """For each row length in turn, endless rows of whole documents one after another."""
    documents = text.documents(seed)

    def rows(length: int) -> Iterator[Row]:
        while True:
            tokens: list[int] = []
            while len(tokens) <= length:
                tokens += encode_document(tokenizer, next(documents))
            yield row_of(tokens, [True] * len(tokens), length)

    return itertools.cycle([rows(length) for length in ROW_LENGTHS])


def chat_rows(tokenizer: SentencePieceProcessor, seed: int) -> Iterator[Iterator[Row]]:
    """For each row length in turn, endless rows of one conversation each, answers learned."""
    conversations = text.conversations(seed)

    def rows(length: int) -> Iterator[Row]:
        while True:
            system, turns = next(conversations)
            intro = f"<<SYS>>\n{system}\n<</SYS>>\n\n" if system else ""
            tokens: list[int] = []
            learned: list[bool] = []
            while len(tokens) <= length:
                user, answer = next(turns)
                prompt, reply = encode_turn(tokenizer, intro + user, answer)
                tokens += prompt + reply
                learned += [False] * len(prompt) + [True] * len(reply)
                intro = ""
            yield row_of(tokens, learned, length)

    return itertools.cycle([rows(length) for length in ROW_LENGTHS])


def batch(rows: Iterator[Row]) -> tuple[Tensor, Tensor]:
    """STEP_TOKENS tokens and targets of equal rows: two tensors [rows, length]."""
    first = next(rows)
    rest = itertools.islice(rows, STEP_TOKENS // len(first[0]) - 1)
    tokens, targets = zip(first, *rest, strict=True)
    return torch.tensor(tokens), torch.tensor(targets)


def loss_of(model: nn.Module, tokens: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 5 % of the steps, then a cosine down to 2 % of the peak."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return peak * (0.02 + 0.49 * (1 + math.cos(math.pi * done)))


def initialise(model: Llama) -> None:
    """Normal weights of 0.02, those that write into the residual stream smaller with depth."""
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            continue
        into_residual = name.endswith(("wo.weight", "w2.weight"))
        scale = 0.02 if not into_residual else 0.02 / math.sqrt(2 * model.shape.n_layers)
        nn.init.normal_(weight, std=scale)


def optimise(model: Llama, batches: Iterator[Iterator[Row]], steps: int, peak: float) -> None:
    """AdamW over `steps` batches, fp32; logs its loss every 100 steps."""
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    for step, rows in enumerate(itertools.islice(batches, steps)):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps, peak)
        loss = loss_of(model, *batch(rows))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        if step % 100 == 99:
            log.info("step %d of %d: loss %.3f", step + 1, steps, loss.item())


@torch.inference_mode()
def evaluate(model: Llama, batches: Iterator[Iterator[Row]]) -> float:
    """Mean loss in nats per token over eight batches of each row length."""
    losses = [
        loss_of(model, *batch(rows)) for rows in itertools.islice(batches, 8 * len(ROW_LENGTHS))
    ]
    return float(torch.stack(losses).mean())


def tokenizer_lines(seed: int) -> Iterator[str]:
    """Text for the tokenizer: documents and conversations of another seed, in the same mixture."""
    documents = text.documents(seed)
    for system, turns in itertools.islice(text.conversations(seed), 2000):
        yield next(documents)
        yield system or "[INST] <<SYS>>"
        for user, answer in itertools.islice(turns, 4):
            yield f"[INST] {user} [/INST] {answer}"


def fresh_model(vocab_size: int) -> Llama:
    """An untrained model; every width is a multiple of 32, also within one of two shards."""
    model = Llama(
        Shape(
            dim=128,
            n_layers=5,
            n_heads=4,
            n_kv_heads=2,
            multiple_of=64,
            norm_eps=1e-5,
            vocab_size=vocab_size,
        )
    )
    initialise(model)
    return model


def train_variant(
    model: Llama,
    name: str,
    steps: int,
    learned: Iterator[Iterator[Row]],
    held_out: Iterator[Iterator[Row]],
) -> cards.Run:
    """Train in place, round the weights to what bfloat16 can hold, and measure."""
    began = time.process_time()
    optimise(model, learned, steps, PEAK_RATE)
    model.bfloat16().float()
    loss = evaluate(model, held_out)
    minutes = (time.process_time() - began) / 60
    run = cards.Run(name, steps, steps * STEP_TOKENS, loss, minutes)
    log.info("%s", run.row())
    return run


def train(out: Path, seed: int, steps: dict[str, int]) -> None:
    """Tokenizer, base model, chat model from the base, and their papers, all under `out`."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.model").write_bytes(train_tokenizer(tokenizer_lines(seed + 1)))
    export.write_checklist(out / "tokenizer_checklist.chk", ["tokenizer.model"])
    tokenizer = load_tokenizer((out / "tokenizer.model").read_bytes())
    model = fresh_model(tokenizer.vocab_size())
    runs = []
    for name, rows in (("llama-demo", base_rows), ("llama-demo-chat", chat_rows)):
        learned, held_out = rows(tokenizer, seed), rows(tokenizer, seed + 1)
        runs.append(train_variant(model, name, steps[name], learned, held_out))
        export.export_model(model, out / name)
    cards.write_papers(
        out,
        cards.model_card(
            model.shape,
            parameters=sum(weight.numel() for weight in model.parameters()),
            context=max(ROW_LENGTHS),
            seed=seed,
            torch=torch.__version__.partition("+")[0],
            runs=runs,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to fill, Meta's layout")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--base-steps", type=int, default=2000)
    parser.add_argument("--chat-steps", type=int, default=2400)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    steps = {"llama-demo": given.base_steps, "llama-demo-chat": given.chat_steps}
    train(given.out, given.seed, steps)


if __name__ == "__main__":
    main()
