"""Steps through the Triton kernels in their interpreter, which has to be chosen before the import.

    TRITON_INTERPRET=1 python -m tests.support.interpreted_steps FOLDER DTYPE BITS

``prepare`` compares mixed steps and replays of every size with the plain model; what it settled on
is printed. The interpreter cannot multiply bfloat16.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from llama_hub.hub.model_config import read_config
from llama_hub.inference.collective import Alone
from llama_hub.inference.cuda import checks, forward
from llama_hub.inference.cuda.inputs import PromptInputs
from llama_hub.inference.cuda.triton_operations import TritonOperations
from llama_hub.inference.kv_cache import KVCache
from llama_hub.inference.model import Llama
from llama_hub.inference.partition import Partition
from llama_hub.inference.quantization import for_cuda
from llama_hub.inference.rope import Rope
from llama_hub.inference.weights import Loader, Target, TensorFiles, heads_of
from tests.support.recording import Rerun

CPU = torch.device("cpu")
CONTEXT = 32


def main(folder: Path, dtype: torch.dtype, bits: int | None) -> dict[str, str]:
    architecture = read_config(folder).architecture
    partition = Partition(architecture)
    heads = heads_of(partition)
    with TensorFiles(folder) as files:
        target = Target(dtype, CPU, for_cuda(dtype), bits)
        weights = Loader(files, partition, target, None).load()
    rope = Rope(heads.width, CONTEXT, architecture.rope_theta, CPU)
    cache = KVCache(architecture.n_layers, 9, heads.keys, heads.width, dtype, CPU)
    model = Llama(architecture, heads, weights, rope, Alone())
    steps = forward.CudaForward(
        model, cache, CONTEXT, 2, operations=[TritonOperations()], recorder=Rerun
    )
    with torch.inference_mode():
        steps.prepare()
    return steps.modes


if __name__ == "__main__":
    checks.PROMPT_LENGTHS = (12,)
    forward.RUN_ROWS = (16,)
    PromptInputs.RUNS = 2
    path, name, number = sys.argv[1:]
    print(json.dumps(main(Path(path), getattr(torch, name), int(number) or None)))
