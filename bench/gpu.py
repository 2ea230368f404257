"""The engine on a CUDA device: start, decode, prefill, many at once, share of the bandwidth.

    python bench/gpu.py [--quick] [--layers 32] [--kinds bf16,int8,int4] [--peers] [--rounds 3]
        [--vllm-python PYTHON]   an interpreter that has vLLM
        [--folder DIR]           where the model of 13.5 GB is written (default: a temporary one)
        [--out bench/results/gpu.json]
        [--device cpu --quick]   only to see the script run where there is no GPU

One contestant is loaded at a time, each in a process of its own, over one folder with seeded
weights of the 7B model's shape. ``ready`` is from the start of the process to the first answer
that it could give, without and with compiled kernels from an earlier start. ``decode`` is the
median time between two tokens of one request while the given number decode together; its
share of the bandwidth counts the bytes of weights and cache that a step has to read. Bandwidth
is what reading 4 GiB takes, the peak what a product of 8192 x 8192 matrices takes, both measured
in the same run. ``--peers`` adds ``generate`` of transformers with a static cache, compiled.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()

from engines import (  # noqa: E402 - the time of the imports belongs to the start
    QUICK,
    SHAPE,
    Contestant,
    generate_timed,
    make_model,
    prompt,
    serve_lines,
)

CONTEXT = 4096
PROMPT = 2048  # tokens whose prefill is measured
STEPS = 64  # decode steps of a measurement
CASES = ((1, 512), (8, 512), (32, 512), (1, 3968), (8, 3968))  # requests, tokens of their prompts
QUICK_CASES = ((1, 64), (4, 64))
KINDS = ("bf16", "int8", "int4")


# --- contestants ------------------------------------------------------------------------------


def run_ours(folder: Path, kind: str, device: str) -> None:
    """Our engine through its public protocol."""
    from llama_hub.inference.config import EngineOptions
    from llama_hub.inference.torch_engine import TorchEngine

    options = EngineOptions(
        device=device,
        quantize=None if kind == "bf16" else kind,  # type: ignore[arg-type]
        context=CONTEXT,
        max_batch=32,
        prefix_caching=False,
    )
    engine = TorchEngine(folder, options)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.start())
    loop.run_until_complete(ask_ours(engine, [prompt(1, 16)], 2))
    about = {
        "ready": time.perf_counter() - BEGUN,
        "modes": dict(engine.info.step_modes),
        "pages": engine._loaded.pages,  # type: ignore[union-attr]
    }

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        return loop.run_until_complete(ask_ours(engine, **question))

    serve_lines(answer, about)


async def ask_ours(engine: Any, prompts: list[list[int]], tokens: int) -> dict[str, Any]:
    """First token and the median time between tokens while all decode, of the first request."""
    from llama_hub.inference.engine import GenerationRequest, SamplingParams

    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    begun = time.perf_counter()
    made: list[list[float]] = [[] for _ in prompts]

    async def one(number: int) -> None:
        request = GenerationRequest(f"{begun}-{number}", tuple(prompts[number]), params)
        async for _ in engine.generate(request):
            made[number].append(time.perf_counter())

    await asyncio.gather(*(one(number) for number in range(len(prompts))))
    return summary(begun, made)


def summary(begun: float, made: list[list[float]]) -> dict[str, Any]:
    """What a contestant answers: seconds to the first token and between two."""
    together = max(times[0] for times in made), min(times[-1] for times in made)
    steps = [
        later - earlier
        for earlier, later in zip(made[0], made[0][1:], strict=False)
        if together[0] <= earlier and later <= together[1]
    ]
    return {
        "first": made[0][0] - begun,
        "step": statistics.median(steps) if steps else None,
        "count": sum(len(times) for times in made),
        "wall": time.perf_counter() - begun,
    }


def run_transformers(folder: Path, device: str) -> None:
    """``generate`` of transformers in bfloat16 over a static cache, compiled with CUDA graphs."""
    import torch
    from transformers import LlamaForCausalLM

    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).to(device).eval()
    if device != "cpu":
        model.forward = torch.compile(model.forward, mode="reduce-overhead", fullgraph=True)
    extra = {"cache_implementation": "static"}

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        found = generate_timed(model, device, extra, question["prompts"][:1], question["tokens"])
        steps = max(1, found["count"] - 1)
        return {"first": found["first"], "step": found["rest"] / steps, "count": found["count"]}

    with torch.inference_mode():
        serve_lines(answer, {"ready": time.perf_counter() - BEGUN})


def run_vllm(folder: Path) -> None:
    """vLLM as it comes, bfloat16, tokens in and out."""
    from vllm import LLM, SamplingParams

    model = LLM(
        str(folder),
        dtype="bfloat16",
        max_model_len=CONTEXT,
        max_num_seqs=32,
        skip_tokenizer_init=True,
        enable_prefix_caching=False,
    )

    def timed(prompts: list[list[int]], tokens: int) -> float:
        params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False)
        begun = time.perf_counter()
        model.generate([{"prompt_token_ids": each} for each in prompts], params, use_tqdm=False)
        return time.perf_counter() - begun

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        prompts, tokens = question["prompts"], question["tokens"]
        first, wall = timed(prompts, 1), timed(prompts, tokens)
        step = (wall - first) / max(1, tokens - 1)
        return {"first": first, "step": step, "count": len(prompts) * tokens, "wall": wall}

    serve_lines(answer, {"ready": time.perf_counter() - BEGUN})


# --- the device -------------------------------------------------------------------------------


def read_bandwidth(device: str) -> float:
    """Bytes per second that summing a large array reads, best of ten."""
    import torch

    size = 1 << (30 if device.startswith("cuda") else 24)
    numbers = torch.ones(size, dtype=torch.float32, device=device)
    return size * 4 / best_of(lambda: numbers.sum().item())  # waits for the device


def peak(device: str) -> float:
    """Floating-point operations per second of a large bfloat16 product, best of ten."""
    import torch

    size = 8192 if device.startswith("cuda") else 512
    a, b = torch.randn(2, size, size, device=device).to(torch.bfloat16)
    return 2 * size**3 / best_of(lambda: (a @ b)[0, 0].item())


def best_of(work: Any) -> float:
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - begun)
    return best


def device_name(device: str) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else platform.machine()


# --- the whole --------------------------------------------------------------------------------


def start(options: argparse.Namespace, which: str, folder: Path, kind: str) -> Contestant:
    python = options.vllm_python if which == "vllm" else sys.executable
    command = [python, str(Path(__file__).resolve()), "--worker", which, "--folder", str(folder)]
    return Contestant(f"{which} {kind}", [*command, "--kind", kind, "--device", options.device])


def measured(contestant: Contestant, options: argparse.Namespace) -> dict[str, Any]:
    """All cases of one contestant; a case that fails is told and ends it."""
    alone_only = contestant.name.startswith("transformers")
    found: dict[str, Any] = dict(contestant.about)
    prefill = 128 if options.quick else PROMPT
    firsts = [
        contestant.ask(prompts=[prompt(100 + n, prefill)], tokens=2)["first"]
        for n in range(options.rounds + 1)
    ]
    found["prefill_seconds"] = statistics.median(firsts[1:])
    found["prefill_tokens"] = prefill
    found["decode_step_seconds"] = {}
    for requests, length in QUICK_CASES if options.quick else CASES:
        if requests > 1 and alone_only:
            continue
        steps = []
        for number in range(options.rounds):
            prompts = [prompt(1000 * number + n, length) for n in range(requests)]
            steps.append(contestant.ask(prompts=prompts, tokens=STEPS)["step"])
        found["decode_step_seconds"][f"{requests} x {length}"] = statistics.median(steps)
    return found


def with_shares(
    found: dict[str, Any], kind: str, shape: dict[str, int], layers: int, device: dict[str, float]
) -> dict[str, Any]:
    """Rounded, with tokens per second and the shares of bandwidth and peak."""
    dim, ffn, vocab = shape["dim"], shape["ffn"], shape["vocab"]
    matrices = layers * (4 * dim * dim + 3 * dim * ffn)
    size = {"bf16": 2.0, "int8": 1 + 2 / dim, "int4": 0.5 + 2 / 64}[kind]
    weights = matrices * size + dim * vocab * (2 if kind == "bf16" else 1 + 2 / dim)
    decode = {}
    for case, seconds in found.pop("decode_step_seconds").items():
        requests, length = (int(each) for each in case.split(" x "))
        cache = requests * (length + STEPS / 2) * 2 * layers * dim * 2
        decode[case] = {
            "ms": round(1000 * seconds, 3),
            "tokens_per_second": round(requests / seconds, 1),
            "share_of_bandwidth": round((weights + cache) / seconds / device["bandwidth"], 3),
        }
    seconds, tokens = found.pop("prefill_seconds"), found["prefill_tokens"]
    operations = 2 * matrices * tokens + 2 * layers * tokens * tokens * dim
    return {
        **found,
        "ready": round(found["ready"], 1),
        "prefill_ms": round(1000 * seconds, 1),
        "prefill_tokens_per_second": round(tokens / seconds),
        "prefill_share_of_peak": round(operations / seconds / device["peak"], 3),
        "decode": decode,
    }


def compare(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the model, run everybody; what was found."""
    shape = QUICK if options.quick else SHAPE
    layers = options.layers or (2 if options.quick else 32)
    device = {"bandwidth": read_bandwidth(options.device), "peak": peak(options.device)}
    made_on = options.device if options.device.startswith("cuda") else "cpu"
    if not (folder / "config.json").exists():
        make_model(folder, shape, layers, made_on)
    found: dict[str, Any] = {}
    wanted = [("ours", kind) for kind in options.kinds.split(",")]
    wanted += [("transformers", "bf16")] if options.peers else []
    wanted += [("vllm", "bf16")] if options.vllm_python else []
    with tempfile.TemporaryDirectory(prefix="llama-hub-bench-cache-") as cache:
        os.environ["TRITON_CACHE_DIR"] = cache  # empty: the first start compiles
        for which, kind in wanted:
            name = f"{which} {kind}"
            try:
                if which == "ours":
                    cold = start(options, which, folder, kind)
                    cold.close()
                contestant = start(options, which, folder, kind)
            except (RuntimeError, OSError) as error:
                found[name] = {"failed": str(error)}
                continue
            try:
                results = measured(contestant, options)
                found[name] = with_shares(results, kind, shape, layers, device)
                if which == "ours":
                    found[name]["ready_cold"] = round(cold.about["ready"], 1)
            except (RuntimeError, OSError) as error:
                found[name] = {"failed": str(error), **contestant.about}
            finally:
                contestant.close()
            print(json.dumps({name: found[name]}), file=sys.stderr, flush=True)
    return {
        "device": device_name(options.device),
        "model": {**shape, "layers": layers, "context": CONTEXT},
        "rounds": options.rounds,
        "read_bandwidth_gb_per_second": round(device["bandwidth"] / 1e9, 1),
        "peak_tflop_per_second": round(device["peak"] / 1e12, 1),
        "contestants": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model and few cases")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--peers", action="store_true", help="transformers, compiled")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vllm-python")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=["ours", "transformers", "vllm"], help="internal")
    parser.add_argument("--kind", help="internal")
    options = parser.parse_args()
    if options.worker == "ours":
        run_ours(options.folder, options.kind, options.device)
    elif options.worker == "transformers":
        run_transformers(options.folder, options.device)
    elif options.worker == "vllm":
        run_vllm(options.folder)
    else:
        with tempfile.TemporaryDirectory(prefix="llama-hub-bench-") as name:
            document = compare(options, options.folder or Path(name) / "model")
        text = json.dumps(document, indent=1)
        print(text)
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
