"""An S3 that looks at every byte: checksums, multipart uploads, conditional writes, listings.

A wrong SHA-256, CRC-32 or Content-MD5 is refused as S3 refuses it; multipart SHA-256 is
composite, ``base64-N``. What it cannot prove: permissions, versions, encryption, replication,
and S3's own wording where no test of ours depends on it. CRC64NVME is checked only where
``awscrt`` is installed, and refused elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import threading
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

CHUNK = 1 << 20
SMALLEST_PART = 5 << 20
LARGEST_PUT = 5 << 30
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"


class S3Error(Exception):
    """A refusal, with S3's code and HTTP status."""

    def __init__(self, status: int, code: str, message: str = "") -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message or code


@dataclass
class Stored:
    """Bytes on disk, and what is known of them."""

    path: Path
    size: int
    etag: str
    checksums: dict[str, str]  # algorithm, lower case → base64
    kind: str = "FULL_OBJECT"
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class Upload:
    """A multipart upload that is not complete."""

    bucket: str
    key: str
    algorithm: str
    kind: str
    metadata: dict[str, str]
    parts: dict[int, Stored] = field(default_factory=dict)


@dataclass
class Bucket:
    """A bucket with its settings."""

    region: str
    owner: str = ""  # account, if it is not ours
    is_public: bool = False  # whether its owner lets everybody write
    objects: dict[str, Stored] = field(default_factory=dict)
    settings: dict[str, bytes] = field(default_factory=dict)  # sub-resource → XML as it was put


@dataclass
class Request:
    """One HTTP request, its body not read yet."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: IO[bytes]
    is_read: bool = False  # whether nothing of the body is left on the connection

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str], body: IO[bytes]) -> Request:
        """From the request line."""
        parts = urlsplit(target)
        query = {
            key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()
        }
        return cls(method, unquote(parts.path), query, headers, body)

    @property
    def place(self) -> tuple[str, str]:
        """Bucket and key."""
        bucket, _, key = self.path.lstrip("/").partition("/")
        return bucket, key


@dataclass
class Reply:
    """One answer; ``file`` is sent instead of ``body``."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    file: Path | None = None


