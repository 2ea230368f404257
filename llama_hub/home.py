"""The home of llama-hub's things: ``LLAMA_HUB_HOME``, else ``~/.llama-hub``.

====================  =======================================================
``models/``           one folder per model and format, complete and verified
``partials/``         unfinished downloads and conversions, with their journals
``licenses/``         ``ledger.jsonl`` and the accepted texts, by their digest
``deployments/``      journals, supervisors and logs of deployments
``evaluations/``      records of evaluations, a cache of answers
``eval-env/``         the environment with lm-eval
``config.toml``       the user's defaults
====================  =======================================================
"""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder as an absolute path; nothing is created."""
    configured = os.environ.get("LLAMA_HUB_HOME")
    folder = Path(configured).expanduser() if configured else Path.home() / ".llama-hub"
    return folder.absolute()
