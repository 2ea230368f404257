"""Inspection before weights are fetched or linked: what cannot be served is said there.

Everything small is in the plan already; of safetensors only the headers are read. All that is
wrong is one error, so that nobody mends one thing a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llama_hub.errors import (
    AccessError,
    ExitCode,
    IntegrityError,
    LicenseError,
    LlamaHubError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from llama_hub.hub import digests
from llama_hub.hub.checkpoints import diagnosis, hf_tensors
from llama_hub.hub.checkpoints.safetensors import MAX_HEADER, START, header_size, parse_header
from llama_hub.hub.model_config import Config, parse_config, parse_params
from llama_hub.hub.sources.base import SMALL, FetchPlan
from llama_hub.hub.transfer.remote_file import (
    FolderRequest,
    RemoteFile,
    Transient,
    read_all,
)
from llama_hub.hub.transfer.retry import Cancel, Policy, RetryState
from llama_hub.progress import NO_PROGRESS

TOKENIZERS = ("tokenizer.model", "tokenizer.json")
LLAMA_3_VOCABULARY = range(128_000, 129_025)  # tokens; Llama 2's fine-tunes have up to 64,000
_AGAIN = "run the command again; if it stays, the source's copy or its checklist is wrong"
_ERRORS: dict[ExitCode, type[LlamaHubError]] = {
    ExitCode.USAGE: UsageError,
    ExitCode.LICENSE: LicenseError,
    ExitCode.NOT_FOUND: NotFoundError,
}


class Problems:
    """Errors that are told together; what the network did is told at once."""

    def __init__(self) -> None:
        self._errors: list[LlamaHubError] = []

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """Keep an error of the block for later."""
        try:
            yield
        except (AccessError, UnreachableError):
            raise
        except LlamaHubError as error:
            self._errors.append(error)

    def tell(self) -> None:
        """Raise what was kept, as one error with the exit code of the first."""
        errors = list({error.message: error for error in self._errors}.values())
        if not errors:
            return
        if len(errors) == 1:
            raise errors[0]
        kind = _ERRORS.get(errors[0].exit_code, IntegrityError)
        lines = [f"{len(errors)} problems:", *(f"- {error.message}" for error in errors)]
        hints = dict.fromkeys(error.hint for error in errors if error.hint)
        raise kind("\n".join(lines), hint="; ".join(hints)) from errors[0]


def inspect(plan: FetchPlan, problems: Problems | None = None) -> None:
    """Refuse the model of ``plan`` if it is incomplete, damaged, or cannot be served here.

    With ``problems`` they are only added there.
    """
    found = problems or Problems()
    files = {file.path: file for file in plan.files}
    where = plan.source.get("repository") or plan.source.get("base") or plan.source.get("folder")
    if plan.format == "gguf":  # described in one file, which was read when the plan was made
        return
    with found.collecting():
        _check_tokenizer(where, files)
    if plan.format == "hf":
        _inspect_hf(plan, files, found)
    else:
        for file in plan.files:
            with found.collecting():
                _check_presence(file)
        with found.collecting():
            _check_params(files)
    if problems is None:
        found.tell()


def _inspect_hf(plan: FetchPlan, files: Mapping[str, RemoteFile], problems: Problems) -> None:
    config = None
    with problems.collecting():
        data = _small(files, "config.json")
        config = check_config(data, files["config.json"].request.where)
    shapes: dict[str, tuple[int, ...]] = {}
    weights = [file for file in plan.files if file.path.endswith((".safetensors", ".bin"))]
    whole = bool(weights)
    for file in weights:
        read = None
        with problems.collecting():
            read = _shapes(file, plan.policy)
        whole = whole and read is not None
        shapes |= read or {}
    if config is not None and whole:
        with problems.collecting():
            hf_tensors.check("the model", shapes, config)


def check_config(data: bytes, where: str) -> Config:
    """``config.json``, if it is of a model that can be served here.

    ``IntegrityError`` for another family's.
    """
    config = parse_config(data, where)
    if config.vocab_size in LLAMA_3_VOCABULARY:
        raise IntegrityError(
            f"{where}: vocab_size: {config.vocab_size} tokens are Llama 3's vocabulary, and "
            "llama-hub serves models of the Llama 2 family",
            hint="llama-hub models   (any fine-tune of one of these will do)",
        )
    diagnosis.refuse_quantised(where, config.quantization_config)
    _ = config.architecture
    return config


def _check_params(files: Mapping[str, RemoteFile]) -> None:
    data = _small(files, "params.json")
    parse_params(data, files["params.json"].request.where)


def _check_tokenizer(where: object, files: Mapping[str, RemoteFile]) -> None:
    present = [name for name in TOKENIZERS if name in files]
    if not present:
        raise NotFoundError(
            f"{where} has no tokenizer: neither tokenizer.model nor tokenizer.json",
            hint="put the base model's tokenizer.model beside the weights (Meta's download has it "
            "one level above the model's folder)",
        )
    for name in present:
        data = _small(files, name)
        diagnosis.refuse_lfs_pointer(Path(name), data)
        if data.lstrip()[:1] == b"<":
            raise IntegrityError(f"{name} is a web page, not a tokenizer", hint="download it again")


def _small(files: Mapping[str, RemoteFile], path: str) -> bytes:
    """A small file, which the plan has already; damaged, it says nothing of the model."""
    if path not in files:
        raise NotFoundError(f"there is no {path}", hint="it belongs beside the weights")
    file = files[path]
    data = read_all(file.request, SMALL)
    hashers = {name: digests.new(name, len(data)) for name in file.digests}
    for one in hashers.values():
        one.update(memoryview(data))
    digests.check(path, file.digests, {k: v.hexdigest() for k, v in hashers.items()}, hint=_AGAIN)
    return data


def _check_presence(file: RemoteFile) -> None:
    request = file.request
    if isinstance(request, FolderRequest) and not request.path.is_file():
        raise NotFoundError(
            f"{request.path} is missing", hint="finish that download, then run the command again"
        )


def _shapes(file: RemoteFile, policy: Policy) -> dict[str, tuple[int, ...]] | None:
    """Shape by name of the tensors of a weight file; ``None`` if its beginning does not tell."""
    _check_presence(file)
    start, size = read_start(file, START, policy)
    name = Path(file.path)
    diagnosis.refuse_lfs_pointer(name, start)
    if size is None or not file.path.endswith(".safetensors"):
        return None
    base = header_size(name, start, size)
    if base > len(start):
        start, _ = read_start(file, base, policy)
    entries, _ = parse_header(name, start, size)
    return {tensor: entry.shape for tensor, entry in entries.items()}


def read_start(file: RemoteFile, count: int, policy: Policy) -> tuple[bytes, int | None]:
    """The first ``count`` bytes of a file, if it has so many, and how many it has if known."""
    tries = RetryState(file.request.where, policy, Cancel(), NO_PROGRESS)
    return tries.until_done(lambda: _read_start(file, min(count, 8 + MAX_HEADER)))


def _read_start(file: RemoteFile, count: int) -> tuple[bytes, int | None]:
    body = file.request.open(0, count)
    try:
        size = body.total if body.total is not None else file.size
        data, view = bytearray(), memoryview(bytearray(count))
        while len(data) < count and (read := body.readinto(view[: count - len(data)])):
            data += view[:read]
    finally:
        body.close()
    if size is not None and len(data) < min(count, size):
        raise Transient("the connection was closed before the end")
    return bytes(data), size
