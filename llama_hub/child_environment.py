"""The variables that a process which outlives its command may inherit.

A supervisor and what it starts live for weeks. The shell that deployed them may
hold ``HF_TOKEN``, cloud keys or a signed URL, which none of them needs; so they
get what is listed here and nothing else. What a service needs beyond that is
named in the deployment's ``environment``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

NAMES = frozenset(
    """
    PATH HOME USER LOGNAME SHELL HOSTNAME LANG LANGUAGE TZ TERM TMPDIR TEMP TMP
    LD_LIBRARY_PATH LD_PRELOAD DYLD_LIBRARY_PATH CC CXX CFLAGS LDFLAGS
    VIRTUAL_ENV CONDA_PREFIX
    SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE
    HIP_VISIBLE_DEVICES ROCR_VISIBLE_DEVICES ZE_AFFINITY_MASK
    HF_HOME HF_HUB_CACHE HF_HUB_OFFLINE HF_HUB_DISABLE_TELEMETRY TRANSFORMERS_OFFLINE
    DO_NOT_TRACK TOKENIZERS_PARALLELISM
    """.split()
)
FAMILIES = (
    "LC_", "XDG_", "PYTHON", "MALLOC_", "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "NCCL_", "GLOO_",
    "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "NUMEXPR_", "DNNL_", "ONEDNN_", "ATEN_", "TORCH_",
    "TORCHINDUCTOR_", "PYTORCH_", "TRITON_", "VLLM_", "LLAMA_HUB_",
)  # fmt: skip
# Members of a family that carry a secret, or a URL that may (Meta's is signed).
SECRET = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSW|CREDENTIAL|SIGNATURE|_UR[IL]$|(^|_)(API|ACCESS)?(KEY|SAS|PAT)(_|$)"
)


def child_environment(source: Mapping[str, str] | None = None, **more: str) -> dict[str, str]:
    """The listed variables of ``source`` (this process's own where none is given), and ``more``."""
    known = os.environ if source is None else source
    return {name: value for name, value in known.items() if is_allowed(name)} | more


def is_allowed(name: str) -> bool:
    """Whether a child may see the variable."""
    if SECRET.search(name.upper()):
        return False
    return name in NAMES or name.startswith(FAMILIES)