class S3:
    """All buckets of one account."""

    def __init__(self, root: Path, region: str = "us-east-1") -> None:
        self.root, self.region = root, region
        self.buckets: dict[str, Bucket] = {}
        self.uploads: dict[str, Upload] = {}
        self.unnamed: list[str] = []  # requests that did not say whose the bucket must be
        self.lock = threading.RLock()
        self.verify = True
        self._names = itertools.count()
        root.mkdir(parents=True, exist_ok=True)

    def handle(self, request: Request) -> Reply:
        """Answer one request; raises ``S3Error``."""
        bucket, key = request.place
        self._check_owner(request, bucket)
        if not key:
            return self._on_bucket(request, bucket)
        if "uploadId" in request.query or "uploads" in request.query:
            return self._on_upload(request, bucket, key)
        return self._on_object(request, bucket, key)

    def _check_owner(self, request: Request, name: str) -> None:
        """A bucket of others is closed to us, and to whoever names us as its owner."""
        known = self.buckets.get(name)
        named = request.headers.get("x-amz-expected-bucket-owner")
        creates = request.method == "PUT" and request.place[1] == "" and not request.query
        if named is None and not creates:
            self.unnamed.append(f"{request.method} {request.path}")
        if known is not None and known.owner and creates:
            raise S3Error(
                409,
                "BucketAlreadyExists",
                "The requested bucket name is not available. The bucket namespace is shared by "
                "all users of the system. Please select a different name and try again.",
            )
        if known is not None and known.owner and (named is not None or not known.is_public):
            raise S3Error(403, "AccessDenied", "Access Denied")

    def _bucket(self, name: str) -> Bucket:
        found = self.buckets.get(name)
        if found is None:
            raise S3Error(404, "NoSuchBucket", "The specified bucket does not exist")
        return found

    # --- buckets --------------------------------------------------------------------------

    def _on_bucket(self, request: Request, name: str) -> Reply:
        setting = next((key for key in request.query if key in SETTINGS), None)
        if setting:
            return self._setting(request, name, setting)
        if "uploads" in request.query:
            return self._list_uploads(name, request.query.get("prefix", ""))
        if "delete" in request.query:
            return self._delete_many(request, name)
        actions: dict[str, Callable[[Request, str], Reply]] = {
            "PUT": self._create_bucket,
            "HEAD": self._head_bucket,
            "DELETE": self._delete_bucket,
            "GET": self._list,
        }
        return actions[request.method](request, name)

    def _create_bucket(self, request: Request, name: str) -> Reply:
        text = body_of(request)
        region = _text(text, "LocationConstraint") or "us-east-1"
        with self.lock:
            if name in self.buckets:
                raise S3Error(409, "BucketAlreadyOwnedByYou")
            if region != self.region:
                raise S3Error(400, "IllegalLocationConstraintException")
            self.buckets[name] = Bucket(region)
        return Reply(headers={"Location": f"/{name}"})

    def _head_bucket(self, request: Request, name: str) -> Reply:
        return Reply(headers={"x-amz-bucket-region": self._bucket(name).region})

    def _delete_bucket(self, request: Request, name: str) -> Reply:
        with self.lock:
            if self._bucket(name).objects or any(
                one.bucket == name for one in self.uploads.values()
            ):
                raise S3Error(409, "BucketNotEmpty", "The bucket you tried to delete is not empty")
            del self.buckets[name]
        return Reply(204)

    def _setting(self, request: Request, name: str, setting: str) -> Reply:
        bucket = self._bucket(name)
        if request.method == "PUT":
            bucket.settings[setting] = body_of(request)
            return Reply(204 if setting == "tagging" else 200)
        if request.method == "DELETE":
            bucket.settings.pop(setting, None)
            return Reply(204)
        if setting == "location":
            region = "" if bucket.region == "us-east-1" else bucket.region
            return xml("LocationConstraint", region)
        if setting not in bucket.settings:
            raise S3Error(404, SETTINGS[setting])
        return Reply(body=bucket.settings[setting])

    def _list(self, request: Request, name: str) -> Reply:
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        after = request.query.get("continuation-token", "")
        most = int(request.query.get("max-keys", "1000"))
        keys = sorted(key for key in self._bucket(name).objects if key.startswith(prefix))
        shown: dict[str, bool] = {}
        for key in keys:
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            entry = prefix + head + delimiter if found else key
            if entry > after:
                shown[entry] = bool(found)
        page = list(shown)[:most]
        body = "".join(_listed(self._bucket(name), key, shown[key]) for key in page)
        more = len(shown) > len(page)
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        return xml(
            "ListBucketResult", f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{body}"
        )

    def _delete_many(self, request: Request, name: str) -> Reply:
        content = body_of(request)
        if not {"content-md5", "x-amz-sdk-checksum-algorithm"} & {
            k.lower() for k in request.headers
        }:
            raise S3Error(400, "InvalidRequest", "Missing required header: Content-MD5")
        with self.lock:
            for element in ET.fromstring(content).iter():
                if element.tag.endswith("Key"):
                    self._bucket(name).objects.pop(str(element.text), None)
        return xml("DeleteResult", "")

    # --- objects --------------------------------------------------------------------------

    def _on_object(self, request: Request, bucket: str, key: str) -> Reply:
        if request.method == "PUT":
            return self._put(request, bucket, key)
        if request.method == "DELETE":
            with self.lock:
                self._bucket(bucket).objects.pop(key, None)
            return Reply(204)
        found = self._bucket(bucket).objects.get(key)
        if found is None:
            raise S3Error(404, "NoSuchKey", "The specified key does not exist.")
        headers = {"ETag": f'"{found.etag}"', "Content-Length": str(found.size)}
        headers |= {f"x-amz-meta-{name}": value for name, value in found.metadata.items()}
        headers["Last-Modified"] = "Mon, 23 Nov 2026 08:00:00 GMT"
        if request.headers.get("x-amz-checksum-mode") == "ENABLED":
            headers |= {f"x-amz-checksum-{name}": v for name, v in found.checksums.items()}
            headers["x-amz-checksum-type"] = found.kind
        return Reply(headers=headers, file=found.path if request.method == "GET" else None)

    def _put(self, request: Request, bucket: str, key: str) -> Reply:
        self._bucket(bucket)
        _legal(key)
        stored = self.receive(request)
        stored.metadata = metadata(request.headers)
        with self.lock:
            objects = self._bucket(bucket).objects
            if request.headers.get("If-None-Match") == "*" and key in objects:
                raise S3Error(412, "PreconditionFailed")
            objects[key] = stored
        return Reply(headers={"ETag": f'"{stored.etag}"'} | _checksum_headers(stored))

    def receive(self, request: Request) -> Stored:
        """Read a body to disk; ``BadDigest`` if it is not what its headers say."""
        path = self.root / f"{next(self._names):08d}"
        given = {
            name: str(request.headers.get(f"x-amz-checksum-{name}"))
            for name in ALGORITHMS
            if request.headers.get(f"x-amz-checksum-{name}")
        }
        stated = request.headers.get("x-amz-content-sha256", "")
        signed = stated if len(stated) == 64 else ""
        hashes = {name: ALGORITHMS[name]() for name in given}
        if signed and "sha256" not in hashes:
            hashes["sha256"] = ALGORITHMS["sha256"]()
        wanted_md5 = request.headers.get("Content-MD5")
        if wanted_md5:
            hashes["md5"] = hashlib.md5(usedforsecurity=False)
        size = 0
        with path.open("wb") as file:
            for piece in pieces(request):
                size += len(piece)
                file.write(piece)
                for one in hashes.values():
                    one.update(piece)
        found = {name: base64.b64encode(one.digest()).decode() for name, one in hashes.items()}
        self._compare(request, given | ({"md5": wanted_md5} if wanted_md5 else {}), found, size)
        if signed and found["sha256"] != base64.b64encode(bytes.fromhex(signed)).decode():
            raise S3Error(400, "XAmzContentSHA256Mismatch")
        return Stored(path, size, self._tag(), {name: found[name] for name in given})

    def _tag(self) -> str:
        """An entity tag: no digest, as with SSE-KMS, so that nobody may take it for one."""
        return hashlib.sha256(str(next(self._names)).encode()).hexdigest()[:32]

    def _compare(
        self, request: Request, given: Mapping[str, str], found: Mapping[str, str], size: int
    ) -> None:
        for name, value in given.items():
            if value != found[name]:
                raise S3Error(400, "BadDigest", f"The {name.upper()} you specified did not match.")
        length = request.headers.get("x-amz-decoded-content-length") or request.headers.get(
            "Content-Length", "0"
        )
        if size != int(length):
            raise S3Error(400, "IncompleteBody")
        if size > LARGEST_PUT:
            raise S3Error(400, "EntityTooLarge")

    # --- multipart ------------------------------------------------------------------------

    def _on_upload(self, request: Request, bucket: str, key: str) -> Reply:
        if "uploads" in request.query:
            return self._begin(request, bucket, key)
        id_ = request.query["uploadId"]
        upload = self.uploads.get(id_)
        if upload is None or (upload.bucket, upload.key) != (bucket, key):
            raise S3Error(404, "NoSuchUpload", "The specified upload does not exist.")
        if request.method == "PUT":
            return self._part(request, upload)
        if request.method == "GET":
            return _parts(upload)
        if request.method == "DELETE":
            self.uploads.pop(id_, None)
            return Reply(204)
        return self._complete(request, id_, upload)

    def _begin(self, request: Request, bucket: str, key: str) -> Reply:
        self._bucket(bucket)
        _legal(key)
        algorithm = request.headers.get("x-amz-checksum-algorithm", "").lower()
        kind = request.headers.get("x-amz-checksum-type", "") or "COMPOSITE"
        if algorithm in ("sha256", "sha1") and kind == "FULL_OBJECT":
            raise S3Error(400, "InvalidRequest", "FULL_OBJECT is not possible with SHA")
        id_ = hashlib.sha256(f"{bucket}/{key}/{next(self._names)}".encode()).hexdigest()[:32]
        with self.lock:
            self.uploads[id_] = Upload(bucket, key, algorithm, kind, metadata(request.headers))
        return xml("InitiateMultipartUploadResult", f"<UploadId>{id_}</UploadId>")

    def _part(self, request: Request, upload: Upload) -> Reply:
        stored = self.receive(request)
        if upload.algorithm and upload.algorithm not in stored.checksums:
            raise S3Error(400, "InvalidRequest", f"the part has no {upload.algorithm} checksum")
        upload.parts[int(request.query["partNumber"])] = stored
        return Reply(headers={"ETag": f'"{stored.etag}"'} | _checksum_headers(stored))

    def _complete(self, request: Request, id_: str, upload: Upload) -> Reply:
        wanted = [
            (int(_child(part, "PartNumber")), _child(part, "ETag").strip('"'))
            for part in ET.fromstring(body_of(request))
        ]
        known = {number: part.etag for number, part in upload.parts.items()}
        if any(known.get(number) != etag for number, etag in wanted):
            raise S3Error(400, "InvalidPart", "One or more of the parts could not be found.")
        parts = [upload.parts[number] for number, _ in sorted(wanted)]
        if any(part.size < SMALLEST_PART for part in parts[:-1]):
            raise S3Error(400, "EntityTooSmall")
        whole = self._joined(parts, upload)
        size = request.headers.get("x-amz-mp-object-size")
        if size is not None and int(size) != whole.size:
            raise S3Error(400, "InvalidRequest", "the size differs from x-amz-mp-object-size")
        with self.lock:
            self._bucket(upload.bucket).objects[upload.key] = whole
            self.uploads.pop(id_, None)
        sums = "".join(
            f"<Checksum{n.upper()}>{v}</Checksum{n.upper()}>" for n, v in whole.checksums.items()
        )
        return xml("CompleteMultipartUploadResult", f"<ETag>{whole.etag}</ETag>{sums}")

    def _joined(self, parts: list[Stored], upload: Upload) -> Stored:
        path = self.root / f"{next(self._names):08d}"
        with path.open("wb") as file:
            for part in parts:
                file.write(part.path.read_bytes())
                part.path.unlink()
        checksums = {}
        if upload.algorithm == "sha256":
            inner = b"".join(base64.b64decode(one.checksums["sha256"]) for one in parts)
            digest = base64.b64encode(hashlib.sha256(inner).digest()).decode()
            checksums = {"sha256": f"{digest}-{len(parts)}"}
        size = sum(part.size for part in parts)
        etag = f"{self._tag()}-{len(parts)}"
        return Stored(path, size, etag, checksums, upload.kind, upload.metadata)

    def _list_uploads(self, name: str, prefix: str) -> Reply:
        self._bucket(name)
        found = "".join(
            f"<Upload><Key>{escape(one.key)}</Key><UploadId>{id_}</UploadId></Upload>"
            for id_, one in self.uploads.items()
            if one.bucket == name and one.key.startswith(prefix)
        )
        return xml("ListMultipartUploadsResult", f"<IsTruncated>false</IsTruncated>{found}")


