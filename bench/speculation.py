"""Prompt lookup beside plain decoding, in the same engine's process, turn by turn.

    python bench/speculation.py [--quantize int4|int8] [--tokens 128] [--rounds 3] [--out FILE]

A random model of seeded weights (``--dim``, ``--layers``) answers three ways, for which random
weights suffice since only the number of right guesses counts:

* ``copying``: a bias makes each guess right, the most that a text which copies can gain;
* ``fresh``: tokens drawn from all of a flat distribution, which hardly repeat: what looking costs;
* ``misleading``: two tokens drawn at random, so that guesses are always made and mostly wrong.

Tokens are compared: with and without guesses they have to be the same. Figures are medians of
ratios of neighbouring runs, more than 1 is faster than plain; of the processor's time beside the
clock's, because the machine may do other work (its load is in the document).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from llama_hub.inference.config import EngineOptions
from llama_hub.inference.torch_engine import TorchEngine
from tests.support.hf_models import Shape, ask, prompt, save

WAYS: dict[str, dict[str, Any]] = {
    "copying": {"logit_bias": {7: 100.0}},
    "fresh": {"temperature": 100.0, "seed": 1, "top_p": 1.0},
    "misleading": {"temperature": 1.0, "seed": 1, "logit_bias": {7: 100.0, 8: 100.0}},
}


async def compare(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Ratios of each way; ``SystemExit`` if an answer is another with guesses."""
    known: dict[str, Any] = {"kernels": "on", "max_batch": 1, "prefix_caching": False}
    known |= {"quantize": args.quantize, "threads": args.threads}
    engines = {n: TorchEngine(folder, EngineOptions(**known, speculate=n)) for n in (0, None)}
    for engine in engines.values():
        await engine.start()
    found: dict[str, Any] = {}
    for way, sampling in WAYS.items():
        ratios: list[float] = []
        processor: list[float] = []
        before = engines[None].stats()
        for turn in range(args.rounds):
            seconds, busy, tokens = {}, {}, {}
            for speculate, engine in engines.items():
                start, begun = time.perf_counter(), time.process_time()
                answer = await ask(
                    engine, prompt(32), f"{turn}", max_tokens=args.tokens, **sampling
                )
                seconds[speculate] = time.perf_counter() - start
                busy[speculate] = time.process_time() - begun
                tokens[speculate] = answer.tokens
            if tokens[0] != tokens[None]:
                raise SystemExit(f"{way}: the answers differ")
            ratios.append(seconds[0] / seconds[None])
            processor.append(busy[0] / busy[None])
        after = engines[None].stats()
        found[way] = {
            "of_plain": round(statistics.median(ratios), 3),
            "of_plain_cpu_time": round(statistics.median(processor), 3),
            "all": [round(each, 3) for each in ratios],
            "guessed": after.draft_tokens - before.draft_tokens,
            "right": sum(after.accepted_tokens) - sum(before.accepted_tokens),
            "tokens": args.rounds * args.tokens,
        }
    for engine in engines.values():
        await engine.shutdown()
    return found


def main() -> None:
    """Make the model, compare, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quantize", choices=["int4", "int8"])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--threads", type=int, help="one, where others compute at the same time")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    shape = Shape(args.dim, args.layers, 16, 16, args.dim * 11 // 4 // 64 * 64, spread=0.02)
    with tempfile.TemporaryDirectory() as name:
        folder = save(Path(name), shape, torch.bfloat16)
        ways = asyncio.run(compare(folder, args))
    document = {
        "model": {
            "dim": args.dim,
            "layers": args.layers,
            "quantize": args.quantize,
            "threads": args.threads,
        },
        "load": os.getloadavg()[0],
        "cpus": os.cpu_count(),
        "ways": ways,
    }
    text = json.dumps(document, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
