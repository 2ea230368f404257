"""What the engine's benchmarks share: seeded models, contestants in processes, rounds in turn."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

PROMPT, ANSWER, CROWD = 256, 32, 8  # tokens of prompt and answer; requests at once
CONTEXT = 512
SHAPE = {"dim": 4096, "heads": 32, "ffn": 11008, "vocab": 32000}
QUICK = {"dim": 1024, "heads": 8, "ffn": 2752, "vocab": 32000}


def make_model(folder: Path, shape: dict[str, int], layers: int, device: str = "cpu") -> Path:
    """A Hugging Face folder with seeded random bfloat16 weights, drawn on ``device``."""
    import torch
    from safetensors.torch import save_file

    from llama_hub.hub.architecture import Architecture, to_config

    folder.mkdir(parents=True)
    torch.manual_seed(0)
    dim, ffn, vocab = shape["dim"], shape["ffn"], shape["vocab"]
    heads = shape["heads"]
    model = Architecture(dim, layers, heads, heads, ffn, vocab, context=4096)
    (folder / "config.json").write_text(json.dumps(to_config(model, "bfloat16")))

    def matrix(rows: int, columns: int) -> Any:
        drawn = torch.randn(rows, columns, device=device) * columns**-0.5
        return drawn.to(torch.bfloat16).cpu()

    index: dict[str, str] = {}

    def write(name: str, tensors: dict[str, Any]) -> None:
        save_file(tensors, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(tensors, name))

    write(
        "model-00000.safetensors",
        {
            "model.embed_tokens.weight": matrix(vocab, dim),
            "model.norm.weight": torch.ones(dim, dtype=torch.bfloat16),
            "lm_head.weight": matrix(vocab, dim),
        },
    )
    for layer in range(layers):
        start = f"model.layers.{layer}."
        tensors = {f"{start}self_attn.{n}_proj.weight": matrix(dim, dim) for n in "qkvo"}
        tensors |= {f"{start}mlp.{n}_proj.weight": matrix(ffn, dim) for n in ("gate", "up")}
        tensors[f"{start}mlp.down_proj.weight"] = matrix(dim, ffn)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{start}{norm}.weight"] = torch.ones(dim, dtype=torch.bfloat16)
        write(f"model-{layer + 1:05d}.safetensors", tensors)
    document = {"metadata": {}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(document))
    return folder


def prompt(seed: int, length: int = PROMPT) -> list[int]:
    """Ids that no other seed gives, so that no prefix cache helps."""
    return [1, *random.Random(seed).choices(range(300, 30_000), k=length - 1)]


class Contestant:
    """A process that answers ``{"prompt", "tokens", "crowd"?}`` lines with seconds."""

    def __init__(self, name: str, command: list[str], **environment: str) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env={**os.environ, **environment},
        )
        self.about = self._read()

    def ask(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        return self._read()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"{self.name} ended with status {self._process.wait()}")


def serve_lines(answer: Callable[[dict[str, Any]], dict[str, Any]], about: dict[str, Any]) -> None:
    """The other side of ``Contestant``."""
    print(json.dumps(about), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


async def ask_ours(engine: Any, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    from llama_hub.inference.engine import GenerationRequest, SamplingParams

    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    begun = time.perf_counter()

    async def one(number: int) -> tuple[float, float, int]:
        first, count = 0.0, 0
        async for delta in engine.generate(
            GenerationRequest(f"{begun}-{number}", tuple(prompts[number]), params)
        ):
            first = first or time.perf_counter()
            count += len(delta.tokens)
        return first - begun, time.perf_counter() - first, count

    answers = await asyncio.gather(*(one(number) for number in range(len(prompts))))
    first, rest, _ = answers[0]
    wall = time.perf_counter() - begun
    return {"first": first, "rest": rest, "wall": wall, "count": sum(a[2] for a in answers)}


def generate_timed(
    model: Any, device: str, extra: dict[str, Any], prompts: list[list[int]], tokens: int
) -> dict[str, Any]:
    """One greedy answer of transformers, and when its tokens were there."""
    import torch

    (ids,) = prompts
    made: list[float] = []

    def note(so_far: Any, scores: Any, **_: Any) -> Any:
        if device != "cpu":
            torch.cuda.synchronize()
        made.append(time.perf_counter())
        return torch.zeros(len(so_far), dtype=torch.bool, device=device)

    begun = time.perf_counter()
    model.generate(
        torch.tensor([ids], device=device),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long, device=device),
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        do_sample=False,
        pad_token_id=0,
        stopping_criteria=[note],
        **extra,
    )
    return {"first": made[0] - begun, "rest": made[-1] - made[0], "count": len(made)}


def measure(
    contestants: list[Contestant], rounds: int, answer: int, failed: dict[str, str]
) -> dict[str, dict[str, list[float]]]:
    """Seconds per token of prefill and decode, in turn; the first round warms up.

    A contestant that ends is noted in ``failed`` and leaves both lists.
    """
    found: dict[str, dict[str, list[float]]] = {
        each.name: {"prefill": [], "decode": []} for each in contestants
    }
    for number in range(rounds + 1):
        for each in list(contestants):
            try:
                result = each.ask(prompts=[prompt(1000 + number)], tokens=answer)
            except (RuntimeError, OSError) as error:
                failed[each.name] = f"alone: {error}"
                contestants.remove(each)
                each.close()
                del found[each.name]
                continue
            if number:
                found[each.name]["prefill"].append(result["first"] / PROMPT)
                found[each.name]["decode"].append(result["rest"] / (answer - 1))
    return found


def measure_crowd(
    contestants: Iterable[Contestant], rounds: int, failed: dict[str, str]
) -> dict[str, list[float]]:
    """Answer tokens per second of eight requests at once; see ``measure`` for ``failed``."""
    everyone = list(contestants)
    found: dict[str, list[float]] = {each.name: [] for each in everyone}
    for number in range(rounds):
        for each in list(everyone):
            prompts = [prompt(5000 + number * CROWD + n) for n in range(CROWD)]
            try:
                result = each.ask(prompts=prompts, tokens=ANSWER)
            except (RuntimeError, OSError) as error:
                failed[each.name] = f"eight at once: {error}"
                everyone.remove(each)
                each.close()
                del found[each.name]
                continue
            found[each.name].append(result["count"] / result["wall"])
    return found
