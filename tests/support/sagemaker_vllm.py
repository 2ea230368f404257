"""In place of vLLM in AWS's deep learning containers: their variables and routes, without a model.

The vLLM image's entry point turns ``SM_VLLM_*`` into arguments (aws/deep-learning-containers,
``vllm/build_artifacts/sagemaker_entrypoint.sh``), which are parsed as strictly as elsewhere; LMI
takes ``OPTION_*``. What vLLM does with them is not shown here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.sagemaker_host import Stub
from tests.support.vllm_stub import parse

WEIGHTS = "/opt/ml/model"
LMI = {  # of deepjavalibrary/djl-serving's user guide for vLLM → vLLM's own
    "model_id": "model",
    "max_rolling_batch_size": "max_num_seqs",
    "tensor_parallel_degree": "tensor_parallel_size",
}


class Vllm(Stub):
    """A container of one of those images."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        super().__init__(folder, variables)
        told = _told(variables)
        model = told.pop("model")
        assert model == WEIGHTS, "the older images look nowhere else"
        words = [
            word
            for key, value in sorted(told.items())
            for word in (f"--{key.replace('_', '-')}", value)
        ]
        self.told = vars(parse(["serve", str(folder), *words]))

    def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """As vLLM's ``/invocations``, which knows of no manifest."""
        assert "messages" in body or "prompt" in body, "vLLM refuses every other body"
        return super().answer(body)


def _told(variables: Mapping[str, str]) -> dict[str, str]:
    known = {k.removeprefix("SM_VLLM_").lower(): v for k, v in variables.items() if "VLLM" in k}
    if known:
        return known
    options = {
        k.removeprefix("OPTION_").lower(): v for k, v in variables.items() if k[:7] == "OPTION_"
    }
    assert options.pop("rolling_batch") == "vllm"
    return {LMI.get(key, key): value for key, value in options.items()}
