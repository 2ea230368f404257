"""The selection of operations for a device: Triton's kernels where they are there, else torch's."""

from __future__ import annotations

import torch

from llama_hub.inference.cuda.operations import Operations, TorchOperations


def available(device: torch.device, width: int) -> list[Operations]:
    """What may work on ``device``, the best first; ``width`` of a head."""
    found: list[Operations] = [TorchOperations()]
    if device.type == "cuda" and width % 2 == 0:
        try:
            from llama_hub.inference.cuda.triton_operations import TritonOperations
        except ModuleNotFoundError:
            return found  # Triton is not there for every platform
        found.insert(0, TritonOperations())
    return found