SETTINGS = {  # sub-resource → the code for "there is none"
    "location": "",
    "lifecycle": "NoSuchLifecycleConfiguration",
    "tagging": "NoSuchTagSet",
    "publicAccessBlock": "NoSuchPublicAccessBlockConfiguration",
    "encryption": "ServerSideEncryptionConfigurationNotFoundError",
}


class Crc32:
    """CRC-32 with hashlib's two methods."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, data: bytes) -> None:
        """More bytes."""
        self.value = zlib.crc32(data, self.value)

    def digest(self) -> bytes:
        """Big endian, as S3 sends it."""
        return self.value.to_bytes(4, "big")


class Crc64:
    """CRC64NVME, where awscrt is installed."""

    def __init__(self) -> None:
        try:
            from awscrt import checksums
        except ModuleNotFoundError as error:
            raise S3Error(501, "NotImplemented", "CRC64NVME needs awscrt here") from error
        self._add, self.value = checksums.crc64nvme, 0

    def update(self, data: bytes) -> None:
        """More bytes."""
        self.value = self._add(data, self.value)

    def digest(self) -> bytes:
        """Big endian, as S3 sends it."""
        return self.value.to_bytes(8, "big")


ALGORITHMS: dict[str, Callable[[], Any]] = {
    "sha256": hashlib.sha256,
    "sha1": hashlib.sha1,
    "crc32": Crc32,
    "crc64nvme": Crc64,
}


def pieces(request: Request) -> Any:
    """The body in pieces, with the framing of aws-chunked taken off."""
    if "aws-chunked" in request.headers.get("Content-Encoding", ""):
        while size := int(request.body.readline().split(b";")[0], 16):
            yield request.body.read(size)
            request.body.readline()
        while request.body.readline().strip():
            pass
        return
    left = int(request.headers.get("Content-Length", "0"))
    while left:
        piece = request.body.read(min(CHUNK, left))
        if not piece:
            return
        left -= len(piece)
        yield piece


def body_of(request: Request) -> bytes:
    """The whole body."""
    content = b"".join(pieces(request))
    request.is_read = True
    return content


def metadata(headers: Mapping[str, str]) -> dict[str, str]:
    """The user's metadata of a request."""
    start = "x-amz-meta-"
    return {
        name.lower().removeprefix(start): value
        for name, value in headers.items()
        if name.lower().startswith(start)
    }


