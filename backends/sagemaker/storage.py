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
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llama_hub.backends.sagemaker.client import Aws, translated
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
    _meter: threading.Lock = field(default_factory=threading.Lock)

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

        from llama_hub.deploy.waiting import persist

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
        wanted = [one for one in manifest.files if not self._is_there(one, prefix)]
        total, missing = manifest.bytes, sum(one.size for one in wanted)
        task = f"upload {manifest.model}"
        progress.start(task, total, done=total - missing)
        tell = self._teller(progress, task)
        sent = self._send_all(folder, wanted, prefix, tell)
        self.put(prefix + MANIFEST_NAME, (folder / MANIFEST_NAME).read_bytes())
        progress.finish(task, "in S3, digests compared")
        return {"bytes": total, "bytes_sent": sent, "bytes_there": total - sent}

    def _is_there(self, entry: FileEntry, prefix: str) -> bool:
        held = self.head(prefix + entry.path)
        return held is not None and held.proves(entry)

    def _send_all(
        self, folder: Path, wanted: Sequence[FileEntry], prefix: str, tell: Callable[[int], None]
    ) -> int:
        """Small files side by side, then large ones one after the other in parts."""
        small = [one for one in wanted if one.size <= self.single]
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="upload") as pool:
            running = [
                pool.submit(self._single, folder / one.path, one, prefix, tell) for one in small
            ]
            _finish(running)
        sent = sum(one.size for one in small)
        for one in wanted:
            if one.size > self.single:
                sent += Multipart(self, folder / one.path, one, prefix + one.path, tell).run()
        return sent

    def _single(
        self, path: Path, entry: FileEntry, prefix: str, tell: Callable[[int], None]
    ) -> None:
        size = path.stat().st_size
        if size != entry.size:
            raise _damaged(entry, f"it has {size} bytes")
        try:
            with _Body(path, tell) as body:
                self._put(prefix + entry.path, body.rewound, size, entry.sha256)
        except IntegrityError as error:
            raise _damaged(entry, error.message) from error

    def _teller(self, progress: Progress, task: str) -> Callable[[int], None]:
        def tell(amount: int) -> None:
            with self._meter:
                progress.advance(task, amount)

        return tell

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

    def __init__(
        self, bucket: Bucket, path: Path, entry: FileEntry, key: str, tell: Callable[[int], None]
    ) -> None:
        self._bucket, self._path, self._entry, self._key = bucket, path, entry, key
        self._tell = tell
        self._size = max(bucket.part, -(-entry.size // MOST_PARTS))

    def run(self) -> int:
        """Send what is missing and join the parts; how many bytes had to go."""
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
        whole, sent = hashlib.sha256(), 0
        parts: list[dict[str, Any]] = []
        with _Sending(WORKERS) as sending:
            for number, data in enumerate(_pieces(self._path, self._size), 1):
                whole.update(data)
                digest = base64.b64encode(hashlib.sha256(data).digest()).decode()
                part: dict[str, Any] = {"PartNumber": number, "ChecksumSHA256": digest}
                parts.append(part)
                held = there.get(number, {})
                if held.get("ChecksumSHA256") == digest and held.get("Size") == len(data):
                    part["ETag"] = held["ETag"]
                    self._tell(len(data))
                    continue
                sending.add(self._sender(upload, part, data))
                sent += len(data)
        self._check(whole.hexdigest(), upload)
        return parts, sent

    def _sender(
        self, upload: dict[str, str], part: dict[str, Any], data: bytes
    ) -> Callable[[], None]:
        def send() -> None:
            answer = self._bucket.aws.call("s3", "upload_part", Body=data, **upload, **part)
            part["ETag"] = answer["ETag"]
            self._tell(len(data))

        return send

    def _check(self, sha256: str, upload: dict[str, str]) -> None:
        if sha256 != self._entry.sha256:
            self._bucket.abort(upload)
            raise _damaged(self._entry, f"its sha256 is {sha256[:12]}…")

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


class _Sending:
    """A few calls at a time; waits while all workers are busy, so that memory stays bounded."""

    def __init__(self, workers: int) -> None:
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="upload")
        self._most = workers
        self._running: set[Future[None]] = set()

    def __enter__(self) -> _Sending:
        return self

    def add(self, call: Callable[[], None]) -> None:
        """Start ``call`` when a worker is free; raises what an earlier one has raised."""
        while len(self._running) >= self._most:
            done, self._running = wait(self._running, return_when=FIRST_COMPLETED)
            for finished in done:
                finished.result()
        self._running.add(self._pool.submit(call))

    def __exit__(self, *problem: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=problem[0] is not None)
        if problem[0] is None:
            _finish(list(self._running))


class _Body:
    """A file as a request's body: large pieces, counted; a retry starts from the beginning."""

    def __init__(self, path: Path, tell: Callable[[int], None]) -> None:
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


def _finish(running: Sequence[Future[None]]) -> None:
    for one in running:
        one.result()


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while data := file.read(size):
            yield data


def _damaged(entry: FileEntry, why: str) -> IntegrityError:
    return IntegrityError(
        f"{entry.path} is not what the manifest says: {why}; nothing of it was put in place",
        hint="llama-hub verify --repair",
    )
