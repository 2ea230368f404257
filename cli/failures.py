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
from collections.abc import Callable, Mapping
from typing import NamedTuple

from llama_hub.cli.output import current
from llama_hub.cli.printable import printable
from llama_hub.errors import (
    AccessError,
    DiskFullError,
    ExitCode,
    IntegrityError,
    LlamaHubError,
    MissingExtraError,
    NotEnoughError,
    NotFoundError,
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


_CONNECTION = (
    "check the connection, the proxy variables and HF_HUB_OFFLINE, then run the command again"
)


class _Reason(NamedTuple):
    """What an error number of the operating system means to the user."""

    error: type[LlamaHubError]
    message: str
    hint: str


_FULL = _Reason(
    DiskFullError,
    "the disk is full",
    "free space or set LLAMA_HUB_HOME to a larger disk, then run the command again",
)
_REFUSED = _Reason(
    AccessError, "the operating system refused", "check the permissions of that path"
)
_DOWN = _Reason(UnreachableError, "the network failed", _CONNECTION)
_MISSING = _Reason(NotFoundError, "a file is missing", "check the path")
_NO_PATH = _Reason(UsageError, "that path cannot be used", "name a plain file or folder")
_LIMIT = _Reason(NotEnoughError, "this machine has too little", "close other programs, try again")
_REASONS: Mapping[int, _Reason] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _REFUSED),
    **dict.fromkeys((errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH), _DOWN),
    **dict.fromkeys((errno.EHOSTDOWN, errno.ETIMEDOUT), _DOWN),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR), _MISSING),
    **dict.fromkeys((errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG), _NO_PATH),
    **dict.fromkeys((errno.ENXIO, errno.ENODEV, errno.EEXIST, errno.EAGAIN), _NO_PATH),
    **dict.fromkeys((errno.ENOMEM, errno.EMFILE, errno.ENFILE), _LIMIT),
}


def _operating_system(error: Exception) -> LlamaHubError | None:
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):
        return _NO_PATH.error(f"{_NO_PATH.message}: {error}", hint=_NO_PATH.hint)
    if isinstance(error, MemoryError):
        return _LIMIT.error(f"{_LIMIT.message}: memory", hint=_LIMIT.hint)
    reason = _REASONS.get(error.errno or 0) if isinstance(error, OSError) else None
    if reason is None or not isinstance(error, OSError):
        return None
    where = f" ({error.filename})" if error.filename else ""
    return reason.error(f"{reason.message}: {error.strerror}{where}", hint=reason.hint)


def _encoding(error: Exception) -> LlamaHubError | None:
    """Bytes of an argument that are no text reach us as surrogates, which nothing can encode."""
    if not isinstance(error, UnicodeEncodeError) or error.reason != "surrogates not allowed":
        return None
    shown = ascii(error.object[max(0, error.start - 20) : error.end + 20])
    return UsageError(f"{shown} is not text in UTF-8", hint="check the arguments and the locale")


def _nesting(error: Exception) -> LlamaHubError | None:
    """A document from outside that nothing bounded before: an answer, an argument."""
    if not isinstance(error, RecursionError) or "JSON" not in str(error):
        return None
    return IntegrityError("a JSON document is nested too deep to be one of ours")


def _network(error: Exception) -> LlamaHubError | None:
    if type(error).__name__ in ("InvalidURL", "UnsupportedProtocol"):  # httpx's
        return UsageError(f"that address cannot be used: {error}", hint="https://HOST[:PORT]")
    module = type(error).__module__.split(".")[0]
    libraries = {"httpx", "httpcore", "httpx2", "httpcore2", "socket"}  # socket: no such host
    if module in libraries or isinstance(error, ConnectionError | TimeoutError):
        return UnreachableError(
            f"the network failed: {type(error).__name__}: {error}",
            hint=_CONNECTION,
        )
    return None


_TABLE: tuple[Callable[[Exception], LlamaHubError | None], ...] = (
    _missing_module,
    _encoding,
    _nesting,
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
        translated = known(error) if isinstance(error, Exception) else None
        if translated is not None:
            return translated
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
