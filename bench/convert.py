"""Conversion beside ``cp``, beside the well-known script's method, and beside gguf's quantisers.

    python bench/convert.py [--quick] [--rounds 3] [--out bench/results/convert.json]

A synthetic two-shard checkpoint in Meta's layout (dim 4096, 32 heads, bfloat16, at least 4 GB; a
small one with --quick) lies in a temporary folder, its pages warm in the cache for everybody.
Every contestant is a process of its own and writes into the same file system; the order is drawn
again in each round, since in a virtual machine the memory that the one before it left behind
changes what a page of the cache costs:

* ``cp`` of the shard files; the same with a flush to the disk, which we always do;
* ``llama-hub convert --to hf``: CRC of the source, digest of every tensor and file, fsync;
* a script that does what convert_llama_weights_to_hf.py does: torch.load of all shards, cat,
  permute, save_file;
* ``--to gguf --dtype Q8_0``, ``Q4_0`` and ``Q4_K_M``; beside them gguf's own quantiser, one thread,
  in memory (it has no K-quants, so that for these our numpy variant stands beside the C kernels).

``--kernels`` measures only the quantisers, in memory and in one thread; with ``--ggml LIBRARY`` (a
shared library with ggml's ``quantize_row_q4_K_ref`` …) that one beside them.

Anonymous memory is the peak of RssAnon, sampled every 5 ms from outside.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD_DIM = 128

STRAIGHTFORWARD = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
source, target = Path(sys.argv[1]), Path(sys.argv[2])
target.mkdir()
shards = [torch.load(p, map_location="cpu", weights_only=True)
          for p in sorted(source.glob("consolidated.*.pth"))]
names = {"tok_embeddings": "model.embed_tokens", "output": "lm_head", "norm": "model.norm",
         "attention.wq": "self_attn.q_proj", "attention.wk": "self_attn.k_proj",
         "attention.wv": "self_attn.v_proj", "attention.wo": "self_attn.o_proj",
         "feed_forward.w1": "mlp.gate_proj", "feed_forward.w2": "mlp.down_proj",
         "feed_forward.w3": "mlp.up_proj", "attention_norm": "input_layernorm",
         "ffn_norm": "post_attention_layernorm"}
def merge(name):
    parts = [shard[name] for shard in shards]
    if "norm" in name:
        return parts[0].clone()
    columns = any(part in name for part in ("tok_embeddings", ".wo.", ".w2."))
    return torch.cat(parts, dim=1 if columns else 0)
def permute(w):
    return w.view(-1, 64, 2, w.shape[1]).transpose(1, 2).reshape(w.shape)
state = {}
for name in shards[0]:
    if name == "rope.freqs":
        continue
    stem = name.removesuffix(".weight")
    if stem.startswith("layers."):
        _, layer, part = stem.split(".", 2)
        new = f"model.layers.{layer}.{names[part]}.weight"
    else:
        part, new = stem, names[stem] + ".weight"
    tensor = merge(name)
    state[new] = permute(tensor) if part in ("attention.wq", "attention.wk") else tensor
save_file(state, target / "model.safetensors", metadata={"format": "pt"})
"""

SYNTHETIC = """
import json, sys, torch
from pathlib import Path
folder, dim, ffn, layers, vocab = Path(sys.argv[1]), *map(int, sys.argv[2:])
torch.manual_seed(0)
pool = torch.randn(1 << 24).mul_(0.02).bfloat16()
def weight(*shape):
    count, out = 1, torch.empty(shape, dtype=torch.bfloat16)
    flat = out.view(-1)
    for at in range(0, flat.numel(), pool.numel()):
        part = flat[at : at + pool.numel()]
        part.copy_(pool[: part.numel()].roll(at % 9973))
    return out
per_layer = [f"layers.{i}.{n}" for i in range(layers) for n in ("attention_norm", "ffn_norm")]
norms = {name: 1 + weight(dim).abs() for name in ["norm", *per_layer]}
for rank in range(2):
    shard = {"tok_embeddings.weight": weight(vocab, dim // 2),
             "output.weight": weight(vocab // 2, dim)}
    for i in range(layers):
        at = f"layers.{i}."
        for name in ("wq", "wk", "wv"):
            shard[f"{at}attention.{name}.weight"] = weight(dim // 2, dim)
        shard[f"{at}attention.wo.weight"] = weight(dim, dim // 2)
        shard[f"{at}feed_forward.w1.weight"] = weight(ffn // 2, dim)
        shard[f"{at}feed_forward.w3.weight"] = weight(ffn // 2, dim)
        shard[f"{at}feed_forward.w2.weight"] = weight(dim, ffn // 2)
    shard |= {f"{name}.weight": norm for name, norm in norms.items()}
    torch.save(shard, folder / f"consolidated.0{rank}.pth")
    del shard
params = {"dim": dim, "multiple_of": 256, "n_heads": dim // 128, "n_layers": layers,
          "norm_eps": 1e-5, "vocab_size": -1}
(folder / "params.json").write_text(json.dumps(params))
"""

