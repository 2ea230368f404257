"""Weights into S3: as they are, checked by S3 against the manifest, and resumable.

A file of up to 5 GB is one PutObject that carries the manifest's own SHA-256: S3 compares it with
what arrives, keeps it, and tells it to whoever asks later, so that storage itself proves what it
holds and nothing is hashed here. A larger file goes up in parts, each with its SHA-256; one that
was cut off goes on with the parts that are missing, and the whole file's SHA-256 is compared with
the manifest before the parts are joined. ``llama-hub.json`` goes last: where it is, all files are.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama_hub.backends.sagemaker.client import Aws, translated
from llama_hub.deploy.upload import Sending, Tell, damaged, part_size, send_model, send_parts
from llama_hub.deploy.waiting import persist
from llama_hub.errors import IntegrityError, NotFoundError, ProvisioningError
from llama_hub.hub.manifest import MANIFEST_NAME, FileEntry, Manifest
from llama_hub.hub.transfer.bounded_aws import read_body
from llama_hub.progress import NO_PROGRESS, Progress

SINGLE = 5 * 10**9  # bytes of the largest file that is one PutObject; S3 takes 5 GiB
PART = 64 << 20  # bytes; at most 10,000 parts
MOST_PARTS = 10_000
WORKERS = 6  # transfers at a time
PIECE = 1 << 20  # bytes that are handed to the socket at a time
SHA256 = "llama-hub-sha256"  # metadata: of the whole file
ATTEMPTS = 3  # at joining the parts, where S3 has lost one


@dataclass(frozen=True)
class ObjectInfo:
    """What S3 says of one object."""

    size: int
    checksum: str | None  # base64 of SHA-256; ``…-N`` for N parts
    stated: str | None  # hexadecimal SHA-256 that the uploader stated

    def proves(self, entry: FileEntry) -> bool:
        """Whether this is the manifest's file: by S3's own digest, or part by part."""
        if self.size != entry.size or self.checksum is None:
            return False
        if "-" not in self.checksum:
            return self.checksum == b64(entry.sha256)
        return self.stated == entry.sha256


def b64(digest: str) -> str:
    """Hexadecimal to base64."""
    return base64.b64encode(bytes.fromhex(digest)).decode()


@dataclass
class Bucket:
    """A bucket, and how things are put into it."""

    aws: Aws
    name: str
    kms_key: str | None = None
    single: int = SINGLE
    part: int = PART

    def head(self, key: str) -> ObjectInfo | None:
        """What is stored under ``key``; ``None`` if nothing is."""
        found = self.aws.find(
            "s3", "head_object", Bucket=self.name, Key=key, ChecksumMode="ENABLED"
        )
        if found is None:
            return None
        stated = found.get("Metadata", {}).get(SHA256)
        return ObjectInfo(int(found["ContentLength"]), found.get("ChecksumSHA256"), stated)

    def keys(self, prefix: str) -> list[str]:
        """Every key below ``prefix``; none where the bucket is not there."""
        try:
            found = self.aws.pages(
                "s3", "list_objects_v2", "Contents", Bucket=self.name, Prefix=prefix
            )
            return [str(one["Key"]) for one in found]
        except NotFoundError:
            return []

    def read(self, key: str) -> bytes:
        """A small object."""
        found = self.aws.call("s3", "get_object", Bucket=self.name, Key=key)
        with translated("read an object (s3)"):
            return read_body(found["Body"])

    def put(self, key: str, content: bytes) -> None:
        """A small object, with its digest."""
        digest = hashlib.sha256(content).hexdigest()
        self._put(key, lambda: content, len(content), digest)

    def _put(self, key: str, open_: Callable[[], Any], size: int, digest: str) -> None:
        def once() -> dict[str, Any]:
            return self.aws.once(
                "s3",
                "put_object",
                Bucket=self.name,
                Key=key,
                Body=open_(),
                ContentLength=size,
                ChecksumSHA256=b64(digest),
                Metadata={SHA256: digest},
                **self._encryption(),
            )

        persist(once, sleep=self.aws.sleep)

    def _encryption(self) -> dict[str, str]:
        if self.kms_key is None:
            return {}
        return {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": self.kms_key}

    def delete(self, prefix: str) -> int:
        """Remove every object and every unfinished upload below ``prefix``; how many."""
        for upload in self.uploads(prefix):
            self.abort(upload)
        keys = self.keys(prefix)
        for start in range(0, len(keys), 1000):
            batch = [{"Key": key} for key in keys[start : start + 1000]]
            self.aws.call(
                "s3",
                "delete_objects",
                Bucket=self.name,
                Delete={"Objects": batch, "Quiet": True},
                ChecksumAlgorithm="SHA256",
            )
        return len(keys)

    def uploads(self, prefix: str) -> list[Mapping[str, Any]]:
        """Multipart uploads that are neither complete nor aborted."""
        found = self.aws.find("s3", "list_multipart_uploads", Bucket=self.name, Prefix=prefix)
        return list((found or {}).get("Uploads", []))

    def abort(self, upload: Mapping[str, Any]) -> None:
        """Throw an unfinished upload away."""
        place = {"Bucket": self.name, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        self.aws.find("s3", "abort_multipart_upload", **place)

    # --- a model ----------------------------------------------------------------------------

    def upload(
        self, folder: Path, manifest: Manifest, prefix: str, progress: Progress = NO_PROGRESS
    ) -> dict[str, int]:
        """All files of ``manifest``, then the manifest; what was sent and what was there."""

        def send(missing: Sequence[FileEntry], tell: Tell) -> int:
            sent = self._send_all(folder, missing, prefix, tell)
            self.put(prefix + MANIFEST_NAME, manifest.to_text().encode())
            return sent

        return send_model(
            manifest,
            progress,
            lambda entry: self._is_there(entry, prefix),
            send,
            "in S3, digests compared",
        )

    def _is_there(self, entry: FileEntry, prefix: str) -> bool:
        held = self.head(prefix + entry.path)
        return held is not None and held.proves(entry)

    def _send_all(self, folder: Path, wanted: Sequence[FileEntry], prefix: str, tell: Tell) -> int:
        """Small files side by side, then large ones one after the other in parts."""
        small = [one for one in wanted if one.size <= self.single]
        with Sending(WORKERS) as sending:
            for one in small:
                sending.add(partial(self._single, folder / one.path, one, prefix, tell))
        sent = sum(one.size for one in small)
        for one in wanted:
            if one.size > self.single:
                sent += Multipart(self, folder / one.path, one, prefix + one.path, tell).run()
        return sent

    def _single(self, path: Path, entry: FileEntry, prefix: str, tell: Tell) -> None:
        size = path.stat().st_size
        if size != entry.size:
            raise damaged(entry, f"it has {size} bytes")
        try:
            with _Body(path, tell) as body:
                self._put(prefix + entry.path, body.rewound, size, entry.sha256)
        except IntegrityError as error:
            raise damaged(entry, error.message) from error

    def prove(self, manifest: Manifest, prefix: str) -> list[tuple[str, bool, str]]:
        """Per file: path, whether S3 holds what the manifest says, and in which words."""
        return [self._proof(entry, prefix) for entry in sorted(manifest.files)]

    def _proof(self, entry: FileEntry, prefix: str) -> tuple[str, bool, str]:
        held = self.head(prefix + entry.path)
        if held is None:
            return entry.path, False, "is not there"
        kind = "S3's SHA-256 of the whole object"
        if held.checksum and "-" in held.checksum:
            parts = held.checksum.rpartition("-")[2]
            kind = f"S3's SHA-256 over {parts} parts, whole file compared when it was sent"
        return entry.path, held.proves(entry), f"{kind}: {held.checksum}, {held.size} bytes"


class Multipart:
    """One large file, in parts that are sent side by side."""

    def __init__(self, bucket: Bucket, path: Path, entry: FileEntry, key: str, tell: Tell) -> None:
        self._bucket, self._path, self._entry, self._key = bucket, path, entry, key
        self._tell = tell
        self._size = part_size(entry.size, bucket.part, MOST_PARTS)

    def run(self) -> int:
        """Send what is missing and join the parts; how many bytes had to go.

        ``ProvisioningError`` if S3 keeps losing parts.
        """
        sent = 0
        for _ in range(ATTEMPTS):
            upload = self._open()
            parts, more = self._send(upload)
            sent += more
            if self._join(upload, parts):
                return sent
        raise ProvisioningError(
            f"S3 lost parts of {self._entry.path} {ATTEMPTS} times", hint="run the command again"
        )

    def _open(self) -> dict[str, str]:
        """The upload that was cut off, or a new one."""
        for found in self._bucket.uploads(self._key):
            if found["Key"] == self._key:
                return self._place(str(found["UploadId"]))
        made = self._bucket.aws.call(
            "s3",
            "create_multipart_upload",
            Bucket=self._bucket.name,
            Key=self._key,
            ChecksumAlgorithm="SHA256",
            Metadata={SHA256: self._entry.sha256},
            **self._bucket._encryption(),
        )
        return self._place(str(made["UploadId"]))

    def _place(self, upload_id: str) -> dict[str, str]:
        return {"Bucket": self._bucket.name, "Key": self._key, "UploadId": upload_id}

    def _send(self, upload: dict[str, str]) -> tuple[list[dict[str, Any]], int]:
        """Parts for the joining, and bytes that had to go; reads the file once, in order."""
        there = {
            int(part["PartNumber"]): part
            for part in self._bucket.aws.pages("s3", "list_parts", "Parts", **upload)
        }
        whole = hashlib.sha256()
        parts: list[dict[str, Any]] = []

        def is_held(number: int, data: bytes) -> bool:
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
            parts.append({"PartNumber": number + 1, "ChecksumSHA256": digest})
            held = there.get(number + 1, {})
            if held.get("ChecksumSHA256") != digest or held.get("Size") != len(data):
                return False
            parts[number]["ETag"] = held["ETag"]
            return True

        def send(number: int, data: bytes) -> None:
            part = parts[number]
            answer = self._bucket.aws.call("s3", "upload_part", Body=data, **upload, **part)
            part["ETag"] = answer["ETag"]
            self._tell(len(data))

        sent = send_parts(
            self._path, self._size, is_held, send, self._tell, hashes=(whole,), workers=WORKERS
        )
        self._check(whole.hexdigest(), upload)
        return parts, sent

    def _check(self, sha256: str, upload: dict[str, str]) -> None:
        if sha256 != self._entry.sha256:
            self._bucket.abort(upload)
            raise damaged(self._entry, f"its sha256 is {sha256[:12]}…")

    def _join(self, upload: dict[str, str], parts: list[dict[str, Any]]) -> bool:
        """Complete the upload; ``False`` if S3 does not have all parts any more."""
        try:
            self._bucket.aws.call(
                "s3",
                "complete_multipart_upload",
                MultipartUpload={"Parts": parts},
                MpuObjectSize=self._entry.size,
                **upload,
            )
        except ProvisioningError as error:
            if "InvalidPart" in error.message:
                return False
            raise
        except NotFoundError:  # joined already by a run that was cut off, or aborted
            held = self._bucket.head(self._key)
            return held is not None and held.proves(self._entry)
        return True


class _Body:
    """A file as a request's body: large pieces, counted; a retry starts from the beginning."""

    def __init__(self, path: Path, tell: Tell) -> None:
        self._file = path.open("rb")
        self._tell = tell
        self._length = path.stat().st_size

    def __enter__(self) -> _Body:
        return self

    def __exit__(self, *problem: object) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._length

    def rewound(self) -> _Body:
        """The same at its beginning, uncounted again."""
        self._tell(-self._file.tell())
        self._file.seek(0)
        return self

    def read(self, amount: int = -1) -> bytes:
        """More than was asked for where that is little: the socket takes it as well."""
        data = self._file.read(max(amount, PIECE) if amount >= 0 else -1)
        self._tell(len(data))
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()
