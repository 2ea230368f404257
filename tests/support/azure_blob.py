"""The part of Azure Blob Storage that uploads touch: block blobs, block lists, listing.

As in the service: a block's ``Content-MD5`` is compared with what arrived, the
blob's own MD5 is stored unchecked, uncommitted blocks stay until a commit, all
ids of one blob have the same length, and errors are XML with ``x-ms-error-code``.
"""

from __future__ import annotations

import base64
import hashlib
import threading
from dataclasses import dataclass, field
from email.utils import formatdate
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from tests.support.azure_refusals import REFUSALS
from tests.support.azure_wire import Reply, Request

CONTAINER = "azureml-blobstore-33333333-3333-3333-3333-333333333333"


@dataclass
class Blob:
    """One committed blob."""

    data: bytes = b""
    md5: str | None = None  # base64, as the client stated it
    metadata: dict[str, str] = field(default_factory=dict)
    blocks: list[tuple[str, int]] = field(default_factory=list)


class Blobs:
    """One storage account with one container."""

    def __init__(self, account: str) -> None:
        self.account = account
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """As a new account is."""
        self.blobs: dict[str, Blob] = {}
        self.staged: dict[str, dict[str, bytes]] = {}  # blob → block id → bytes
        self.readable = True  # whether the caller has Storage Blob Data Reader
        self.writable = True  # whether the caller has Storage Blob Data Contributor
        self.firewalled = False  # whether the account takes no calls from the caller's network
        self.damaged_blocks = 0  # blocks that arrive otherwise than they were sent
        self.used: set[str] = set()  # verbs of the data actions that were asked for
        self.page = 3  # blobs in one page of a listing
        self.bytes_received = 0

    def handle(self, request: Request) -> Reply:
        """Answer a request to the account."""
        container, _, name = request.path.lstrip("/").partition("/")
        if container != CONTAINER:
            return _error(404, "ContainerNotFound")
        verbs = {"PUT": "write", "DELETE": "delete"}
        self.used.add(verbs.get(request.method, "read"))
        if self.firewalled:
            return REFUSALS["storage firewall"].xml()
        allowed = self.writable if request.method in ("PUT", "DELETE") else self.readable
        if not allowed:
            return REFUSALS["storage role"].xml()
        with self._lock:
            action = (request.method, request.query.get("comp", ""))
            handlers = {
                ("GET", "list"): self._list,
                ("GET", "blocklist"): self._block_list,
                ("GET", ""): self._get,
                ("HEAD", ""): self._head,
                ("PUT", ""): self._put,
                ("PUT", "block"): self._stage,
                ("PUT", "blocklist"): self._commit,
                ("DELETE", ""): self._delete,
            }
            handler = handlers.get(action)
            return handler(request, name) if handler else Reply(400, b"")

    def _head(self, request: Request, name: str) -> Reply:
        blob = self.blobs.get(name)
        if blob is None:
            return _error(404, "BlobNotFound")
        return Reply(200, None, _headers(blob) | {"Content-Length": str(len(blob.data))})

    def _get(self, request: Request, name: str) -> Reply:
        blob = self.blobs.get(name)
        if blob is None:
            return _error(404, "BlobNotFound")
        wanted = request.headers.get("x-ms-range") or request.headers.get("Range")
        if not wanted or not blob.data:
            return Reply(200, blob.data, _headers(blob))
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        part = blob.data[int(first) : int(last) + 1 if last else None]
        span = f"bytes {first}-{int(first) + len(part) - 1}/{len(blob.data)}"
        return Reply(206, part, _headers(blob) | {"Content-Range": span})

    def _put(self, request: Request, name: str) -> Reply:
        if not _intact(request):
            return REFUSALS["block damaged"].xml()
        md5 = base64.b64encode(hashlib.md5(request.body).digest()).decode()
        self.blobs[name] = Blob(request.body, md5, _metadata(request))
        self.staged.pop(name, None)
        self.bytes_received += len(request.body)
        return _created()

    def _stage(self, request: Request, name: str) -> Reply:
        block = request.query["blockid"]
        staged = self.staged.setdefault(name, {})
        if self.damaged_blocks or not _intact(request):
            self.damaged_blocks -= 1
            return REFUSALS["block damaged"].xml()
        if any(len(known) != len(block) for known in staged):
            return _error(400, "InvalidBlobOrBlock")
        staged[block] = request.body
        self.bytes_received += len(request.body)
        return _created()

    def _commit(self, request: Request, name: str) -> Reply:
        staged, old = self.staged.get(name, {}), self.blobs.get(name, Blob())
        offsets, position = {}, 0
        for block, size in old.blocks:
            offsets[block] = old.data[position : position + size]
            position += size
        wanted = [node.text or "" for node in ElementTree.fromstring(request.body)]
        if any(block not in staged and block not in offsets for block in wanted):
            return _error(400, "InvalidBlockList")
        parts = [staged.get(block, offsets.get(block, b"")) for block in wanted]
        self.blobs[name] = Blob(
            b"".join(parts),
            request.headers.get("x-ms-blob-content-md5"),
            _metadata(request),
            [(block, len(part)) for block, part in zip(wanted, parts, strict=True)],
        )
        self.staged.pop(name, None)
        return _created()

    def _block_list(self, request: Request, name: str) -> Reply:
        if name not in self.blobs and name not in self.staged:
            return _error(404, "BlobNotFound")

        def listed(kind: str, blocks: list[tuple[str, int]]) -> str:
            inner = "".join(
                f"<Block><Name>{block}</Name><Size>{size}</Size></Block>" for block, size in blocks
            )
            return f"<{kind}>{inner}</{kind}>"

        committed = self.blobs[name].blocks if name in self.blobs else []
        waiting = [(block, len(data)) for block, data in self.staged.get(name, {}).items()]
        text = listed("CommittedBlocks", committed) + listed("UncommittedBlocks", waiting)
        document = f'<?xml version="1.0" encoding="utf-8"?><BlockList>{text}</BlockList>'
        return Reply(200, document.encode(), {"Content-Type": "application/xml"})

    def _list(self, request: Request, name: str) -> Reply:
        prefix = request.query.get("prefix", "")
        include = request.query.get("include", "")
        names = set(self.blobs) | (set(self.staged) if "uncommittedblobs" in include else set())
        found = sorted(known for known in names if known.startswith(prefix))
        found = [known for known in found if known >= request.query.get("marker", "")]
        shown, rest = found[: self.page], found[self.page :]
        entries = "".join(self._entry(known) for known in shown)
        marker = f"<NextMarker>{escape(rest[0])}</NextMarker>" if rest else "<NextMarker/>"
        document = (
            '<?xml version="1.0" encoding="utf-8"?>'
            f'<EnumerationResults ServiceEndpoint="https://{self.account}.blob.core.windows.net/" '
            f'ContainerName="{CONTAINER}"><Prefix>{escape(prefix)}</Prefix>'
            f"<Blobs>{entries}</Blobs>{marker}</EnumerationResults>"
        )
        return Reply(200, document.encode(), {"Content-Type": "application/xml"})

    def _entry(self, name: str) -> str:
        blob = self.blobs.get(name, Blob())
        md5 = f"<Content-MD5>{blob.md5}</Content-MD5>" if blob.md5 else "<Content-MD5/>"
        metadata = "".join(f"<{key}>{value}</{key}>" for key, value in blob.metadata.items())
        return (
            f"<Blob><Name>{escape(name)}</Name><Properties>"
            f"<Last-Modified>{formatdate(usegmt=True)}</Last-Modified><Etag>0x1</Etag>"
            f"<Content-Length>{len(blob.data)}</Content-Length>{md5}"
            f"<BlobType>BlockBlob</BlobType></Properties><Metadata>{metadata}</Metadata></Blob>"
        )

    def _delete(self, request: Request, name: str) -> Reply:
        if self.blobs.pop(name, None) is None and self.staged.pop(name, None) is None:
            return _error(404, "BlobNotFound")
        return Reply(202, None)


