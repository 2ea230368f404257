"""The source ``huggingface``: a repository at one commit, its bytes through our own engine.

``huggingface-hub`` gives the login and the endpoint. It neither resumes across runs, nor checks
content over plain HTTP, nor bounds what it reads, so our own client asks.
Each range asks the Hub again for its place on the CDN: an expired CDN address cannot outlive a try.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from annotated_types import Ge, Le

from llama_hub.errors import (
    AccessError,
    LlamaHubError,
    NotFoundError,
    UnreachableError,
    UsageError,
)
from llama_hub.hub.catalog import Model
from llama_hub.hub.manifest import Format, Manifest
from llama_hub.hub.redaction import plain_url, redact
from llama_hub.hub.sources import hf_cache, layout
from llama_hub.hub.sources.base import FetchPlan, read_small
from llama_hub.hub.transfer.http import Client, StatusError
from llama_hub.hub.transfer.journal import BLOCK
from llama_hub.hub.transfer.remote_file import (
    MAX_FILE,
    Body,
    RemoteFile,
    Request,
    Transient,
    read_all,
)
from llama_hub.hub.transfer.retry import Cancel, Policy, RetryState, TransferError
from llama_hub.licenses import terms
from llama_hub.licenses.gate import Texts
from llama_hub.progress import NO_PROGRESS
from llama_hub.schema import Pattern, conform
from llama_hub.strict import FileKind, parse_json

INFO = FileKind("what the Hub says of", max_bytes=8 << 20, max_values=400_000)
# Its limits count requests in windows of five minutes; ``RateLimit: …;t=240`` is waited out.
POLICY = Policy(span=16 * BLOCK, longest_wait=310.0)
TOKENS = "https://huggingface.co/settings/tokens"
_SMALL = {
    "hf": ("config.json", *layout.HF_OPTIONAL, "tokenizer.model"),
    "meta": ("params.json", *layout.CHECKLISTS, "tokenizer.model"),
}


@dataclass(frozen=True)
class _Lfs:
    sha256: Annotated[str, Pattern("[0-9a-f]{64}", "64 hexadecimal digits")]


@dataclass(frozen=True)
class HubFile:
    """One file as the Hub lists it."""

    rfilename: str
    size: Annotated[int, Ge(0), Le(MAX_FILE)] | None = None
    blobId: str | None = None  # git's SHA-1
    lfs: _Lfs | None = None  # of a large file


@dataclass(frozen=True)
class _Info:
    """What is used of the Hub's answer about a revision."""

    sha: Annotated[str, Pattern("[0-9a-f]{40}", "a commit, 40 hexadecimal digits")]
    siblings: tuple[HubFile, ...] | None = None


@dataclass(frozen=True)
class Commit:
    """A repository as it was at one commit."""

    repository: str
    sha: str
    files: Mapping[str, HubFile]


