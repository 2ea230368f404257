"""The table of ``docs/gpu.md``: which cards hold which model and precision, at which context.

Computed by ``inference.memory``, the arithmetic that ``serve`` and ``deploy`` use. A cell is how
many sequences of ``CONTEXT`` tokens are in the cache together, or the longest context of one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llama_hub.hub.architecture import Architecture
from llama_hub.inference import memory
from llama_hub.inference.config import GPU_MEMORY_UTILIZATION, GPU_STEP_TOKENS, Quantization

BEGIN, END = "<!-- table: python -m tools.reference -->", "<!-- end of the table -->"
CONTEXT = 4096
LEAST = 256  # tokens: a context that is worth naming
MOST = 256  # sequences
CARDS = {  # MiB, as nvidia-smi states the total
    "T4": 15360,
    "L4": 23034,
    "A10G": 23028,
    "A100 40GB": 40960,
    "L40S": 46068,
    "A100 80GB": 81920,
    "H100": 81559,
    "H200": 143771,
    "B200": 183359,
}
MODELS = {
    "7B": Architecture(4096, 32, 32, 32, 11008, 32000),
    "13B": Architecture(5120, 40, 40, 40, 13824, 32000),
    "70B": Architecture(8192, 80, 64, 8, 28672, 32000),
}
KINDS: tuple[Quantization | None, ...] = (None, "int8", "int4")
SEVERAL = (2, 4, 8)  # cards


def page(text: str) -> str:
    """``docs/gpu.md`` with its table as it is computed now."""
    pattern = re.compile(f"{re.escape(BEGIN)}.*?{re.escape(END)}", re.DOTALL)
    return pattern.sub(lambda _: "\n".join([BEGIN, "", *table(), "", END]), text)


def table() -> Iterator[str]:
    """One card for each line; then several cards for the 70B model."""
    heads = [f"{model} {kind or '16 bits'}" for model in MODELS for kind in KINDS]
    yield f"| | {' | '.join(heads)} |"
    yield f"|---|{'---|' * len(heads)}"
    for card, mib in CARDS.items():
        cells = [cell(MODELS[model], kind, mib) for model in MODELS for kind in KINDS]
        yield f"| {card} | {' | '.join(cells)} |"
    for count in SEVERAL:
        for card in ("L4", "A100 80GB", "H100"):
            cells = [
                cell(MODELS[model], kind, CARDS[card], count) for model in MODELS for kind in KINDS
            ]
            yield f"| {count} x {card} | {' | '.join(cells)} |"


def fit(model: Architecture, kind: Quantization | None, mib: int, devices: int) -> memory.Fit:
    """What the service computes on such a card for one sequence of ``CONTEXT`` tokens."""
    room = int((mib << 20) * GPU_MEMORY_UTILIZATION)
    return memory.plan(
        model, "bfloat16", kind, CONTEXT, 1, room,
        step_tokens=GPU_STEP_TOKENS, devices=devices, overhead=memory.PROCESS,
    )  # fmt: skip


def cell(model: Architecture, kind: Quantization | None, mib: int, devices: int = 1) -> str:
    """Sequences at full context, ``1 of N`` tokens, or a dash."""
    one = fit(model, kind, mib, devices)
    assert one.device_memory is not None
    room = one.device_memory - one.weights_bytes - one.workspace_bytes
    pages = max(0, room // one.page_bytes)
    sequences = pages // one.context_pages
    if sequences:
        return f"{min(sequences, MOST)}" if sequences <= MOST else f"{MOST}+"
    tokens = pages * memory.PAGE // 128 * 128
    return f"1 of {tokens}" if tokens >= LEAST else "-"
