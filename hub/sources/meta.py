"""The source ``meta``: Meta's own delivery through a signed URL.

Few requests are made, because the URL allows few (an interruption counts as one): no HEAD, no
probing, one range request for each file. A 403 half-way (expired, or used up) keeps every byte
and asks for a fresh URL, or ends with exit code 4 so that the next run goes on with a new one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import urlsplit

from llama_hub.errors import AccessError, LlamaHubError, NotFoundError, UsageError
from llama_hub.hub.catalog import Model
from llama_hub.hub.manifest import Manifest
from llama_hub.hub.sources import layout
from llama_hub.hub.sources.base import FetchPlan, FileTree, read_small
from llama_hub.hub.sources.signed_url import COPY, FORM, HOST, SignedUrl, parse
from llama_hub.hub.transfer.http import Client, StatusError
from llama_hub.hub.transfer.journal import BLOCK
from llama_hub.hub.transfer.remote_file import Body, RemoteFile, Request
from llama_hub.hub.transfer.retry import Policy, TransferError
from llama_hub.licenses.gate import Texts

LARGEST_RANGE = 27_000_000_000 // BLOCK * BLOCK  # bytes that CloudFront serves in one answer
POLICY = Policy(
    connections=1,
    span=LARGEST_RANGE,
    attempts=3,
    patient=False,
    retry_damaged=False,
    finish_others=True,
)
QUESTION = "Meta's signed URL, from its e-mail"


class MetaSource:
    """Models behind one signed URL, which may be exchanged for a fresh one on the way."""

    kind = "meta"

    def __init__(
        self,
        url: str | None,
        *,
        allow_hosts: tuple[str, ...] = (),
        ask: Callable[[str], str] | None = None,
        policy: Policy = POLICY,
    ) -> None:
        self.policy = policy
        self.small: dict[str, bytes | None] = {}
        self.refusals: list[AccessError] | None = None
        self.client = Client(timeout=policy.stall_seconds, follow=partial(_is_metas, allow_hosts))
        self._allow_hosts = allow_hosts
        self._ask = ask
        self._lock = threading.Lock()
        self._signed = self._accept(url) if url else None

    @property
    def about(self) -> str:
        """How long the URL is valid."""
        signed = self.signed
        until = f"{signed.expires:%Y-%m-%d %H:%M} UTC" if signed.expires else "an unknown time"
        return f"Meta's URL for {signed.resource} is valid until {until}"

    @property
    def where(self) -> str:
        """The host."""
        return self.signed.host

    @property
    def signed(self) -> SignedUrl:
        """The URL of now; a person is asked for it when it is first needed."""
        with self._lock:
            if self._signed is None:
                self._signed = self._from_person(QUESTION)
            return self._signed

    def request(self, path: str) -> Request:
        """The file at ``path`` below the URL's ``*``."""
        return MetaRequest(self, path)

    def size(self, path: str) -> int | None:
        """Not known before the first answer: Meta's server does not answer HEAD."""
        return None

    def close(self) -> None:
        """Let idle connections go."""
        self.client.close()

    def texts(self, model: Model) -> Texts:
        """LICENSE and USE_POLICY.md, which stand beside all models.

        ``NotFoundError`` if there is no LICENSE.
        """
        place: FileTree = self
        license, policy = read_small(place, "LICENSE"), read_small(place, "USE_POLICY.md")
        if license is None:
            raise NotFoundError(f"{self.where} has no LICENSE", hint=FORM)
        text = policy.decode("utf-8", "replace") if policy is not None else None
        return Texts(license.decode("utf-8", "replace"), text, self._record())

    def holds(self, manifest: Manifest) -> bool:
        """There is one revision only."""
        return True

    def plan(self, model: Model) -> FetchPlan:
        """The files of ``download.sh``; the small ones are read now."""
        paths = _paths(model)
        small = {name: self._required(path) for name, path in paths.items()}
        expectations = layout.Known.of(model, small)
        files = [layout.inline(name, data, expectations, self) for name, data in small.items()]
        for name in model.weight_files:
            request = self.request(f"{model.folder}/{name}")
            size, pinned = model.sizes.get(name), name in expectations.pinned
            files.append(
                RemoteFile(name, request, size, expectations.digests.get(name, {}), pinned)
            )
        layout.check_shards(model, expectations)
        lacks = ("MODEL_CARD.md", layout.GUIDE_NAMES[0], *expectations.unlisted(model.weight_files))
        return FetchPlan("meta", tuple(files), self._record(), self.policy, lacks)

    def _required(self, path: str) -> bytes:
        data = read_small(self, path)
        if data is None:
            raise NotFoundError(f"{self.where} has no {path}", hint=FORM)
        return data

    def _record(self) -> Mapping[str, str]:
        signed = self.signed
        record = {"kind": self.kind, "host": signed.host}
        return record | ({"request_id": signed.request_id} if signed.request_id else {})

    def renew(self, used: SignedUrl, why: LlamaHubError) -> None:
        """Get a URL that is not ``used``, from another thread or from the person; else ``why``."""
        with self._lock:
            if self._signed is used:
                if self._ask is None:
                    raise why
                self._signed = self._from_person(
                    f"{why.message}. Every byte so far is kept. {FORM}. A fresh URL"
                )

    def _from_person(self, question: str) -> SignedUrl:
        if self._ask is None:
            raise UsageError(
                "Meta's signed URL is needed",
                hint=f"--url @FILE, --url - (stdin) or LLAMA_HUB_META_URL; {FORM}",
            )
        return self._accept(self._ask(question))

    def _accept(self, text: str) -> SignedUrl:
        signed = parse(text, self._allow_hosts)
        signed.require_valid()
        return signed


