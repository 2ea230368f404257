"""One table from any exception to the error that the user sees.

Commands never catch errors for display. What is no ``LlamaHubError`` is mapped
here; what the table does not know is a defect of ours, exit code 1, and its
traceback is shown with ``LLAMA_HUB_DEBUG=1``.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable

from llama_hub.cli.output import current
from llama_hub.cli.printable import printable
from llama_hub.errors import (
    AccessError,
    DiskFullError,
    ExitCode,
    LlamaHubError,
    MissingExtraError,
    UnreachableError,
    UsageError,
)

ISSUES_PAGE = "run again with LLAMA_HUB_DEBUG=1 and report the traceback to the project"

EXTRA_OF = {
    "torch": "serve",
    "safetensors": "serve",
    "sentencepiece": "serve",
    "google.protobuf": "serve",
    "numpy": "serve",
    "fastapi": "serve",
    "starlette": "serve",
    "uvicorn": "serve",
    "h11": "serve",
    "llguidance": "serve",
    "vllm": "vllm",
    "azure": "azure",
    "boto3": "sagemaker",
    "botocore": "sagemaker",
}


class Interrupted(LlamaHubError):
    """Ctrl-C."""

    exit_code = ExitCode.INTERRUPTED


def _missing_module(error: Exception) -> LlamaHubError | None:
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None
    top = error.name.split(".")[0]
    extra = EXTRA_OF.get(error.name) or EXTRA_OF.get(top)
    return MissingExtraError(top, extra) if extra else None


def _operating_system(error: Exception) -> LlamaHubError | None:
    if not isinstance(error, OSError) or error.errno is None:
        return None
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFullError(
            f"the disk is full{where}",
            hint="free space or set LLAMA_HUB_HOME to a larger disk, then run the command again",
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return AccessError(
            f"the operating system refused: {error.strerror}{where}",
            hint="check the permissions of that path",
        )
    return None


def _network(error: Exception) -> LlamaHubError | None:
    module = type(error).__module__.split(".")[0]
    if module in {"httpx", "httpcore", "httpx2"} or isinstance(error, ConnectionError):
        return UnreachableError(
            f"the network failed: {type(error).__name__}: {error}",
            hint="check the connection and the proxy variables, then run the command again",
        )
    return None


_TABLE: tuple[Callable[[Exception], LlamaHubError | None], ...] = (
    _missing_module,
    _network,
    _operating_system,
)


def as_error(error: BaseException) -> LlamaHubError:
    """The ``LlamaHubError`` that stands for ``error``."""
    if isinstance(error, LlamaHubError):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Interrupted("interrupted", hint="run the same command again to continue")
    for known in _TABLE:
        found = known(error) if isinstance(error, Exception) else None
        if found is not None:
            return found
    return LlamaHubError(f"{type(error).__name__}: {error}", hint=ISSUES_PAGE)


def usage(message: str) -> UsageError:
    """A usage error of the command line itself."""
    return UsageError(message, hint="llama-hub --help")


def report(error: BaseException) -> int:
    """Print ``error`` and return the exit code."""
    shown = as_error(error)
    if os.environ.get("LLAMA_HUB_DEBUG") and not isinstance(error, KeyboardInterrupt):
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    current().error(shown)
    return int(shown.exit_code)
