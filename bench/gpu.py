"""The engine beside its peers on a CUDA device: decode, prefill, many at once, bandwidth.

    python bench/gpu.py [--quick] [--layers 32] [--rounds 5] [--out bench/results/gpu.json]
        [--vllm-python PYTHON]  an interpreter that has vLLM
        [--device cpu --quick]  only to see the script run where there is no GPU

The method and the seeded weights are those of bench/inference.py: every contestant is a process
that stays loaded, rounds take them in turn, medians and ratios are what to quote. Contestants:
our engine in bfloat16, int8 and int4; ``generate`` of transformers as it comes; the same with a
static cache and its forward pass compiled with CUDA graphs, the baseline that a careful person
writes in an afternoon; and vLLM where its interpreter is given. The device's bandwidth is what
summing 4 GiB reads; a decode step reads the weights once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engines import (
    CONTEXT,
    CROWD,
    PROMPT,
    QUICK,
    SHAPE,
    Contestant,
    ask_ours,
    generate_timed,
    make_model,
    measure,
    measure_crowd,
    serve_lines,
)

ANSWER = 128
PAIRS = [  # ours over theirs
    ("bf16 / transformers", "ours bf16", "transformers bf16"),
    ("bf16 / compiled", "ours bf16", "compiled bf16"),
    ("int8 / compiled", "ours int8", "compiled bf16"),
    ("int4 / compiled", "ours int4", "compiled bf16"),
    ("bf16 / vllm", "ours bf16", "vllm bf16"),
]


# --- contestants ------------------------------------------------------------------------------


def run_ours(folder: Path, kind: str, device: str) -> None:
    """Our engine through its public protocol."""
    from llama_hub.inference.config import EngineOptions
    from llama_hub.inference.torch_engine import TorchEngine

    options = EngineOptions(
        device=device,
        quantize=None if kind == "bf16" else kind,  # type: ignore[arg-type]
        context=CONTEXT,
        max_batch=CROWD,
        prefix_caching=False,
    )
    engine = TorchEngine(folder, options)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.start())
    serve_lines(
        lambda question: loop.run_until_complete(ask_ours(engine, **question)),
        {"ready": engine.info.quantization or engine.info.dtype},
    )


def run_transformers(folder: Path, kind: str, device: str) -> None:
    """``generate`` of transformers in bfloat16, as it comes or compiled over a static cache."""
    import torch
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    extra: dict[str, Any] = {}
    if kind == "compiled":
        model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
        extra["cache_implementation"] = "static"
    with torch.inference_mode():
        serve_lines(
            lambda question: generate_timed(model, device, extra, **question), {"ready": kind}
        )


def run_vllm(folder: Path) -> None:
    """vLLM as it comes, bfloat16, tokens in and out."""
    from vllm import LLM, SamplingParams

    model = LLM(
        str(folder),
        dtype="bfloat16",
        max_model_len=CONTEXT,
        max_num_seqs=CROWD,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
        gpu_memory_utilization=0.3,  # the others stand on the same device
    )

    def timed(prompts: list[list[int]], tokens: int) -> float:
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        begun = time.perf_counter()
        model.generate([{"prompt_token_ids": each} for each in prompts], params, use_tqdm=False)
        return time.perf_counter() - begun

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        prompts, tokens = question["prompts"], question["tokens"]
        wall = timed(prompts, tokens)
        if len(prompts) > 1:
            return {"wall": wall, "count": len(prompts) * tokens}
        first = timed(prompts, 1)
        return {"first": first, "rest": wall - first, "count": tokens}

    serve_lines(answer, {"ready": "bfloat16"})


# --- the whole --------------------------------------------------------------------------------


def read_bandwidth(device: str) -> float:
    """Bytes per second that summing a large array reads, best of ten."""
    import torch

    size = 1 << (30 if device.startswith("cuda") else 26)
    numbers = torch.ones(size, dtype=torch.float32, device=device)
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        numbers.sum().item()  # waits for the device
        best = min(best, time.perf_counter() - begun)
    return size * 4 / best


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


def worker(options: argparse.Namespace, which: str, folder: Path, kind: str) -> list[str]:
    """The command of one contestant."""
    python = options.vllm_python if which == "vllm" else sys.executable
    script = str(Path(__file__).resolve())
    command = [python, script, "--worker", which, "--model", str(folder)]
    return [*command, "--kind", kind, "--device", options.device]


def gather_contestants(options: argparse.Namespace, folder: Path) -> list[Contestant]:
    wanted = [("ours", kind) for kind in ("bf16", "int8", "int4")]
    wanted += [("transformers", "bf16")]
    if options.device.startswith("cuda"):
        wanted += [("transformers", "compiled")]
    if options.vllm_python:
        wanted += [("vllm", "bf16")]
    names = {("transformers", "compiled"): "compiled bf16"}
    return [
        Contestant(names.get(each, " ".join(each)), worker(options, each[0], folder, each[1]))
        for each in wanted
    ]


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Make the model, run everybody; what was found."""
    shape = QUICK if options.quick else SHAPE
    layers = options.layers or (2 if options.quick else 32)
    rounds = 2 if options.quick else options.rounds
    bandwidth = read_bandwidth(options.device)
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="llama-hub-bench-") as name:
        folder = make_model(Path(name) / "model", shape, layers)
        contestants = gather_contestants(options, folder)
        try:
            times = measure(contestants, rounds, ANSWER, absent)
            many = [each for each in contestants if each.name.startswith(("ours", "vllm"))]
            crowd = measure_crowd(many, rounds, absent)
        finally:
            for each in contestants:
                each.close()
    decode = {name: statistics.median(found["decode"]) for name, found in times.items()}
    prefill = {name: statistics.median(found["prefill"]) for name, found in times.items()}
    dim, ffn, vocab = (shape[key] for key in ("dim", "ffn", "vocab"))
    read = 2 * (layers * (4 * dim * dim + 3 * dim * ffn) + dim * vocab)
    return {
        "device": device_name(options.device),
        "model": {**shape, "layers": layers, "prompt": PROMPT, "answer": ANSWER},
        "rounds": rounds,
        "read_bandwidth_gb_per_second": round(bandwidth / 1e9, 1),
        "decode_ms_per_token": {name: round(1000 * each, 3) for name, each in decode.items()},
        "prefill_tokens_per_second": {name: round(1 / each, 1) for name, each in prefill.items()},
        "eight_at_once_tokens_per_second": {
            name: round(statistics.median(each), 1) for name, each in crowd.items()
        },
        "speed_ratios": {
            f"{what} {name}": round(table[theirs] / table[ours], 3)
            for what, table in (("decode", decode), ("prefill", prefill))
            for name, ours, theirs in PAIRS
            if theirs in table
        }
        | {"decode bf16 / read bandwidth": round(read / decode["ours bf16"] / bandwidth, 3)},
        "absent": absent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model and two rounds")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vllm-python")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=["ours", "transformers", "vllm"], help="internal")
    parser.add_argument("--model", type=Path, help="internal")
    parser.add_argument("--kind", help="internal")
    options = parser.parse_args()
    if options.worker == "ours":
        run_ours(options.model, options.kind, options.device)
    elif options.worker == "transformers":
        run_transformers(options.model, options.kind, options.device)
    elif options.worker == "vllm":
        run_vllm(options.model)
    else:
        text = json.dumps(compare(options), indent=1)
        print(text)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