QUANTISER = """
import json, sys, time
import gguf, numpy as np
kind = gguf.GGMLQuantizationType[sys.argv[1]]
block = np.random.default_rng(0).normal(0, 0.02, (2048, 4096)).astype(np.float32)
gguf.quants.quantize(block[:64], kind)
best = 0.0
for _ in range(int(sys.argv[2])):
    begun = time.perf_counter()
    gguf.quants.quantize(block, kind)
    best = max(best, block.size / (time.perf_counter() - begun))
print(best)
"""


@dataclass
class Run:
    """One process: wall seconds and the peak of its anonymous memory in bytes."""

    seconds: float
    anonymous: int


def run(command: Sequence[str], environment: dict[str, str] | None = None) -> Run:
    """Run to the end, watching its memory."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})}
    )
    peak = [0]
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    code = process.wait()
    seconds = time.perf_counter() - begun
    watcher.join()
    if code:
        raise SystemExit(f"{command[:3]} … exited with {code}")
    return Run(seconds, peak[0])


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        for line in lines:
            if line.startswith("RssAnon"):
                peak[0] = max(peak[0], int(line.split()[1]) * 1024)
        time.sleep(0.005)


def contestants(at: Path, source: Path) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Commands by name; each writes into ``at / "out"``, which is removed between runs."""
    out, shards = str(at / "out"), [str(path) for path in sorted(source.glob("*.pth"))]
    shell = ["sh", "-c", 'mkdir "$0" && cp "$@" "$0"', out, *shards]
    flushed = ["sh", "-c", 'mkdir "$0" && cp "$@" "$0" && sync "$0"/*', out, *shards]
    ours = [sys.executable, "-m", "llama_hub", "convert", str(source), out, "-q"]
    ours += ["--license", "llama-hub-demo"]
    home = {"LLAMA_HUB_HOME": str(at / "home")}
    return {
        "cp": (shell, {}),
        "cp and sync": (flushed, {}),
        "llama-hub to hf": ([*ours, "--to", "hf"], home),
        "torch.load and save_file": (
            [sys.executable, "-c", STRAIGHTFORWARD, str(source), out],
            {},
        ),
        "llama-hub to gguf Q8_0": ([*ours, "--to", "gguf", "--dtype", "Q8_0"], home),
        "llama-hub to gguf Q4_0": ([*ours, "--to", "gguf", "--dtype", "Q4_0"], home),
        "llama-hub to gguf Q4_K_M": ([*ours, "--to", "gguf", "--dtype", "Q4_K_M"], home),
    }


def clean(folder: Path) -> None:
    """Remove an output and let the disk come to rest."""
    shutil.rmtree(folder, ignore_errors=True)
    os.sync()


def warm(source: Path) -> None:
    """The source's pages into the cache."""
    for path in source.glob("*.pth"):
        with path.open("rb", buffering=0) as file:
            while file.read(1 << 24):
                pass


def measure(at: Path, source: Path, rounds: int) -> dict[str, list[Run]]:
    """Every contestant in turn, ``rounds`` times, in an order that is another in each round."""
    runs: dict[str, list[Run]] = {}
    order = random.Random(0)
    for _ in range(rounds):
        turns = list(contestants(at, source).items())
        order.shuffle(turns)
        for name, (command, environment) in turns:
            clean(at / "out")
            warm(source)
            runs.setdefault(name, []).append(run(command, environment))
            print(f"{name}: {runs[name][-1].seconds:.2f} s", file=sys.stderr, flush=True)
    clean(at / "out")
    return runs


