"""Every error that llama-hub raises on purpose, and the exit code of each.

One root, one class per exit code, a few leaves where a caller may want to tell
two causes apart. The message says what happened and why; ``hint`` is the
command or page that fixes it. ``llama_hub.cli.failures`` prints them.
"""

from __future__ import annotations

from enum import IntEnum, unique

from llama_hub.distribution import install_command


@unique
class ExitCode(IntEnum):
    """What the process exits with; scripts rely on these numbers."""

    OK = 0
    UNEXPECTED = 1
    USAGE = 2
    LICENSE = 3  # licence not accepted
    ACCESS = 4  # expired URL, gated repository, 401/403
    INTEGRITY = 5  # digest, truncation, unsafe pickle, tampered ledger
    NOT_FOUND = 6
    NOT_ENOUGH = 7  # disk, memory, GPU memory, quota
    PROVISIONING = 8
    CHANGES_PENDING = 9  # --plan found a difference, or a gate of eval failed
    UNREACHABLE = 10  # the network or a service did not answer
    INTERRUPTED = 130


class LlamaHubError(Exception):
    """Root of the tree. ``hint``: the next command or page; may be empty."""

    exit_code: ExitCode = ExitCode.UNEXPECTED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LlamaHubError):
    """The request itself is wrong: bad option, bad spec, bad configuration."""

    exit_code = ExitCode.USAGE


class MissingExtraError(UsageError):
    """An optional package is not installed; the hint names the extra."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed",
            hint=install_command(extra),
        )
        self.package = package
        self.extra = extra


class InUseError(UsageError):
    """What would be removed is deployed; the message names the deployments."""


class LicenseError(LlamaHubError):
    """No valid acceptance of the model's licence is on record."""

    exit_code = ExitCode.LICENSE


class AccessError(LlamaHubError):
    """The other side refused: expired signed URL, gated repository, 401, 403."""

    exit_code = ExitCode.ACCESS


class IntegrityError(LlamaHubError):
    """Bytes are not what they should be: digest, size, structure, hash chain."""

    exit_code = ExitCode.INTEGRITY


class UnsafePickleError(IntegrityError):
    """A ``.pth`` asks for more than rebuilding tensors; it was not run."""


class FileFormatError(LlamaHubError):
    """A file is not what its kind must be; ``file`` and ``key`` (dotted, may be empty) say where.

    ``InvalidFileError`` where a person writes the file, ``DamagedFileError`` where a program does.
    """

    def __init__(self, message: str, *, file: str = "", key: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.file = file
        self.key = key


class InvalidFileError(FileFormatError, UsageError):
    """A file that a person writes is wrong: catalogue, spec, settings, plan."""


class DamagedFileError(FileFormatError, IntegrityError):
    """A file that a program wrote is wrong: manifest, configuration of a model, journal."""


class NotFoundError(LlamaHubError):
    """No such model, file, deployment or repository."""

    exit_code = ExitCode.NOT_FOUND


class NotEnoughError(LlamaHubError):
    """Something finite is too small: disk, memory, GPU memory, quota."""

    exit_code = ExitCode.NOT_ENOUGH


class DiskFullError(NotEnoughError):
    """Not enough free disk space; the message names how much is missing."""


class DeviceMemoryError(NotEnoughError):
    """A device's memory does not suffice for one request, at this moment."""


class QuotaError(NotEnoughError):
    """A cloud's quota or capacity does not allow the request."""


class UnreachableError(LlamaHubError):
    """The network or a service did not answer: no route, no name, refused, timed out."""

    exit_code = ExitCode.UNREACHABLE


class ProvisioningError(LlamaHubError):
    """A deployment could not be created, changed or removed."""

    exit_code = ExitCode.PROVISIONING


class TransientError(ProvisioningError):
    """The platform is busy (throttling, 5xx): the same call may succeed later.

    ``retry_after``: seconds that the platform asked for, if it did.
    """

    def __init__(self, message: str, *, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after = retry_after


class PlatformUnreachableError(TransientError, UnreachableError):
    """A cloud's own interface did not answer: transient, and nothing was provisioned or failed."""

    exit_code = ExitCode.UNREACHABLE


class NotOursError(ProvisioningError):
    """Something that llama-hub did not make stands where a deployment would."""


class UnconfirmedError(AccessError):
    """The platform says that it runs, and this machine may not ask it: nothing is undone."""


class StalePlanError(ProvisioningError):
    """What is there is no longer what the plan was made for."""


class ChangesPendingError(LlamaHubError):
    """``--plan`` found something to change."""

    exit_code = ExitCode.CHANGES_PENDING