def xml(name: str, inner: str) -> Reply:
    """An XML answer."""
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name} xmlns="{NAMESPACE}">{inner}</{name}>'
    return Reply(body=text.encode(), headers={"Content-Type": "application/xml"})


def _checksum_headers(stored: Stored) -> dict[str, str]:
    return {f"x-amz-checksum-{name}": value for name, value in stored.checksums.items()}


def _parts(upload: Upload) -> Reply:
    body = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>&quot;{part.etag}&quot;</ETag>"
        f"<Size>{part.size}</Size>"
        + "".join(
            f"<Checksum{n.upper()}>{v}</Checksum{n.upper()}>" for n, v in part.checksums.items()
        )
        + "</Part>"
        for number, part in sorted(upload.parts.items())
    )
    return xml("ListPartsResult", f"<IsTruncated>false</IsTruncated>{body}")


def _listed(bucket: Bucket, key: str, is_prefix: bool) -> str:
    if is_prefix:
        return f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
    found = bucket.objects[key]
    return (
        f"<Contents><Key>{escape(key)}</Key><Size>{found.size}</Size>"
        f"<ETag>&quot;{found.etag}&quot;</ETag></Contents>"
    )


def _legal(key: str) -> None:
    """What SageMaker would refuse to turn into a path later."""
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in key.split("/")):
        raise S3Error(400, "InvalidRequest", f"the key {key!r} cannot become a path")


def _text(content: bytes, name: str) -> str:
    if not content:
        return ""
    return next(
        (str(one.text) for one in ET.fromstring(content).iter() if one.tag.endswith(name)), ""
    )


def _child(element: ET.Element, name: str) -> str:
    return next((str(one.text) for one in element if one.tag.endswith(name)), "")