def rate_of_gguf(kind: str, rounds: int) -> float:
    """Weights per second of the gguf package's quantiser, one thread, its best of ``rounds``."""
    command = [sys.executable, "-c", QUANTISER, kind, str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return float(subprocess.run(command, check=True, capture_output=True, env=environment).stdout)


def kernel_rates(ggml: Path | None, rounds: int = 3) -> dict[str, dict[str, float]]:
    """Millions of weights per second, one thread, float32 in memory: the best of ``rounds``."""
    import gguf
    import numpy as np

    from llama_hub.hub.checkpoints import ggml_quants, k_quants

    weights = np.random.default_rng(0).normal(0, 0.02, (512, 4096)).astype(np.float32)
    reference = ctypes.CDLL(str(ggml), mode=os.RTLD_LAZY) if ggml else None
    rates: dict[str, dict[str, float]] = {}
    for kind, (block, width) in ggml_quants.BLOCKS.items():
        if kind in k_quants.SUPER_BYTES and kind not in k_quants.WRITTEN:
            continue
        encode = ggml_quants.encoder(kind, "float32")
        ways: dict[str, Callable[[], object]] = {
            "C" if ggml_quants.library() else "numpy": lambda e=encode: e(weights.view(np.uint32)),
        }
        out = np.empty((weights.size // block, width), np.uint8)
        if kind in k_quants.WRITTEN:
            ways["numpy"] = lambda k=kind, o=out: k_quants.quantize(k, weights.reshape(-1, 256), o)
        else:
            ways["gguf package"] = lambda k=kind: gguf.quants.quantize(
                weights, gguf.GGMLQuantizationType[k]
            )
        if reference is not None:
            ways["ggml's reference"] = _reference(reference, kind, weights, out)
        rates[kind] = {
            name: round(weights.size / _best(way, rounds) / 1e6, 1) for name, way in ways.items()
        }
        packed = encode(weights.view(np.uint32))[0]
        seconds = _best(lambda k=kind, p=packed: ggml_quants.dequantize(k, p), rounds)
        rates[kind]["dequantised"] = round(weights.size / seconds / 1e6, 1)
        print(kind, rates[kind], file=sys.stderr, flush=True)
    return rates


def _reference(library: ctypes.CDLL, kind: str, weights: Any, out: Any) -> Callable[[], object]:
    """ggml's own function."""
    name = f"quantize_row_{kind[:-1].lower() + kind[-1]}_ref"
    function = getattr(library, name)
    function.argtypes, function.restype = [ctypes.c_void_p] * 2 + [ctypes.c_int64], None
    return lambda: function(weights.ctypes.data, out.ctypes.data, weights.size)


def _best(way: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


def summary(runs: dict[str, list[Run]], size: int, weights: int, rounds: int) -> dict[str, object]:
    """Medians, rates and the ratios that matter."""
    median: Callable[[str], float] = lambda name: statistics.median(  # noqa: E731
        one.seconds for one in runs[name]
    )
    anonymous = {name: max(one.anonymous for one in each) for name, each in runs.items()}
    hf, script = median("llama-hub to hf"), median("torch.load and save_file")
    cores = os.cpu_count() or 1
    result: dict[str, object] = {
        "machine": machine(),
        "bytes": size,
        "rounds": rounds,
        "median_seconds": {name: round(median(name), 3) for name in runs},
        "seconds": {name: [round(one.seconds, 3) for one in each] for name, each in runs.items()},
        "gigabytes_per_second": {name: round(size / median(name) / 1e9, 3) for name in runs},
        "peak_anonymous_megabytes": {
            name: round(peak / 1e6, 1) for name, peak in anonymous.items()
        },
        "speed_relative_to_cp": round(median("cp") / hf, 3),
        "speed_relative_to_cp_and_sync": round(median("cp and sync") / hf, 3),
        "times_faster_than_script": round(script / hf, 2),
        "times_less_memory_than_script": round(
            anonymous["torch.load and save_file"] / anonymous["llama-hub to hf"], 1
        ),
    }
    result["Q4_K_M"] = {
        "weights_per_second": round(weights / median("llama-hub to gguf Q4_K_M") / 1e6, 1) * 1e6
    }
    for kind in ("Q8_0", "Q4_0"):
        ours, theirs = weights / median(f"llama-hub to gguf {kind}"), rate_of_gguf(kind, 5)
        result[kind] = {
            "weights_per_second": round(ours / 1e6, 1) * 1e6,
            "gguf_package_one_thread": round(theirs / 1e6, 1) * 1e6,
            "relative_to_one_thread_times_cores": round(ours / theirs / cores, 3),
        }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small model, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to work; by default the temporary one")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--kernels", action="store_true", help="only the quantisers, in memory")
    parser.add_argument("--ggml", type=Path, help="a library with ggml's quantisers, for --kernels")
    options = parser.parse_args()
    if options.kernels:
        report({"machine": machine(), "kernels": kernel_rates(options.ggml)}, options.out)
        return
    dim, ffn, layers, vocab = (1024, 2816, 4, 32000) if options.quick else (4096, 11008, 9, 32000)
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench-convert-") as temporary:
        at = Path(temporary)
        source = at / "synthetic"
        source.mkdir()
        sizes = [str(value) for value in (dim, ffn, layers, vocab)]
        subprocess.run([sys.executable, "-c", SYNTHETIC, str(source), *sizes], check=True)
        # A tokenizer is only needed for GGUF; the demo model's has fewer pieces than rows.
        import llama_hub.hub.sources.demo as demo

        shutil.copy(Path(demo.__file__).with_name("tokenizer.model"), source)
        size = sum(path.stat().st_size for path in source.glob("*.pth"))
        runs = measure(at, source, rounds)
    report(summary(runs, size, size // 2, rounds), options.out)


def machine() -> dict[str, object]:
    """Where it was measured; ``load`` says how busy the machine was with other work."""
    return {
        "cpus": os.cpu_count() or 1,
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def report(result: dict[str, object], out: Path | None) -> None:
    """Print the result and keep it; what was measured with other options stays in the file."""
    print(json.dumps(result, indent=1))
    if out is not None:
        known = json.loads(out.read_text()) if out.is_file() else {}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(known | result, indent=1) + "\n")


if __name__ == "__main__":
    main()