def _intact(request: Request) -> bool:
    stated = request.headers.get("Content-MD5")
    actual = base64.b64encode(hashlib.md5(request.body).digest()).decode()
    return stated in (None, actual)


def _metadata(request: Request) -> dict[str, str]:
    start = "x-ms-meta-"
    return {
        name[len(start) :]: value
        for name, value in request.headers.items()
        if name.lower().startswith(start)
    }


def _headers(blob: Blob) -> dict[str, str]:
    headers = {
        "Last-Modified": formatdate(usegmt=True),
        "ETag": '"0x1"',
        "x-ms-blob-type": "BlockBlob",
        "Content-Type": "application/octet-stream",
    } | {f"x-ms-meta-{key}": value for key, value in blob.metadata.items()}
    return headers | ({"Content-MD5": blob.md5} if blob.md5 else {})


def _created() -> Reply:
    return Reply(
        201,
        None,
        {
            "ETag": '"0x1"',
            "Last-Modified": formatdate(usegmt=True),
            "x-ms-request-server-encrypted": "true",
        },
    )


def _error(status: int, code: str) -> Reply:
    document = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
    headers = {"x-ms-error-code": code, "Content-Type": "application/xml"}
    return Reply(status, b'<?xml version="1.0" encoding="utf-8"?>' + document.encode(), headers)