def _is_metas(allow_hosts: tuple[str, ...], url: str) -> bool:
    """Whether a redirect stays with those whom the URL is for."""
    host = urlsplit(url).hostname or ""
    return bool(HOST.fullmatch(host)) or host in allow_hosts


class MetaRequest:
    """One file behind the signed URL."""

    def __init__(self, source: MetaSource, path: str) -> None:
        self._source = source
        self._path = path

    @property
    def where(self) -> str:
        """Host and path."""
        return f"{self._source.where}/{self._path}"

    def open(self, start: int, stop: int | None, validator: str | None = None) -> Body:
        """GET a range; asks for a fresh URL as often as the present one is refused."""
        while True:
            signed = self._source.signed
            try:
                signed.require_valid()
                body = self._source.client.open(signed.for_file(self._path), start, stop, validator)
                self._refuse_page(body)
                return body
            except AccessError as error:
                self._source.renew(signed, error)
            except StatusError as refusal:
                self._source.renew(signed, self._meaning(refusal, start))

    def _refuse_page(self, body: Body) -> None:
        if body.media == "text/html":
            body.close()
            raise AccessError(
                f"{self.where} answered with a web page instead of the file", hint=COPY
            )

    def _meaning(self, refusal: StatusError, start: int) -> LlamaHubError:
        if refusal.status == 403:
            so_far = f" after {start} bytes" if start else ""
            return AccessError(
                f"Meta's server refused {self._path}{so_far}: the URL has been used up (about five "
                "downloads), has expired, or is for other models",
                hint=f"{FORM}; then run the same command with the new URL: nothing comes twice",
            )
        if 300 <= refusal.status < 400:
            return AccessError(
                f"Meta's server sends the request on to {refusal.host}: the URL is not one that "
                "downloads files",
                hint=COPY,
            )
        if refusal.status == 404:
            raise NotFoundError(f"Meta's server has no {self._path}", hint=FORM)
        raise TransferError(f"Meta's server answered {refusal.status} for {self._path}", hint=FORM)


def _paths(model: Model) -> dict[str, str]:
    """Name in the store → path below the URL, for everything that is no weight file."""
    shared = f"{model.folder}/" if model.family == "code-llama" else ""
    paths = {
        "LICENSE": "LICENSE",
        "USE_POLICY.md": "USE_POLICY.md",
        "tokenizer.model": f"{shared}tokenizer.model",
        "params.json": f"{model.folder}/params.json",
        "checklist.chk": f"{model.folder}/checklist.chk",
    }
    return paths if shared else paths | {"tokenizer_checklist.chk": "tokenizer_checklist.chk"}
