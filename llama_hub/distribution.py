"""Name of the distribution, and the commands that install it.

The command is ``llama-hub`` and the import package ``llama_hub``; the distribution has a name of
its own because ``llama-hub`` on PyPI is another project (see ``llama2_hub``).
"""

from __future__ import annotations

NAME = "llama2-hub"


def install_command(*extras: str) -> str:
    """The command that adds ``extras`` to the installed distribution."""
    return f"pip install '{NAME}[{','.join(extras)}]'"