class HuggingFace:
    """One repository; the commit is looked up once and then kept."""

    kind = "huggingface"

    def __init__(
        self,
        repository: str,
        fmt: Format,
        *,
        token: str | None = None,
        revision: str | None = None,
        endpoint: str | None = None,
        policy: Policy = POLICY,
    ) -> None:
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when the library is imported
        import huggingface_hub
        from huggingface_hub import constants

        self.policy = policy
        self.small: dict[str, bytes | None] = {}
        self.refusals: list[AccessError] | None = None
        self.client = Client(timeout=policy.stall_seconds)
        self.repository = repository
        self.token = token or huggingface_hub.get_token()
        self._endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._fmt = fmt
        self._asked_revision = revision is not None
        self._revision = revision or "main"
        self._commit: Commit | None = None

    @property
    def about(self) -> str:
        """Repository and revision."""
        return f"from {self.where} at {self._revision}"

    @property
    def where(self) -> str:
        """The repository's page."""
        return f"{plain_url(self._endpoint)}/{self.repository}"

    @property
    def commit(self) -> Commit:
        """The commit that the revision means."""
        if self._commit is None:
            info = self._ask_hub()
            files = {file.rfilename: file for file in info.siblings or ()}
            self._commit = Commit(self.repository, info.sha, files)
        return self._commit

    def in_format(self, fmt: Format) -> HuggingFace:
        """The same repository at the same commit, with what was read of it, in that layout."""
        variant = copy.copy(self)
        variant._fmt = fmt
        return variant

    def beside(self, repository: str) -> HuggingFace:
        """Another repository of the same Hub, asked with the same token, at its main revision."""
        return HuggingFace(
            repository, self._fmt, token=self.token, endpoint=self._endpoint, policy=self.policy
        )

    def holds(self, manifest: Manifest) -> bool:
        """Whether the manifest is of the same repository at the same commit.

        A model of another source is the model, unless a revision was asked for; where the Hub
        cannot be asked what its main revision is, what is here counts.
        """
        stated = manifest.source
        if str(stated.get("repository")).lower() != self.repository.lower():
            return not self._asked_revision
        if stated.get("commit") in (self._revision, None):
            return stated.get("commit") is not None or not self._asked_revision
        try:
            return bool(stated["commit"] == self.commit.sha)
        except UnreachableError:
            if self._asked_revision:
                raise
            return True

    def request(self, path: str) -> Request:
        """The file at the pinned commit."""
        url = f"{self._endpoint}/{self.repository}/resolve/{self.commit.sha}/{quote(path)}"
        return HubRequest(self, url)

    def size(self, path: str) -> int | None:
        """As the Hub lists it."""
        return self.commit.files[path].size if path in self.commit.files else None

    def close(self) -> None:
        """Let idle connections go."""
        self.client.close()

    def texts(self, model: Model) -> Texts:
        """Licence and policy of the repository; a closed gate shows here.

        ``NotFoundError`` if a gated model's repository has none.
        """
        documents = dict(self.documents())
        if "LICENSE" not in documents and terms.load(model.license).gated:
            raise NotFoundError(
                f"{self.where} has no LICENSE", hint="choose a repository that has it, or --source"
            )
        record = {key: str(value) for key, value in self.record().items()}
        policy = documents.get("USE_POLICY.md")
        text = policy.decode("utf-8", "replace") if policy is not None else None
        return Texts(documents.get("LICENSE", b"").decode("utf-8", "replace"), text, record)

    def plan(self, model: Model) -> FetchPlan:
        """One layout's files, never both; digests as the Hub and Meta's checklist state them."""
        small = dict(self.documents()) | {
            name: data for name in _SMALL[self._fmt] if (data := self._read(name)) is not None
        }
        weights = self._weights(model, small)
        model = model if self._fmt == "meta" else layout.without_digests(model)
        expectations = layout.Known.of(model, small)
        files = [
            self.checked(layout.inline(name, data, expectations, self))
            for name, data in small.items()
        ]
        for name in weights:
            pinned = name in expectations.pinned
            made = RemoteFile(
                name, self.request(name), None, expectations.digests.get(name, {}), pinned
            )
            files.append(self.checked(made))
        layout.check_shards(model, expectations)
        lacks = layout.lacking(small, model, self._fmt)
        return FetchPlan(self._fmt, tuple(files), self.record(), self.policy, tuple(lacks))

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """What goes along with the weights, under the names that a store folder uses."""
        for name, alternatives in layout.documents(self._fmt):
            for alternative in alternatives:
                data = self._read(alternative)
                if data is not None:
                    yield name, data
                    break

    def _read(self, path: str) -> bytes | None:
        return read_small(self, path) if path in self.commit.files else None

    def _weights(self, model: Model, small: dict[str, bytes]) -> tuple[str, ...]:
        present = self.commit.files
        if self._fmt == "hf" and "config.json" in present:
            return layout.listed_weights(self, "", small, present)
        wanted = model.weight_files if self._fmt == "meta" else ("config.json",)
        missing = sorted(set(wanted) - set(present))
        if missing:
            other = "original" if self._fmt == "hf" else "hf"
            raise NotFoundError(
                f"{self.where} has no {', '.join(missing)}",
                hint=f"try --format {other} or another --source",
            )
        return wanted

    def checked(self, file: RemoteFile) -> RemoteFile:
        """Add what the Hub states about the file: SHA-256 of large ones, git's SHA-1 of others."""
        aliases = [alias for name, known in layout.documents(self._fmt) if name == file.path
                   for alias in known]  # fmt: skip
        name = next((n for n in (*aliases, file.path) if n in self.commit.files), None)
        if name is None:
            return file
        stated = self.commit.files[name]
        digests = dict(file.digests)
        if stated.lfs is not None:
            digests["sha256"] = stated.lfs.sha256
        elif stated.blobId:
            digests["git-sha1"] = stated.blobId
        size = stated.size if file.size is None else file.size
        local = hf_cache.blob(self.repository, digests, size) if stated.lfs else None
        return RemoteFile(file.path, file.request, size, digests, file.pinned, local=local)

    def checked_as(self, name: str, path: str) -> RemoteFile:
        """The file at ``path``, with what the Hub states about it, to be called ``name``."""
        file = self.checked(RemoteFile(path, self.request(path), None, {}))
        return replace(file, path=name)

    def record(self) -> Mapping[str, Any]:
        """What the manifest says of where the model came from."""
        return {
            "kind": self.kind,
            "host": urlsplit(self._endpoint).hostname,
            "repository": self.repository,
            "commit": self.commit.sha,
        }

    def _ask_hub(self) -> _Info:
        """What the Hub says of the revision; through our own client, which bounds the answer."""
        from huggingface_hub import constants
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

        try:
            validate_repo_id(self.repository)
        except HFValidationError as error:
            raise UsageError(f"{self.repository!r} is not a repository id: {error}") from error
        if constants.HF_HUB_OFFLINE:
            raise TransferError(
                f"{self.where} is not asked: HF_HUB_OFFLINE is set", hint=self._offline_hint()
            )
        revision = quote(self._revision, safe="")
        url = f"{self._endpoint}/api/models/{self.repository}/revision/{revision}?blobs=true"
        request = HubRequest(self, url)
        tries = RetryState(request.where, self.policy, Cancel(), NO_PROGRESS)
        data = tries.until_done(lambda: read_all(request, INFO.max_bytes))
        return conform(_Info, parse_json(data, self.where, INFO), self.where, INFO)

    def _offline_hint(self) -> str:
        cached = hf_cache.repository_folder(self.repository).is_dir()
        way = f", or import what the cache has: llama-hub import hf://{self.repository}"
        return f"unset HF_HUB_OFFLINE{way if cached else ''}"

    def meaning(self, status: int, headers: Mapping[str, str], text: str) -> LlamaHubError:
        """What a refusal of the Hub means, in words and with the page to open."""
        lower = {name.lower(): value for name, value in headers.items()}
        code, said = lower.get("x-error-code", ""), lower.get("x-error-message", "")
        if code == "GatedRepo" or (status == 403 and code == ""):
            return self._gate(status, f"{said} {text}".lower())
        if code == "RepoNotFound" and status == 401 and not self.token:
            return NotFoundError(
                f"{self.where} does not exist, or is private and you are not logged in",
                hint="check the repository's name; for a private one set HF_TOKEN or run: hf auth "
                f"login   (tokens: {TOKENS})",
            )
        if status == 401:
            return self._not_authenticated(said)
        if code == "RevisionNotFound":
            return NotFoundError(
                f"{self.where} has no revision {self._revision!r}", hint=f"see {self.where}/commits"
            )
        if status == 404:
            return NotFoundError(
                f"{self.where} does not exist, or is private and the token may not see it",
                hint="check the repository's name and the token (HF_TOKEN, hf auth login)",
            )
        return TransferError(f"{self.where} answered {status}: {redact(said or text)[:200]}")

    def _not_authenticated(self, said: str) -> LlamaHubError:
        if self.token and "invalid" in said.lower():
            return AccessError(
                "Hugging Face does not know the token: it is mistyped, expired or revoked",
                hint=f"make a new one at {TOKENS}, then set HF_TOKEN or run: hf auth login",
            )
        if not self.token:
            return self._gate(401, said.lower())
        return AccessError(
            f"{self.where} is not visible with this token",
            hint="check the repository's name; a private one needs a token of its organisation",
        )

    def _gate(self, status: int, said: str) -> AccessError:
        """The five states of a gate."""
        page = self.where
        if not self.token:
            return AccessError(
                f"{page} is gated and you are not logged in",
                hint=f"ask for access at {page}, make a token at {TOKENS}, then set HF_TOKEN or "
                "run: hf auth login",
            )
        if re.search(
            r"fine-grained|public gated|token.*(scope|permission)|permission.*token", said
        ):
            return AccessError(
                "the token may not read gated repositories",
                hint=f"at {TOKENS} edit it: 'Read access to contents of all public gated repos you "
                "can access'",
            )
        if "reject" in said:
            return AccessError(
                f"your request for {page} was rejected by its authors",
                hint="Meta's own form may still grant you a URL: --source meta",
            )
        if re.search(r"pending|await|review", said):
            return AccessError(
                f"your request for {page} is waiting for its authors' approval",
                hint=f"see {page}; you get an e-mail; then run the same command again",
            )
        if status == 401:
            return AccessError(
                f"{page} is gated and the token was not accepted",
                hint=f"make a new one at {TOKENS}, then set HF_TOKEN or run: hf auth login",
            )
        return AccessError(
            f"{page} is gated and this account has not asked for access",
            hint=f"open {page} and fill in its form, with the e-mail address that you gave Meta",
        )


class HubRequest:
    """One file of the repository at its commit."""

    def __init__(self, source: HuggingFace, url: str) -> None:
        self._source = source
        self._url = url

    @property
    def where(self) -> str:
        """The file's address on the Hub."""
        return plain_url(self._url)

    def open(self, start: int, stop: int | None, validator: str | None = None) -> Body:
        """GET a range: the Hub with the token, then the CDN without it.

        ``NotFoundError`` for a file that is not there, ``Transient`` if the CDN refuses.
        """
        token = self._source.token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            return self._source.client.open(self._url, start, stop, validator, headers)
        except StatusError as refusal:
            if refusal.place.split("/")[2] != urlsplit(self._url).netloc:
                raise Transient(f"the CDN refused ({refusal.status})") from refusal
            if refusal.headers.get("X-Error-Code") == "EntryNotFound":
                raise NotFoundError(f"there is no {self.where}") from refusal
            raise self._source.meaning(refusal.status, refusal.headers, refusal.text) from refusal
